"""Texts one behind another in one row, a block-diagonal stand-in for torch's varlen attention: what padded texts get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import TEXTS, build_model, true_logliks, write_model

from kltui.scoring import unpadded
from kltui.scoring.batching import cut_pieces, fill_batch
from kltui.scoring.engine import Engine
from kltui.scoring.loading import Loaded
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoringSettings

CPU = torch.device("cpu")
PLAIN = ("gpt_neox", "gpt2", "gptj", "llama_tied", "opt", "granite")


def block_diagonal(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor, max_q: int,
    max_k: int, *, scale: float | None, window_size: tuple[int, int], enable_gqa: bool,
) -> torch.Tensor:  # fmt: skip
    """Causal attention within each text, (T, H, D): what torch.nn.attention.varlen.varlen_attn promises."""
    assert window_size == (-1, 0) and torch.equal(cu_q, cu_k) and cu_q.dtype == torch.int32
    lengths = cu_q.diff()
    assert max_q == max_k == int(lengths.max())
    parts = []
    for qt, kt, vt in zip(*(x.split(lengths.tolist()) for x in (q, k, v)), strict=True):
        heads = (x.transpose(0, 1)[None] for x in (qt, kt, vt))
        attended = torch.nn.functional.scaled_dot_product_attention(
            *heads, is_causal=True, scale=scale, enable_gqa=enable_gqa
        )
        parts.append(attended[0].transpose(0, 1))
    return torch.cat(parts)


def leaking(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, scale: float | None, **more: Any
) -> Any:
    """Attention that is causal along the whole row: texts see the ones before them."""
    heads = (x.transpose(0, 1)[None] for x in (q, k, v))
    attended = torch.nn.functional.scaled_dot_product_attention(
        *heads, is_causal=True, scale=scale, enable_gqa=more["enable_gqa"]
    )
    return attended[0].transpose(0, 1)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The stand-in where torch would have its kernel, on the CPU; the list gets the texts of every row."""
    rows: list[int] = []

    def counted(*arguments: Any, **options: Any) -> torch.Tensor:
        rows.append(len(arguments[3]) - 1)
        return block_diagonal(*arguments, **options)

    monkeypatch.setattr(unpadded, "kernel_for", lambda _device, _dtype: counted)
    return rows


def score(folder: Path, **settings: Any) -> Any:
    scorer = Scorer(TEXTS, "c", ScoringSettings(device="cpu", **settings))
    return scorer.score(folder, "none", "", lambda _: None)


def engine_of(model: Any, dtype: torch.dtype = torch.float32) -> Engine:
    with torch.inference_mode():
        return Engine(Loaded(model, model.config, "sdpa", dtype, ()), ScoringSettings(), CPU, "none")


def test_a_batch_in_one_row_keeps_each_text_and_its_places() -> None:
    ids = [np.arange(10, 10 + n, dtype=np.int64) for n in (6, 4, 2)]
    batch = fill_batch(cut_pieces([6, 4, 2], 1, None, "error"), ids)
    row = unpadded.in_one_row(batch)
    assert row.ids_1T.tolist() == [[10, 11, 12, 13, 14, 10, 11, 12, 10]]
    assert row.places_1T.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 0]]
    assert row.starts.tolist() == [0, 5, 8, 9] and row.starts.dtype == np.int32
    assert row.longest == 5 and batch.n_inputs == 9
    assert row.positions_n.tolist() == list(range(9))
    assert batch.targets_n.tolist() == [11, 12, 13, 14, 15, 11, 12, 13, 11]


def test_windows_score_their_last_targets_in_one_row() -> None:
    ids = [np.arange(100, 111, dtype=np.int64), np.arange(3, dtype=np.int64)]
    pieces = cut_pieces([11, 3], 1, 4, "window")
    batch = fill_batch(pieces, ids)
    row = unpadded.in_one_row(batch)
    for position, target, text in zip(row.positions_n, batch.targets_n, batch.texts_n, strict=True):
        assert row.ids_1T[0, position] == target - 1  # ids ascend by one
        piece = int(np.searchsorted(row.starts, position, side="right")) - 1
        assert pieces[piece].text == text


