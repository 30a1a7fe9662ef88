"""Text plots of reports. Only this module calls plotext, and passes it only dots inside the unit square.

plotext 5.3.2 rasterises lines before it clips them, fails on inf, NaN, flat ranges and on a second draw with
a logarithmic axis. Limits, logarithms, clipping and rasterising are therefore done here, ticks and axis names in `axis` and
`ticks`, as on screen; plotext's figure is cleared and gets an explicit size and a bounded number of dots to put into cells.
It has only one figure per process, which a lock protects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.cells import cell_len, set_cell_size

from kltui.sanitize import in_ascii, safe_text
from kltui.view import palette
from kltui.view.axis import Axis, Scale, fit_axis
from kltui.view.ticks import axis_name

Floats = NDArray[np.float64]

_FRAME_TO_ASCII = str.maketrans("─│┌┐└┘├┤┬┴┼", "-|+++++++++")
_SEGMENTS_AT_ONCE = 4096
_MARKS_PER_THREAD = 9
_LEGEND_MAX = 24
_MIN_WIDTH, _MIN_HEIGHT = 24, 6
_PLOTEXT = Lock()


@dataclass(frozen=True)
class Series:
    """One curve or cloud: x and y of equal length in data units; a non-finite value is a gap."""

    label: str
    x: ArrayLike
    y: ArrayLike
    line: bool = True
    markers: bool = True
    slot: int | None = None

    def __post_init__(self) -> None:
        assert np.shape(self.x) == np.shape(self.y), "x and y of a series have equal length"


@dataclass(frozen=True)
class Style:
    """The style of a plot: its size in cells, whether it has colours, and whether it is limited to ASCII."""

    width: int = 80
    height: int = 18
    colour: bool = False
    ascii_only: bool = False


@dataclass(frozen=True)
class PlotFrame:
    """The frame of a plot: labels, the scale and limits (in data units) of each axis, and whether their units are equal."""

    title: str = ""
    xlabel: str = ""
    ylabel: str = ""
    xscale: Scale = "linear"
    yscale: Scale = "linear"
    xlim: tuple[float, float] | None = None
    ylim: tuple[float, float] | None = None
    equal: bool = False
    legend: bool = True


def scatter(
    series: Sequence[Series],
    xlabel: str = "",
    ylabel: str = "",
    width: int = 80,
    height: int = 22,
    title: str = "",
    colour: bool = False,
    ascii_only: bool = False,
    equal: bool = True,
) -> str:
    """A text plot of the points of each series with its marker, joined by a line if the series has one."""
    frame = PlotFrame(title, xlabel, ylabel, equal=equal)
    return draw(series, frame, Style(width, height, colour, ascii_only))


def draw(series: Sequence[Series], frame: PlotFrame, style: Style) -> str:
    """The plot as lines of text without a final newline, with SGR codes if `style.colour`.

    Without finite values, or positive ones on a logarithmic axis, it is one line that says so. No line is wider than `style.width`.
    """
    style = Style(
        max(style.width, _MIN_WIDTH), max(style.height, _MIN_HEIGHT), style.colour, style.ascii_only
    )
    xs, ys = _transformed(series, frame)
    if not any(len(x) for x in xs):
        kind = "positive" if "log" in (frame.xscale, frame.yscale) and _any_finite(series) else "finite"
        return _fit(_words(frame.title or "plot", style) + f": no {kind} values to draw", style.width)
    canvas = _Canvas.fitted(frame, xs, ys, style)
    rows = [*_heading(frame, style), *canvas.rows(series, xs, ys), *_footing(series, frame, style)]
    return "\n".join(rows)


def _any_finite(series: Sequence[Series]) -> bool:
    return any(
        bool((np.isfinite(np.asarray(one.x, float)) & np.isfinite(np.asarray(one.y, float))).any())
        for one in series
    )


def _transformed(series: Sequence[Series], frame: PlotFrame) -> tuple[list[Floats], list[Floats]]:
    """(x, y) of each series on the axes' scales; if either value is not finite, both are NaN; all-NaN series have length 0."""
    xs, ys = [], []
    for one in series:
        x = Axis.forward(np.asarray(one.x, dtype=np.float64).ravel(), frame.xscale)
        y = Axis.forward(np.asarray(one.y, dtype=np.float64).ravel(), frame.yscale)
        bad = ~(np.isfinite(x) & np.isfinite(y))
        x[bad], y[bad] = np.nan, np.nan
        keep = slice(None) if not bad.all() else slice(0)
        xs.append(x[keep])
        ys.append(y[keep])
    return xs, ys


