"""Quantisation: KL of each model against its own variants, and whether models shift the same way."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from rich.console import RenderableType

from kltui.analysis.lineage import Pair, variant_pairs
from kltui.analysis.map import Map
from kltui.analysis.shifts import Shifts, shifts
from kltui.view.sections.context import Context, below
from kltui.view.sections.section import MissingError, Section
from kltui.view.tables import figure, table, with_error, words

COSINES_SHOWN, VARIANTS_SHOWN = 20, 30


def quantisation(ctx: Context) -> Section:
    """KL to the own variants, and cosines between the shifts of the runs' last quantised checkpoints."""
    shown = ctx.map
    every = variant_pairs(shown.points)
    if not every:
        raise MissingError(
            "no model is scored both unquantised and quantised",
            'score variants too: quantization = ["none", "bnb-8bit", "bnb-fp4"] in a [[models]] table',
        )
    last = _last(shown, every)
    moved = shifts(shown.loglik_KN, last, [shown.names[row] for _, row in last])
    notes = [f"bits/byte ± standard error over texts; {ctx.basis}", ctx.floor_words]
    notes.append(
        f"shift: q quantised - q original over {moved.n_texts} texts; published cosines within a family: 0.91 to 0.98"
    )
    if len(every) > len(last):
        notes.append(f"the last of each run's quantised checkpoints, of {len(every)}; --json has them all")
    data: dict[str, object] = {
        "unit": "bits/byte",
        "variants": [_data(shown, pair) for pair in every],
        "cosines": [{"a": a, "b": b, "cosine": c} for a, b, c in _cosines(moved)],
        "shift_lengths_nats": dict(zip(moved.names, moved.length.tolist(), strict=True)),
    }
    return Section("quantisation", "Quantisation", tuple(_blocks(ctx, last, moved)), tuple(notes), data)


def _last(shown: Map, pairs: list[Pair]) -> list[Pair]:
    """The pair of the last step of each run and variant."""
    last: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        p = shown.points[pair[1]]
        held = last.get((p.run, p.quantization))
        if held is None or (p.step or 0) >= (shown.points[held[1]].step or 0):
            last[p.run, p.quantization] = pair
    return list(last.values())


def _cosines(moved: Shifts) -> list[tuple[str, str, float]]:
    """Every two shifts and their cosine, highest first, undefined last."""
    found = [
        (moved.names[i], moved.names[j], float(moved.cosine[i, j]))
        for i, j in combinations(range(len(moved.names)), 2)
    ]
    return sorted(found, key=lambda f: -f[2] if math.isfinite(f[2]) else math.inf)


def _blocks(ctx: Context, last: list[Pair], moved: Shifts) -> list[RenderableType]:
    rows = []
    for (model, variant), length in zip(last, moved.length, strict=True):
        kl = ctx.map.pair_rows(model, variant)
        shown = with_error(kl.value, kl.se) + below(kl.value, ctx.floor)
        kind = ctx.map.points[variant].quantization
        rows.append([ctx.map.names[model], kind, shown, figure(float(length))])
    headings = ["model", "variant", "KL ± se", "shift, nats"]
    blocks: list[RenderableType] = [table(headings, rows[:VARIANTS_SHOWN], left=(0, 1))]
    if len(rows) > VARIANTS_SHOWN:
        blocks.append(words(f"{VARIANTS_SHOWN} of {len(rows)} variants; --json has them all"))
    pairs = _cosines(moved)
    if not pairs:
        return [*blocks, words("one variant only: no two shifts to compare")]
    blocks += _families(ctx.map, pairs)
    shown_pairs = [[a, b, figure(c)] for a, b, c in pairs[:COSINES_SHOWN]]
    blocks.append(table(["shift of", "and of", "cosine"], shown_pairs, left=(0, 1)))
    if len(pairs) > COSINES_SHOWN:
        blocks.append(words(f"the {COSINES_SHOWN} highest of {len(pairs)} cosines; --json has them all"))
    return blocks


def _families(shown: Map, pairs: list[tuple[str, str, float]]) -> list[RenderableType]:
    """Median cosine by variant, within a type and across types, where there are both sides of it."""
    held: dict[tuple[str, str], list[float]] = {}
    for a, b, cosine in pairs:
        p, q = shown.points[shown.row(a)], shown.points[shown.row(b)]
        if p.quantization == q.quantization and p.base != q.base and math.isfinite(cosine):
            kind = "within a type" if p.type == q.type != "" else "across types"
            held.setdefault((p.quantization, kind), []).append(cosine)
    rows = [[v, kind, str(len(c)), figure(float(np.median(c)))] for (v, kind), c in sorted(held.items())]
    return [table(["variant", "models", "pairs", "median cosine"], rows, left=(0, 1))] if rows else []


def _data(shown: Map, pair: Pair) -> dict[str, object]:
    kl = shown.pair_rows(*pair)
    return {
        "model": shown.names[pair[0]],
        "variant": shown.names[pair[1]],
        "quantization": shown.points[pair[1]].quantization,
        "kl_bits_per_byte": kl.value,
        "se": kl.se,
        "texts": kl.n_texts,
        "dropped": kl.n_dropped,
        "mean_bytes": kl.mean_bytes,
    }
