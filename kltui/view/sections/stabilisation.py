"""Stabilisation: the step from which the KL between neighbouring checkpoints stays below a level."""

from __future__ import annotations

import math
from dataclasses import asdict

from kltui.analysis.map import ConsecutiveKL
from kltui.analysis.number_text import UNDEFINED, from_to
from kltui.analysis.scale import PUBLISHED
from kltui.analysis.stability import CONFIDENT, Stabilisation
from kltui.analysis.stability import stabilisation as settle
from kltui.view.sections.context import Context
from kltui.view.sections.section import MissingError, Section
from kltui.view.tables import figure, table

# bits/byte: a large level, and the published medians of neighbours early and late in training
LEVELS = (0.2, *sorted((s.median for s in PUBLISHED if s.name.endswith("pretraining")), reverse=True))
EQUAL = "no run has two scored steps that differ: all vectors of a run are equal, so every KL is 0"


def no_two_steps(ctx: Context) -> MissingError:
    """The error for a map on which no run has two checkpoints to compare."""
    said = EQUAL if ctx.map.repeats.left_out else "no run has two scored checkpoints"
    return MissingError(said, "score more steps of a run: revisions or a run folder with checkpoints")


def stabilisation(ctx: Context) -> Section:
    """For each run and level the step after which neighbours differ by less, with its range."""
    levels = LEVELS if ctx.choice.level is None else (ctx.choice.level,)
    runs = {run: [_settled(run, pairs, level) for level in levels] for run, pairs in ctx.consecutive.items()}
    if not runs:
        raise no_two_steps(ctx)
    rows = [
        [
            run if place == 0 else "",
            figure(s.level, 2),
            *settled_words(s),
            *(_last(s) if place == 0 else ("", "")),
        ]
        for run, each in runs.items()
        for place, s in enumerate(each)
    ]
    headings = ["run", "level", "settled at", "range", "last step", "its KL"]
    notes = (
        "settled at: step from which the KL between neighbouring checkpoints stays at or below the level (bits/byte);"
        f" range: the same with every KL lowered and raised by {CONFIDENT} standard errors, -: errors unknown",
        "--level sets another level; 0.067 and 0.011 are"
        " the published medians early and late in training, for neighbours 1000 steps apart, so other save intervals"
        " are only roughly comparable",
        *ctx.repeats_words,
        ctx.basis,
    )
    data: dict[str, object] = {
        "unit": "bits/byte",
        "standard_errors": CONFIDENT,
        "runs": [asdict(s) for each in runs.values() for s in each],
    }
    return Section("stabilisation", "Stabilisation", (table(headings, rows),), notes, data)


def _settled(run: str, pairs: list[ConsecutiveKL], level: float) -> Stabilisation:
    steps = [pairs[0].step_from, *(p.step_to for p in pairs)]
    return settle(run, steps, [p.kl for p in pairs], [p.se for p in pairs], level)


def settled_words(s: Stabilisation) -> tuple[str, str]:
    """(step, its range) as text: "not yet" if the last KL is above the level; a range that is one step is this; "-" if unknown.

    "undefined" if the last KL is undefined.
    """
    if math.isnan(s.last_kl):
        return UNDEFINED, "-"
    step, early, late = ("not yet" if v is None else str(v) for v in (s.step, s.earliest, s.latest))
    if not s.range_known:
        return step, "-"
    return step, f"{early} or {late}" if s.latest is None and s.earliest is not None else from_to(early, late)


def _last(s: Stabilisation) -> tuple[str, str]:
    return str(s.last_step), figure(s.last_kl)
