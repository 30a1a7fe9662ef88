"""Where a KL lies on the scale: the settings, here and as published, whose range contains a value."""

from __future__ import annotations

import math

from rich.console import RenderableType

from kltui.analysis.scale import PUBLISHED, ScaleRow, locate
from kltui.view.sections.context import Context
from kltui.view.sections.section import Section
from kltui.view.tables import figure, table, with_error, words


def where(ctx: Context) -> Section:
    """The settings around one KL: that of `--where`, of the requested pair, or the largest between final checkpoints."""
    value, asked, names = _value(ctx)
    rows = ctx.scale_rows
    found = locate(value, rows)
    blocks: list[RenderableType] = [
        words(asked),
        table(
            ["setting", "least", "median", "most", "this KL", "published", "ratio"],
            [_row(r, value) for r in rows],
        ),
        words(_placed(found.above, found.below, found.nearest)),
    ]
    notes = (
        "least, median, most: of the pairs found here; this KL: whether it lies in that range; ratio: this KL over the"
        " published median",
        "published ranges: "
        + ", ".join(f"{s.name} {s.low} to {s.high}" for s in PUBLISHED if math.isfinite(s.low)),
        ctx.basis,
    )
    data: dict[str, object] = {
        "unit": "bits/byte",
        "kl_bits_per_byte": value,
        "pair": names,
        "settings_here": list(found.settings),
        "settings_published": list(locate(value).settings),
        "nearest_published": found.nearest,
        "published_above": found.above,
        "published_below": found.below,
    }
    return Section("where", "Where a KL lies", tuple(blocks), notes, data)


def _value(ctx: Context) -> tuple[float, str, list[str]]:
    """(KL, its description, names of the two vectors that it is between, if any)."""
    asked = ctx.choice.where
    if asked is not None:
        return asked, f"{figure(asked)} bits/byte", []
    a, b = ctx.pair
    kl = ctx.map.pair(a, b)
    hint = "" if ctx.choice.pair else "; choose another with --where 0.05 or --pair A B"
    return kl.value, f"{a} against {b}: {with_error(kl.value, kl.se)} bits/byte{hint}", [a, b]


def _row(r: ScaleRow, value: float) -> list[str]:
    known = math.isfinite(r.published)  # GGUF files are not in the paper
    ratio = f"{figure(value / r.published, 2)}x" if known and value > 0 else "-"
    published = figure(r.published, 2) if known else "-"
    if not r.n:
        return [r.setting, "-", "-", "-", "none here", published, ratio]
    side = "within" if r.contains(value) else "above" if value > r.high else "below"
    return [
        r.setting,
        figure(r.low),
        figure(r.median),
        figure(r.high),
        side if math.isfinite(value) else "undefined",
        published,
        ratio,
    ]


def _placed(above: str, below: str, nearest: str) -> str:
    if not nearest:
        return "no published median is near a KL that is 0 or undefined"
    parts = ([f"above that of {below}"] if below else []) + ([f"below that of {above}"] if above else [])
    return f"among the published medians it lies {' and '.join(parts)}; nearest in ratio: {nearest}"
