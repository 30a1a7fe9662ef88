"""Figures of benchmark scores: predicted against true scores, and mean log-likelihood against scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kltui.figures.groups import NONE, by_name
from kltui.figures.picture import (
    DARK,
    GREY,
    FigureAxis,
    Layer,
    Panel,
    PaperFigure,
    slot_colour,
    slot_mark,
    values,
)
from kltui.view.sections import benchmark as benchmark_section
from kltui.view.sections.context import Context

TASKS_MAX = 9
LEGEND_MAX = 12


def benchmark(ctx: Context) -> PaperFigure:
    """Scores predicted from the map against the true ones, one panel per task (at most nine), coloured by type."""
    data = benchmark_section.benchmark(ctx).data
    tasks = data["tasks"]
    assert isinstance(tasks, list)
    kinds = {p.name: p.type or NONE for p in ctx.map.points}
    panels = [
        prediction_panel(str(t["task"]), t["predicted"], kinds, float(t["pearson"]), float(t["spearman"]))
        for t in tasks[:TASKS_MAX]
    ]
    note = "ridge regression on the map's coordinates, out of fold, folds grouped by type; mean of five seeds"
    return PaperFigure(
        "benchmark", "Predicted scores", tuple(panels), (note, ctx.basis), columns=min(3, len(panels))
    )


def prediction_panel(
    task: str, rows: Sequence[Mapping[str, object]], kinds: Mapping[str, str], r: float, rho: float
) -> Panel:
    """Predicted against true scores, coloured by type; on the diagonal both are equal."""
    every = [v for row in rows for v in (float(str(row["score"])), float(str(row["predicted"])))]
    ends = values([min(every), max(every)])
    layers = [Layer("", ends, ends, colour=GREY, dash="dashed")]
    present = by_name(kinds.get(str(row["name"]), "") for row in rows)
    for slot, kind in enumerate(present if len(present) <= LEGEND_MAX else [""]):
        own = [row for row in rows if not kind or kinds.get(str(row["name"]), "") == kind]
        x, y = values([row["score"] for row in own]), values([row["predicted"] for row in own])
        names = tuple(str(row["name"]) for row in own)
        layers.append(
            Layer(kind, x, y, "points", names=names, colour=slot_colour(slot), mark=slot_mark(slot), size=2.5)
        )
    title = f"{task}: r = {r:.3f}, ρ = {rho:.3f}"
    return Panel(
        title, FigureAxis(f"{task}, score"), FigureAxis("predicted score"), tuple(layers), equal=True
    )


def leakage(ctx: Context) -> PaperFigure:
    """Mean log-likelihood against the score, with the robust trend; models far above it may have been trained on the texts."""
    data = benchmark_section.leakage(ctx).data
    rows = data["models"]
    assert isinstance(rows, list)
    kinds = {p.name: p.type or NONE for p in ctx.map.points}
    panel = leakage_panel(str(data["benchmark"]), rows, kinds)
    return PaperFigure("leakage", "Likelihood against scores", (panel,), (ctx.basis,), columns=1)


def leakage_panel(
    task: str, rows: Sequence[Mapping[str, object]], kinds: Mapping[str, str], title: str = ""
) -> Panel:
    """Mean log-likelihood against a score, by type, with the robust trend."""
    present = by_name(kinds[str(row["name"])] for row in rows)
    layers = []
    for slot, kind in enumerate(present if len(present) <= LEGEND_MAX else [""]):
        own = [row for row in rows if not kind or kinds[str(row["name"])] == kind]
        x, y = values([row["score"] for row in own]), values([row["mean_loglik"] for row in own])
        names = tuple(str(row["name"]) for row in own)
        layers.append(
            Layer(kind, x, y, "points", names=names, colour=slot_colour(slot), mark=slot_mark(slot), size=2.5)
        )
    line = sorted((float(str(row["score"])), float(str(row["expected"]))) for row in rows)
    ends = [line[0], line[-1]]
    layers.append(
        Layer(
            "robust trend",
            values([p[0] for p in ends]),
            values([p[1] for p in ends]),
            colour=DARK,
            reference=True,
        )
    )
    name = "mean log-likelihood, nats per text"
    return Panel(
        title or f"Mean log-likelihood against {task}",
        FigureAxis(f"{task}, score"),
        FigureAxis(name),
        tuple(layers),
    )
