"""A figure as data, independent of what draws it: panels with named axes, and layers of points and lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kltui.sanitize import safe_text
from kltui.view.palette import DARK as DARK_PALETTE
from kltui.view.palette import LIGHT, rgb

Array = NDArray[np.float64]
Scale = Literal["linear", "log", "symlog"]
Kind = Literal["line", "points", "cells"]
Dash = Literal["solid", "dashed", "dotted", "dashdot", "longdash", "longdashdot", "dashdotdot", "twodash"]

# Lengths in line widths of strokes and gaps of the dashes that matplotlib has no name for.
DASHES: dict[str, tuple[float, ...]] = {
    "longdash": (11.0, 2.5),
    "longdashdot": (9.0, 2.0, 1.2, 2.0),
    "dashdotdot": (5.0, 1.6, 1.2, 1.6, 1.2, 1.6),
    "twodash": (5.0, 1.4, 2.4, 1.4),
}
# Of the lines at published values, in the order in which they are given; "dashed" and "dotted" have other uses.
REFERENCE_DASHES: tuple[Dash, ...] = ("longdash", "dashdot", "dashdotdot", "twodash", "longdashdot")

# Seven markers and eight colours have no common divisor, so that 56 series differ.
MARKS = ("o", "s", "^", "D", "v", "P", "X")
COLOURS = tuple("#{:02x}{:02x}{:02x}".format(*rgb(index)) for index in LIGHT.series)
GREY, DARK = "#9a9a9a", "#222222"
# The colours on a dark ground, where the interface has them too.
_ON_DARK = {
    light: "#{:02x}{:02x}{:02x}".format(*rgb(index))
    for light, index in zip(COLOURS, DARK_PALETTE.series, strict=True)
} | {DARK: "#dddddd"}
FADE = 0.6  # how far the colour of a run's first step is mixed with the ground

COLUMNS = (
    "panel",
    "layer",
    "series",
    "name",
    "step",
    "x",
    "y",
    "z",
    "low",
    "high",
    "value",
    "line",
    "mark",
    "colour",
    "size",
    "width",
)


@dataclass(frozen=True)
class FigureAxis:
    """An axis: its label with the unit, scale and limits; `ticks` are (position, label), empty: automatic; `whole`: integers only."""

    label: str = ""
    scale: Scale = "linear"
    ticks: tuple[tuple[float, str], ...] = ()
    limits: tuple[float, float] | None = None
    whole: bool = False


@dataclass(frozen=True, eq=False)
class Layer:
    """n points of one series: connected by a line, separate, or as cells of a matrix.

    `low` and `high` are the ends of error bars in y, or the edges of a `band`; `shaded` draws the points from light (first)
    to the full colour (last); `value` colours them by a colour scale. A non-finite x or y is a gap. A layer with an empty
    `label` is not in the legend, in which a `reference` (a layer that is not of the data's series) comes after all others.
    `names` and `steps` are those of the points, for the CSV. `mark` is drawn on each `every`-th point.
    """

    label: str
    x: Array
    y: Array
    kind: Kind = "line"
    z: Array | None = None
    low: Array | None = None
    high: Array | None = None
    value: Array | None = None
    steps: tuple[int | None, ...] = ()
    names: tuple[str, ...] = ()
    colour: str = DARK
    mark: str = ""
    every: int = 1
    dash: Dash = "solid"
    size: float = 3.0
    width: float = 0.8
    shaded: bool = False
    band: bool = False
    reference: bool = False
    ground: str = "#ffffff"

    def __post_init__(self) -> None:
        assert len(self.x) == len(self.y), "x and y of a layer have equal length"


@dataclass(frozen=True)
class Panel:
    """Two (or three) axes with their layers; `equal`: both axes have the same unit. `value_*` concern the colour scale.

    `value_beyond` says which values are beyond `value_limits`; they have the colours of the ends.

    An axis or colour scale that is to be logarithmic is linear if no value is positive, as for KLs of equal vectors.
    """

    title: str
    x: FigureAxis
    y: FigureAxis
    layers: tuple[Layer, ...]
    z: FigureAxis | None = None
    equal: bool = False
    value_label: str = ""
    value_log: bool = False
    value_limits: tuple[float, float] | None = None
    value_beyond: str = ""
    turned: tuple[float, float] | None = None  # azimuth and elevation, degrees, of three axes

    def __post_init__(self) -> None:
        for which in ("x", "y"):
            axis: FigureAxis = getattr(self, which)
            if axis.scale == "log" and not _any_positive(getattr(layer, which) for layer in self.layers):
                object.__setattr__(self, which, replace(axis, scale="linear"))
        if self.value_log and not _any_positive(v.value for v in self.layers if v.value is not None):
            object.__setattr__(self, "value_log", False)


def _any_positive(arrays: Iterable[Array]) -> bool:
    return any(bool((np.isfinite(array) & (array > 0)).any()) for array in arrays)


@dataclass(frozen=True)
class PaperFigure:
    """A figure: panels in rows of `columns`, and notes on the basis of the numbers; `above`: a line above the panels."""

    name: str
    title: str
    panels: tuple[Panel, ...]
    notes: tuple[str, ...] = ()
    columns: int = 2
    record: dict[str, object] = field(default_factory=dict)
    above: str = ""

    def __post_init__(self) -> None:
        titles = [p.title for p in self.panels]
        assert len(set(titles)) == len(titles), "panels in the CSV are distinguished by their titles"


def extends(panel: Panel) -> Literal["neither", "min", "max", "both"]:
    """At which ends of a panel's colour scale there are values beyond its limits; those that rounding puts there do not count."""
    if panel.value_limits is None:
        return "neither"
    every = np.concatenate([layer.value for layer in panel.layers if layer.value is not None])
    known = every[np.isfinite(every) & ((every > 0) | (not panel.value_log))]
    low, high = panel.value_limits
    margin = 1e-9 * max(abs(low), abs(high)) if not panel.value_log else 0.0
    below, above = bool((known < low - margin).any()), bool((known > high + margin).any())
    return "both" if below and above else "min" if below else "max" if above else "neither"


def names_left_out(panel: Panel, x: int, y: int) -> str:
    """What is to be said of a panel at whose axes `x` and `y` names are written; "" if that is one for each row and column."""
    cells = [layer for layer in panel.layers if layer.kind == "cells" and len(layer.x)]
    written = []
    for axis, n, places in ((panel.x, x, [c.x for c in cells]), (panel.y, y, [c.y for c in cells])):
        every = max([len(axis.ticks), *(int(place.max()) + 1 for place in places)])
        if axis.ticks and n < every:
            written.append((n, every))
    if not written:
        return ""
    n, every = min(written)
    return f"{panel.title}: {n} of {every} names written, for lack of room; the CSV of the figure has all"


def values(data: Any) -> Array:
    """`data` as a float64 array; None becomes NaN."""
    return np.asarray(data, dtype=np.float64)


def slot_colour(slot: int) -> str:
    """The colour of series number `slot`, as #rrggbb."""
    return COLOURS[slot % len(COLOURS)]


def slot_mark(slot: int) -> str:
    """The marker of series number `slot`, in matplotlib's notation."""
    return MARKS[slot % len(MARKS)]


def on_ground(picture: PaperFigure, ground: str) -> PaperFigure:
    """The figure for a ground of colour #rrggbb: if that is dark, in the colours of the interface's dark theme."""
    red, green, blue = _rgb(ground)
    if 0.299 * red + 0.587 * green + 0.114 * blue > 127:
        return picture
    panels = tuple(
        replace(
            panel,
            layers=tuple(
                replace(layer, colour=_ON_DARK.get(layer.colour, layer.colour), ground=ground)
                for layer in panel.layers
            ),
        )
        for panel in picture.panels
    )
    return replace(picture, panels=panels)


def _rgb(colour: str) -> Array:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float64)


