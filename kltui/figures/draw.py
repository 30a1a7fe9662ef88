"""Draws figures with matplotlib: vector graphics on white, fonts embedded, independent of pyplot's global state."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from kltui.errors import KltuiError, UsageError
from kltui.figures.fonts import found_fonts, letters_of, missing_fonts, without_glyph
from kltui.figures.legend import add_legend, legend_of
from kltui.figures.page_layout import MARGIN, MM, PAGE, arranged, fewest_columns, has_cells, usual_width
from kltui.figures.picture import (
    Array,
    FigureAxis,
    Layer,
    Panel,
    PaperFigure,
    extends,
    matplotlib_dash,
    on_ground,
    shades,
)
from kltui.figures.solids import fit_solids, shape_solid
from kltui.figures.words import (
    add_line_above,
    bar_label,
    fit_names,
    fit_titles,
    height_of_names,
    literal,
    points,
    tick_names,
)
from kltui.sanitize import safe_text
from kltui.version import __version__

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("pdf", "svg", "png")
_UNITS = {"mm": MM, "cm": 10 * MM, "in": 1.0, "pt": 1.0 / 72.0}
_TICKS_PER_INCH = 1.8  # along x, so that the step 143000 has room
_ARROW = (
    0.05  # matplotlib's length of the arrow at an end of a colour bar, in lengths of the bar without arrows
)
_OPEN = "_|x+"  # marks that are strokes
_RC: dict[Any, Any] = {
    "pdf.fonttype": 42,  # TrueType, embedded such that text can be searched and edited
    "ps.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "kltui",
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 300.0,
    "text.hinting": "none",  # so that words are equally wide in every format, at every resolution
    "lines.solid_capstyle": "round",
    "axes.formatter.useoffset": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.4,
}


@dataclass(frozen=True)
class FigureStyle:
    """How a figure is drawn: its width in inches (0: chosen by its panels), a matplotlib style file, and families of more fonts.

    The fonts of `fallback` draw the letters that those of the style lack.
    """

    width: float = 0.0
    style: Path | None = None
    fallback: tuple[str, ...] = ()


def check_matplotlib() -> None:
    """Raises KltuiError if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise KltuiError(
            "figures are drawn by matplotlib, which is not installed",
            "pip install '.[figures]' in kltui's folder.",
        )


def check_style(look: FigureStyle) -> None:
    """Raises UsageError if the style file cannot be used; called before the figure is computed."""
    if look.style is not None:
        _style(look.style)


def parse_width(text: str) -> float:
    """Inches of a width such as 85mm, 8.5cm, 3.3in or 240pt. Raises UsageError for anything else.

    >>> round(parse_width("85mm"), 3)
    3.346
    """
    number, unit = text[:-2].strip(), text[-2:]
    try:
        inches = float(number) * _UNITS[unit]
    except (KeyError, ValueError):
        inches = math.nan
    if not 0.5 <= inches <= 100:
        raise UsageError(f"--width {safe_text(text, 40)}: not a valid width", "For example --width 85mm")
    return inches


def save(picture: PaperFigure, path: Path, look: FigureStyle, file: BinaryIO) -> Figure:
    """Writes the figure into `file`, in the format that the name of `path` ends in; returns it as drawn.

    Raises UsageError if matplotlib cannot draw it with the settings of the style file.
    """
    kind = path.suffix[1:].lower()
    maker = {"pdf": "Creator", "svg": "Creator", "png": "Software"}[kind]
    basis = {"pdf": "Subject", "svg": "Description", "png": "Description"}[kind]
    metadata: dict[str, str | None] = {
        "Title": picture.title,
        maker: f"kltui {__version__}",
        basis: "; ".join(
            safe_text(note) for note in picture.notes
        ),  # what the numbers rest on stays with them
    }
    with drawing_settings(look):
        try:
            figure = drawn(picture, look)
            figure.savefig(file, format=kind, metadata=metadata)
        except (RuntimeError, ValueError) as error:  # of text.usetex without LaTeX, for instance
            if look.style is None:
                raise
            raise UsageError(
                f"--style {safe_text(str(look.style))}: matplotlib cannot draw the figure: {safe_text(str(error), 160)}",
                "Without --style, the figure is drawn with kltui's own settings.",
            ) from error
        return figure


