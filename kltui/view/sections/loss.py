"""Loss per run: mean negative log-likelihood of the corpus in bits per byte over training steps."""

from __future__ import annotations

import math

from rich.console import RenderableType

from kltui.analysis.kl import LN2
from kltui.analysis.loss import Loss, loss_drop, losses
from kltui.analysis.map import Map
from kltui.store.pair_values import PMI
from kltui.view.sections.context import Context
from kltui.view.sections.section import MissingError, Plot, Section
from kltui.view.tables import count, figure, table, with_error, words
from kltui.view.textplot import PlotFrame, Series

ROWS_SHOWN = 40


def loss(ctx: Context) -> Section:
    """Table of first and last loss of each run, and their curves."""
    every = losses(ctx.raw)
    runs: dict[str, list[Loss]] = {}
    for one in every:
        runs.setdefault(one.run, []).append(one)
    if not every:
        raise MissingError("no checkpoint is scored", "score some: kltui --batch job.toml")
    ordered = sorted(runs, key=lambda run: len(runs[run]) == 1)
    rows = [_row(ctx.raw, run, runs[run]) for run in ordered[:ROWS_SHOWN]]
    blocks: list[RenderableType] = [table(["run", "points", "first", "last", "± se", "falls by"], rows)]
    if len(runs) > ROWS_SHOWN:
        blocks.append(words(f"{ROWS_SHOWN} of {len(runs)} runs and models; --json has them all"))
    blocks.append(_plot(runs, ctx.slots))
    data: dict[str, object] = {
        "unit": "bits/byte",
        "checkpoints": [
            {
                "name": x.name,
                "run": x.run,
                "step": x.step,
                "bits_per_byte": x.bits_per_byte,
                "nats_per_byte": x.bits_per_byte * LN2,
                "se": x.se,
            }
            for x in every
        ],
        "runs": [_run_data(ctx.raw, run, members) for run, members in runs.items()],
    }
    better = (
        "the effect of the prompts; below 0: they help"
        if ctx.map.record.get("values") == PMI
        else "lower is better"
    )
    notes = (f"bits/byte of the corpus ({better}): total nats over total bytes; " + ctx.raw_basis,)
    return Section("loss", "Loss", tuple(blocks), notes, data)


def _ends(members: list[Loss]) -> tuple[Loss, Loss, Loss]:
    """(first, last, lowest) loss of a run, by step."""
    ordered = sorted(members, key=lambda x: -1 if x.step is None else x.step)
    finite = [x for x in ordered if math.isfinite(x.bits_per_byte)] or ordered
    return ordered[0], ordered[-1], min(finite, key=lambda x: x.bits_per_byte)


def _row(found: Map, run: str, members: list[Loss]) -> list[str]:
    first, last, _ = _ends(members)
    change, change_se = loss_drop(found, first.name, last.name)
    value, _, se = with_error(last.bits_per_byte, last.se, 4).partition(" ± ")
    lone = len(members) == 1
    return [
        run,
        str(len(members)),
        "-" if lone else f"{figure(first.bits_per_byte, 4)} @{first.step}",
        value if last.step is None else f"{value} @{last.step}",
        se or "-",
        "-"
        if lone
        else _brief(change, change_se)
        if not change <= 0
        else f"no: rises {_brief(-change, change_se)}"
        if change
        else "no: stays",
    ]


def _brief(value: float, se: float) -> str:
    """A change with its error, if that is known."""
    return with_error(value, se) if math.isfinite(se) else figure(value)


def _run_data(found: Map, run: str, members: list[Loss]) -> dict[str, object]:
    first, last, low = _ends(members)
    change, change_se = loss_drop(found, first.name, last.name) if len(members) > 1 else (math.nan, math.nan)
    return {
        "run": run,
        "points": len(members),
        "first": first.bits_per_byte,
        "last": last.bits_per_byte,
        "last_se": last.se,
        "lowest": low.bits_per_byte,
        "lowest_step": low.step,
        "falls": len(members) > 1 and last.bits_per_byte < first.bits_per_byte,
        "falls_by": change,
        "falls_by_se": change_se,
    }


def _plot(runs: dict[str, list[Loss]], slots: dict[str, int]) -> Plot | str:
    series = []
    for run, members in runs.items():
        curve = sorted((x.step, x.bits_per_byte) for x in members if x.step is not None)
        if len(curve) > 1:
            series.append(Series(run, [s for s, _ in curve], [v for _, v in curve], slot=slots[run]))
    if not series:
        return f"{count(len(runs), 'model')} without steps: no curve to draw"
    return Plot(series, PlotFrame("", "step", "bits/byte", xscale="log1p"))
