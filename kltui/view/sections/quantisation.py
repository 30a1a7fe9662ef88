"""Quantisation: KL of each model to its quantised variants, and whether models shift in the same direction."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from rich.console import RenderableType

from kltui.analysis.lineage import GGUF, Pair
from kltui.analysis.map import Map
from kltui.analysis.shifts import Shifts, shifts
from kltui.view.sections.context import Context, below
from kltui.view.sections.section import MissingError, Section
from kltui.view.sections.variant_figures import Variant, variants
from kltui.view.tables import figure, table, with_error, words

COSINES_SHOWN, VARIANTS_SHOWN = 20, 30


def quantisation(ctx: Context) -> Section:
    """KL of models to their variants, and cosines between the shifts of the runs' last quantised checkpoints."""
    shown = ctx.map
    figures = variants(ctx)
    every = [v.rows for v in figures]
    if not every:
        raise MissingError(
            "no model is scored both unquantised and quantised",
            'score variants too: quantization = ["none", "bnb-8bit", "bnb-fp4"] in a [[models]] table, or a GGUF file of it',
        )
    last = _last(shown, every)
    moved = shifts(shown.loglik_KN, last, [shown.names[row] for _, row in last])
    notes = [f"bits/byte ± standard error over texts; {ctx.basis}", ctx.floor_words]
    notes.append(
        f"shift: q quantised - q original over {moved.n_texts} texts; published cosines within a family: 0.91 to 0.98"
    )
    notes += _exact_words(figures)
    if any(math.isfinite(v.weight_sqdist) for v in figures):
        notes.append(
            "weights by: norm of the difference between the original's weights and the file's dequantised weights"
        )
    if len(every) > len(last):
        notes.append(f"the last of each run's quantised checkpoints, of {len(every)}; --json has them all")
    data: dict[str, object] = {
        "unit": "bits/byte",
        "variants": [_data(v) for v in figures],
        "cosines": [{"a": a, "b": b, "cosine": c} for a, b, c in _cosines(moved)],
        "shift_lengths_nats": dict(zip(moved.names, moved.length.tolist(), strict=True)),
    }
    return Section(
        "quantisation", "Quantisation", tuple(_blocks(ctx, figures, last, moved)), tuple(notes), data
    )


def _last(shown: Map, pairs: list[Pair]) -> list[Pair]:
    """The pair of the last step of each run and variant."""
    last: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        p = shown.points[pair[1]]
        before = last.get((p.run, p.quantization))
        if before is None or (p.step or 0) >= (shown.points[before[1]].step or 0):
            last[p.run, p.quantization] = pair
    return list(last.values())


def _cosines(moved: Shifts) -> list[tuple[str, str, float]]:
    """(name, name, cosine) of all pairs of shifts, highest first, undefined last."""
    found = [
        (moved.names[i], moved.names[j], float(moved.cosine[i, j]))
        for i, j in combinations(range(len(moved.names)), 2)
    ]
    return sorted(found, key=lambda f: -f[2] if math.isfinite(f[2]) else math.inf)


def _exact_words(figures: list[Variant]) -> list[str]:
    """Notes that explain the columns of the exact KL, or how to compute it."""
    known = [v for v in figures if v.exact]
    said = []
    if known:
        said.append(
            "exact: KL(original, quantised) of the next token, mean ± standard error over texts; 99%: its quantile over"
            " positions, nats; top-1: share of positions where both have the same top token"
        )
    missing = next((v for v in figures if not v.exact), None)
    if missing:
        said.append(
            f"exact next-token KL of {len(figures) - len(known)} of {len(figures)} has not been computed yet: kltui --report"
            + (
                " --section quantisation WORKSPACE"
                if missing.quantization.startswith(GGUF)
                else f" --section exact --pair {missing.model} {missing.name} WORKSPACE"
            )
        )
    return said


