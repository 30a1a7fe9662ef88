"""Exact next-token KL between two checkpoints with the same tokenizer, to check the estimate from vectors."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kltui.corpus.corpus import Prompt
from kltui.errors import KltuiError
from kltui.kernels import cuda, native
from kltui.registry.adapters import Adapted, AdaptedReading
from kltui.registry.reading import Hashed, Reading
from kltui.registry.tokenizer import tokenizer_folder
from kltui.scoring import adapters, answers, device_map, loading, tokens
from kltui.scoring.batching import Batch, Ids, Piece, fill_batch, paired_pieces
from kltui.scoring.engine import Engine
from kltui.scoring.malloc_tuning import kept_heap
from kltui.scoring.numerics import fast_float32
from kltui.scoring.oom_retry import rule_within_memory, run_batches
from kltui.scoring.settings import ExactKL, OverPositions, Progress, ScoringSettings

Values = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class _PairSide:
    """One of two checkpoints before its model is loaded, with the corpus in its ids.

    `pieces` are set last: the targets of both sides are the same ids in the same order, each in its own context.
    """

    folder: Path
    quantization: str
    config: Any
    adapter: adapters.Adapter | None
    tokenizer: tokens.Tokenizer
    scored: answers.ScoredRows
    pieces: tuple[Piece, ...] = ()

    @property
    def ids(self) -> list[Ids]:
        """The ids that the model reads, a row for every text."""
        return self.scored.ids


def exact_kl(
    folder_a: Path,
    folder_b: Path,
    texts: Sequence[str],
    corpus_sha256: str,
    settings: ScoringSettings,
    *,
    prompts: Sequence[Prompt] = (),
    quantizations: tuple[str, str] = ("none", "none"),
    tokenizers: tuple[Path | None, Path | None] = (None, None),
    weights: tuple[str, str] = ("", ""),
    adapted: tuple[Adapted | None, Adapted | None] = (None, None),
    cache_dir: Path | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> ExactKL:
    """Exact next-token KL between two checkpoints on a corpus, in both directions, in one pass without storing logits.

    With `prompts` the texts are responses: only their tokens are compared, and each model reads the prompt as formatted
    for that model. `tokenizers` are folders of tokenizers for models without their own; `weights`
    identify the expected files. An `adapted` model is an adapter on its base; its folder is the base's. Raises KltuiError if
    the files differ, or change before the computation ends.
    """
    device = loading.pick_device(settings.device)
    device_map.check(settings.device_map, settings.device)
    with contextlib.ExitStack() as stack:
        readings = [
            stack.enter_context(
                Reading(Hashed(folder, meant, tokenizer=_outside(folder, named)))
                if on_base is None
                else AdaptedReading(on_base)
            )
            for folder, named, meant, on_base in zip(
                (folder_a, folder_b), tokenizers, weights, adapted, strict=True
            )
        ]
        corpus = _Corpus(texts, corpus_sha256, prompts, settings, cache_dir)
        a, b = (
            corpus.read(folder, quantization, reading)
            for folder, quantization, reading in zip(
                (folder_a, folder_b), quantizations, readings, strict=True
            )
        )
        return _compared(*_cut_alike(a, b, settings.overlong), readings, device, corpus, progress)


def _outside(folder: Path, named: Path | None) -> Path | None:
    """The folder of a model's tokenizer if it is not the model's folder, otherwise None."""
    found = tokenizer_folder(folder) or named
    return None if found == folder else found


@dataclass(frozen=True)
class _Corpus:
    """The corpus and the settings for both models."""

    texts: Sequence[str]
    sha256: str
    prompts: Sequence[Prompt]
    settings: ScoringSettings
    cache_dir: Path | None

    def read(self, folder: Path, quantization: str, reading: Reading) -> _PairSide:
        """The checkpoint in `folder` with the corpus in its token ids."""
        place, settings = reading.tokenizer or folder, self.settings
        adapter = adapters.adapter_of(reading, settings.allow_bin)
        config = loading.load_config(folder, place)
        as_scored = adapters.adapted_config(config, adapter)
        made = tokens.tokenize(place, as_scored, settings.bos, self.texts, self.sha256, self.cache_dir)
        scored = answers.laid_out(place, made.tokenizer, made.ids, self.prompts, settings)
        return _PairSide(folder, quantization, config, adapter, made.tokenizer, scored)


def _cut_alike(a: _PairSide, b: _PairSide, overlong: str) -> tuple[_PairSide, _PairSide]:
    """Both sides with their pieces. Raises KltuiError if their tokenizers differ, so that next tokens are not comparable."""
    if a.tokenizer.sha256 != b.tokenizer.sha256:
        raise KltuiError(
            f"{a.folder} and {b.folder} have different tokenizers, so their next tokens cannot be compared",
            "use the KL of their log-likelihood vectors instead",
        )
    contexts = (loading.context_length(side.config) for side in (a, b))
    context = min((n for n in contexts if n is not None), default=None)
    cut_a, cut_b = (answers.cut(side.scored, context, overlong) for side in (a, b))
    paired = paired_pieces(cut_a, cut_b, [len(row) for row in a.ids], [len(row) for row in b.ids])
    return replace(a, pieces=tuple(p for p, _ in paired)), replace(b, pieces=tuple(q for _, q in paired))


def _compared(
    a: _PairSide,
    b: _PairSide,
    readings: Sequence[Reading],
    device: torch.device,
    corpus: _Corpus,
    progress: Callable[[Progress], None],
) -> ExactKL:
    """Loads both models and runs them over their pieces."""
    with torch.inference_mode(), fast_float32(device), kept_heap(), contextlib.ExitStack() as stack:
        engines = []
        for side in (a, b):
            layout = stack.enter_context(device_map.spreading(corpus.settings.device_map, corpus.cache_dir))
            engines.append(_engine(side, corpus.settings, device, layout, corpus.cache_dir))
        for reading in readings:
            reading.check()
        found = _summed(a, b, engines, corpus, progress)
        for reading in readings:
            reading.check_used(by_name=any(device_map.is_offloaded(engine.model) for engine in engines))
    return found


def _summed(
    a: _PairSide,
    b: _PairSide,
    engines: Sequence[Engine],
    corpus: _Corpus,
    progress: Callable[[Progress], None],
) -> ExactKL:
    """The KLs at all positions, computed batch by batch and summed by text, with quantiles over positions."""
    settings, n_texts = corpus.settings, len(corpus.texts)
    budget = settings.batch_tokens or engines[0].start_tokens
    other = dict(zip(a.pieces, b.pieces, strict=True))  # {piece of a: the piece of b with the same targets}

    def free_memory() -> None:
        for engine in engines:
            engine.free_memory()

    def submit(batch: Batch) -> Callable[[], Values]:
        return _submit(engines[0], engines[1], batch, fill_batch([other[p] for p in batch.pieces], b.ids))

    rule_a, rule_b = (
        rule_within_memory(engine.final, side.pieces, side.ids, budget, settings, free_memory, engine.dtype)
        for engine, side in zip(engines, (a, b), strict=True)
    )
    sums = np.zeros((4, n_texts))
    forward_parts: list[NDArray[np.float64]] = []  # (n,) per batch
    reverse_parts: list[NDArray[np.float64]] = []
    total = sum(piece.n_scored for piece in a.pieces)
    for batch, values, _ in run_batches(
        submit, a.pieces, a.ids, budget, settings, free_memory,
        lambda piece: (rule_a.group(piece), rule_b.group(other[piece])), ahead=engines[0].transfers.waits,
    ):  # fmt: skip
        for at, values_n in enumerate((*values, np.ones(batch.n_scored))):
            sums[at] += np.bincount(batch.texts_n, weights=values_n, minlength=n_texts)
        forward_parts.append(values[0])
        reverse_parts.append(values[1])
        progress(Progress("score", int((sums[3] > 0).sum()), n_texts, int(sums[3].sum()), total))
    counts = sums[2].astype(np.int64), sums[3].astype(np.int64)
    return ExactKL(sums[0], sums[1], *counts, _over_positions(forward_parts), _over_positions(reverse_parts))


def _over_positions(parts: Sequence[NDArray[np.float64]]) -> OverPositions:
    """Quantiles of the KLs at all positions, given in parts."""
    if not parts:
        return OverPositions()
    nats_T = np.concatenate(parts)
    median, high = np.quantile(nats_T, [0.5, 0.99])
    return OverPositions(float(median), float(high), float(nats_T.max()))


def _engine(
    side: _PairSide,
    settings: ScoringSettings,
    device: torch.device,
    layout: device_map.DeviceLayout,
    cache_dir: Path | None,
) -> Engine:
    adapter, quantization = side.adapter, side.quantization
    loaded = loading.load_model(
        side.folder, side.config, settings.dtype, quantization, device, settings.allow_bin, layout
    )
    if adapter is not None:
        loaded = adapters.adapt(loaded, adapter, adapter.make(quantization), quantization).loaded
    where = device_map.engine_device(loaded.model, device)
    return Engine(loaded, settings, where, quantization, cache_dir)


def _submit(a: Engine, b: Engine, batch: Batch, batch_b: Batch) -> Callable[[], Values]:
    """Submits a batch; the returned function waits for KL(a, b), KL(b, a), and 1 where both top tokens agree, each (n,).

    `batch_b` has the same targets in the context for b.
    """
    hidden_a, hidden_b = a.hidden(batch), b.hidden(batch_b)
    step = min(a.logit_rows, b.logit_rows)
    parts = []
    for at in range(0, batch.n_scored, step):
        rows = slice(at, at + step)
        parts.append(kl_rows(a.logits(hidden_a[rows]), b.logits(hidden_b[rows])))
    fetched = a.transfers.fetch(torch.cat(parts, dim=1))
    return lambda: _checked(fetched(), batch)


def _checked(values_3n: NDArray[np.floating[Any]], batch: Batch) -> Values:
    """The rows of a batch's values. Raises KltuiError if a KL is not finite."""
    wrong = ~np.isfinite(values_3n[:2]).all(axis=0)
    if wrong.any():
        text = int(batch.texts_n[int(np.argmax(wrong))])
        raise KltuiError(
            f"the KL is not finite in text {text}",
            "one model gives NaN, or probability 0 where the other does not",
        )
    return values_3n[0], values_3n[1], values_3n[2]


