"""Figures and tables of Oyama et al., arXiv 2502.16173, from its released files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from kltui.analysis.benchmark import PUBLISHED, SEEDS, correlations, fold_numbers, leakage, out_of_fold
from kltui.analysis.embed import complete_texts, rotate
from kltui.analysis.kl import double_centre
from kltui.analysis.map import Map
from kltui.analysis.resample import METHODS, resampling_errors
from kltui.figures.groups import NONE, Colouring, colouring
from kltui.figures.kl import tree_panel
from kltui.figures.maps import panel
from kltui.figures.picture import Array, FigureAxis, Layer, Panel, PaperFigure, slot_colour, slot_mark, values
from kltui.figures.reproduce.item import OYAMA, Number, ReproducedItem, Result
from kltui.figures.reproduce.release import Release
from kltui.figures.scores import leakage_panel, prediction_panel
from kltui.view.sections.context import thinned
from kltui.view.sections.resampling import DRAWS, MODELS_MAX, NAMES, SHARES
from kltui.view.sections.section import MissingError

PERPLEXITY = 30.0
SIX = "6-taskmean"
LIKELIHOOD = "mean log-likelihood"
TREE_MAX = 80
CLIPPED = 0.01  # if a larger share of the values equals the smallest one, they are clipped already


def _models(release: Release) -> Map:
    """The downloaded models, clipped at the 2 % quantile of all values, as published.

    Values that are clipped already (see `CLIPPED`) are not changed.
    """
    shown = release.models
    L = shown.loglik_KN
    if np.count_nonzero(np.nanmin(L) == L) > CLIPPED * L.size:
        return shown
    return shown.preprocessed("clip")


def model_map(release: Release) -> Result:
    """The model map: all models by t-SNE, coloured by type, by mean log-likelihood and by score."""
    shown = _models(release)
    if len(shown) <= PERPLEXITY:
        raise MissingError(f"only {len(shown)} models", f"t-SNE needs more than {PERPLEXITY:g}")
    xy = shown.coordinates("tsne", 2, perplexity=PERPLEXITY)
    mean = dict(zip(shown.names, shown.mean_loglik.tolist(), strict=True))
    looks = {
        "by type": colouring(shown, "type"),
        "by likelihood": Colouring("score", {}, LIKELIHOOD, mean, "nats per text"),
    }
    tasks = _tasks(release)
    if tasks:
        task = SIX if SIX in tasks else next(iter(tasks))
        looks["by score"] = Colouring("score", {}, task, tasks[task])
    panels = tuple(panel(f"t-SNE, {title}", shown, xy, look, unit="") for title, look in looks.items())
    note = (
        f"{len(shown)} models over {len(shown.text_bytes_N)} texts, clipped; perplexity 30, init pca, seed 42"
    )
    kinds = {p.type for p in shown.points}
    numbers = (
        Number("models", float(len(shown)), 1018.0, unit=""),
        Number("texts", float(len(shown.text_bytes_N)), 10_000.0, unit=""),
        Number("mean bytes per text", float(shown.text_bytes_N.mean()), 972.3188, unit="bytes"),
        Number("types", float(len(kinds)), unit=""),
    )
    return Result((PaperFigure("model-map", "Model map", panels, (note,)),), numbers)


def tree(release: Release) -> Result:
    """Hierarchical clustering of the models by sqrt(KL)."""
    shown = _models(release)
    part = shown.select(thinned(shown, TREE_MAX)[:TREE_MAX])
    if len(part) < 3:
        raise MissingError(f"only {len(part)} models", "a tree needs three")
    note = f"average linkage of sqrt(KL); {len(part)} of {len(shown)} models"
    made = tree_panel(part.clustering(), part.names)
    return Result((PaperFigure("tree", "Tree of models", (made,), (note,), columns=1),))


def _tasks(release: Release) -> dict[str, dict[str, float]]:
    """{task: {model: score}} of the released models, including the mean over tasks of models that have them all."""
    names = {p.name for p in release.models.points}
    tasks: dict[str, dict[str, float]] = {}
    for name, scores in release.scores.items():
        for task, score in scores.items() if name in names else ():
            tasks.setdefault(task, {})[name] = score
    if tasks and SIX not in tasks:
        whole = set.intersection(*(set(of) for of in tasks.values()))
        tasks[SIX] = {n: float(np.mean([of[n] for of in tasks.values()])) for n in names & whole}
    return {task: of for task, of in tasks.items() if of}


def _scored(release: Release) -> tuple[Map, list[str], Array]:
    """(models with every score, tasks, K x T scores), models in the order of the files. Raises MissingError if there are too few."""
    tasks = _tasks(release)
    if not tasks:
        raise MissingError(
            "no benchmark scores", "records with score_v1_TASK (model-metadata/model-data-1018.pkl)"
        )
    shown = _models(release)
    rows = [k for k, n in enumerate(shown.names) if all(n in of for of in tasks.values())]
    if len({shown.points[k].type for k in rows}) < 5:
        raise MissingError(
            f"{len(rows)} models with every score, of fewer than five types", "folds are by type"
        )
    part = shown.select(rows)
    return part, list(tasks), values([[of[n] for of in tasks.values()] for n in part.names])


def predictions(release: Release) -> Result:
    """Tables of predicted scores from Q and L, with folds grouped by type and at random; scatter plots of those from Q."""
    shown, tasks, y = _scored(release)
    types = [p.type or p.name for p in shown.points]
    order = sorted(range(len(shown)), key=lambda k: shown.names[k])  # the penalty is chosen on models by name
    L = shown.loglik_KN[:, complete_texts(shown.loglik_KN)]
    numbers: list[Number] = []
    pictures = []
    for which, x in (("Q", rotate(double_centre(L))), ("L", rotate(L))):
        for kind, groups in (("grouped", types), ("random", None)):
            found = np.empty((len(SEEDS), *y.shape))
            for i, seed in enumerate(SEEDS):
                fold = fold_numbers(len(y), seed, groups)
                found[i, order] = out_of_fold(x[order], y[order], fold[order])
            numbers += _table(tasks, found, y, which, kind)
            if which == "Q":
                pictures.append(_scatter(shown, tasks, found, y, kind))
    return Result(tuple(pictures), tuple(numbers))


def _table(tasks: Sequence[str], found: Array, y: Array, which: str, kind: str) -> list[Number]:
    numbers = []
    for t, task in enumerate(tasks):
        reported = PUBLISHED["Q"] if (which, kind, task) == ("Q", "grouped", SIX) else (math.nan, math.nan)
        by_seed = values([correlations(found[s : s + 1, :, t], y[:, t]) for s in range(len(found))])
        for k, name in enumerate(("Pearson", "Spearman")):
            mean, sd = float(by_seed[:, k].mean()), float(by_seed[:, k].std())
            quantity = f"{task}: {name}, {which}, {kind} folds"
            note = "mean over five seeds; low and high: one standard deviation"
            numbers.append(Number(quantity, mean, reported[k], mean - sd, mean + sd, len(y), "", note))
    return numbers


def _scatter(shown: Map, tasks: Sequence[str], found: Array, y: Array, kind: str) -> PaperFigure:
    kinds = {p.name: p.type or NONE for p in shown.points}
    mean = found.mean(axis=0)
    panels = []
    for t, task in enumerate(tasks):
        r, rho = correlations(mean[None, :, t], y[:, t])
        rows = [{"name": n, "score": y[k, t], "predicted": mean[k, t]} for k, n in enumerate(shown.names)]
        panels.append(prediction_panel(task, rows, kinds, r, rho))
    note = f"mean of five seeds, {kind} folds, Q of {len(shown)} models"
    return PaperFigure(
        f"predicted-{kind}", f"Predicted scores, {kind} folds", tuple(panels), (note,), columns=3
    )


def likelihood(release: Release) -> Result:
    """Mean log-likelihood against scores: its correlation with each task, and the scatter plot with the robust trend."""
    shown, tasks, y = _scored(release)
    mean = shown.mean_loglik
    numbers = []
    for t, task in enumerate(tasks):
        reported = PUBLISHED["mean"] if task == SIX else (math.nan, math.nan)
        for name, here, published in zip(
            ("Pearson", "Spearman"), correlations(mean[None], y[:, t]), reported, strict=True
        ):
            numbers.append(
                Number(f"{task}: {name} with mean log-likelihood", here, published, n=len(y), unit="")
            )
    task = SIX if SIX in tasks else tasks[0]
    found = leakage(shown.names, mean, y[:, tasks.index(task)])
    rows: list[Mapping[str, object]] = [
        {"name": x.name, "score": x.benchmark, "mean_loglik": x.mean_loglik, "expected": x.expected}
        for x in found
    ]
    made = leakage_panel(task, rows, {p.name: p.type or NONE for p in shown.points})
    return Result(
        (PaperFigure("likelihood", "Likelihood against scores", (made,), columns=1),), tuple(numbers)
    )


def texts(release: Release) -> Result:
    """Relative error of a map's KL over the number of texts."""
    shown = _models(release)
    if len(shown) < 3:
        raise MissingError(f"only {len(shown)} models", "three or more")
    part = shown.select(thinned(shown, MODELS_MAX))
    L = part.loglik_KN[:, complete_texts(part.loglik_KN)]
    sizes = sorted({max(2, round(share * L.shape[1])) for share in SHARES})
    found = resampling_errors(L, METHODS, sizes, DRAWS)
    layers = []
    for slot, method in enumerate(METHODS):
        own = [r for r in found if r.method == method]
        x, y = values([r.n_different for r in own]), values([r.relative for r in own])
        layers.append(Layer(NAMES[method], x, y, colour=slot_colour(slot), mark=slot_mark(slot)))
    made = Panel(
        "Error of a map",
        FigureAxis("distinct texts", "log"),
        FigureAxis("relative error of KL", "log"),
        tuple(layers),
    )
    note = f"root mean square over pairs and {DRAWS} draws, {len(part)} of {len(shown)} models"
    numbers = tuple(
        Number(
            f"{NAMES[r.method]}, {r.n_drawn} draws: relative error of KL", r.relative, n=len(part), unit=""
        )
        for r in found
    )
    return Result(
        (PaperFigure("texts", "Error against the number of texts", (made,), (note,), columns=1),), numbers
    )


ITEMS = (
    ReproducedItem("model-map", OYAMA, "The model map", model_map),
    ReproducedItem("tree", OYAMA, "Hierarchical clustering", tree),
    ReproducedItem(
        "predictions", OYAMA, "Tables 2 and 7 to 9, Figures 8 and 18: predicted scores", predictions
    ),
    ReproducedItem(
        "likelihood", OYAMA, "Table 3 and its scatter: mean log-likelihood against scores", likelihood
    ),
    ReproducedItem("texts", OYAMA, "Error against the number of texts", texts),
)
