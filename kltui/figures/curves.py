"""Figures against training: loss, KL from step to step, diffusion; and error against the number of texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from kltui.analysis.curves import Curve, consecutive_curves, curves_to_last, loss_curves
from kltui.analysis.diffusion import Exponent
from kltui.analysis.map import ConsecutiveKL
from kltui.figures.picture import GREY, FigureAxis, Layer, Panel, PaperFigure, slot_colour, slot_mark, values
from kltui.view.sections import resampling as resampling_section
from kltui.view.sections.context import Context
from kltui.view.sections.diffusion import typical, window_distances, window_errors
from kltui.view.sections.section import MissingError

STEP = "training step"
KL_AXIS = "KL, bits/byte"
Slots = Mapping[str, int]


def curves(ctx: Context) -> PaperFigure:
    """Bits per byte, KL from the checkpoint before and KL to the last one, against the step, with standard errors."""
    if not ctx.consecutive:
        raise MissingError("no run has two steps on the map", "score a run of several checkpoints")
    panels = (
        Panel("Loss", FigureAxis(STEP, "symlog"), FigureAxis("bits/byte"), _losses(ctx)),
        Panel(
            "KL from the checkpoint before",
            FigureAxis(STEP, "symlog"),
            FigureAxis(KL_AXIS, "log"),
            _layers(consecutive_curves(ctx.map), ctx.slots),
        ),
        Panel(
            "KL to the last checkpoint",
            FigureAxis(STEP, "symlog"),
            FigureAxis(KL_AXIS, "log"),
            _layers(curves_to_last(ctx.map), ctx.slots),
        ),
    )
    return PaperFigure(
        "curves", "Curves", panels, (f"bars: one standard error over texts; {ctx.basis}",), columns=3
    )


def _losses(ctx: Context) -> tuple[Layer, ...]:
    return _layers((c for c in loss_curves(ctx.raw) if len(c) > 1), ctx.slots)


def _layers(found: Iterable[Curve], slots: Slots) -> tuple[Layer, ...]:
    return tuple(_line(c.run, list(zip(c.steps, c.values, c.errors, strict=True)), slots) for c in found)


def steps(consecutive: Mapping[str, Sequence[ConsecutiveKL]], slots: Slots) -> tuple[Layer, ...]:
    """KL from the checkpoint before against the step it ends at, a line for each run."""
    return tuple(
        _line(run, [(c.step_to, c.kl, c.se) for c in found], slots) for run, found in consecutive.items()
    )


def _line(run: str, found: Sequence[tuple[float, float, float]], slots: Slots, **look: str) -> Layer:
    x, y, se = (values(v) for v in zip(*found, strict=True))
    slot = slots.get(run, len(slots))
    mark = slot_mark(slot) if len(found) <= 60 else ""
    return Layer(
        run,
        x,
        y,
        low=y - se,
        high=y + se,
        names=(run,) * len(found),
        colour=slot_colour(slot),
        mark=mark,
        size=2.0,
        **look,  # type: ignore[arg-type]
    )


def diffusion(ctx: Context) -> PaperFigure:
    """Squared distances from each run's typical start, in likelihood and weight space, and exponents by start."""
    exponents = ctx.exponents
    if not exponents:
        raise MissingError(
            f"no run has a start followed by {ctx.choice.window} saved checkpoints after its warm-up",
            f"score runs with at least {ctx.choice.window + 1} evenly spaced steps",
        )
    panels = [_growth(ctx, exponents, weights=False)]
    weighted = [e for e in exponents if math.isfinite(e.c_w)]
    if weighted:
        panels.append(_growth(ctx, weighted, weights=True))
    panels.append(exponent_panel(exponents, ctx.slots))
    notes = (
        f"windows of {ctx.choice.window} saved checkpoints; each run from its start of median c_q; c = 1 is Brownian",
        ctx.basis,
    )
    return PaperFigure("diffusion", "Diffusion", tuple(panels), notes, columns=3)


def _growth(ctx: Context, exponents: Sequence[Exponent], *, weights: bool) -> Panel:
    layers = []
    for run in dict.fromkeys(e.run for e in exponents):
        e = typical([e for e in exponents if e.run == run])
        tau, d = window_distances(ctx, e, weights)
        se = None if weights else values(window_errors(ctx, e))
        slot = ctx.slots.get(run, 0)
        layers.append(
            Layer(
                run,
                values(tau),
                values(d),
                low=None if se is None else values(d) - se,
                high=None if se is None else values(d) + se,
                names=(f"{run}@{e.start}",) * len(tau),
                colour=slot_colour(slot),
                mark=slot_mark(slot),
            )
        )
    title, name = ("Weight space", "squared weight distance") if weights else ("Likelihood space", KL_AXIS)
    return Panel(title, FigureAxis("steps from the start", "log"), FigureAxis(name, "log"), tuple(layers))


def exponent_panel(
    exponents: Sequence[Exponent], slots: Slots, title: str = "Exponents (c_w dashed)"
) -> Panel:
    """c_q (solid) and c_w (dashed) of every window against its start, with least-squares errors."""
    layers = []
    for run in dict.fromkeys(e.run for e in exponents):
        own = [e for e in exponents if e.run == run]
        colour = slot_colour(slots.get(run, len(slots)))
        x, c, se = values([e.start for e in own]), values([e.c_q for e in own]), values([e.se_q for e in own])
        low, high = (c - se, c + se) if len(own) <= 30 else (None, None)
        layers.append(Layer(run, x, c, low=low, high=high, colour=colour, mark="o", size=2))
        c_w = values([e.c_w for e in own])
        if np.isfinite(c_w).any():
            layers.append(Layer("", x, c_w, colour=colour, dash="dashed", mark="", size=2))
    ends = values([min(e.start for e in exponents), max(e.start for e in exponents)])
    layers.append(Layer("c = 1", ends, np.ones(2), colour=GREY, dash="dotted"))
    return Panel(title, FigureAxis("start, training step"), FigureAxis("diffusion exponent c"), tuple(layers))


def resampling(ctx: Context) -> PaperFigure:
    """Relative error of a map's KLs against the number of different texts, for three ways of drawing them."""
    data = resampling_section.resampling(ctx).data
    rows = data["errors"]
    assert isinstance(rows, list)
    layers = []
    for slot, method in enumerate(dict.fromkeys(r["method"] for r in rows)):
        own = [r for r in rows if r["method"] == method]
        x, y = values([r["different"] for r in own]), values([r["relative"] for r in own])
        names = tuple(f"{r['drawn']} draws" for r in own)
        label = resampling_section.NAMES[method]
        layers.append(Layer(label, x, y, names=names, colour=slot_colour(slot), mark=slot_mark(slot)))
    panel = Panel(
        "Error of a map",
        FigureAxis("different texts", "log"),
        FigureAxis("relative error of KL", "log"),
        tuple(layers),
    )
    notes = (
        f"root mean square over pairs and {data['draws']} draws, against all {data['texts']} texts",
        ctx.basis,
    )
    return PaperFigure("resampling", "Error against the number of texts", (panel,), notes, columns=1)
