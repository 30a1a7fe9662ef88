"""Figures over training steps (loss, KL between consecutive checkpoints, diffusion), and error over the number of texts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kltui.analysis.curves import Curve, seed_family
from kltui.analysis.diffusion import Exponent
from kltui.analysis.map import ConsecutiveKL
from kltui.figures.picture import (
    GREY,
    REFERENCE_DASHES,
    FigureAxis,
    Layer,
    Panel,
    PaperFigure,
    slot_colour,
    slot_mark,
    values,
)
from kltui.view import curve_panels
from kltui.view.axis import Scale as AxisScale
from kltui.view.curve_content import KINDS, Content, PanelKind, is_near
from kltui.view.curve_panels import only
from kltui.view.sections import resampling as resampling_section
from kltui.view.sections.context import Context
from kltui.view.sections.diffusion import exponents_of, typical, window_distances, window_errors
from kltui.view.sections.section import MissingError
from kltui.view.sections.stabilisation import LEVELS, settled_words
from kltui.workspace.alert_limits import alert_limits

STEP = "training step"
KL_AXIS = "KL, bits/byte"
SPIKE = "#d70000"
RUNS_NOTED = 12
MARKED_MAX = 60  # points of a run with a mark; if it has more, every second, third and so on
Y_AXES = {"loss": "bits/byte", "exponents": "exponent c_q", "updates": "norm of the update"}
Slots = Mapping[str, int]


@dataclass(frozen=True)
class CurvesShown:
    """How curves are shown: scales of the step axis and of each panel (by key), the marked A and B, and what is hidden.

    `run` is the run whose seeds are compared unless A and B belong to two runs; `level` is the KL in bits/byte below which a
    run counts as settled (None: the lowest that each run reaches); `hidden` are names of checkpoints; `weights` are squared
    weight distances by pairs of names (None: those of the workspace).
    """

    x_scale: AxisScale = "log1p"
    y_scales: Mapping[str, AxisScale] = field(default_factory=dict)
    a: str = ""
    b: str = ""
    run: str = ""
    level: float | None = None
    hidden: frozenset[str] = frozenset()
    weights: Mapping[tuple[str, str], float] | None = None


def curves(ctx: Context) -> PaperFigure:
    """The panels of the Curves screen over log(1 + step), for the whole map."""
    a, b = ctx.pair if ctx.choice.pair else ("", "")
    return drawn(ctx, CurvesShown(a=a, b=b, level=ctx.choice.level))


def drawn(ctx: Context, shown: CurvesShown) -> PaperFigure:
    """Loss, KL, exponents and weight updates over the step, one panel for each with data; bands: one standard error.

    Raises MissingError if no run has two steps.
    """
    contents = _contents(ctx, shown)
    panels = [
        _panel(ctx, shown, kind, contents[kind.key])
        for kind in KINDS
        if only(contents[kind.key], shown.hidden)
    ]
    if not any(len(layer.x) > 1 for panel in panels for layer in panel.layers if layer.kind == "line"):
        raise MissingError("no run has two steps on the map", "score a run of several checkpoints")
    settled, notes = _settled_steps(ctx, shown)
    panels = [replace(p, layers=(*p.layers, *settled)) if p.title == KINDS[0].title else p for p in panels]
    panels = _dashed_apart(panels)
    absent = [
        f"without {kind.title}: {re.split('[:;]', contents[kind.key].missing)[0]}"
        for kind in KINDS
        if contents[kind.key].missing and (kind.key != "marked" or shown.a)
    ]
    bands = "bands and bars: one standard error over texts, for exponents that of the fit; x: a spike by the rules of --watch"
    return PaperFigure(
        "curves", "Curves", tuple(panels), (bands, *notes, *absent, ctx.basis), columns=min(3, len(panels))
    )


def _contents(ctx: Context, shown: CurvesShown) -> dict[str, Content]:
    """{key of a panel: its curves, with spikes marked}."""
    found, window = ctx.map, ctx.choice.window
    spiked = curve_panels.found_spikes(found, ctx.raw, alert_limits(ctx.ws.jobs()))
    marks: dict[str, frozenset[tuple[str, int]]] = {
        rule: frozenset((s.at.run, s.at.step) for s in spiked if s.rule == rule) for rule in ("kl", "loss")
    }
    pair = curve_panels.pair_of_runs(found, shown.a, shown.b)
    between = (
        curve_panels.between_two(found, *pair)
        if pair
        else curve_panels.between_seeds(found, seed_family(found, shown.run))
    )
    return {
        "consecutive": replace(curve_panels.consecutive(found), spikes=marks["kl"]),
        "loss": replace(curve_panels.loss(ctx.raw), spikes=marks["loss"]),
        "last": curve_panels.to_last(found),
        "between": between,
        "marked": curve_panels.to_marked(found, shown.a),
        "exponents": curve_panels.exponents(found, ctx.exponents, window),
        "updates": curve_panels.updates(found, ctx.weight_sqdist if shown.weights is None else shown.weights),
    }


def _panel(ctx: Context, shown: CurvesShown, kind: PanelKind, content: Content) -> Panel:
    """One quantity of every run over the step, with published values as horizontal lines, and spikes."""
    found, scale = only(content, shown.hidden), shown.y_scales.get(kind.key, kind.scale)
    layers = []
    for c in found:
        points = list(zip(c.steps, c.values, c.errors, strict=True))
        layers.append(replace(_line(c.run, points, ctx.slots), names=c.names, steps=c.steps, band=True))
    layers += _spikes(found, content.spikes)
    at = [v for c in found for v in c.values if math.isfinite(v) and (scale != "log" or v > 0)]
    ends = values([min(c.steps[0] for c in found), max(c.steps[-1] for c in found)])
    for value, said in content.near_lines(min(at), max(at), scale) if at else ():
        label = f"published: {said}"
        layers.append(Layer(label, ends, np.full(2, value), colour=GREY, dash="longdash", reference=True))
    towards = {c.against for c in found}
    one = kind.key in ("between", "marked") and len(towards) == 1
    title = f"{kind.title}, against {next(iter(towards))}" if one else kind.title
    x = "start, training step" if kind.key == "exponents" else STEP
    return Panel(
        title,
        FigureAxis(x, "symlog" if shown.x_scale == "log1p" else "linear"),
        FigureAxis(Y_AXES.get(kind.key, KL_AXIS), "log" if scale == "log" else "linear"),
        tuple(layers),
    )


def _dashed_apart(panels: Sequence[Panel]) -> list[Panel]:
    """The panels with lines at published values that differ by their dashes, and if there are many, also by their widths."""
    labels = dict.fromkeys(layer.label for p in panels for layer in p.layers if layer.dash == "longdash")
    many = len(REFERENCE_DASHES)
    looks = {label: (REFERENCE_DASHES[k % many], 0.8 + 0.8 * (k // many)) for k, label in enumerate(labels)}
    return [
        replace(
            panel,
            layers=tuple(
                replace(layer, dash=looks[layer.label][0], width=looks[layer.label][1])
                if layer.label in looks
                else layer
                for layer in panel.layers
            ),
        )
        for panel in panels
    ]


def _spikes(found: Sequence[Curve], spikes: frozenset[tuple[str, int]]) -> list[Layer]:
    """Crosses on the points at which --watch would raise an alert."""
    at = [(c, k) for c in found for k, step in enumerate(c.steps) if (c.run, step) in spikes]
    if not at:
        return []
    x, y = values([c.steps[k] for c, k in at]), values([c.values[k] for c, k in at])
    names = tuple(c.names[k] for c, k in at)
    return [
        Layer(
            "spike", x, y, "points", names=names, colour=SPIKE, mark="x", size=5.0, width=1.2, reference=True
        )
    ]


def _settled_steps(ctx: Context, shown: CurvesShown) -> tuple[list[Layer], list[str]]:
    """(a vertical line at the step at which each run settled, sentences on it for the notes)."""
    levels = LEVELS if shown.level is None else (shown.level,)
    settled = curve_panels.settled(ctx.map, levels)
    layers: list[Layer] = []
    notes: list[str] = []
    drawn = only(curve_panels.consecutive(ctx.map), shown.hidden)
    ends = [step for c in drawn for step in (c.steps[0], c.steps[-1])]
    for c in drawn:
        s = settled.of(c.run, shown.level)
        if s is not None and math.isnan(s.last_kl):
            notes.append(f"{c.run}: the last KL is undefined, so where it settled is too")
            continue
        if s is None or s.step is None:
            notes.append(f"{c.run} has not settled at {levels[0] if s is None else s.level:g} bits/byte")
            continue
        y = [v for v in c.values if v > 0] or [0.0]
        colour = slot_colour(ctx.slots.get(c.run, 0))
        step, between = settled_words(s)
        said = "" if between in ("-", step) else f" ({between})"
        notes.append(f"{c.run} settled at step {step}{said}: KL to previous ≤ {s.level:g} bits/byte since")
        if not is_near(s.step, min(ends), max(ends), shown.x_scale):
            continue
        layers.append(
            Layer(
                "" if layers else "settled step",
                np.full(2, float(s.step)),
                values([min(y), max(y)]),
                names=(c.run,) * 2,
                colour=colour,
                dash="dashed",
                width=0.6,
                reference=True,
            )
        )
    more = len(notes) - RUNS_NOTED
    return layers, [*notes[:RUNS_NOTED], *([f"and {more} more runs; --report has them"] if more > 0 else [])]


def steps(consecutive: Mapping[str, Sequence[ConsecutiveKL]], slots: Slots) -> tuple[Layer, ...]:
    """KL from the previous checkpoint over the later step, one line per run."""
    return tuple(
        _line(run, [(c.step_to, c.kl, c.se) for c in found], slots) for run, found in consecutive.items()
    )


def _line(run: str, found: Sequence[tuple[float, float, float]], slots: Slots, **look: str) -> Layer:
    x, y, se = (values(v) for v in zip(*found, strict=True))
    slot = slots.get(run, len(slots))
    return Layer(
        run,
        x,
        y,
        low=y - se,
        high=y + se,
        names=(run,) * len(found),
        colour=slot_colour(slot),
        mark=slot_mark(slot),
        every=-(-len(found) // MARKED_MAX),
        size=2.2,
        **look,  # type: ignore[arg-type]
    )


def diffusion(ctx: Context) -> PaperFigure:
    """Squared distances from the start of median c_q of each run, in likelihood and weight space, and exponents by start."""
    exponents = exponents_of(ctx)
    panels = [_growth(ctx, exponents, weights=False)]
    weighted = [e for e in exponents if math.isfinite(e.c_w)]
    if weighted:
        panels.append(_growth(ctx, weighted, weights=True))
    panels.append(exponent_panel(exponents, ctx.slots))
    notes = (
        f"windows of {ctx.choice.window} saved checkpoints; each run from its start of median c_q; c = 1 is Brownian",
        "bars and bands: one standard error over texts, for exponents that of the fit",
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
    """c_q (solid) and c_w (dashed) of every window over its start, with standard errors of the least-squares fit."""
    layers = []
    for run in dict.fromkeys(e.run for e in exponents):
        own = [e for e in exponents if e.run == run]
        slot = slots.get(run, len(slots))
        x, c, se = values([e.start for e in own]), values([e.c_q for e in own]), values([e.se_q for e in own])
        line = Layer(
            run,
            x,
            c,
            low=c - se,
            high=c + se,
            band=len(own) > 30,
            colour=slot_colour(slot),
            mark=slot_mark(slot),
            every=-(-len(own) // MARKED_MAX),
            size=2,
        )
        layers.append(line)
        c_w = values([e.c_w for e in own])
        if np.isfinite(c_w).any():
            layers.append(replace(line, label="", y=c_w, low=None, high=None, dash="dashed"))
    ends = values([min(e.start for e in exponents), max(e.start for e in exponents)])
    layers.append(Layer("c = 1", ends, np.ones(2), colour=GREY, dash="dotted", reference=True))
    return Panel(title, FigureAxis("start, training step"), FigureAxis("diffusion exponent c"), tuple(layers))


def resampling(ctx: Context) -> PaperFigure:
    """Relative error of a map's KL over the number of distinct texts, for three ways to sample them."""
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
        FigureAxis("distinct texts", "log"),
        FigureAxis("relative error of KL", "log"),
        tuple(layers),
    )
    notes = (
        f"root mean square over pairs and {data['draws']} draws, against all {data['texts']} texts",
        ctx.basis,
    )
    return PaperFigure("resampling", "Error against the number of texts", (panel,), notes, columns=1)