def kl_rows(logits_a_nV: torch.Tensor, logits_b_nV: torch.Tensor) -> torch.Tensor:
    """KL(a, b) and KL(b, a) in nats per row, and 1.0 where the largest logit is the same entry: (3, n) on the logits' device.

    In float64, except on Apple's GPUs, which lack it. Only vocabulary entries that both models have are compared, because
    models of one family may pad their vocabularies differently.
    """
    V = min(logits_a_nV.shape[1], logits_b_nV.shape[1])
    za, zb = logits_a_nV[:, :V], logits_b_nV[:, :V].to(logits_a_nV.device)
    if cuda.usable(za.device):
        there = cuda.kl_rows(za, zb)
        return torch.stack([there.forward, there.reverse, there.same_top.double()])
    if za.device.type == "cpu":
        rows = native.kl_rows(za, zb)
        return torch.from_numpy(np.stack([rows.forward, rows.reverse, rows.same_top]))
    return _kl_by_torch(za, zb, torch.float32 if za.device.type == "mps" else torch.float64)


def _kl_by_torch(za_nV: torch.Tensor, zb_nV: torch.Tensor, sums: torch.dtype) -> torch.Tensor:
    """As `kl_rows`, for logits of equal width, with sums in the dtype `sums`."""
    logp_a, logp_b = za_nV.log_softmax(-1), zb_nV.log_softmax(-1)
    difference = logp_a - logp_b
    forward, reverse = (
        torch.where(logp == -math.inf, 0.0, logp.exp() * sign * difference).sum(-1, dtype=sums)
        for logp, sign in ((logp_a, 1.0), (logp_b, -1.0))
    )
    return torch.stack([forward, reverse, (za_nV.argmax(-1) == zb_nV.argmax(-1)).to(sums)])
