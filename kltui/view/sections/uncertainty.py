"""Uncertainty of the map: PCA from resampled texts, aligned with each other, gives one error ellipse per model."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray
from rich.console import RenderableType

from kltui.analysis.embed import complete_texts
from kltui.analysis.map import Map
from kltui.analysis.point import label_of
from kltui.analysis.uncertainty import Ellipse
from kltui.view.provenance import version_words
from kltui.view.sections.context import Context, complete_words, finals, runs_first, thinned
from kltui.view.sections.section import MissingError, Plot, Section
from kltui.view.tables import count, figure, table, words
from kltui.view.textplot import PlotFrame, Series

DRAWS = 20
POINTS_MAX = 300
ROWS_SHOWN = 20
SHARE = 0.95
MINIMUM = 4


def uncertainty(ctx: Context) -> Section:
    """An error ellipse for every model (on large maps, for a selection of a few hundred) from resampled texts."""
    if len(ctx.map) < MINIMUM:
        raise MissingError(
            f"only {count(len(ctx.map), 'vector')} on the map",
            f"error ellipses need {MINIMUM} checkpoints or more: score more",
        )
    shown = ctx.map.select(thinned(ctx.map, POINTS_MAX))
    ctx.notify(f"{DRAWS} resampled maps of {len(shown)} points")
    xy, found = shown.error_ellipses("pca", draws=DRAWS)
    last = runs_first(shown, finals(shown))
    spread = math.sqrt(float(np.square(xy - xy.mean(axis=0)).sum(axis=1).mean()))
    blocks: list[RenderableType] = [_table(found, last[:ROWS_SHOWN], spread)]
    if len(last) > ROWS_SHOWN:
        blocks.append(words(f"{ROWS_SHOWN} of {len(last)} final models; --json has every point"))
    blocks.append(_plot(ctx, [(found[k], label_of(shown.points[k])) for k in last[:ROWS_SHOWN]]))
    typical = float(np.median([e.major for e in found]))
    notes = [
        f"{DRAWS} draws of {count(_n_drawn(shown), 'text')} with replacement; each resampled PCA is aligned with the full"
        " one (Procrustes); axes: one standard deviation, in sqrt(bits/byte); angle: of the long axis, in degrees from x; of"
        " spread: long axis relative to the spread of the plot",
        f"median long axis over {len(found)} points: {figure(typical)}, {figure(typical / spread if spread else math.nan, 2)}"
        " of the spread of the plot",
        ctx.basis,
        *complete_words(shown),
        f"made with {version_words()}",
    ]
    if len(shown) < len(ctx.map):
        notes.append(
            f"{len(shown)} of {len(ctx.map)} vectors: the last of each run, the others evenly thinned"
        )
    data: dict[str, object] = {
        "unit": "sqrt(bits/byte)",
        "draws": DRAWS,
        "spread": spread,
        "ellipses": [
            {**asdict(e), "picture_x": float(x), "picture_y": float(y)}
            for e, (x, y) in zip(found, xy, strict=True)
        ],
    }
    return Section("uncertainty", "Map error", tuple(blocks), tuple(notes), data)


def _n_drawn(shown: Map) -> int:
    """The number of texts in a draw: those that every vector has, equal ones counted once."""
    used = complete_texts(shown.loglik_KN)
    return len(used) if shown.text_ids_N is None else len(np.unique(shown.text_ids_N[used]))


def _table(found: list[Ellipse], rows: list[int], spread: float) -> RenderableType:
    cells = [
        [
            e.name,
            figure(e.x),
            figure(e.y),
            figure(e.major, 2),
            figure(e.minor, 2),
            f"{e.angle:.0f}",
            f"{e.major / spread:.1%}" if spread else "-",
        ]
        for e in (found[k] for k in rows)
    ]
    return table(["model", "x", "y", "long axis", "short", "angle", "of spread"], cells)


def _plot(ctx: Context, found: list[tuple[Ellipse, str]]) -> Plot:
    """Each model as a marker inside the ellipse that contains most of its resampled positions."""
    series = []
    for e, label in found:
        x, y = outline(e.scaled(SHARE))
        series.append(Series(label, x, y, markers=False, slot=ctx.slots.get(label)))
        series.append(Series(label, [e.x], [e.y], line=False, slot=ctx.slots.get(label)))
    title = f"last checkpoints with ellipses of {SHARE:.0%}, sqrt(bits/byte)"
    return Plot(series, PlotFrame(title, equal=True), 20)


def outline(e: Ellipse, places: int = 73) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x and y of `places` points around an ellipse, of which the last equals the first."""
    turn = np.linspace(0.0, 2.0 * np.pi, places)
    along, across, tilt = e.major * np.cos(turn), e.minor * np.sin(turn), math.radians(e.angle)
    x = e.x + along * math.cos(tilt) - across * math.sin(tilt)
    y = e.y + along * math.sin(tilt) + across * math.cos(tilt)
    return x, y
