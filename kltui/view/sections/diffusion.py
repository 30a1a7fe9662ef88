"""Diffusion: how squared distances from a start grow with training time, in likelihood and weight space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from rich.console import RenderableType

from kltui.analysis.diffusion import PUBLISHED_EXPONENTS, Exponent, ExponentSummary, summarise
from kltui.analysis.noise import NoiseFloor
from kltui.analysis.number_text import from_to
from kltui.view.sections.context import Context
from kltui.view.sections.section import MissingError, Plot, Section
from kltui.view.tables import figure, table, words
from kltui.view.textplot import PlotFrame, Series

NOISE_NOTES = (
    "measurement noise adds the same f to every distance of a run, D = a tau^c + f; fitted: f over all windows, 95 %: its"
    " interval over texts, below 0 if the curve bends the other way; subtracted from D_q before the fit if it is reliable",
    "at most: what independent noise can be, f <= 2 |sum c_t y_t|^2 / sum c_t^2 with the differences of neighbouring"
    " checkpoints as c, and 1.96 standard errors over texts; a larger f means that the curve is bent",
)


def diffusion(ctx: Context) -> Section:
    """Exponents c_q, c_w, alpha and 2/c of each run: median and quartiles over starts, with ln D against ln tau."""
    exponents, window = exponents_of(ctx), ctx.choice.window
    summaries = summarise(exponents)
    weighted = any(math.isfinite(e.c_w) for e in exponents)
    blocks: list[RenderableType] = [words("likelihood space: D_q(tau) = KL(start, start + tau) ~ tau^c_q")]
    blocks += [_likelihood_table(summaries, exponents), _plot(ctx, exponents, weights=False)]
    notes = [
        f"median [quartiles] over starts; windows of {window} saved checkpoints from step 1000,"
        " or from where saving becomes even in shorter runs",
        "c = 1 Brownian, below 1 subdiffusive, 2 ballistic; 2/c: fractal dimension; alpha = c_q / c_w; the plots show each run's start of median c_q",
        *ctx.repeats_words,
        ctx.basis,
    ]
    if ctx.choice.noise_corrected:
        blocks.insert(2, _floor_table(exponents))
        notes[1:1] = NOISE_NOTES
    if weighted:
        blocks.append(words("weight space: D_w(tau) = |theta(start + tau) - theta(start)|^2 ~ tau^c_w"))
        with_weights = [e for e in exponents if math.isfinite(e.c_w)]
        blocks += [_weight_table(summaries), _plot(ctx, with_weights, weights=True)]
    else:
        notes.append("no weight distances: c_w and alpha need the weight files of the runs (safetensors)")
    notes += [f"weights: {problem}" for problem in ctx.weight_problems]
    published = ", ".join(
        f"{size} {figure(c_q, 2)}/{figure(c_w, 2)}/{figure(alpha, 2)}"
        for size, (c_w, c_q, alpha) in PUBLISHED_EXPONENTS.items()
    )
    notes.append(f"published for Pythia, c_q/c_w/alpha: {published}")
    data = _data(summaries, exponents, window)
    if ctx.choice.noise_corrected:
        data["noise_floors"] = [{"run": run, **asdict(floor)} for run, floor in _floors(exponents).items()]
    return Section("diffusion", "Diffusion exponents", tuple(blocks), tuple(notes), data, headline="")


def exponents_of(ctx: Context) -> list[Exponent]:
    """The exponents of all runs, of which one or more are defined. Raises MissingError if there are none."""
    found, window = ctx.exponents, ctx.choice.window
    if not found:
        raise MissingError(
            f"no run has a start followed by {window} saved checkpoints after its warm-up",
            f"score runs with at least {window + 1} evenly spaced steps",
        )
    if why := undefined_exponents(found, window):
        raise MissingError(why, "score more steps, or more texts")
    return found


def undefined_exponents(exponents: Sequence[Exponent], window: int) -> str:
    """Why none of the exponents is a number, although runs have enough checkpoints; "" if one is, in either space."""
    if any(math.isfinite(e.c_q) or math.isfinite(e.c_w) for e in exponents):
        return ""
    return f"in every window of {window} saved checkpoints, the KL from the start is 0 or undefined, so there is no exponent"


def _floors(exponents: list[Exponent]) -> dict[str, NoiseFloor]:
    return {e.run: e.floor for e in exponents}


def _floor_table(exponents: list[Exponent]) -> RenderableType:
    """The measurement noise of each run: the subtracted value, the fitted one with its interval, its upper bound, and the reason."""
    rows = [
        [
            run,
            figure(f.value, 2) if f.value else "nothing",
            figure(f.estimate, 2),
            f"{figure(f.low, 2)} to {figure(f.high, 2)}" if math.isfinite(f.low) else "-",
            figure(f.bound, 2) if math.isfinite(f.bound) else "-",
            f.why or "-",
        ]
        for run, f in _floors(exponents).items()
    ]
    headings = ["run", "subtracted", "fitted", "95 %", "at most", "why nothing"]
    return table(headings, rows, wrap=(5,))


def _likelihood_table(summaries: list[ExponentSummary], exponents: list[Exponent]) -> RenderableType:
    rows = []
    for s in summaries:
        starts = [e.start for e in exponents if e.run == s.run]
        rows.append([s.run, _range(starts), *_median(s.c_q), figure(s.r2_q), _dimension(s.c_q[0])])
    return table(["run", "starts", "c_q", "quartiles", "R²", "2/c_q"], rows)


def _weight_table(summaries: list[ExponentSummary]) -> RenderableType:
    rows = [
        [s.run, *_median(s.c_w), figure(s.r2_w), _dimension(s.c_w[0]), *_median(s.alpha)]
        for s in summaries
        if not math.isnan(s.c_w[0])
    ]
    return table(["run", "c_w", "quartiles", "R²", "2/c_w", "alpha", "quartiles"], rows)


def _median(q: tuple[float, float, float]) -> list[str]:
    return [figure(q[0]), "-" if math.isnan(q[1]) else f"{figure(q[1])} to {figure(q[2])}"]


def _dimension(c: float) -> str:
    return figure(2.0 / c) if c else figure(math.nan)


def _range(starts: list[int]) -> str:
    span = from_to(starts[0], starts[-1])
    return f"{len(starts)}: {span}"


def _plot(ctx: Context, exponents: list[Exponent], weights: bool) -> Plot:
    series = []
    for run in dict.fromkeys(e.run for e in exponents):
        e = typical([e for e in exponents if e.run == run])
        tau, d = window_distances(ctx, e, weights)
        c = e.c_w if weights else e.c_q
        series.append(Series(f"{run} from {e.start}: slope {figure(c, 2)}", tau, d, slot=ctx.slots.get(run)))
    what = "D_w, squared weight distance" if weights else "D_q, bits/byte"
    return Plot(series, PlotFrame("", "tau, steps from the start", what, "log", "log"), 16)


def typical(rows: list[Exponent]) -> Exponent:
    """The start whose c_q is nearest to the median."""
    finite = [e for e in rows if math.isfinite(e.c_q)] or rows
    middle = float(np.median([e.c_q for e in finite]))
    return min(finite, key=lambda e: (abs(e.c_q - middle), e.start))


def window_distances(ctx: Context, e: Exponent, weights: bool) -> tuple[list[int], list[float]]:
    """(tau in steps, D) of one start's window; D is in bits/byte after noise correction, or a squared weight distance."""
    t = next(t for t in ctx.map.trajectories() if t.label == e.run)
    name = {s: ctx.map.names[r] for r, s in zip(t.rows, t.steps, strict=True)}
    later = [s for s in t.steps if e.start < s <= e.end]
    if weights:
        return [s - e.start for s in later], [
            ctx.weight_sqdist.get((name[e.start], name[s]), math.nan) for s in later
        ]
    return [s - e.start for s in later], [
        ctx.map.pair(name[e.start], name[s]).value - e.noise_floor for s in later
    ]


