"""Scoring through the CUDA kernels, emulated: the whole way gives the CPU's vectors, and waits once a batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tiny_models import build_model, true_logliks, write_model
from torch.utils._python_dispatch import TorchDispatchMode

from kltui.errors import KltuiError
from kltui.kernels import cuda
from kltui.scoring import transfer
from kltui.scoring.batch_effects import BatchRule
from kltui.scoring.batching import cut_pieces, plan_batches
from kltui.scoring.engine import Engine
from kltui.scoring.head import DeviceHead
from kltui.scoring.loading import Loaded
from kltui.scoring.model_introspection import LogitRule
from kltui.scoring.oom_retry import _check_memory, run_batches
from kltui.scoring.pair import exact_kl
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoringSettings
from kltui.scoring.transfer import DirectTransfers
from kltui.scoring.unpadded import RowAttention

TEXTS = [
    "A short one.",
    "x",
    "",
    "The longest of them, by far: " + "many words, " * 7,
    "Numbers 1 2 3 and 4.",
]
CPU = torch.device("cpu")


def score(folder: Path, **settings: Any) -> Any:
    scorer = Scorer(TEXTS, "0" * 64, ScoringSettings(device="cpu", **settings))
    return scorer.score(folder, "none", "", lambda _: None)


@pytest.mark.parametrize("family", ["gpt_neox", "gemma2"])
def test_vectors_layers_and_tokens_are_those_of_float64(
    family: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "model"
    write_model(folder, family)
    truth = true_logliks(folder, TEXTS)
    plain = score(folder, layers="all", tokens=True)
    request.getfixturevalue("emulated_cuda")
    there = score(folder, layers="all", tokens=True)
    assert len(there.vectors) == len(plain.vectors) == len(truth)
    for ours, before, exact in zip(there.vectors, plain.vectors, truth, strict=True):
        np.testing.assert_allclose(ours.loglik_N, exact, atol=2e-4)
        np.testing.assert_allclose(ours.loglik_N, before.loglik_N, atol=2e-4)
        np.testing.assert_array_equal(ours.n_scored_N, before.n_scored_N)
    for ours_t, before_t in zip(there.token_logprobs, plain.token_logprobs, strict=True):
        np.testing.assert_allclose(ours_t, before_t, atol=1e-4)
    assert 0 <= there.stats["padding_share"] < 1


def test_exact_kl_is_that_of_the_cpu(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for seed, name in enumerate("ab"):
        write_model(tmp_path / name, "gpt_neox", seed=seed)
    arguments = (tmp_path / "a", tmp_path / "b", TEXTS, "0" * 64, ScoringSettings(device="cpu"))
    plain = exact_kl(*arguments)
    request.getfixturevalue("emulated_cuda")
    there = exact_kl(*arguments)
    np.testing.assert_allclose(there.forward_nats_N, plain.forward_nats_N, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(there.reverse_nats_N, plain.reverse_nats_N, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(there.same_top_N, plain.same_top_N)


class Recorder(DirectTransfers):
    """Transfers that note when something is sent, promised and waited for."""

    waits = True

    def __init__(self) -> None:
        super().__init__(CPU)
        self.log: list[str] = []

    def send(self, array: Any) -> torch.Tensor:
        self.log.append("send")
        return super().send(array)

    def fetch(self, tensor: torch.Tensor) -> Callable[[], Any]:
        self.log.append("fetch")
        values = tensor.clone()

        def result() -> Any:
            self.log.append("wait")
            return values.numpy()

        return result


# What makes the host wait for a GPU: numbers read off it, shapes that depend on values, copies between devices.
WAITING = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::is_nonzero",
    "aten::unique_consecutive",
    "aten::_unique2",
}


class Watch(TorchDispatchMode):
    """Notes operations that would wait, were the tensors on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition(".")[0]
        masked = (
            name.startswith("aten::index")
            and any(
                isinstance(x, torch.Tensor) and x.dtype == torch.bool
                for x in (args[1] if len(args) > 1 else ()) or ()
            )
            if name in ("aten::index", "aten::index_put", "aten::index_put_")
            else False
        )
        if name in WAITING or masked:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("family", "layers", "in_row"),
    [
        ("gpt_neox", "all", False),
        ("llama", "none", False),
        ("gemma2", "none", False),
        ("gpt_neox", "all", True),
    ],
)
def test_a_batch_is_waited_for_once_and_only_after_the_next_was_sent(
    family: str, layers: Any, in_row: bool, emulated_cuda: object
) -> None:
    model = build_model(family)
    loaded = Loaded(model, model.config, "sdpa", torch.float32, ())
    with torch.inference_mode():
        engine = Engine(loaded, ScoringSettings(layers=layers), CPU, "none")
    assert isinstance(engine._head[1], DeviceHead)
    engine.transfers = recorder = Recorder()
    if in_row:
        engine._row = RowAttention(lambda q, *_, **__: q)  # a kernel's values do not matter here
    ids = [np.arange(3, 3 + n, dtype=np.int64) for n in (40, 38, 21, 9, 7)]
    pieces = cut_pieces([len(row) for row in ids], 1, None, "error")
    n_batches = len(plan_batches(pieces, 80))
    assert n_batches >= 2
    watch = Watch()
    with torch.inference_mode(), watch:
        found = list(
            run_batches(
                engine.submit,
                pieces,
                ids,
                80,
                ScoringSettings(),
                engine.free_memory,
                BatchRule().group,
                ahead=True,
            )
        )
    assert watch.seen == []
    assert len(found) == n_batches
    moments = [entry for entry in recorder.log if entry != "send"]
    assert moments == ["fetch", "fetch", "wait"] + ["fetch", "wait"] * (n_batches - 2) + ["wait"]


