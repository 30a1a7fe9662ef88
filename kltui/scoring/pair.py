"""Exact next-token KL between two checkpoints with one tokenizer: the cross-check of the estimate from vectors."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kltui import native, native_cuda
from kltui.errors import KltuiError
from kltui.registry.adapters import Adapted, AdaptedReading
from kltui.registry.reading import Hashed, Reading
from kltui.registry.tokenizer import tokenizer_folder
from kltui.scoring import adapters, loading, spread, tokens
from kltui.scoring.batching import Batch, cut_pieces
from kltui.scoring.engine import Engine
from kltui.scoring.heap import kept_heap
from kltui.scoring.numerics import fast_float32
from kltui.scoring.room import rule_within_memory, run_batches
from kltui.scoring.settings import ExactKL, OverPositions, Progress, ScoringSettings

Values = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def exact_kl(
    folder_a: Path,
    folder_b: Path,
    texts: Sequence[str],
    corpus_sha256: str,
    settings: ScoringSettings,
    *,
    quantizations: tuple[str, str] = ("none", "none"),
    tokenizers: tuple[Path | None, Path | None] = (None, None),
    weights: tuple[str, str] = ("", ""),
    adapted: tuple[Adapted | None, Adapted | None] = (None, None),
    cache_dir: Path | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> ExactKL:
    """Exact KL between two checkpoints on a corpus, both ways, in one pass; no logits are kept.

    `tokenizers` are the folders of their tokenizers where neither they nor their runs have one; `weights` stand for
    the files that are meant. An `adapted` one is the adapter on its base; its folder is the base's. Raises where the files are others, or change before the last number is made.
    """
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
        return _exact_kl(
            folder_a,
            folder_b,
            texts,
            corpus_sha256,
            settings,
            quantizations,
            cache_dir,
            progress,
            readings,
        )


def _outside(folder: Path, named: Path | None) -> Path | None:
    """The folder of a model's tokenizer where that is another one."""
    found = tokenizer_folder(folder) or named
    return None if found == folder else found


def _exact_kl(
    folder_a: Path,
    folder_b: Path,
    texts: Sequence[str],
    corpus_sha256: str,
    settings: ScoringSettings,
    quantizations: tuple[str, str],
    cache_dir: Path | None,
    progress: Callable[[Progress], None],
    readings: Sequence[Reading],
) -> ExactKL:
    device = loading.pick_device(settings.device)
    spread.check(settings.device_map, settings.device)
    places = [
        reading.tokenizer or folder for folder, reading in zip((folder_a, folder_b), readings, strict=True)
    ]
    on_bases = [adapters.adapter_of(reading, settings.allow_bin) for reading in readings]
    configs = [
        loading.load_config(folder, place) for folder, place in zip((folder_a, folder_b), places, strict=True)
    ]
    made = [
        tokens.tokenize(
            place, adapters.adapted_config(config, adapter), settings.bos, texts, corpus_sha256, cache_dir
        )
        for place, config, adapter in zip(places, configs, on_bases, strict=True)
    ]
    if made[0].tokenizer.sha256 != made[1].tokenizer.sha256:
        raise KltuiError(
            f"{folder_a} and {folder_b} have different tokenizers, so their next tokens cannot be compared",
            "the KL of their log-likelihood vectors can",
        )
    ids = made[0].ids
    context = min((n for n in map(loading.context_length, configs) if n is not None), default=None)
    pieces = cut_pieces([len(row) for row in ids], made[0].tokenizer.first_scored, context, settings.overlong)
    sums = np.zeros((4, len(texts)))
    forward_parts: list[NDArray[np.float64]] = []  # per batch, (n,): numbers, never logits
    reverse_parts: list[NDArray[np.float64]] = []
    with torch.inference_mode(), fast_float32(device), kept_heap(), contextlib.ExitStack() as stack:
        engines = []
        for folder, config, quantization, adapter in zip(
            (folder_a, folder_b), configs, quantizations, on_bases, strict=True
        ):
            layout = stack.enter_context(spread.spreading(settings.device_map, cache_dir))
            engines.append(_engine(folder, config, quantization, settings, device, layout, adapter))
        for reading in readings:
            reading.check()
        budget = settings.batch_tokens or engines[0].start_tokens
        total = sum(piece.n_scored for piece in pieces)

        def free_memory() -> None:
            for engine in engines:
                engine.free_memory()

        rules = [
            rule_within_memory(e.final, pieces, ids, budget, settings, free_memory, e.dtype) for e in engines
        ]
        for batch, values, _ in run_batches(
            partial(_submit, engines[0], engines[1]), pieces, ids, budget, settings, free_memory,
            lambda piece: [rule.group(piece) for rule in rules], ahead=engines[0].transfers.waits,
        ):  # fmt: skip
            for at, values_n in enumerate((*values, np.ones(batch.n_scored))):
                sums[at] += np.bincount(batch.texts_n, weights=values_n, minlength=len(texts))
            forward_parts.append(values[0])
            reverse_parts.append(values[1])
            progress(Progress("score", int((sums[3] > 0).sum()), len(texts), int(sums[3].sum()), total))
    for reading in readings:
        reading.check_used(by_name=any(spread.is_offloaded(engine.model) for engine in engines))
    counts = sums[2].astype(np.int64), sums[3].astype(np.int64)
    return ExactKL(sums[0], sums[1], *counts, _over_positions(forward_parts), _over_positions(reverse_parts))