def _cells(v: Variant, length: float, floor: float) -> dict[str, str]:
    """{heading: cell} of a variant; "" if unknown."""
    return {
        "model": v.model,
        "variant": v.quantization,
        "KL ± se": with_error(v.kl.value, v.kl.se) + below(v.kl.value, floor),
        "shift, nats": figure(length),
        "bits/weight": f"{v.bits_per_weight:.2f}" if math.isfinite(v.bits_per_weight) else "",
        "weights by": figure(math.sqrt(v.weight_sqdist)) if math.isfinite(v.weight_sqdist) else "",
    }


def _exact_cells(v: Variant) -> list[str]:
    if v.exact is None:
        return [v.name, "-", "-", "-", "-"]
    way = v.exact.forward
    return [
        v.name, with_error(way.nats_per_token, way.nats_per_token_se), figure(way.high_nats),
        figure(way.bits_per_byte), f"{v.exact.top1_agreement:.2%}",
    ]  # fmt: skip


def _blocks(ctx: Context, figures: list[Variant], last: list[Pair], moved: Shifts) -> list[RenderableType]:
    known = {v.rows: v for v in figures}
    cells = [
        _cells(known[pair], float(length), ctx.floor) for pair, length in zip(last, moved.length, strict=True)
    ]
    headings = [h for h in cells[0] if any(c[h] for c in cells)]
    rows = [[c[h] or "-" for h in headings] for c in cells]
    blocks: list[RenderableType] = [table(headings, rows[:VARIANTS_SHOWN], left=(0, 1))]
    if any(known[pair].exact for pair in last):
        exact = [_exact_cells(known[pair]) for pair in last[:VARIANTS_SHOWN]]
        blocks.append(
            table(["exact KL to", "nats/token ± se", "99%", "bits/byte", "top-1"], exact, left=(0,))
        )
    if len(rows) > VARIANTS_SHOWN:
        blocks.append(words(f"{VARIANTS_SHOWN} of {len(rows)} variants; --json has them all"))
    pairs = _cosines(moved)
    if not pairs:
        return [*blocks, words("only one variant, so no two shifts to compare")]
    blocks += _families(ctx.map, pairs)
    shown_pairs = [[a, b, figure(c)] for a, b, c in pairs[:COSINES_SHOWN]]
    blocks.append(table(["shift of", "and of", "cosine"], shown_pairs, left=(0, 1)))
    if len(pairs) > COSINES_SHOWN:
        blocks.append(words(f"the {COSINES_SHOWN} highest of {len(pairs)} cosines; --json has them all"))
    return blocks


def _families(shown: Map, pairs: list[tuple[str, str, float]]) -> list[RenderableType]:
    """A table of the median cosine by variant, within a type and across types; none without pairs of models."""
    by_kind: dict[tuple[str, str], list[float]] = {}
    for a, b, cosine in pairs:
        p, q = shown.points[shown.row(a)], shown.points[shown.row(b)]
        if p.quantization == q.quantization and p.base != q.base and math.isfinite(cosine):
            kind = "within a type" if p.type == q.type != "" else "across types"
            by_kind.setdefault((p.quantization, kind), []).append(cosine)
    rows = [[v, kind, str(len(c)), figure(float(np.median(c)))] for (v, kind), c in sorted(by_kind.items())]
    return [table(["variant", "models", "pairs", "median cosine"], rows, left=(0, 1))] if rows else []


def _data(v: Variant) -> dict[str, object]:
    exact = v.exact
    return {
        "model": v.model,
        "variant": v.name,
        "quantization": v.quantization,
        "kl_bits_per_byte": v.kl.value,
        "se": v.kl.se,
        "texts": v.kl.n_texts,
        "dropped": v.kl.n_dropped,
        "mean_bytes": v.kl.mean_bytes,
        "exact_nats_per_token": exact.forward.nats_per_token if exact else math.nan,
        "exact_nats_per_token_se": exact.forward.nats_per_token_se if exact else math.nan,
        "exact_bits_per_byte": exact.forward.bits_per_byte if exact else math.nan,
        "exact_99_nats": exact.forward.high_nats if exact else math.nan,
        "top1_agreement": exact.top1_agreement if exact else math.nan,
        "bits_per_weight": v.bits_per_weight,
        "weight_sqdist": v.weight_sqdist,
    }
