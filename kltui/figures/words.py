"""Words of a figure: titles and names at ticks, measured in their font and cut to the room that they have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kltui.figures.picture import Panel
from kltui.sanitize import safe_text, short_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALLEST = 6.0  # points, of any word, unless a style file asks for less
_NAME_LINE = 1.2  # lines of names stand at least so many times their size apart
_NAME_SHARE = 0.4  # of a panel's width that names beside it may take, at most
# What LaTeX writes for characters that are commands in it, or that its fonts lack in words.
_TEX = {
    **{char: f"\\{char}" for char in "$&%#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "\u00a0": "~",
    "…": r"\dots{}",
}
_SHORTEST = 9  # characters of a name that are kept even where there is no room


def literal(text: str) -> str:
    """`text` such that neither matplotlib nor, with text.usetex, LaTeX reads any of its characters as a command."""
    from matplotlib import rcParams

    if rcParams["text.usetex"]:
        return "".join(_TEX.get(char, char) for char in text)
    return text.replace("$", r"\$")


def width_of(figure: Figure, text: str, setting: str) -> float:
    """Inches that a line of text takes in the font size of a setting of matplotlib, such as `axes.titlesize`."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    return float(renderer.get_text_width_height_descent(text, _font(setting), False)[0]) / figure.dpi


def points(setting: str) -> float:
    """The font size in points of a setting of matplotlib."""
    return float(_font(setting).get_size_in_points())


def _font(setting: str) -> Any:
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties

    settings: Any = rcParams
    return FontProperties(size=settings[setting])


def cut(figure: Figure, names: Sequence[str], setting: str, room: float, longest: int = 60) -> list[str]:
    """The names, cut in their middles to `room` inches and `longest` characters each; those that differ still do."""
    limit = min(longest, max(map(len, names), default=0))
    shown = short_names(names, limit)
    while (wide := max((width_of(figure, name, setting) for name in shown), default=0.0)) > room:
        if limit <= _SHORTEST:
            break
        limit = max(_SHORTEST, min(limit - 1, math.ceil(limit * room / wide)))
        shown = short_names(names, limit)
    return shown


def fit_titles(figure: Figure, panels: Sequence[tuple[Any, Panel]], *, first: bool = False) -> bool:
    """Breaks titles and labels of axes and colour bars between words where a line would leave its panel; returns whether any line changed.

    `first`: before the panels have their places, which are then guessed.
    """
    changed = False
    for axes, panel in panels:
        spec = axes.get_subplotspec()
        side = figure.get_figwidth() / spec.get_gridspec().ncols
        if first or panel.z is not None:
            room = 0.8 * side
        else:
            place, left = axes.get_position(), side * spec.colspan.start
            middle = figure.get_figwidth() * (place.x0 + place.x1) / 2
            room = 2 * max(0.3 * side, min(middle - left, left + side - middle)) - 0.04
            high = max(1.0, figure.get_figheight() * place.height)
            for which, axis, length in (("x", panel.x, room), ("y", panel.y, high)):
                label = broken(figure, axis.label, "axes.labelsize", length)
                changed |= label != getattr(axes, f"get_{which}label")()
                getattr(axes, f"set_{which}label")(label)
            for bar in (mapped.colorbar for mapped in axes.collections if mapped.colorbar is not None):
                label = bar_label(figure, panel, figure.get_figheight() * bar.ax.get_position().height)
                changed |= label != bar.ax.get_ylabel()
                bar.set_label(label)
        title = broken(figure, panel.title, "axes.titlesize", room)
        changed |= title != axes.get_title()
        axes.set_title(title)
    return changed


def bar_label(figure: Figure, panel: Panel, room: float) -> str:
    """The label of a panel's colour bar, then what is beyond its ends, in lines of at most `room` inches."""
    said = (panel.value_label, panel.value_beyond)
    return "\n".join(broken(figure, text, "axes.labelsize", room) for text in said if text)


def broken(figure: Figure, text: str, setting: str, room: float) -> str:
    """The text in lines of at most `room` inches; a name is never broken, but cut in its middle if it is wider."""
    together = safe_text(text).replace(" = ", "\u00a0=\u00a0")
    lines: list[str] = []
    for word in together.split(" "):
        longer = f"{lines[-1]} {word}" if lines else ""
        if longer and width_of(figure, longer, setting) <= room:
            lines[-1] = longer
        else:
            lines.append(*cut(figure, [word], setting, room))
    return literal("\n".join(lines))


