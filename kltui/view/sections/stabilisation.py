"""Stabilisation: the step from which the KL between neighbouring checkpoints stays below a level."""

from __future__ import annotations

from dataclasses import asdict

from kltui.analysis.map import ConsecutiveKL
from kltui.analysis.scale import PUBLISHED
from kltui.analysis.stability import CONFIDENT, Stabilisation
from kltui.analysis.stability import stabilisation as settle
from kltui.view.sections.context import Context
from kltui.view.sections.section import MissingError, Section
from kltui.view.tables import figure, table

# bits/byte: the published medians of neighbours early and late in training, and a coarser level before them.
LEVELS = (0.2, *sorted((s.median for s in PUBLISHED if s.name.endswith("pretraining")), reverse=True))


def stabilisation(ctx: Context) -> Section:
    """For each run and level the step after which neighbours differ by less, with its range."""
    levels = LEVELS if ctx.choice.level is None else (ctx.choice.level,)
    runs = {run: [_settled(run, pairs, level) for level in levels] for run, pairs in ctx.consecutive.items()}
    if not runs:
        raise MissingError("no run has two scored checkpoints", "score more steps of a run")
    rows = [[run, *map(_words, each), str(each[0].last_step)] for run, each in runs.items()]
    headings = ["run", *(f"below {figure(level, 2)}" for level in levels), "last step"]
    notes = (
        "step from which KL between neighbouring saved checkpoints stays below the level (bits/byte); in brackets"
        f" the same with every KL taken {CONFIDENT} standard errors lower and higher",
        "behaviour has stabilised at that step, as far as the level goes (--level chooses another); 0.067 and 0.011 are"
        " the published medians early and late in training, for neighbours 1000 steps apart: other save intervals"
        " compare with them only loosely",
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


def _words(s: Stabilisation) -> str:
    if s.step is None:
        return "not yet" if s.earliest is None else f"not yet [{s.earliest}, -]"
    if s.earliest == s.latest:
        return str(s.step)
    return f"{s.step} [{s.earliest}, {'-' if s.latest is None else s.latest}]"