def window_errors(ctx: Context, e: Exponent) -> list[float]:
    """Standard errors over texts of one start's D_q, bits/byte."""
    t = next(t for t in ctx.map.trajectories() if t.label == e.run)
    name = {s: ctx.map.names[r] for r, s in zip(t.rows, t.steps, strict=True)}
    return [ctx.map.pair(name[e.start], name[s]).se for s in t.steps if e.start < s <= e.end]


def _data(summaries: list[ExponentSummary], exponents: list[Exponent], window: int) -> dict[str, object]:
    def three(q: tuple[float, float, float]) -> dict[str, float]:
        return {"median": q[0], "q25": q[1], "q75": q[2]}

    return {
        "window": window,
        "runs": [
            {
                "run": s.run,
                "starts": s.n_starts,
                "c_q": three(s.c_q),
                "r2_q": s.r2_q,
                "c_w": three(s.c_w),
                "r2_w": s.r2_w,
                "alpha": three(s.alpha),
                "dimension_q": 2.0 / s.c_q[0] if s.c_q[0] else math.nan,
                "dimension_w": 2.0 / s.c_w[0] if s.c_w[0] else math.nan,
            }
            for s in summaries
        ],
        "starts": [
            {
                "run": e.run,
                "start": e.start,
                "c_q": e.c_q,
                "r2_q": e.r2_q,
                "se_q": e.se_q,
                "noise_floor": e.noise_floor,
                "c_w": e.c_w,
                "r2_w": e.r2_w,
                "se_w": e.se_w,
                "alpha": e.alpha,
            }
            for e in exponents
        ],
        "published": {k: {"c_w": w, "c_q": q, "alpha": a} for k, (w, q, a) in PUBLISHED_EXPONENTS.items()},
    }