def add_line_above(figure: Figure, text: str) -> None:
    """Writes small words above the panels, for which the figure grows."""
    from matplotlib import rc_context, rcParams

    width, height = figure.get_size_inches()
    with rc_context({"legend.fontsize": SMALLEST}):
        words = broken(figure, text, "legend.fontsize", width - 0.1)
    figure.set_size_inches(width, height + 1.3 * (1 + words.count("\n")) * SMALLEST / 72)
    figure.suptitle(words, fontsize=SMALLEST, fontweight="normal", color=rcParams["text.color"])


def tick_names(axes: Any, which: str, words: Sequence[str]) -> list[str]:
    """Names at the ticks of a panel, cut to their share of its width."""
    side = axes.figure.get_figwidth() / axes.get_subplotspec().get_gridspec().ncols
    return [literal(name) for name in cut(axes.figure, words, f"{which}tick.labelsize", _NAME_SHARE * side)]


def height_of_names(figure: Figure, panels: Sequence[Panel], columns: int) -> float:
    """Inches that the longest name below a panel takes, turned by 45 degrees."""
    words = [safe_text(word) for p in panels for _, word in p.x.ticks]
    longest = max((width_of(figure, word, "xtick.labelsize") for word in words), default=0.0)
    return min(longest, _NAME_SHARE * figure.get_figwidth() / columns) * math.sqrt(0.5)


def fit_names(figure: Figure, panels: list[tuple[Any, Panel]]) -> None:
    """Makes overlapping tick labels vertical and smaller, and if necessary draws only every second, third and so on."""
    named = [(axes, which) for axes, p in panels for which in "xy" if getattr(p, which).ticks]
    if not named:
        return
    figure.draw_without_rendering()
    crowded = [(axes, which, _name_size(axes, which)) for axes, which in named if _is_crowded(axes, which)]
    for axes, which, size in crowded:
        _name_ticks(axes, which, min(size, SMALLEST), 1)
    if crowded:  # smaller labels change the size of the axes
        figure.draw_without_rendering()
    for axes, which, size in crowded:
        line, smallest = _between_ticks(axes, which) / _NAME_LINE, min(size, SMALLEST)
        every = max(1, math.ceil(smallest / line))
        _name_ticks(axes, which, min(size, max(smallest, 0.95 * every * line)), every)
    if crowded:
        figure.draw_without_rendering()
    for axes, which, size in crowded:
        if _is_crowded(axes, which):  # the larger labels have made the axes smaller
            _name_ticks(axes, which, min(size, SMALLEST), 1)


def _is_crowded(axes: Any, which: str) -> bool:
    angle = math.radians(getattr(axes, f"get_{which}ticklabels")()[0].get_rotation())
    across = math.sin(angle) if which == "x" and angle else 1.0
    return _between_ticks(axes, which) * across < 0.99 * _NAME_LINE * _name_size(axes, which)


def _name_size(axes: Any, which: str) -> float:
    return float(getattr(axes, f"get_{which}ticklabels")()[0].get_fontsize())


def _between_ticks(axes: Any, which: str) -> float:
    """The smallest distance between neighbouring ticks of an axis, in points."""
    at = getattr(axes, f"get_{which}ticks")()
    if len(at) < 2:
        return math.inf
    inches = axes.get_window_extent().transformed(axes.figure.dpi_scale_trans.inverted())
    low, high = sorted(getattr(axes, f"get_{which}lim")())
    side = float(inches.width if which == "x" else inches.height)
    return float(72 * side / (high - low) * np.diff(at).min())


def _name_ticks(axes: Any, which: str, size: float, every: int) -> None:
    """Labels each `every`-th tick of an axis in font size `size`, vertically if below a panel."""
    at = getattr(axes, f"get_{which}ticks")()[::every]
    words = [name.get_text() for name in getattr(axes, f"get_{which}ticklabels")()][::every]
    turned = {"rotation": 90, "ha": "right", "va": "center", "rotation_mode": "anchor"}
    getattr(axes, f"set_{which}ticks")(at, words, fontsize=size, **(turned if which == "x" else {}))