def shades(colour: str, n: int, ground: str = "#ffffff") -> list[str]:
    """n colours as #rrggbb, from one near the `ground` (first) to `colour` itself (last)."""
    base = _rgb(colour)
    share = np.linspace(FADE, 0.0, n) if n > 1 else np.zeros(n)
    rows = np.rint(base + (_rgb(ground) - base) * share[:, None]).astype(int)
    return ["#{:02x}{:02x}{:02x}".format(*row) for row in rows]


def segments(pairs: Sequence[tuple[int, int]], xyz_Kd: Array, label: str, names: Sequence[str]) -> Layer:
    """Thin grey lines between pairs of rows of `xyz_Kd`, separated by gaps."""
    dims = xyz_Kd.shape[1]
    gap = np.full(dims, np.nan)
    flat = [v for a, b in pairs for v in (xyz_Kd[a], xyz_Kd[b], gap)]
    xyz = np.array(flat).reshape(-1, dims)
    of = tuple(n for a, b in pairs for n in (names[a], names[b], ""))
    z = xyz[:, 2] if dims > 2 else None
    return Layer(label, xyz[:, 0], xyz[:, 1], z=z, names=of, colour=GREY, width=0.5, reference=True)


def legend_labels(picture: PaperFigure) -> list[str]:
    """The labels in a figure's legend in their order: those of series, then those of references."""
    shown = [
        layer
        for panel in picture.panels
        for layer in panel.layers
        if layer.label and layer.kind != "cells" and layer.value is None
    ]
    return list(dict.fromkeys(layer.label for layer in sorted(shown, key=lambda layer: layer.reference)))


def matplotlib_dash(dash: str) -> Any:
    """A dash as matplotlib takes it: a name, or offset and lengths."""
    return (0.0, DASHES[dash]) if dash in DASHES else dash


def rows(picture: PaperFigure) -> Iterator[tuple[object, ...]]:
    """The figure's points in the order in which they are drawn, each as a row with `COLUMNS`."""
    for panel in picture.panels:
        for number, layer in enumerate(panel.layers, 1):
            yield from _layer_rows(panel.title, number, layer)


def _layer_rows(title: str, number: int, layer: Layer) -> Iterator[tuple[object, ...]]:
    n = len(layer.x)
    line = layer.dash if layer.kind == "line" else ""
    mark = "s" if layer.kind == "cells" else layer.mark
    optional = [layer.z, layer.low, layer.high, layer.value]
    z, low, high, value = ([None] * n if v is None else list(v) for v in optional)
    colours = shades(layer.colour, n, layer.ground) if layer.shaded and n > 1 else [layer.colour] * n
    for k in range(n):
        name = layer.names[k] if layer.names else ""
        step = layer.steps[k] if layer.steps else None
        place = (float(layer.x[k]), float(layer.y[k]), z[k], low[k], high[k], value[k])
        look = (line, "" if k % layer.every else mark, colours[k], layer.size, layer.width)
        yield (safe_text(title), number, safe_text(layer.label), safe_text(name), step, *place, *look)
