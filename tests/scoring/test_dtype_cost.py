"""What float32 costs and saves is said once, where the weights are stored in half precision that the device computes in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TEXTS, write_run

from kltui.errors import KltuiError
from kltui.scoring import dtype_cost as cost_module
from kltui.scoring import engine, loading
from kltui.scoring.engine import Engine
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import DtypeCost, ScoringSettings
from kltui.scoring.transfer import DirectTransfers


class Queue(DirectTransfers):
    waits = True


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two checkpoints stored in bfloat16, scored as on a device that is waited for."""
    monkeypatch.setattr(engine, "transfers", Queue)
    folders = write_run(tmp_path / "run", "gpt_neox", steps=(0, 1))
    for folder in folders:
        path = folder / "model.safetensors"
        halves = {name: x.to(torch.bfloat16) for name, x in load_file(path).items()}
        save_file(halves, path, metadata={"format": "pt"})
    return list(folders)


def reported(folders: list[Path], **settings: Any) -> list[DtypeCost]:
    """What a scorer tells of the folders, whose vectors are those of one that tells nothing."""
    costs: list[DtypeCost] = []
    asked = ScoringSettings(device="cpu", **settings)
    teller, quiet = Scorer(TEXTS, "c", asked, tell_cost=costs.append), Scorer(TEXTS, "c", asked)
    for folder in folders:
        ours, plain = (s.score(folder, "none", "w", lambda _: None) for s in (teller, quiet))
        assert ours.key == plain.key
        assert np.array_equal(ours.vectors[0].loglik_N, plain.vectors[0].loglik_N, equal_nan=True)
        assert ours.stats["seconds_body"] < ours.stats["seconds_score"]
    return costs


def test_the_factor_is_told_once(run: list[Path]) -> None:
    (cost,) = reported(run)
    assert cost.auto == "bfloat16" and cost.factor is not None and cost.factor > 0
    assert "float32 takes" in str(cost) and "bfloat16, as the weights are stored" in str(cost)
    assert cost.largest_nat is not None and cost.mean_nat is not None
    assert 0 < cost.mean_nat <= cost.largest_nat < 1 and "differ by up to" in str(cost)


def test_the_nats_are_those_of_a_job_in_bfloat16(run: list[Path]) -> None:
    (cost,) = reported(run[:1])
    wide, half = (
        Scorer(TEXTS, "c", ScoringSettings(device="cpu", dtype=dtype)).score(run[0], "none", "w", lambda _: None)
        for dtype in ("float32", "bfloat16")
    )  # fmt: skip
    apart_N = np.abs(wide.vectors[0].loglik_N - half.vectors[0].loglik_N)
    assert cost.largest_nat == pytest.approx(float(np.nanmax(apart_N)), rel=1e-3)


def test_on_a_cpu_it_is_said_of_bfloat16_alone(run: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "transfers", DirectTransfers)
    (cost,) = reported(run)
    assert cost.auto == "bfloat16" and cost.largest_nat is not None
    monkeypatch.setattr(loading, "stored_dtype", lambda *_: "float16")
    assert reported(run) == []


def test_a_cpu_without_memory_for_both_loads_one(run: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_module, "available_bytes", lambda: 1000)
    (cost,) = reported(run[:1])
    assert cost.factor is None and "both do not fit" in str(cost)


def test_nothing_is_told_of_another_dtype(run: list[Path]) -> None:
    assert reported(run, dtype="auto") == reported(run, dtype="bfloat16") == []


def test_nothing_is_told_of_weights_in_float32(tmp_path: Path) -> None:
    assert reported(list(write_run(tmp_path / "wide", "gpt_neox", steps=(0,)))) == []


def test_without_room_for_both_it_says_so_and_scores(
    run: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loading.load_model

    def full(folder: Path, config: Any, dtype: str, *more: Any) -> Any:
        if dtype == "bfloat16":
            raise KltuiError("it does not fit in memory")
        return real(folder, config, dtype, *more)

    monkeypatch.setattr(loading, "load_model", full)
    (cost,) = reported(run)
    assert cost.factor is None and "was not measured: it does not fit in memory" in str(cost)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_batch_that_is_too_large_is_tried_smaller(
    run: list[Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    real, sizes = Engine.submit, []

    def submit(self: Engine, batch: Any) -> Any:
        sizes.append(batch.ids_BT.size)
        if self.dtype == torch.bfloat16 and len(sizes) < 4:
            raise error
        return real(self, batch)

    monkeypatch.setattr(Engine, "submit", submit)
    (cost,) = reported(run[:1], batch_tokens=4096)
    assert cost.factor is not None


def test_the_words_of_a_factor() -> None:
    assert str(DtypeCost("float16", 3.24)).endswith(
        '3.2 times as long here as dtype = "auto" would '
        "(float16, as the weights are stored), measured on the first batch"
    )
    assert str(DtypeCost("bfloat16", 1.9, "", 0.123, 0.0456)).endswith(
        "; the log-likelihoods of its texts then differ by up to 0.12 nats, 0.046 on average"
    )
