"""Benchmarks: scores predicted from the map, and models whose likelihood is too good for their scores."""

from __future__ import annotations

import math

from rich.console import RenderableType

from kltui.analysis.benchmark import FOLDS, PUBLISHED, SUSPICIOUS, Leakage, Prediction, scores_by_task
from kltui.analysis.map import Map
from kltui.analysis.point import label_of
from kltui.errors import KltuiError
from kltui.view.sections.context import Context, finals
from kltui.view.sections.section import MissingError, Plot, Section
from kltui.view.tables import count, figure, table, words
from kltui.view.textplot import PlotFrame, Series

ROWS_SHOWN = 15
MIN_TREND = 3
Scores = dict[str, dict[str, float]]
NEEDED = (
    "import scores from 0 to 100: kltui --import scores.csv WORKSPACE, a table with a column name (checkpoint or run)"
    " and one column per task"
)


def scored(ctx: Context) -> Scores:
    """{task: {vector: score}} of the map's final models; with several tasks, also their mean, for models that have all.

    A score given for a run is assigned to its last checkpoint.
    """
    shown, given = ctx.map, ctx.ws.benchmark_scores()
    last = {shown.points[k].run: shown.names[k] for k in finals(shown)}
    return scores_by_task(shown.names, last, given)


def _required(ctx: Context) -> Scores:
    found = scored(ctx)
    if not found:
        given = len(ctx.ws.benchmark_scores())
        what = (
            f"{count(given, 'model')} with scores, none of them on the map"
            if given
            else "no benchmark scores"
        )
        raise MissingError(what, NEEDED)
    return found


def benchmark(ctx: Context) -> Section:
    """Correlation of scores with their out-of-fold prediction from the map, and from the mean log-likelihood alone, by task."""
    scores = _required(ctx)
    predicted: dict[str, Prediction] = {}
    problems = []
    for task, given in scores.items():
        ctx.notify(f"predicting {task}")
        part = ctx.map.select([k for k, n in enumerate(ctx.map.names) if n in given])
        try:
            predicted[task] = part.predicted(given)
        except KltuiError as error:
            problems.append(f"{task}: {error.message}")
            hint = error.hint
    if not predicted:
        raise MissingError(problems[0].partition(": ")[2], hint)
    rows = [_row(task, p) for task, p in predicted.items()]
    r, rho = PUBLISHED["Q"]
    r_mean, rho_mean = PUBLISHED["mean"]
    rows.append(
        ["published: six tasks", "1018", f"{r:.3f}", f"{rho:.3f}", f"{r_mean:.3f}", f"{rho_mean:.3f}"]
    )
    headings = ["task", "models", "Pearson", "Spearman", "mean l: Pearson", "Spearman"]
    notes = [
        f"ridge regression on the map's coordinates, {FOLDS} folds that keep models of one type together, five seeds;"
        " predictions out of fold, clipped to 0 to 100 (arXiv 2502.16173)",
        "mean l: prediction from the mean log-likelihood alone",
        ctx.basis,
        *problems,
    ]
    data: dict[str, object] = {
        "tasks": [_data(ctx.map, task, scores[task], p) for task, p in predicted.items()],
        "published": {"pearson": r, "spearman": rho, "pearson_mean": r_mean, "spearman_mean": rho_mean},
    }
    return Section("benchmark", "Benchmark prediction", (table(headings, rows),), tuple(notes), data)


def _row(task: str, p: Prediction) -> list[str]:
    figures = (p.pearson, p.spearman, p.pearson_mean, p.spearman_mean)
    return [task, str(p.n_models), *(figure(v) if math.isnan(v) else f"{v:.3f}" for v in figures)]


def _data(shown: Map, task: str, given: dict[str, float], p: Prediction) -> dict[str, object]:
    names = [n for n in shown.names if n in given]
    return {
        "task": task,
        "models": p.n_models,
        "types": p.n_groups,
        "pearson": p.pearson,
        "spearman": p.spearman,
        "pearson_mean": p.pearson_mean,
        "spearman_mean": p.spearman_mean,
        "predicted": [
            {"name": n, "score": given[n], "predicted": float(v)}
            for n, v in zip(names, p.predicted.mean(axis=0), strict=True)
        ],
    }


def leakage(ctx: Context) -> Section:
    """Models by the excess of their mean log-likelihood over the value expected from their scores."""
    scores = _required(ctx)
    task, given = next(iter(scores.items()))
    if len(given) < MIN_TREND:
        raise MissingError(
            f"{count(len(given), 'model')} with a score", f"a trend needs {MIN_TREND} or more; {NEEDED}"
        )
    found = ctx.map.leakage(given)
    high = [x for x in found if x.z > SUSPICIOUS]
    said = (
        f"{count(len(high), 'model')} above {SUSPICIOUS:g} robust deviations: they have probably seen the corpus"
        if high
        else f"no model lies more than {SUSPICIOUS:g} robust deviations above the trend"
    )
    rows = [_leak_row(x) for x in found[:ROWS_SHOWN]]
    blocks: list[RenderableType] = [
        words(said),
        table(["model", "mean l", "expected", task, "deviations"], rows),
        _leak_plot(ctx, found, task),
    ]
    if len(found) > ROWS_SHOWN:
        blocks.insert(2, words(f"the {ROWS_SHOWN} highest of {len(found)}; --json has them all"))
    notes = (
        "mean l in nats per text; expected: a robust line (Theil and Sen) through the scores; a model far above it"
        " does better on these texts than on its tasks",
        ctx.basis,
    )
    data: dict[str, object] = {
        "unit": "nats per text",
        "benchmark": task,
        "models": [
            {
                "name": x.name,
                "mean_loglik": x.mean_loglik,
                "score": x.benchmark,
                "expected": x.expected,
                "z": x.z,
            }
            for x in found
        ],
    }
    return Section("leakage", "Leakage", tuple(blocks), notes, data)


def _leak_row(x: Leakage) -> list[str]:
    sign = f"{x.z:+.1f}" if math.isfinite(x.z) else figure(x.z)
    return [x.name, figure(x.mean_loglik, 5), figure(x.expected, 5), figure(x.benchmark), sign]


def _leak_plot(ctx: Context, found: list[Leakage], task: str) -> Plot:
    kind = {p.name: p.type or label_of(p) for p in ctx.map.points}
    series = []
    for slot, name in enumerate(dict.fromkeys(kind[x.name] for x in found)):
        own = [x for x in found if kind[x.name] == name]
        series.append(
            Series(name, [x.benchmark for x in own], [x.mean_loglik for x in own], line=False, slot=slot)
        )
    line = sorted((x.benchmark, x.expected) for x in found)
    trend = Series("trend", [line[0][0], line[-1][0]], [line[0][1], line[-1][1]], markers=False)
    return Plot([*series, trend], PlotFrame("", task, "mean log-likelihood, nats per text"), 16)