@contextmanager
def drawing_settings(look: FigureStyle) -> Iterator[None]:
    """Within it matplotlib has its own defaults, ours, and the settings of the style file; afterwards those from before."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings_of(look))
        yield


def settings_of(look: FigureStyle) -> dict[Any, Any]:
    """Matplotlib's settings of a figure: ours, those of its style file, and TrueType fonts, which are always embedded.

    Sizes of words that the style file does not set follow its font.size.
    Matplotlib cannot write every letter of a Type 3 font.
    """
    style = _style(look.style) if look.style is not None else {}
    larger = float(style.get("font.size", _RC["font.size"])) / _RC["font.size"]
    sizes = {
        name: _RC[name] * larger for name in _RC if name.endswith(("labelsize", "titlesize", "fontsize"))
    }
    found = _RC | sizes | style
    if look.fallback:
        found["font.family"] = [*_families(found.get("font.family", "sans-serif")), *look.fallback]
    return found | {name: _RC[name] for name in ("pdf.fonttype", "ps.fonttype")}


def _families(setting: str | list[str]) -> list[str]:
    return [setting] if isinstance(setting, str) else setting


def prepared(
    picture: PaperFigure, look: FigureStyle, notify: Callable[[str], None] = lambda said: None
) -> tuple[PaperFigure, FigureStyle]:
    """The figure and its style with colours for its ground and fonts for its letters; what no font has is said, also in the figure."""
    with drawing_settings(look):
        fallback, lacking = found_fonts(letters_of(picture))
    in_figure, message = without_glyph(lacking)
    if message:
        notify(message)
        picture = replace(picture, above=in_figure, notes=(*picture.notes, in_figure))
    return on_ground(picture, ground_of(look)), replace(look, fallback=fallback)


def ground_of(look: FigureStyle) -> str:
    """The colour of the ground of panels, as #rrggbb."""
    from matplotlib.colors import to_hex, to_rgba

    settings = settings_of(look)
    inside, page = (to_rgba(settings[f"{part}.facecolor"]) for part in ("axes", "figure"))
    return to_hex(inside if inside[3] else page)


def _style(path: Path) -> dict[Any, Any]:
    """The settings of a style file. Raises UsageError if it cannot be read or has an unknown setting."""
    from matplotlib import RcParams, rc_params_from_file

    try:
        with path.open(encoding="utf-8") as file:
            named = [line.partition(":")[0].strip() for line in file if ":" in line.partition("#")[0]]
        unknown = [name for name in named if name not in RcParams().validate]
        if unknown:
            raise ValueError(f"unknown setting {unknown[0]}")
        found: dict[Any, Any] = dict(
            rc_params_from_file(path, fail_on_error=True, use_default_template=False)
        )
        return found
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--style {safe_text(str(path))}: {safe_text(str(error), 160)}",
            "Give a matplotlib style file, lines such as font.size: 7",
        ) from error


def drawn(picture: PaperFigure, look: FigureStyle) -> Figure:
    """The matplotlib figure; to be used within the same `drawing_settings`."""
    figure, n_rows = _laid_out(picture, look)
    fit_solids(figure, n_rows)
    return figure


def _laid_out(picture: PaperFigure, look: FigureStyle, height: float = 0.0) -> tuple[Figure, int]:
    """(the figure, in which panels of three axes do not have their final sizes yet; its number of rows of panels).

    `height`: that of a place in inches which the figure will fill (0: it is part of a page).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = look.width or usual_width(picture)
    larger = max(1.0, points("axes.labelsize") / _RC["axes.labelsize"])
    cells = has_cells(picture)
    figure = Figure((width, height or PAGE), layout="compressed" if cells else "constrained")
    FigureCanvasAgg(figure)
    legend = legend_of(figure, picture, height or PAGE)
    first = fewest_columns(picture, width, larger)
    names = (
        0.0 if cells else height_of_names(figure, picture.panels, first)
    )  # those of a matrix are fitted later
    room = math.inf if height else PAGE - MARGIN - legend.height
    columns, panel_height = arranged(picture, width, room, larger, names)
    n_rows = -(-len(picture.panels) // columns)
    figure.set_size_inches(width, n_rows * panel_height + MARGIN)
    handles: dict[str, Any] = {}
    panels = []
    for number, panel in enumerate(picture.panels):
        projection = {"projection": "3d"} if panel.z is not None else {}
        axes = figure.add_subplot(n_rows, columns, number + 1, **projection)
        _panel(figure, axes, panel, handles)
        panels.append((axes, panel))
    if legend.words:
        figure.set_size_inches(width, n_rows * panel_height + MARGIN + legend.height)
        add_legend(figure, legend, handles)
    if picture.above:
        add_line_above(figure, picture.above)
    fit_names(figure, panels)
    figure.draw_without_rendering()
    for _ in range(3):  # a label in more lines moves the panels, and with them the room of the titles
        if not fit_titles(figure, panels):
            break
        figure.draw_without_rendering()
    if cells:
        _without_margins(figure)
    return figure, n_rows


def panels_of(figure: Figure) -> list[Any]:
    """The axes of a figure's panels in their order, without its colour bars."""
    return [
        axes
        for axes in figure.axes
        if axes.get_subplotspec() is not None and axes.get_label() != "<colorbar>"
    ]


