"""The legend of a figure below its panels: as many columns as fit side by side, and not more lines than a page has room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kltui.figures.picture import DASHES, PaperFigure, legend_labels
from kltui.figures.words import cut, literal, points, width_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEGEND_MAX = 40
SHARE = 0.35  # of the height of a page that a legend may take
_HANDLE, _LONG_HANDLE = (
    1.6,
    3.4,
)  # width of a sign, usually and where dashes are to be told apart, in font sizes
_GAP = 1.2  # between columns, in sizes of the font
_AROUND = 0.8  # between sign and words, and at both ends of a legend, in sizes of its font
_LINE = 1.5  # height of a line of a legend, in sizes of its font


class LegendLayout(NamedTuple):
    """The labels in a legend with their words ("" for the number of those left out), its columns, height, and sizes of signs.

    The height is in inches, `handle` (width of signs) in font sizes, `mark` relative to the size of marks in the panels.
    """

    words: tuple[tuple[str, str], ...]
    columns: int
    height: float
    handle: float
    mark: float


def legend_of(figure: Figure, picture: PaperFigure, page: float) -> LegendLayout:
    """The layout of a figure's legend on a page of `page` inches height; without labels its height is 0."""
    labels = legend_labels(picture)
    layers = [layer for p in picture.panels for layer in p.layers if layer.label]
    handle = _LONG_HANDLE if any(layer.dash in DASHES for layer in layers) else _HANDLE
    mark = 1.2 if min((layer.size for layer in layers if layer.mark), default=3.0) >= 2.5 else 1.7
    size, width = points("legend.fontsize") / 72, figure.get_figwidth()
    room = width - (handle + 3 * _AROUND) * size
    words = cut(figure, labels[:LEGEND_MAX], "legend.fontsize", room)
    widths = [width_of(figure, word, "legend.fontsize") for word in words]
    lines = max(2, int(SHARE * page / (_LINE * size)))
    for n in range(len(words), 0, -1):
        columns = _columns(widths[:n], width, size, handle)
        n_lines = -(-n // columns)
        if n_lines <= lines or n == 2:
            shown = list(zip(labels[:n], words[:n], strict=True))
            if n < len(labels):
                shown[-1] = ("", f"and {len(labels) - n + 1} more")
            return LegendLayout(tuple(shown), columns, n_lines * _LINE * size, handle, mark)
    return LegendLayout((), 1, 0.0, handle, mark)


def add_legend(figure: Figure, layout: LegendLayout, handles: Mapping[str, Any]) -> None:
    """Adds the legend of a `layout` below the panels; `handles` are the signs by label."""
    from matplotlib.lines import Line2D

    blank = Line2D([], [], linestyle="none")
    made = figure.legend(
        [handles.get(label, blank) for label, _ in layout.words],
        [literal(words) for _, words in layout.words],
        loc="outside lower center",
        ncols=layout.columns,
        frameon=False,
        handlelength=layout.handle,
        columnspacing=_GAP,
        markerscale=layout.mark,
    )
    made.drawn_as = layout  # type: ignore[attr-defined]  # for the script that draws it again


def _columns(widths: Sequence[float], room: float, size: float, handle: float) -> int:
    """The most columns, filled one after the other, in which labels of these widths fit into `room` inches."""
    for columns in range(len(widths), 1, -1):
        widest = [
            float(part.max()) for part in np.array_split(np.array(widths), columns)
        ]  # as matplotlib does
        if sum(widest) + columns * (handle + _AROUND + _GAP) * size + 2 * _AROUND * size <= room:
            return columns
    return 1
