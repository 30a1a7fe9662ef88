"""Figures of each quantised variant compared with its model: KL from the vectors, exact KL, size, and distance of the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kltui.analysis.lineage import GGUF, variant_pairs
from kltui.errors import KltuiError
from kltui.view.sections.context import Context
from kltui.view.sections.exact import ExactProgress

if TYPE_CHECKING:
    from kltui.analysis.exact import NextTokenKL
    from kltui.analysis.kl import KL

BITS = "bits_per_weight"  # kind of the records that scoring stores by the identity of the weights


@dataclass(frozen=True, slots=True)
class Variant:
    """A variant and its model; `rows` are (model, variant) on the map. NaN: unknown.

    `kl` is in bits/byte, `exact` the exact next-token KL(model, variant) if computed, `bits_per_weight` the size of its file,
    `weight_sqdist` the squared distance between the model's weights and the dequantised ones.
    """

    rows: tuple[int, int]
    model: str
    name: str
    quantization: str
    kl: KL
    exact: NextTokenKL | None
    bits_per_weight: float
    weight_sqdist: float


def _exact(ctx: Context, a: str, b: str, quantization: str) -> NextTokenKL | None:
    """The stored exact KL, or None. That of a GGUF file is computed now if the options allow it."""
    compute = ctx.choice.compute and quantization.startswith(GGUF)
    try:
        return ctx.ws.exact_kl(
            a, b, corpus=str(ctx.map.record["corpus"]), compute=compute, device=ctx.choice.scoring_device,
            progress=ExactProgress(ctx, f"exact KL of {a} and {b}"),
        )  # fmt: skip
    except KltuiError as error:
        ctx.notify(f"no exact KL of {a} and {b}: {error.message}")
        return None


def variants(ctx: Context) -> list[Variant]:
    """Every variant on the map whose model is also on it, in the map's order."""
    shown = ctx.map
    pairs = variant_pairs(shown.points)
    sizes: dict[str, float] = {w: float(r["bits"]) for w, r in ctx.ws.records(BITS).items()}  # type: ignore[arg-type]
    weights = {row.name: row.weights for row in ctx.rows}
    moved = ctx.gguf_sqdist if pairs else {}
    found = []
    for model, variant in pairs:
        a, b = shown.names[model], shown.names[variant]
        found.append(
            Variant(
                (model, variant), a, b, shown.points[variant].quantization, shown.pair_rows(model, variant),
                _exact(ctx, a, b, shown.points[variant].quantization),
                sizes.get(weights.get(b, ""), math.nan), moved.get((a, b), math.nan),
            )
        )  # fmt: skip
    return found
