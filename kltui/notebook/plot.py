"""A map drawn with matplotlib, in the style of the figures for papers."""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING

from kltui.analysis.embed import Method
from kltui.analysis.map import Map
from kltui.errors import UsageError
from kltui.figures.draw import check_matplotlib, figure_of
from kltui.figures.groups import colouring
from kltui.figures.maps import UNIT, panel
from kltui.figures.picture import PaperFigure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_DPI = 130
TITLES: dict[Method, str] = {"pca": "PCA", "mds": "least-squares MDS", "tsne": "t-SNE"}


def map_figure(shown: Map, method: Method, dims: int, by: str, perplexity: float) -> Figure:
    """The map in `dims` = 2 or 3 dimensions, coloured `by` run, type, size or tag.

    Raises UsageError for an invalid `method` or `dims`, KltuiError if matplotlib is not installed.
    """
    check_matplotlib()
    if method not in TITLES or dims not in (2, 3):
        raise UsageError(
            f"a map cannot be drawn by {method!r} in {dims} dimensions",
            f"method is one of {', '.join(TITLES)}; dims is 2 or 3.",
        )
    unit = "" if method == "tsne" else UNIT
    xyz_Kd = shown.coordinates(method, dims, perplexity=perplexity)
    made = panel(TITLES[method], shown, xyz_Kd, colouring(shown, by), unit)
    figure = figure_of(PaperFigure("map", "Map", (made,)))
    # Jupyter shows figures by itself only once pyplot, with its global state, has been imported.
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    return figure


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=SHOWN_DPI)
    return file.getvalue()
