"""The columns and height of a figure's panels, such that the figure fits on a page of a paper."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from kltui.figures.picture import Panel, PaperFigure

MM = 1.0 / 25.4
PAGE = 240 * MM  # height of the text of a page, in inches: no figure is taller if its words have room
MARGIN = 8 * MM  # of a figure above and below its panels
_NARROWEST = 52 * MM  # panels are put below each other rather than be narrower,
_NARROW = 37 * MM  # unless the figure is then taller than a page
_MIN_HEIGHT = 48 * MM  # of panels side by side: the names of their axes need as much
_LOWEST = 26 * MM  # of panels that have to share a page
_ABOVE_NAMES = 0.55  # height over width of what stands above names below a panel
_MANY = 20  # names beside a panel, for which it is as wide as a page
_FLAT, _STEEP = 0.42, 1.1  # heights over width that a map in equal units may have


class PanelGrid(NamedTuple):
    """The number of columns of panels, and the height of a panel in inches."""

    columns: int
    height: float


def usual_width(picture: PaperFigure) -> float:
    """The width in inches of a figure for which none is asked."""
    many = max((len(p.y.ticks) for p in picture.panels), default=0) > _MANY
    return (170 if min(picture.columns, len(picture.panels)) > 1 or many else 120) * MM


def has_cells(picture: PaperFigure) -> bool:
    """Whether any panel is a matrix of cells."""
    return any(layer.kind == "cells" for p in picture.panels for layer in p.layers)


def fewest_columns(picture: PaperFigure, width: float, larger: float) -> int:
    """The number of columns of panels that are wide enough; `larger`: size of words relative to the usual."""
    return max(1, min(picture.columns, len(picture.panels), int(width / (larger * _NARROWEST))))


def arranged(
    picture: PaperFigure, width: float, room: float, larger: float = 1.0, names: float = 0.0
) -> PanelGrid:
    """The arrangement of panels in `width` inches that is at most `room` inches tall.

    Panels get narrower, then lower, down to the size that their words need. `names`: height in inches of names below a panel.
    """
    first, count = fewest_columns(picture, width, larger), max(1, len(picture.panels))
    most = min(count, int(width / (larger * _NARROW))) if _may_be_narrow(picture) else first
    found = PanelGrid(first, 0.0)
    for columns in range(first, max(first, most) + 1):
        height = _panel_height(picture, width / columns, columns, larger, names)
        found = PanelGrid(columns, height)
        if -(-count // columns) * height <= room:
            return found
    rows = -(-count // found.columns)
    lowest = min(found.height, larger * _LOWEST + names)
    return found._replace(height=max(lowest, min(found.height, room / rows)))


def _may_be_narrow(picture: PaperFigure) -> bool:
    """Whether panels have neither names beside them, nor three axes, nor a colour bar."""
    return not any(p.y.ticks or p.z is not None or p.value_label for p in picture.panels)


def _panel_height(picture: PaperFigure, width: float, columns: int, larger: float, names: float) -> float:
    """The height in inches of panels of `width` inches that suits their content."""
    height = max(width * _aspect(picture), larger * _MIN_HEIGHT if columns > 1 else 0.0)
    return max(height, names + _ABOVE_NAMES * width) if names else height


def _aspect(picture: PaperFigure) -> float:
    """Height over width of a figure's panels."""
    if has_cells(picture):
        return 0.95
    if any(p.z is not None for p in picture.panels):
        return 0.9
    if picture.panels and all(p.equal and p.z is None for p in picture.panels):
        return min(max(_FLAT, *(0.85 * _shape(p) + 0.15 for p in picture.panels)), _STEEP)
    tall = max((len(p.y.ticks) for p in picture.panels), default=0)
    square = any(p.equal or p.value_label for p in picture.panels)
    return max(0.9 if square else 0.68, min(tall * 0.045, 3.0))


def _shape(panel: Panel) -> float:
    """Height over width of the ranges of a panel's points, in data units."""
    spans = []
    for which in ("y", "x"):
        every = np.concatenate([getattr(layer, which) for layer in panel.layers] or [np.zeros(1)])
        known = every[np.isfinite(every)]
        spans.append(float(np.ptp(known)) if len(known) else 0.0)
    return spans[0] / spans[1] if spans[1] else 1.0


def too_tall(height: float) -> str:
    """What is to be said of a figure of `height` inches: "" if it fits on a page."""
    if height <= PAGE + MM:
        return ""
    return (
        f"the figure is {math.ceil(height / MM)} mm tall, more than the {PAGE / MM:.0f} mm of a page:"
        " a larger --width, or smaller letters in --style, make it lower"
    )
