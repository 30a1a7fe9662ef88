"""Trajectories on the map: plots by t-SNE and PCA, quality measures of these and of least-squares MDS, and shapes of runs."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray
from rich.console import RenderableType

from kltui.analysis.embed import Method, Picture
from kltui.analysis.map import Map
from kltui.analysis.point import Point, grid_of, label_of
from kltui.analysis.shape import AgainstNull
from kltui.view.provenance import version_words, versions
from kltui.view.sections.context import PERPLEXITY, Context, complete_words
from kltui.view.sections.section import MissingError, Plot, Section
from kltui.view.tables import count, figure, table
from kltui.view.textplot import PlotFrame, Series

Array = NDArray[np.float64]
HEIGHT = 24
LABELS_MAX = 12
MAX_WALKS, MIN_WALKS = 20, 3
_WALKED_VALUES = 40_000_000


def trajectories(ctx: Context) -> Section:
    """Coordinates of every final vector by t-SNE (with enough points), PCA and MDS, with their quality measures."""
    shown = ctx.map
    if len(shown) < 2:
        raise MissingError(f"only {count(len(shown), 'vector')} on the map", "score more checkpoints")
    pictures = ctx.pictures
    if not pictures:
        raise ctx.picture_problems[0]
    walks = _walks(shown)
    shapes = shown.shapes(walks)
    data: dict[str, object] = {
        "vectors": len(shown),
        "points": _points(shown, pictures),
        "shapes": [asdict(s) for s in shapes],
        "versions": versions(),
    }
    notes = [
        ctx.basis,
        *complete_words(shown),
        *ctx.repeats_words,
        *_notes(ctx, data),
        *(p.message for p in ctx.picture_problems),
    ]
    blocks = _plots(ctx, pictures)
    if shapes:
        blocks.append(_shape_table(shapes))
        notes.append(
            "length in sqrt(bits/byte); straight: chord over length; turning: median angle between steps (90 for a"
            f" random walk); winding: turns of the run in the PCA plot; null: medians of {walks} random walks of the same"
            " step lengths"
        )
    notes.append(f"made with {version_words()}")
    return Section("trajectories", "Trajectories", tuple(blocks), tuple(notes), data)


def _shape_table(shapes: list[AgainstNull]) -> RenderableType:
    rows = [
        [
            s.shape.run,
            figure(s.shape.arc_length),
            figure(s.shape.straightness, 2),
            figure(s.null_straightness, 2),
            _degrees(s.shape.turning),
            _degrees(s.null_turning),
            figure(abs(s.shape.winding), 2),
            figure(s.null_winding, 2),
        ]
        for s in shapes
    ]
    return table(["run", "length", "straight", "null", "turning", "null", "winding", "null"], rows)


def _degrees(angle: float) -> str:
    return figure(angle) if math.isnan(angle) else f"{angle:.0f}"


def _notes(ctx: Context, data: dict[str, object]) -> list[str]:
    """Notes on each picture and its quality measures, which are also added to `data`."""
    shown, made = ctx.map, ctx.made_pictures
    data["pictures"] = {method: picture.facts() for method, picture in made.items()}
    if "tsne" in made:
        notes = [_tsne_words(made["tsne"])]
    elif len(shown) > PERPLEXITY:
        notes = []  # the reason is in `picture_problems`
    else:
        notes = [
            f"t-SNE with perplexity {PERPLEXITY} needs more than {PERPLEXITY} points and the map has {len(shown)}:"
            " PCA is shown instead"
        ]
    if "pca" in made:
        share = made["pca"].axis_share
        data["pca_share"] = list(share)
        notes.append(
            f"PCA keeps {sum(share[:2]):.0%} of the spread in 2 dimensions, {sum(share):.0%} in 3"
            if any(share)
            else "all vectors of the map are equal: it is one point"
        )
    if "mds" in made:
        flat, deep = shown.picture("mds", 2), made["mds"]
        data["mds_stress_2d"], data["mds_stress_3d"] = flat.stress, deep.stress
        notes.append(
            f"least-squares MDS (SMACOF) of distances sqrt(bits/byte): stress-1 {figure(flat.stress, 2)} in 2"
            f" dimensions, {figure(deep.stress, 2)} in 3{_placed_words(deep)}"
        )
    return notes


def _tsne_words(made: Picture) -> str:
    """The settings and quality measures of a t-SNE."""
    axes = (
        f", of {made.n_axes} axes that keep {made.kept:.1%} of the squared distances"
        if made.kept < 1.0
        else ""
    )
    return (
        f"t-SNE: perplexity {made.perplexity:g}, init pca, seed 42{axes}{_placed_words(made)};"
        f" divergence {made.divergence:.2f} nats; its distances have no unit"
    )


def _placed_words(made: Picture) -> str:
    """How many points were placed instead of embedded, and how; "" if none."""
    how = "by their distances to the others" if made.method == "mds" else "beside their neighbours"
    return f", {count(made.n_placed, 'point')} placed {how}" if made.n_placed else ""


def _walks(shown: Map) -> int:
    """Number of random walks with which each run is compared, fewer for a large map, so that they take only seconds."""
    return int(min(MAX_WALKS, max(MIN_WALKS, _WALKED_VALUES // shown.loglik_KN.size)))


def _plots(ctx: Context, pictures: dict[Method, Array]) -> list[RenderableType]:
    titles: dict[Method, str] = {
        "tsne": "t-SNE",
        "pca": "PCA, sqrt(bits/byte)",
        "mds": "MDS, sqrt(bits/byte)",
    }
    return [
        Plot(curves(ctx.map, pictures[method], ctx.slots), PlotFrame(titles[method], equal=True), HEIGHT)
        for method in (("tsne", "pca") if "pca" in pictures else pictures)
        if method in pictures
    ]


def curves(shown: Map, xy_Kd: Array, slots: dict[str, int]) -> list[Series]:
    """One line per run and variant, by step; one marker per model without steps or, if there are many, per type."""
    series = []
    threaded: set[int] = set(shown.repeats.left_out)
    for t in shown.trajectories():
        threaded |= set(t.rows)
        xy = xy_Kd[list(t.rows)]
        series.append(Series(t.label, xy[:, 0], xy[:, 1], slot=slots.get(t.label)))
    alone = [k for k, p in enumerate(shown.points) if k not in threaded and p.layer is None]
    labels = {k: label_of(shown.points[k]) for k in alone}
    if len(set(labels.values())) > LABELS_MAX:  # too many names for a legend, so they are grouped by type
        labels = {k: _kind(shown.points[k]) for k in alone}
    for label in dict.fromkeys(labels.values()):
        xy = xy_Kd[[k for k in alone if labels[k] == label]]
        slot = slots.get(label, len(slots) + len(series))
        series.append(Series(label, xy[:, 0], xy[:, 1], line=False, slot=slot))
    return series


def _kind(point: Point) -> str:
    """The type and variant of a model without steps, or its grid of interpolated models."""
    kind = grid_of(point.tags) or point.type or "other models"
    return kind if point.quantization == "none" else f"{kind}+{point.quantization}"


def _points(shown: Map, pictures: dict[Method, Array]) -> list[dict[str, object]]:
    return [
        {
            "name": point.name,
            "run": point.run,
            "step": point.step,
            **{method: [float(v) for v in xy[row]] for method, xy in pictures.items()},
        }
        for row, point in enumerate(shown.points)
    ]