def test_the_watch_sees_what_waits() -> None:
    x = torch.arange(4.0)
    with Watch() as watch:
        x[x > 1]
        float(x.sum())
        torch.nonzero(x)
    assert set(watch.seen) == {"aten::index", "aten::_local_scalar_dense", "aten::nonzero"}


def test_out_of_memory_takes_what_is_under_way_first() -> None:
    ids = [np.arange(n, dtype=np.int64) for n in (30, 30, 30, 30, 30, 30)]
    pieces = cut_pieces([len(row) for row in ids], 1, None, "error")
    events: list[str] = []

    def submit(batch: Any) -> Callable[[], int]:
        rows = len(batch.ids_BT)
        if len(events) == 1 and rows > 1:
            events.append("full")
            raise torch.OutOfMemoryError("CUDA out of memory")
        events.append(f"submit {rows}")
        return lambda: events.append(f"result {rows}") or rows

    found = list(
        run_batches(
            submit, pieces, ids, 60, ScoringSettings(), lambda: events.append("freed"), lambda _: None, True
        )
    )
    assert events[:4] == ["submit 2", "full", "result 2", "freed"]
    assert sum(rows for _, rows, _ in found) == 6
    assert [budget for _, _, budget in found] == [60, 29, 29, 29, 29]


def test_other_devices_are_not_for_the_kernels(emulated_cuda: object) -> None:
    assert cuda.usable(CPU)
    assert not cuda.usable(torch.device("meta"))


@pytest.mark.parametrize(
    "words",
    ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: can't allocate memory"],
)
def test_memory_that_ran_out_is_known_by_its_words(words: str) -> None:
    _check_memory(RuntimeError(words), alone=False, device_map="none")
    with pytest.raises(KltuiError, match="a single text"):
        _check_memory(RuntimeError(words), alone=True, device_map="none")
    with pytest.raises(KltuiError, match="the model failed"):
        _check_memory(RuntimeError("index out of range"), alone=False, device_map="none")


class Event:
    """A stand-in for CUDA's events that knows on which stream it was recorded."""

    recorded: ClassVar[list[Any]] = []

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: Any) -> None:
        self.recorded.append(stream)


def test_an_event_is_on_the_stream_of_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    transfer._event(torch.device("cuda", 1))
    transfer.CudaTransfers(torch.device("cuda", 0)).mark()
    assert Event.recorded == ["stream of cuda:1", "stream of cuda:0"]


def test_the_trial_picks_a_width(emulated_cuda: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeviceHead, "WIDTHS", (8, 16))
    head = DeviceHead(torch.nn.Linear(4, 40), LogitRule(), 40)
    with torch.inference_mode():
        assert head._fastest(torch.randn(3, 4), torch.tensor([0, 1, 2])) in (8, 16)