def colour_bars_of(axes: Any) -> list[Any]:
    """The colour bars of a panel."""
    return [mapped.colorbar for mapped in axes.collections if mapped.colorbar is not None]


def box_of(axes: Any) -> tuple[float, ...]:
    """(left, bottom, width, height) of axes in shares of the figure, as drawn; of three axes, their area."""
    return tuple(round(float(side), 5) for side in axes.get_position(original=axes.name == "3d").bounds)


def box_with_ends(bar: Any) -> tuple[float, ...]:
    """The box of a colour bar with the arrows at its ends, of which `box_of` does not know."""
    left, bottom, width, height = box_of(bar.ax)
    below, above = (_ARROW * height * (bar.extend in (end, "both")) for end in ("min", "max"))
    return left, round(bottom - below, 5), width, round(height + below + above, 5)


def png(picture: PaperFigure, size: tuple[int, int], line_height: int) -> bytes:
    """The figure as a PNG of exactly `size` (width, height) pixels, with letters that suit a line height of `line_height` pixels."""
    dots = max(
        40.0, 5.5 * line_height
    )  # per inch; 8 points are then a little smaller than the terminal's letters
    width, height = (side / dots for side in size)
    file = io.BytesIO()
    from matplotlib import rcParams

    with missing_fonts(lambda said: None):
        picture, look = prepared(picture, FigureStyle(width))
        with drawing_settings(look):
            rcParams.update({"figure.dpi": dots, "text.hinting": "force_autohint"})
            figure, _ = _laid_out(picture, look, height)
            figure.set_size_inches(width, height)
            fit_solids(figure)
            figure.savefig(file, format="png", dpi=dots)
    return file.getvalue()


def figure_of(picture: PaperFigure) -> Figure:
    """The figure as a matplotlib figure. Raises KltuiError if matplotlib is not installed."""
    check_matplotlib()
    with missing_fonts(lambda said: None):
        picture, look = prepared(picture, FigureStyle())
        with drawing_settings(look):
            return drawn(picture, look)


def _without_margins(figure: Figure) -> None:
    """Removes the empty height above and below a matrix of square cells, whose size the width limits."""
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, min(height, box.height + 4 * MM))


def _panel(figure: Figure, axes: Any, panel: Panel, handles: dict[str, Any]) -> None:
    mapped = None
    for layer in panel.layers:
        handle, colours = _layer(axes, layer, panel)
        mapped = colours if colours is not None else mapped
        if layer.label and layer.label not in handles and handle is not None:
            handles[layer.label] = handle
    fit_titles(figure, [(axes, panel)], first=True)
    _axis(axes, "x", panel.x)
    _axis(axes, "y", panel.y)
    if panel.z is not None:
        _axis(axes, "z", panel.z)
        shape_solid(axes, panel)
    elif panel.equal:
        axes.set_aspect("equal", adjustable="datalim")
    if mapped is not None:
        words = bar_label(
            figure, panel, 0.5 * figure.get_figheight() / axes.get_subplotspec().get_gridspec().nrows
        )
        bar = figure.colorbar(mapped, ax=axes, label=words, pad=0.02, extend=extends(panel))
        if panel.value_log:
            _log_ticks(bar.ax.yaxis, "y", bar.ax)