@dataclass
class _Canvas:
    """The drawing area: its axes, its size in cells, and the plotext figure around it."""

    style: Style
    x_axis: Axis
    y_axis: Axis
    columns: int
    lines: int
    y_ticks: list[tuple[float, str]] = field(default_factory=list)

    @classmethod
    def fitted(cls, frame: PlotFrame, xs: list[Floats], ys: list[Floats], style: Style) -> _Canvas:
        """A canvas with the frame's limits or those of all data, and space for its tick labels."""
        x_axis = fit_axis(np.concatenate(xs), frame.xscale, frame.xlim)
        y_axis = fit_axis(np.concatenate(ys), frame.yscale, frame.ylim)
        lines = style.height - 2
        y_ticks = y_axis.ticks(max(3, lines // 3))
        columns = style.width - 1 - max(len(label) for _, label in y_ticks)
        if frame.equal:
            x_axis, y_axis = _equal_units(x_axis, y_axis, 2 * columns, 4 * lines)
            y_ticks = y_axis.ticks(max(3, lines // 3))
            columns = style.width - 1 - max(len(label) for _, label in y_ticks)
        return cls(style, x_axis, y_axis, columns, lines, y_ticks)

    def rows(self, series: Sequence[Series], xs: list[Floats], ys: list[Floats]) -> list[str]:
        """The frame, ticks and data as rows of text."""
        import plotext  # imported late, because only reports need it

        with _PLOTEXT:
            self._begin()
            for k, one in enumerate(series):
                if one.line:
                    self._put(*self._dots(xs[k], ys[k]), one, k, thread=True)
            for k, one in enumerate(series):
                if one.markers or not one.line:
                    self._put(*self._marks(xs[k], ys[k], every=not one.line), one, k, thread=False)
            text = plotext.build()
            plotext.clear_figure()
        return [row if self.style.colour else _plain(row) for row in self._readable(text).split("\n")]

    def _begin(self) -> None:
        """Clears plotext's figure and sets its limits to 0 and 1, and its ticks."""
        import plotext

        plotext.main()
        plotext.clear_figure()
        plotext.limit_size(False, False)
        plotext.plot_size(self.style.width, self.style.height)
        plotext.theme("clear")
        plotext.xaxes(True, False)
        plotext.yaxes(True, False)
        plotext.xlim(0, 1)
        plotext.ylim(0, 1)
        x_ticks = self.x_axis.ticks(max(2, self.columns // 9))
        plotext.xticks(*zip(*x_ticks, strict=True))
        plotext.yticks(*zip(*self.y_ticks, strict=True))
        # plotext omits the axes of an empty figure, so it gets one blank dot
        plotext.scatter([0.0], [0.0], marker=" ")

    def _grid(self, thread: bool) -> tuple[int, int]:
        """(columns, rows) of dots: braille dots for lines, cells for markers and in ASCII."""
        fine = thread and not self.style.ascii_only
        return (2 * self.columns, 4 * self.lines) if fine else (self.columns, self.lines)

    def _dots(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """The dots of the polyline through x, y inside the canvas, in unit coordinates, each once."""
        across, up = self._grid(thread=True)
        ends = np.column_stack([self.x_axis.unit(x), self.y_axis.unit(y)])
        segments = clip_segments(np.hstack([ends[:-1], ends[1:]]))
        alone = np.hstack([ends, ends])
        alone = alone[((alone >= 0) & (alone <= 1)).all(axis=1)]
        hit = rasterise(np.vstack([segments, alone]), across, up)
        rows, cols = np.nonzero(hit)
        return cols / max(1, across - 1), rows / max(1, up - 1)

    def _marks(self, x: Floats, y: Floats, every: bool) -> tuple[Floats, Floats]:
        """Unit coordinates of the points to mark: all visible ones, or at most nine spread along a line."""
        across, up = self._grid(thread=False)
        u, v = self.x_axis.unit(x), self.y_axis.unit(y)
        seen = (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
        u, v = u[seen], v[seen]
        if not every and len(u) > _MARKS_PER_THREAD:
            u, v = _spread(u, v, _MARKS_PER_THREAD)
        cells = np.unique(np.floor(np.column_stack([u * (across - 1), v * (up - 1)]) + 0.5), axis=0)
        return cells[:, 0] / max(1, across - 1), cells[:, 1] / max(1, up - 1)

    def _put(self, x: Floats, y: Floats, one: Series, k: int, thread: bool) -> None:
        import plotext

        if len(x) == 0:
            return
        slot = k if one.slot is None else one.slot
        marker = "braille" if thread and not self.style.ascii_only else marker_of(slot, self.style)
        if thread and self.style.ascii_only and one.markers:
            marker = "."
        colour = colour_of(slot) if self.style.colour else None
        plotext.scatter(x.tolist(), y.tolist(), marker=marker, color=colour)

    def _readable(self, text: str) -> str:
        text = text.rstrip("\n")
        return text.translate(_FRAME_TO_ASCII) if self.style.ascii_only else text


def marker_of(slot: int, style: Style) -> str:
    """The marker of series number `slot`, one cell wide; the same in plot and legend, and on every screen."""
    return palette.marker_of(slot, ascii_only=style.ascii_only, colour=style.colour)


def colour_of(slot: int) -> int:
    """The xterm-256 colour of series number `slot`, the same as on every screen."""
    colours = palette.DARK.series
    return colours[slot % len(colours)]


def clip_segments(segments_m4: Floats) -> Floats:
    """The parts of segments (x0, y0, x1, y1) inside the unit square, m' x 4; segments with NaN are left out.

    Liang and Barsky's parametric clipping, all segments at once.
    """
    segments_m4 = segments_m4[np.isfinite(segments_m4).all(axis=1)]
    start, move = segments_m4[:, :2], segments_m4[:, 2:] - segments_m4[:, :2]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        low, high = -start / move, (1 - start) / move
    inside = (start >= 0) & (start <= 1)
    still = move == 0
    enter = np.where(still, np.where(inside, -np.inf, np.inf), np.minimum(low, high))
    leave = np.where(still, np.where(inside, np.inf, -np.inf), np.maximum(low, high))
    t0 = np.maximum(enter.max(axis=1, initial=0.0), 0.0)
    t1 = np.minimum(leave.min(axis=1, initial=1.0), 1.0)
    seen = t0 <= t1
    start, move, t0, t1 = start[seen], move[seen], t0[seen, None], t1[seen, None]
    ends = np.hstack([start + t0 * move, start + t1 * move])
    return np.asarray(np.clip(ends, 0.0, 1.0), dtype=np.float64)


def rasterise(segments_m4: Floats, across: int, up: int) -> NDArray[np.bool_]:
    """Whether each dot is touched by a segment in the unit square, up x across, row 0 at the bottom."""
    hit = np.zeros((up, across), dtype=bool)
    scaled = segments_m4 * np.array([across - 1, up - 1, across - 1, up - 1], dtype=np.float64)
    scaled = np.unique(np.floor(scaled + 0.5), axis=0)
    for first in range(0, len(scaled), _SEGMENTS_AT_ONCE):
        part = scaled[first : first + _SEGMENTS_AT_ONCE]
        count = np.abs(part[:, 2:] - part[:, :2]).max(axis=1).astype(np.int64) + 1
        which = np.repeat(np.arange(len(part)), count)
        place = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        t = (place / np.maximum(count - 1, 1)[which])[:, None]
        dots = np.floor(part[which, :2] * (1 - t) + part[which, 2:] * t + 0.5).astype(np.int64)
        hit[dots[:, 1], dots[:, 0]] = True
    return hit


def _spread(u: Floats, v: Floats, maximum: int) -> tuple[Floats, Floats]:
    """At most `maximum` of the points, evenly along the length of the line, including the first and last."""
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(u), np.diff(v)))])
    picked = np.unique(np.searchsorted(length, np.linspace(0, length[-1], maximum), side="left"))
    return u[picked], v[picked]


def _equal_units(x_axis: Axis, y_axis: Axis, across: int, up: int) -> tuple[Axis, Axis]:
    """Both axes, one of them lengthened about its middle so that a dot has the same length on each."""
    per_dot = max(x_axis.span / max(1, across - 1), y_axis.span / max(1, up - 1))
    return x_axis.widened(per_dot * (across - 1)), y_axis.widened(per_dot * (up - 1))


def _heading(frame: PlotFrame, style: Style) -> list[str]:
    rows = [_words(frame.title, style)] if frame.title else []
    if frame.ylabel:
        rows.append(axis_name(_words(frame.ylabel, style), frame.yscale, style.width))
    return [_fit(row, style.width) for row in rows]


def _footing(series: Sequence[Series], frame: PlotFrame, style: Style) -> list[str]:
    rows = []
    if frame.xlabel:
        label = _fit(axis_name(_words(frame.xlabel, style), frame.xscale, style.width), style.width)
        rows.append(" " * max(0, style.width - cell_len(label)) + label)
    if frame.legend and any(one.label for one in series):
        rows += _legend(series, style)
    return rows


def _legend(series: Sequence[Series], style: Style) -> list[str]:
    """Marker and label of every named series, in rows of at most `style.width` cells."""
    rows: list[str] = []
    used = style.width
    first = {one.label: k for k, one in reversed(list(enumerate(series))) if one.label}
    named = sorted(first.values())
    for k in named[:_LEGEND_MAX]:
        one = series[k]
        slot = k if one.slot is None else one.slot
        label = _fit(_words(one.label, style), style.width - 2)
        mark = marker_of(slot, style)
        coloured = f"\x1b[38;5;{colour_of(slot)}m{mark}\x1b[0m" if style.colour else mark
        need = 2 + cell_len(label)
        if used + 3 + need > style.width:
            rows.append("")
            used = 0
        gap = "   " if used else ""
        rows[-1] += f"{gap}{coloured} {label}"
        used += len(gap) + need
    if len(named) > _LEGEND_MAX:
        rows.append(_fit(f"and {len(named) - _LEGEND_MAX} more", style.width))
    return rows


def _words(text: str, style: Style) -> str:
    """Untrusted text made printable, and ASCII if required."""
    shown = safe_text(text)
    return in_ascii(shown) if style.ascii_only else shown


def _fit(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, width).rstrip()


def _plain(row: str) -> str:
    """A row of plotext's output without SGR codes; labels contain none, so everything from ESC to m is plotext's."""
    head, *rest = row.split("\x1b[")
    return (head + "".join(part.partition("m")[2] for part in rest)).rstrip()
