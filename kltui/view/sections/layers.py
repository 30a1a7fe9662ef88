"""Layers: KL between neighbouring layer vectors of a model, from the embedding output to the last layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from kltui.analysis.kl import KL
from kltui.analysis.map import Map
from kltui.analysis.point import Point, label_of
from kltui.view.sections.context import Context, corpus_words
from kltui.view.sections.section import MissingError, Plot, Section
from kltui.view.tables import figure, table, with_error
from kltui.view.textplot import PlotFrame, Series

CURVES_SHOWN = 12
_LAST = "each run's last checkpoint"


@dataclass(frozen=True)
class Thread:
    """KLs between adjacent layer vectors of one model, as (layer, next stored layer, KL), and from the last to the final vector."""

    model: str
    steps: tuple[tuple[int, int, KL], ...]
    to_final: KL | None


def threads(shown: Map, *, every: bool = False) -> list[Thread]:
    """The thread of the last checkpoint with layer vectors (`every`: of all of them) of each run and variant."""
    by_run: dict[tuple[str, str], dict[int, dict[int, int]]] = {}
    for row, p in enumerate(shown.points):
        if p.layer is not None:
            steps = by_run.setdefault((p.run, p.quantization), {})
            steps.setdefault(-1 if p.step is None else p.step, {})[p.layer] = row
    return [
        _thread(shown, steps[step])
        for steps in by_run.values()
        for step in (sorted(steps) if every else [max(steps)])
    ]


def _thread(shown: Map, rows: dict[int, int]) -> Thread:
    order = sorted(rows)
    model = shown.points[rows[order[0]]].name.rpartition("#")[0]
    steps = tuple((a, b, shown.pair_rows(rows[a], rows[b])) for a, b in pairwise(order))
    known = model in shown.names
    return Thread(model, steps, shown.pair_rows(rows[order[-1]], shown.row(model)) if known else None)


def of_model(point: Point) -> str:
    """The name of the model or checkpoint to which a layer vector belongs."""
    return point.name.rpartition("#")[0]


def model_slots(ctx: Context, models: Sequence[str]) -> dict[str, int]:
    """{model: its number, for colour and marker}: those of their runs, as on every screen, if all of these differ."""
    runs = {of_model(p): label_of(p) for p in ctx.layered.points if p.layer is not None}
    numbers = [ctx.slots.get(runs[m], -1) for m in models]
    apart = len(set(numbers)) == len(numbers) and min(numbers, default=0) >= 0
    return dict(zip(models, numbers if apart else range(len(models)), strict=True))


def layers(ctx: Context) -> Section:
    """KL between adjacent layers of every run's last checkpoint with layer vectors, or of the requested pair."""
    if not any(row.layers for row in ctx.rows):
        raise MissingError("no layer vectors are stored", 'score with layers = "all" in the [scoring] table')
    shown = ctx.layered
    found = [t for t in threads(shown) if t.steps]
    if not found:
        raise MissingError("no model has layer vectors of two layers", 'score with layers = "all"')
    every = [t for t in threads(shown, every=True) if t.steps]
    asked = [t for t in every if t.model in (ctx.choice.pair or ())]
    listed = asked or found
    drawn = listed[:CURVES_SHOWN]
    slots = model_slots(ctx, [t.model for t in drawn])
    series = [
        Series(t.model, [b for _, b, _ in t.steps], [k.value for _, _, k in t.steps], slot=slots[t.model])
        for t in drawn
    ]
    blocks = (
        table(["model", "pairs", "first", "median", "largest", "last", "± se"], [_row(t) for t in listed]),
        Plot(series, PlotFrame("", "layer k", "KL to the previous layer, bits/byte", yscale="log"), 16),
    )
    notes: tuple[str, ...] = (
        "bits/byte ± standard error over texts; layer 0 is the embedding output; the model's own norm and"
        " head are applied to each layer",
        f"raw layer vectors of {'the requested checkpoints' if asked else _LAST}; {corpus_words(shown)}",
    )
    data: dict[str, object] = {
        "unit": "bits/byte",
        "models": [_data(t) for t in found],
        "checkpoints": [_data(t) for t in every],
    }
    if len(every) > len(listed):
        notes += (
            f"{len(every)} checkpoints have layer vectors: --pair A B shows two of them, --json has all",
        )
    return Section("layers", "Layers", blocks, notes, data)


def _row(t: Thread) -> list[str]:
    values = [kl.value for _, _, kl in t.steps]
    finite = [v for v in values if math.isfinite(v)]
    first, last = t.steps[0], t.steps[-1]
    value, _, se = with_error(last[2].value, last[2].se).partition(" ± ")
    top = max(t.steps, key=lambda s: s[2].value if math.isfinite(s[2].value) else -math.inf)
    return [
        t.model,
        str(len(t.steps)),
        f"{first[0]}>{first[1]}: {figure(first[2].value)}",
        figure(float(np.median(finite)) if finite else math.nan),
        f"{top[0]}>{top[1]}: {figure(top[2].value)}",
        f"{last[0]}>{last[1]}: {value}",
        se or "-",
    ]


def _data(t: Thread) -> dict[str, object]:
    return {
        "model": t.model,
        "adjacent": [
            {"from": a, "to": b, "kl_bits_per_byte": kl.value, "se": kl.se, "texts": kl.n_texts}
            for a, b, kl in t.steps
        ],
        "last_layer_to_final": None if t.to_final is None else t.to_final.value,
    }