def _over_positions(parts: Sequence[NDArray[np.float64]]) -> OverPositions:
    """What the KLs of all positions come to, part by part given."""
    if not parts:
        return OverPositions()
    nats_T = np.concatenate(parts)
    median, high = np.quantile(nats_T, [0.5, 0.99])
    return OverPositions(float(median), float(high), float(nats_T.max()))


def _engine(
    folder: Path,
    config: Any,
    quantization: str,
    settings: ScoringSettings,
    device: torch.device,
    layout: spread.Spread,
    adapter: adapters.Adapter | None,
) -> Engine:
    loaded = loading.load_model(
        folder, config, settings.dtype, quantization, device, settings.allow_bin, layout
    )
    if adapter is not None:
        loaded = adapters.adapt(loaded, adapter, adapter.make(quantization)).loaded
    return Engine(loaded, settings, spread.engine_device(loaded.model, device), quantization)


def _submit(a: Engine, b: Engine, batch: Batch) -> Callable[[], Values]:
    """Has KL(a, b), KL(b, a), and 1 where the tops agree, worked out for every target position of the batch, each (n,)."""
    hidden_a, hidden_b = a.hidden(batch), b.hidden(batch)
    step = min(a.logit_rows, b.logit_rows)
    parts = []
    for at in range(0, batch.n_scored, step):
        rows = slice(at, at + step)
        parts.append(kl_rows(a.logits(hidden_a[rows]), b.logits(hidden_b[rows])))
    fetched = a.transfers.fetch(torch.cat(parts, dim=1))
    return lambda: _checked(fetched(), batch)


def _checked(values_3n: NDArray[np.floating[Any]], batch: Batch) -> Values:
    """The rows of a batch's values. Raises KltuiError where a KL is not finite."""
    wrong = ~np.isfinite(values_3n[:2]).all(axis=0)
    if wrong.any():
        text = int(batch.texts_n[int(np.argmax(wrong))])
        raise KltuiError(
            f"the KL is not finite in text {text}",
            "one model gives NaN, or probability 0 where the other does not",
        )
    return values_3n[0], values_3n[1], values_3n[2]


def kl_rows(logits_a_nV: torch.Tensor, logits_b_nV: torch.Tensor) -> torch.Tensor:
    """KL(a, b) and KL(b, a) in nats per row, and 1.0 where the largest logit is the same entry: (3, n) over there.

    In float64 but on Apple's GPUs, which lack it.

    Models of one family pad their vocabularies differently: the entries that both have are compared.
    """
    V = min(logits_a_nV.shape[1], logits_b_nV.shape[1])
    za, zb = logits_a_nV[:, :V], logits_b_nV[:, :V].to(logits_a_nV.device)
    if native_cuda.usable(za.device):
        there = native_cuda.kl_rows(za, zb)
        return torch.stack([there.forward, there.reverse, there.same_top.double()])
    if za.device.type == "cpu":
        rows = native.kl_rows(za, zb)
        return torch.from_numpy(np.stack([rows.forward, rows.reverse, rows.same_top]))
    return _kl_by_torch(za, zb, torch.float32 if za.device.type == "mps" else torch.float64)


def _kl_by_torch(za_nV: torch.Tensor, zb_nV: torch.Tensor, sums: torch.dtype) -> torch.Tensor:
    """As `kl_rows`, of logits of one width, added up in the dtype `sums`."""
    logp_a, logp_b = za_nV.log_softmax(-1), zb_nV.log_softmax(-1)
    difference = logp_a - logp_b
    forward, reverse = (
        torch.where(logp == -math.inf, 0.0, logp.exp() * sign * difference).sum(-1, dtype=sums)
        for logp, sign in ((logp_a, 1.0), (logp_b, -1.0))
    )
    return torch.stack([forward, reverse, (za_nV.argmax(-1) == zb_nV.argmax(-1)).to(sums)])