def _log_ticks(axis: Any, which: str, axes: Axes) -> None:
    """Puts ticks of a logarithmic axis at powers of ten (if there are few, also at 2 and 5 times these), as plain numbers unless some are long."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = getattr(axes, f"get_{which}lim")()
    powers = math.floor(math.log10(high)) - math.ceil(math.log10(low)) + 1
    few = (high / low < 80 or powers < 2) and (_has_room(axes, 3 * math.log10(high / low)) or high / low < 10)
    word = _plain if low > 0.9e-4 and high < 1.1e5 else _power
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: word(value)))
    axis.set_minor_formatter(NullFormatter())


def _has_room(axes: Axes, n: float) -> bool:
    """Whether n labels of ticks fit above each other in the share of a figure's height that a panel's data has."""
    spec = axes.get_subplotspec()
    if spec is None:
        return True
    height = axes.figure.get_figheight() / spec.get_gridspec().nrows  # type: ignore[union-attr]
    return n * 1.4 * points("ytick.labelsize") / 72 < 0.5 * height


def _plain(value: float) -> str:
    return f"{value:g}"


def _power(value: float) -> str:
    """A number as a multiple of a power of ten, as a matplotlib formula."""
    digit, _, exponent = f"{value:.0e}".partition("e")
    return f"${'' if digit == '1' else digit + chr(92) + 'times'}10^{{{int(exponent)}}}$"


def symlog_places(low: float, high: float) -> list[tuple[float, str]]:
    """(place, words) of the ticks of an axis from 0 on: 0 and powers of ten, or 1, 2 and 5 of few powers, or even steps; thousands as k.

    >>> symlog_places(30.0, 100.0), symlog_places(140.0, 410.0)
    ([(50.0, '50'), (100.0, '100')], [(200.0, '200'), (300.0, '300'), (400.0, '400')])
    """
    from matplotlib.ticker import MaxNLocator

    powers = [10.0**k for k in range(1 + math.ceil(math.log10(max(high, 1.0))))]
    inside = [v for v in powers if low <= v <= high]
    subs = (1, 2, 5) if len(inside) < 3 and high < 1000 else (1,)
    places = [v for v in (0.0, *(m * v for v in powers for m in subs)) if low <= v <= high]
    if len(places) < 2:
        places = [
            float(v) for v in MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= v <= high
        ]
    return [(v, f"{v / 1000:g}k" if v >= 1000 else f"{v:g}") for v in places]


def _symlog_ticks(axis: Any, which: str, axes: Axes) -> None:
    """The ticks of `symlog_places`, and none between them."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    found = symlog_places(*getattr(axes, f"get_{which}lim")())
    axis.set_major_locator(FixedLocator([place for place, _ in found]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FixedFormatter([words for _, words in found]))


def _axis(axes: Axes, which: str, axis: FigureAxis) -> None:
    from matplotlib.ticker import MaxNLocator

    getattr(axes, f"set_{which}label")(literal(axis.label))
    if axis.scale != "linear":
        getattr(axes, f"set_{which}scale")(axis.scale)
    if axis.scale == "log":
        _log_ticks(getattr(axes, f"{which}axis"), which, axes)
    if axis.scale == "symlog":
        _symlog_ticks(getattr(axes, f"{which}axis"), which, axes)
    if which == "x" and axis.scale == "linear":
        across = axes.get_subplotspec().get_gridspec().ncols  # type: ignore[union-attr]
        larger = max(1.0, points("xtick.labelsize") / _RC["xtick.labelsize"])
        bins = max(3, round(_TICKS_PER_INCH / larger * axes.figure.get_figwidth() / across))  # type: ignore[union-attr]
        axes.xaxis.set_major_locator(MaxNLocator(bins, steps=[1, 2, 4, 5, 10], integer=axis.whole))
    if axis.ticks:
        at, words = zip(*axis.ticks, strict=True)
        shown = tick_names(axes, which, words)
        turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if which == "x" else {}
        getattr(axes, f"set_{which}ticks")(at, shown, **turned)
    if axis.limits:
        getattr(axes, f"set_{which}lim")(*axis.limits)


def _layer(axes: Any, layer: Layer, panel: Panel) -> tuple[Any, Any]:
    """Draws a layer and returns its handles for (the legend, a colour bar), None for each that it does not have."""
    if layer.kind == "cells":
        return None, _cells(axes, layer, panel)
    xyz = [layer.x, layer.y] if panel.z is None or layer.z is None else [layer.x, layer.y, layer.z]
    look = {"linewidth": layer.width, "markersize": layer.size, "color": layer.colour}
    dash = matplotlib_dash(layer.dash) if layer.kind == "line" else "none"
    edge = layer.width if layer.mark in _OPEN else 0.0
    (handle,) = axes.plot(
        *([[]] * len(xyz)), linestyle=dash, marker=layer.mark or None, markeredgewidth=edge, **look
    )
    if layer.value is not None:
        return None, _coloured(axes, xyz, layer, panel)
    if layer.shaded and len(layer.x) > 1:
        _shaded(axes, xyz, layer)
    else:
        every = layer.every if layer.every > 1 else None
        axes.plot(
            *xyz, linestyle=dash, marker=layer.mark or None, markevery=every, markeredgewidth=edge, **look
        )
    if layer.low is not None and layer.high is not None and panel.z is None:
        _bars(axes, layer)
    return handle, None


def _shaded(axes: Any, xyz: list[Array], layer: Layer) -> None:
    """Draws a run from light to its full colour: every segment and marker in the shade of its step."""
    colours = shades(layer.colour, len(layer.x), layer.ground)
    if layer.kind == "line":
        _segments(axes, np.array(xyz).T, colours[1:], layer.width)
    axes.scatter(*xyz, c=colours, marker=layer.mark or "o", s=layer.size**2, linewidths=0.0, zorder=2.2)


def _segments(axes: Any, xyz_nd: Array, colours: list[str], width: float) -> None:
    """Draws the lines between successive of n points, each in its own colour, as one collection."""
    pieces = np.stack([xyz_nd[:-1], xyz_nd[1:]], axis=1)
    if xyz_nd.shape[1] == 3:
        from mpl_toolkits.mplot3d.art3d import Line3DCollection

        axes.add_collection3d(Line3DCollection(pieces, colors=colours, linewidths=width))
        return
    from matplotlib.collections import LineCollection

    axes.add_collection(LineCollection(list(pieces), colors=colours, linewidths=width, zorder=1.8))


def _bars(axes: Axes, layer: Layer) -> None:
    assert layer.low is not None and layer.high is not None
    known = np.isfinite(layer.low) & np.isfinite(layer.high) & np.isfinite(layer.y)
    if layer.band and known.sum() > 1:
        axes.fill_between(
            layer.x,
            layer.low,
            layer.high,
            where=known.tolist(),
            color=layer.colour,
            alpha=0.25,
            linewidth=0.0,
        )
    elif known.any():
        axes.vlines(
            layer.x[known],
            layer.low[known],
            layer.high[known],
            colors=layer.colour,
            linewidths=0.6,
            alpha=0.7,
        )


def _coloured(axes: Any, xyz: list[Array], layer: Layer, panel: Panel) -> Any:
    """Draws points coloured by their value, those without one in grey; returns what a colour bar needs."""
    assert layer.value is not None
    known = np.isfinite(layer.value)
    size = layer.size**2
    if not known.all():
        axes.scatter(
            *(v[~known] for v in xyz),
            c="#c8c8c8",
            marker=layer.mark or "o",
            s=size,
            linewidths=0.0,
            zorder=2.2,
        )
    return axes.scatter(
        *(v[known] for v in xyz),
        c=layer.value[known],
        cmap="viridis_r",
        norm=_norm(layer.value, panel),
        marker=layer.mark or "o",
        s=size,
        linewidths=0.0,
        zorder=2.2,
    )


def _norm(value: Array, panel: Panel) -> Any:
    from matplotlib.colors import LogNorm, Normalize

    finite = value[np.isfinite(value) & ((value > 0) | (not panel.value_log))]
    if not len(finite):
        return LogNorm(0.1, 1.0) if panel.value_log else Normalize(0.0, 1.0)
    low, high = panel.value_limits or (float(finite.min()), float(finite.max()))
    if panel.value_log:
        return LogNorm(low, high if high > low else low * 10)
    return Normalize(low, high if high > low else low + 1.0)


def _cells(axes: Axes, layer: Layer, panel: Panel) -> Any:
    """Draws cells at integer positions as filled squares, each a vector path; returns what a colour bar needs."""
    assert layer.value is not None
    n_x, n_y = int(layer.x.max()) + 1, int(layer.y.max()) + 1
    grid = np.full((n_y, n_x), np.nan)
    grid[layer.y.astype(int), layer.x.astype(int)] = layer.value
    norm = _norm(layer.value, panel)
    on_scale = grid > 0 if panel.value_log else np.isfinite(grid)
    if panel.value_log:  # a logarithmic scale has no 0, which is as bright as the smallest
        grid = np.where(on_scale, grid, np.where(grid == 0, norm.vmin, np.nan))
    shown = np.ma.masked_invalid(grid)
    edges = np.arange(n_x + 1) - 0.5, np.arange(n_y + 1) - 0.5
    mesh = axes.pcolormesh(*edges, shown, cmap="viridis_r", norm=norm)
    mesh.set_edgecolor("face")
    mesh.set_linewidth(0.1)
    axes.set_ylim(n_y - 0.5, -0.5)
    axes.set_aspect("equal")
    return mesh if on_scale.any() else None
