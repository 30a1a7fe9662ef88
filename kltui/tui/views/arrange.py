"""The layout of a plot and other panes: these are right of it or below, whichever leaves the picture larger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kltui.tui.widgets.plot import NAME_ROWS, Y_AXIS

SIDE = 42  # width of the other panes beside a plot that suits any shape
MIN_SIDE, MAX_SIDE = 30, 64
MIN_BELOW = 8
MIN_PLOT = (40, 12)
MIN_LINES = 4  # height of a pane in a stack, with its header
MIN_ACROSS = 24  # width of a pane in a row
NEARLY = 0.97  # share of the largest scale that must remain for other panes to be shown if they are optional
_LINES = 3 + NAME_ROWS  # header, axis, read-out and the rows for the name of the y axis

Place = Literal["alone", "right", "below"]


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The place of the other panes, and the plot's width ("right") or height ("below") in cells."""

    place: Place
    plot: int = 0


def arranged(width: int, height: int, shape: tuple[float, float] | None, *, must: bool) -> Arrangement:
    """The layout of a plot and other panes in `width` x `height` cells.

    `shape`: width and height of the picture in the same unit, None for a plot that fills any pane. `must`: the other
    panes are shown even if the picture becomes smaller.
    """
    if shape is None:
        return Arrangement("right", width - SIDE) if must else Arrangement("alone")
    found = _right(width, height, shape), _below(width, height, shape)
    options = [(a, scale) for a, scale in found if a is not None]
    if not options:
        return Arrangement("alone")
    best, scale = max(options, key=lambda option: option[1])
    return best if must or scale >= NEARLY * _scale(width, height, shape) else Arrangement("alone")


def _scale(width: float, height: float, shape: tuple[float, float]) -> float:
    """The width in cells of one unit of the picture in a plot of so many cells; a cell is twice as high as wide."""
    return min((width - Y_AXIS) / shape[0], 2 * (height - _LINES) / shape[1])


def _right(width: int, height: int, shape: tuple[float, float]) -> tuple[Arrangement | None, float]:
    wanted = Y_AXIS + round(2 * (height - _LINES) * shape[0] / shape[1])
    plot = width - min(max(width - wanted, MIN_SIDE), MAX_SIDE)
    if plot < MIN_PLOT[0]:
        return None, 0.0
    return Arrangement("right", plot), _scale(plot, height, shape)


def _below(width: int, height: int, shape: tuple[float, float]) -> tuple[Arrangement | None, float]:
    wanted = round(_LINES + (width - Y_AXIS) * shape[1] / shape[0] / 2)
    plot = height - max(height - max(wanted, MIN_PLOT[1]), MIN_BELOW)
    if plot < MIN_PLOT[1]:
        return None, 0.0
    return Arrangement("below", plot), _scale(width, plot, shape)


def stacked(wanted: Sequence[int], height: int, first: int = 0) -> list[int]:
    """The height of each pane in a stack of `height` lines, 0 for panes without room; `wanted` 0: all that is left.

    Pane number `first` gets room first, then the others in order. The first shown pane that wants 0, or else the last
    one, gets the remaining lines.

    >>> stacked([8, 10, 0], 40), stacked([8, 10, 0], 20), stacked([30, 10], 21)
    ([8, 10, 22], [8, 8, 4], [17, 4])
    """
    given, left = [0] * len(wanted), height
    order = sorted(range(len(wanted)), key=lambda i: (i != first, i))
    for place, i in enumerate(order):
        if left < MIN_LINES:
            break
        later = MIN_LINES * (place + 1 < len(order))
        want = wanted[i] or left - later
        given[i] = max(MIN_LINES, min(want, left - later))
        left -= given[i]
    shown = [i for i, lines in enumerate(given) if lines]
    filling = next((i for i in shown if not wanted[i]), shown[-1] if shown else -1)
    if filling >= 0:
        given[filling] += left
    return given