@pytest.mark.parametrize("family", PLAIN)
def test_plain_causal_families_get_the_truth_without_padding(
    family: str, tmp_path: Path, kernel: list[int]
) -> None:
    folder = write_model(tmp_path / "m", family)
    truth = true_logliks(folder, TEXTS)
    found = score(folder, layers="all")
    assert found.key["attention"] == unpadded.NAME
    assert found.stats["padding_share"] == 0.0
    assert max(kernel) > 1
    assert len(found.vectors) == len(truth)
    for ours, exact in zip(found.vectors, truth, strict=True):
        np.testing.assert_allclose(ours.loglik_N, exact, atol=2e-4)


@pytest.mark.parametrize(
    "family", ["gemma2", "mistral", "gpt_neo", "bloom", "falcon", "mamba", "recurrent_gemma", "qwen2_moe"]
)
def test_families_with_windows_caps_biases_or_states_are_padded(
    family: str, tmp_path: Path, kernel: list[int]
) -> None:
    folder = write_model(tmp_path / "m", family)
    found = score(folder)
    np.testing.assert_allclose(
        found.vectors[0].loglik_N, true_logliks(folder, TEXTS, layers=False)[0], atol=2e-4
    )
    assert found.key["attention"] != unpadded.NAME
    assert found.stats["padding_share"] > 0.0


def test_a_text_that_sees_the_one_before_it_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpadded, "kernel_for", lambda _device, _dtype: leaking)
    for dtype in (torch.float32, torch.bfloat16):
        engine = engine_of(build_model("llama").to(dtype), dtype)
        assert engine._row is None and engine.attention != unpadded.NAME


def test_what_leaks_into_one_position_is_seen() -> None:
    hidden = torch.randn(20, 8, dtype=torch.float32).to(torch.bfloat16)
    changed = hidden.clone()
    changed[:5] += 1
    assert not unpadded.leaks(hidden, changed, 5)
    changed[5] *= 1.2
    assert unpadded.leaks(hidden, changed, 5)


def test_a_kernel_that_fails_leaves_the_padded_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "m", "gpt_neox")
    plain = score(folder)

    def refuses(*_: Any, **__: Any) -> None:
        raise RuntimeError("head_size should be a multiple of 8")

    monkeypatch.setattr(unpadded, "kernel_for", lambda _device, _dtype: refuses)
    found = score(folder)
    assert found.key == plain.key and found.notes == plain.notes
    np.testing.assert_array_equal(found.vectors[0].loglik_N, plain.vectors[0].loglik_N)


def test_memory_that_runs_out_in_the_trial_is_not_taken_for_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(unpadded, "kernel_for", lambda _device, _dtype: full)
    with pytest.raises(Exception, match="out of memory"):
        engine_of(build_model("gpt_neox"))


def test_a_kept_engine_reads_the_next_checkpoint_in_one_row_too(tmp_path: Path, kernel: list[int]) -> None:
    folders = [write_model(tmp_path / str(seed), "gpt_neox", seed=seed) for seed in (1, 2)]
    scorer = Scorer(TEXTS, "c", ScoringSettings(device="cpu"))
    for folder in folders:
        found = scorer.score(folder, "none", "", lambda _: None)
        np.testing.assert_allclose(
            found.vectors[0].loglik_N, true_logliks(folder, TEXTS, layers=False)[0], atol=2e-4
        )
        assert found.key["attention"] == unpadded.NAME


def test_the_whole_way_of_a_gpu_gives_the_truth(
    tmp_path: Path, kernel: list[int], emulated_cuda: object
) -> None:
    """Texts in one row, kltui's own kernels behind them, emulated: head, layers and sums."""
    folder = write_model(tmp_path / "m", "gpt_neox")
    found = score(folder, layers="all", tokens=True, batch_tokens=60)
    assert found.stats["padding_share"] == 0.0 and max(kernel) > 1
    for ours, exact in zip(found.vectors, true_logliks(folder, TEXTS), strict=True):
        np.testing.assert_allclose(ours.loglik_N, exact, atol=2e-4)
    sums = [row.sum(dtype=np.float64) for row in found.token_logprobs]
    np.testing.assert_allclose(sums, np.nan_to_num(found.vectors[0].loglik_N), atol=2e-4)


def test_torch_has_the_kernel_as_it_is_called() -> None:
    """On a GPU in half precision; elsewhere, and in float32, texts are padded."""
    cuda = torch.device("cuda", 0)
    assert unpadded.kernel_for(CPU, torch.bfloat16) is None
    assert unpadded.kernel_for(cuda, torch.float32) is None
    found = unpadded.kernel_for(cuda, torch.bfloat16)
    assert found is not None and found.__name__ == "varlen_attn"
