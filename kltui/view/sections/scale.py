"""The scale of KL: the ten published settings, compared with the pairs of the same kind in this workspace."""

from __future__ import annotations

import math

from rich.console import RenderableType

from kltui.analysis.map import Map
from kltui.analysis.scale import ScaleRow
from kltui.store.same_weights import left_out_words
from kltui.view.sections.context import Context, below, corpus_words, preparation
from kltui.view.sections.section import Section
from kltui.view.tables import figure, table, words


def scale(ctx: Context) -> Section:
    """Median, quartiles and number of pairs of each setting here, in bits/byte, and the published median."""
    used = ctx.layered if ctx.preprocess == "none" or ctx.choice.preparation.separate else ctx.map
    rows = ctx.scale_rows
    blocks: list[RenderableType] = [
        table(
            ["setting", "pairs", "median here", "quartiles", "published"], [_row(r, ctx.floor) for r in rows]
        )
    ]
    missing = [r for r in rows if not r.n]
    blocks += [words(f"{r.setting}: {r.note}") for r in missing]
    notes = [
        "bits/byte; published: medians of arXiv 2505.15353 for Pythia and hub models; the others are computed from this workspace",
        _basis(ctx, used),
        ctx.floor_words,
        *left_out_words(used.points, used.repeats),
        *(f"{r.setting}: {r.note}" for r in rows if r.n and math.isfinite(r.published)),
        *_gguf_words(rows),
    ]
    return Section(
        "scale",
        "The scale of KL",
        tuple(blocks),
        tuple(notes),
        {
            "unit": "bits/byte",
            "settings": _data(rows),
            "prepared_apart": {group: record for group, (record, _) in ctx.prepared_apart.items()},
        },
    )


def _basis(ctx: Context, used: Map) -> str:
    if ctx.prepared_apart:
        parts = [words for _, words in ctx.prepared_apart.values()]
        return f"preprocessed separately, as published: {'; '.join(parts)}; all others raw"
    if ctx.preprocess != "none":
        return f"{ctx.basis}; layer vectors have no preprocessing and are left out"
    return f"{preparation(used)} of final layers, layer vectors for layers; {corpus_words(used)}"


def _row(r: ScaleRow, floor: float) -> list[str]:
    if not r.n:
        return [r.setting, "none", "-", "-", figure(r.published, 2)]
    quartiles = f"{figure(r.q25)} to {figure(r.q75)}" if r.n > 1 else "-"
    return [r.setting, str(r.n), figure(r.median) + below(r.median, floor), quartiles, _published(r)]


def _gguf_words(rows: list[ScaleRow]) -> list[str]:
    """A note on the rows of GGUF files, if there are any."""
    any_gguf = any(not math.isfinite(r.published) for r in rows)
    return ["GGUF: each model against itself in files of this kind; not in the paper"] if any_gguf else []


def _published(r: ScaleRow) -> str:
    return figure(r.published, 2) if math.isfinite(r.published) else "-"


def _data(rows: list[ScaleRow]) -> list[dict[str, object]]:
    return [
        {
            "setting": r.setting,
            "pairs": r.n,
            "median": r.median,
            "q25": r.quartiles[0],
            "q75": r.quartiles[1],
            "low": r.low,
            "high": r.high,
            "published": r.published,
            "ratio_to_published": r.median / r.published if r.n else math.nan,
            "note": r.note,
            "names": [list(pair) for pair in r.pairs],
        }
        for r in rows
    ]
