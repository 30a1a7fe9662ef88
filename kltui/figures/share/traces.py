"""Panels of figures as plotly's traces and layouts in plain JSON, with every name escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

from kltui.analysis.number_text import figure, with_error
from kltui.figures.picture import Array, FigureAxis, Layer, Panel, names_left_out, shades
from kltui.figures.solids import solid_box
from kltui.sanitize import safe_text, short_name, short_names

Json = dict[str, object]

SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross",
           "X": "x", "_": "line-ew-open", "x": "x-thin-open"}  # fmt: skip
SOLID = {"o": "circle", "s": "square", "^": "diamond-open", "D": "diamond", "v": "circle-open", "P": "cross",
         "X": "x", "x": "x"}  # fmt: skip
STROKES = "_x"  # markers that consist of lines only
DASHES = {"solid": "solid", "dashed": "dash", "dotted": "dot", "dashdot": "dashdot", "longdash": "longdash",
          "longdashdot": "longdashdot", "dashdotdot": "6px,2px,1px,2px,1px,2px", "twodash": "6px,2px,3px,2px"}  # fmt: skip
COLOURS = "Viridis"
LABEL_MAX, TICK_MAX, NAME_MAX = 36, 28, 72  # characters of a name in a legend, at an axis, beside the mouse
TICKS_MAX = 60  # names at an axis
_SYMLOG = (0, 1, 10, 100, 1000, 10_000, 100_000, 1_000_000)


def plain(text: str, maximum: int = 120) -> str:
    """Text escaped so that plotly, which interprets some tags and entities as markup, shows it unchanged."""
    return html.escape(safe_text(text, maximum), quote=False)


def _name(name: str) -> str:
    """The name of a point or of a pair of models beside the mouse: long ones lose their middles, and none its end."""
    return " | ".join(plain(short_name(part, NAME_MAX)) for part in name.split(" | "))


def numbers(values: Array) -> list[float | None]:
    """Values rounded to seven digits; None, a gap, for those that are not finite."""
    return [float(f"{v:.7g}") if math.isfinite(v) else None for v in np.asarray(values, dtype=np.float64)]


def panel_json(panel: Panel) -> Json:
    """The traces and layout of one panel."""
    labels = list(dict.fromkeys(layer.label for layer in panel.layers if layer.label))
    words = dict(zip(labels, short_names(labels, LABEL_MAX), strict=True))
    seen: set[str] = set()
    traces: list[Json] = []
    for layer in panel.layers:
        made = _cells(layer, panel) if layer.kind == "cells" else _points(layer, panel, seen, words)
        traces.append(made)
    # Above the left end of the plot and below the buttons, which would cover the title of a narrow panel.
    layout: Json = {"title": {"text": plain(panel.title), "x": 0, "xref": "paper", "xanchor": "left",
                              "y": 1, "yref": "paper", "yanchor": "bottom", "pad": {"b": 6}}}  # fmt: skip
    if panel.z is None:
        layout["xaxis"], layout["yaxis"] = _axis(panel.x, panel), _axis(panel.y, panel)
        if panel.equal or any(layer.kind == "cells" for layer in panel.layers):
            layout["yaxis"]["scaleanchor"] = "x"  # type: ignore[index]
        if any(layer.kind == "cells" for layer in panel.layers):
            layout["yaxis"]["autorange"] = "reversed"  # type: ignore[index]
            # The axes end where the cells do, so that the names stand beside them.
            layout["xaxis"]["constrain"] = layout["yaxis"]["constrain"] = "domain"  # type: ignore[index]
    else:
        axes = zip("xyz", (panel.x, panel.y, panel.z), strict=True)
        middle, half = solid_box(panel)
        scene: Json = {f"{w}axis": _axis(axis, panel) for w, axis in axes}
        for w, m, h in zip("xyz", middle.tolist(), half.tolist(), strict=True):
            scene[f"{w}axis"]["range"] = [float(f"{m - h:.7g}"), float(f"{m + h:.7g}")]  # type: ignore[index]
        # Equal units, in a box whose diagonal is not longer than that of plotly's cube, so that the camera shows all of it.
        sides = np.sqrt(3) * half / np.linalg.norm(half)
        ratio = {w: float(f"{side:.5g}") for w, side in zip("xyz", sides, strict=True)}
        camera = {"eye": {"x": 1.45, "y": 1.45, "z": 1.05}, "center": {"x": 0, "y": 0, "z": -0.12}}
        layout["scene"] = scene | {"aspectmode": "manual", "aspectratio": ratio, "camera": camera}
    return {"traces": traces, "layout": layout}


def _written(axis: FigureAxis) -> tuple[tuple[float, str], ...]:
    """The ticks of an axis whose names are written."""
    return axis.ticks[:: max(1, -(-len(axis.ticks) // TICKS_MAX))]


def left_out(panel: Panel) -> str:
    """What is to be said of the names of a panel that a page does not write; "" if it writes all."""
    return names_left_out(panel, len(_written(panel.x)), len(_written(panel.y)))


def _axis(axis: FigureAxis, panel: Panel) -> Json:
    made: Json = {"title": {"text": plain(_named(axis))}, "automargin": True}
    if panel.z is not None:
        made = {"title": {"text": plain(axis.label)}}
    if axis.ticks:
        shown = _written(axis)
        made |= {
            "zeroline": False,
            "tickvals": [at for at, _ in shown],
            "ticktext": [plain(word) for word in short_names([word for _, word in shown], TICK_MAX)],
        }
        made["tickangle"] = "auto"
    elif axis.scale == "log":
        made |= {"type": "log", "dtick": "D2", "exponentformat": "none"}
    elif axis.scale == "symlog":
        at = _symlog_ticks(np.concatenate([layer.x for layer in panel.layers]))
        made |= {"tickvals": [math.log10(1 + v) for v in at], "ticktext": [f"{v:,}" for v in at]}
    if axis.limits and axis.scale == "linear":
        made["range"] = list(axis.limits)
    return made


def _symlog_ticks(x: Array) -> list[int]:
    """Positions of ticks of an axis over the log of 1 + x: powers of ten, or if few of them are among the data, also 2 and 5 times these."""
    known = x[np.isfinite(x)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    inside = sum(low <= v <= high for v in _SYMLOG)
    return [m * v for v in _SYMLOG for m in ((1, 2, 5) if inside < 3 and v else (1,))]


def _named(axis: FigureAxis) -> str:
    log = {"linear": "", "log": ", log", "symlog": ", log(1 + x)"}[axis.scale]
    return axis.label + log if axis.label else ""


def _on(axis: FigureAxis, values: Array) -> Array:
    """Values as drawn on an axis: log10(1 + value) for "symlog", which plotly does not have."""
    if axis.scale != "symlog":
        return values
    with np.errstate(invalid="ignore", divide="ignore"):
        placed: Array = np.log10(1 + values)
    return placed


def _points(layer: Layer, panel: Panel, seen: set[str], words: Mapping[str, str]) -> Json:
    flat = panel.z is None or layer.z is None
    first = bool(layer.label) and layer.label not in seen
    seen.add(layer.label)
    n = len(layer.x)
    colours: object = shades(layer.colour, n) if layer.shaded and n > 1 else layer.colour
    line: Json = {"width": 1.4 if flat else 3, "dash": DASHES.get(layer.dash, "solid")}
    line["color"] = (
        colours if not flat and layer.shaded else shades(layer.colour, 3)[1] if layer.shaded else layer.colour
    )
    made: Json = {
        "type": "scatter" if flat else "scatter3d",
        "mode": _mode(layer),
        "x": numbers(_on(panel.x, layer.x)),
        "y": numbers(_on(panel.y, layer.y)),
        "line": line,
        "marker": _marker(layer, panel, colours, flat),
        "hoverinfo": "text" if layer.names else "skip",
        "hovertext": [_said(layer, panel, k) for k in range(n)] if layer.names else [],
        "showlegend": first,
    }
    if layer.label:
        made |= {"name": plain(words[layer.label]), "legendgroup": plain(layer.label, 0)}
        made["legendrank"] = 1001 if layer.reference else 1000  # references come last
    if not flat and layer.z is not None:
        made["z"] = numbers(layer.z)
    if flat and layer.low is not None and layer.high is not None:
        made["error_y"] = _bars(layer)
    return made


def _mode(layer: Layer) -> str:
    if layer.kind == "points":
        return "markers"
    return "lines+markers" if layer.mark or layer.shaded else "lines"


def _marker(layer: Layer, panel: Panel, colours: object, flat: bool) -> Json:
    symbols = SYMBOLS if flat else SOLID
    size: float | list[float] = round(2.0 + (1.6 if flat else 1.1) * layer.size, 2)
    if layer.every > 1:
        size = [0 if k % layer.every else size for k in range(len(layer.x))]  # type: ignore[misc]
    made: Json = {"symbol": symbols.get(layer.mark, "circle"), "size": size, "color": colours}
    if layer.mark in STROKES:
        made["line"] = {"color": layer.colour, "width": 2}
    if layer.value is not None:
        made |= {
            "color": numbers(layer.value),
            "colorscale": COLOURS,
            "reversescale": True,
            "showscale": True,
            "colorbar": {"title": _bar_title(panel)},
        }
        if panel.value_limits:
            made |= {"cmin": panel.value_limits[0], "cmax": panel.value_limits[1]}
    return made


def _bars(layer: Layer) -> Json:
    assert layer.low is not None and layer.high is not None
    return {
        "type": "data",
        "symmetric": False,
        "array": numbers(layer.high - layer.y),
        "arrayminus": numbers(layer.y - layer.low),
        "thickness": 1,
        "width": 0,
    }


def _said(layer: Layer, panel: Panel, k: int) -> str:
    """The text shown next to the mouse pointer: the name, then the values with their units."""
    lines = [_name(layer.names[k])]
    if panel.equal or panel.z is not None:
        return lines[0]
    if panel.x.label and not panel.x.ticks:
        x = float(layer.x[k])
        lines.append(f"{plain(panel.x.label)}: {f'{x:.0f}' if x.is_integer() else figure(x, 6)}")
    if layer.low is not None and layer.high is not None:
        se = float(layer.high[k] - layer.low[k]) / 2
        said = with_error(float(layer.y[k]), se).removesuffix(" ± -")
        lines.append(f"{plain(panel.y.label)}: {said}")
    elif not panel.y.ticks:
        lines.append(f"{plain(panel.y.label)}: {figure(float(layer.y[k]))}")
    return "<br>".join(lines)


def _cells(layer: Layer, panel: Panel) -> Json:
    """A matrix as a heat map, of log10 of the values if the panel says so; the smallest is the brightest."""
    assert layer.value is not None
    n_x, n_y = int(layer.x.max()) + 1, int(layer.y.max()) + 1
    grid = np.full((n_y, n_x), np.nan)
    words = np.full((n_y, n_x), "", dtype=object)
    at = layer.y.astype(int), layer.x.astype(int)
    value = layer.value
    with np.errstate(divide="ignore", invalid="ignore"):
        grid[at] = np.where(value >= 0, np.log10(value), np.nan) if panel.value_log else value
    known = grid[np.isfinite(grid)]
    grid[np.isneginf(grid)] = known.min() if len(known) else 0.0  # a KL of 0 is as bright as the smallest
    words[at] = [_cell_words(layer, panel, k) for k in range(len(value))]
    made: Json = {
        "type": "heatmap",
        "z": [numbers(row) for row in grid],
        "hovertext": [[str(w) for w in row] for row in words],
        "hoverinfo": "text",
        "colorscale": COLOURS,
        "reversescale": True,
        "colorbar": {"title": _bar_title(panel), **_decades(grid, panel)},
    }
    if panel.value_limits:
        made["zmin"], made["zmax"] = _cell_limits(panel.value_limits, panel)
    return made


def _cell_limits(limits: tuple[float, float], panel: Panel) -> tuple[float, float]:
    """The limits of the colours of a heat map in the unit of its cells."""
    low, high = limits
    return (math.log10(low), math.log10(high)) if panel.value_log else limits


def _bar_title(panel: Panel) -> Json:
    """The title of a colour bar, with what is beyond its ends; that is long, and so stands beside the bar."""
    text = "<br>".join(plain(line) for line in (panel.value_label, panel.value_beyond) if line)
    return {"text": text, "side": "right"} if panel.value_beyond else {"text": text}


def _cell_words(layer: Layer, panel: Panel, k: int) -> str:
    assert layer.value is not None
    name, value = _name(layer.names[k]) if layer.names else "", float(layer.value[k])
    if not math.isfinite(value):
        return name if layer.x[k] == layer.y[k] else f"{name}<br>undefined"
    se = (
        float(layer.high[k] - layer.low[k]) / 2
        if layer.low is not None and layer.high is not None
        else math.nan
    )
    said = with_error(value, se) if math.isfinite(se) else figure(value)
    return f"{name}<br>{said} {plain(panel.value_label)}"


def _decades(grid: Array, panel: Panel) -> Json:
    """The ticks of the colour bar of a logarithmic heat map, labelled in the unit of the values."""
    known = grid[np.isfinite(grid)]
    if not panel.value_log or not len(known):
        return {}
    low, high = float(known.min()), float(known.max())
    if panel.value_limits:
        low, high = _cell_limits(panel.value_limits, panel)
    ticks = [(d, m) for d in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
    at = [(d + math.log10(m), m * 10.0**d) for d, m in ticks if low <= d + math.log10(m) <= high]
    return {"tickvals": [a for a, _ in at], "ticktext": [f"{v:g}" for _, v in at]}


def sections(panels: Sequence[Panel]) -> list[Json]:
    """The panels of one figure as plotly's traces and layouts."""
    return [panel_json(panel) for panel in panels]
