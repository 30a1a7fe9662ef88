"""A plot independent of its size: points, the segments that join them, and the window that is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kltui.view.axis import Axis, Scale, fit_axis
from kltui.view.palette import SHADES

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """n points in data units, their codes (`series * SHADES + shade`), and m segments as pairs of point indices.

    A non-finite coordinate is a gap: neither its point nor its segments are drawn. Points from index `n_points` on are only
    ends of lines. `equal`: both axes have the same unit and scale. `depth_n` is how near each point is to the viewer; far
    points are drawn first.
    """

    xy_n2: Floats
    code_n: NDArray[np.int16]
    segments_m2: NDArray[np.int64]
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"
    n_points: int | None = None
    equal: bool = False
    depth_n: Floats | None = None

    @cached_property
    def is_point_n(self) -> NDArray[np.bool_]:
        """Which points are drawn as points, (n,) (cached; do not modify it)."""
        n = len(self.xy_n2)
        return np.arange(n) < (n if self.n_points is None else self.n_points)

    def scaled(self) -> Floats:
        """n x 2 coordinates on the axes' own scales (cached; do not modify it)."""
        return self._scaled

    @cached_property
    def _scaled(self) -> Floats:
        if self.x_scale == self.y_scale == "linear":
            return self.xy_n2
        x = Axis.forward(self.xy_n2[:, 0], self.x_scale)
        return np.column_stack([x, Axis.forward(self.xy_n2[:, 1], self.y_scale)])


FLAT = 0.02  # length of an axis without spread, relative to the other in the same unit


@dataclass(frozen=True)
class Window:
    """The part of a scene that is shown: a horizontal and a vertical axis, on their own scales."""

    x: Axis
    y: Axis

    def zoomed(self, factor: float, at: tuple[float, float]) -> Window:
        """The window made `factor` times smaller; the position `at` (0 to 1 from the lower left) stays fixed."""
        return Window(_zoomed(self.x, factor, at[0]), _zoomed(self.y, factor, at[1]))

    def panned(self, right: float, up: float) -> Window:
        """The window moved by fractions of its own size."""
        return Window(_moved(self.x, right), _moved(self.y, up))

    def equalised(self, ratio: float) -> Window:
        """The window enlarged along one axis so that its width is `ratio` times its height."""
        return Window(self.x.widened(self.y.span * ratio), self.y.widened(self.x.span / ratio))

    def with_room_above(self, share: float) -> Window:
        """The window extended upwards so that the uppermost `share` of its height is free."""
        return Window(self.x, replace(self.y, high=self.y.high + self.y.span * share / (1 - share)))

    def place(self, scaled_n2: Floats) -> Floats:
        """n x 2 positions of scaled coordinates: 0 to 1 from the lower left inside the window."""
        return np.column_stack([self.x.unit(scaled_n2[:, 0]), self.y.unit(scaled_n2[:, 1])])

    def dots(self, scaled_n2: Floats, width: int, height: int) -> Floats:
        """n x 2 dot coordinates from the upper left of a raster of width x height dots."""
        x, y = self.x.unit(scaled_n2[:, 0]), self.y.unit(scaled_n2[:, 1])
        dots_n2 = np.empty((len(x), 2))
        np.multiply(x, width - 1, out=x)
        np.add(x, 0.5, out=dots_n2[:, 0])
        np.subtract(1, y, out=y)
        np.multiply(y, height - 1, out=y)
        np.add(y, 0.5, out=dots_n2[:, 1])
        return dots_n2


def _zoomed(axis: Axis, factor: float, at: float) -> Axis:
    span = axis.span / factor
    fixed = axis.low + at * axis.span
    low, high = fixed - at * span, fixed + (1 - at) * span
    # A smaller window could not be resolved in floating point.
    if not high - low > 1e-9 * max(abs(low), abs(high), 1e-290):
        return axis
    return replace(axis, low=low, high=high)


def _moved(axis: Axis, share: float) -> Axis:
    return replace(axis, low=axis.low + share * axis.span, high=axis.high + share * axis.span)


def fit_window(scene: Scene, margin: float = 0.04) -> Window:
    """The window that contains every finite point of a scene, with a margin."""
    x, y = scene.scaled().T
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.all():
        x, y = x[finite], y[finite]
    if not len(x):
        x = y = np.array([0.0, 1.0])
    across, up = fit_axis(x, scene.x_scale, None), fit_axis(y, scene.y_scale, None)
    if scene.equal:
        across, up = _short_if_flat(across, x, up, y), _short_if_flat(up, y, across, x)
    return Window(_with_margin(across, margin), _with_margin(up, margin))


def _short_if_flat(axis: Axis, values: Floats, other: Axis, of_other: Floats) -> Axis:
    """The axis, much shorter than the other in the same unit if all its values are the same and those of the other are not."""
    if np.ptp(values) > 0 or not np.ptp(of_other) > 0:
        return axis
    middle, half = (axis.low + axis.high) / 2, FLAT * other.span / 2
    return replace(axis, low=middle - half, high=middle + half)


def _with_margin(axis: Axis, margin: float) -> Axis:
    return replace(axis, low=axis.low - margin * axis.span, high=axis.high + margin * axis.span)


def shades_of(count: int) -> NDArray[np.int64]:
    """Shades 0 to SHADES - 1 of a run's steps, (count,); a single step has the last shade.

    >>> shades_of(1).tolist(), shades_of(2).tolist()
    ([3], [0, 2])
    """
    if count < 2:
        return np.full(count, SHADES - 1, dtype=np.int64)
    return np.arange(count) * SHADES // count


def threads(
    lines: Sequence[tuple[int, Sequence[int] | NDArray[np.intp]]], n_points: int
) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """Codes and segments of lines given as (series, point indices in order); shades increase from first to last.

    Points on no line get code -1 and are not drawn.
    """
    code_n = np.full(n_points, -1, dtype=np.int16)
    pieces = [np.empty((0, 2), dtype=np.int64)]
    for series, members in lines:
        rows = np.asarray(members, dtype=np.int64)
        code_n[rows] = series * SHADES + shades_of(len(rows))
        pieces.append(np.column_stack([rows[:-1], rows[1:]]))
    return code_n, np.concatenate(pieces)
