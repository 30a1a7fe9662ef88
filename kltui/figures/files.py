"""A figure's files: the picture, its points as CSV, and a short script that draws them again from that CSV."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from kltui.atomic_files import replacing, replacing_together
from kltui.errors import UsageError
from kltui.figures.draw import (
    FORMATS,
    LEGEND_MAX,
    NAME_MAX,
    TITLE_LETTER,
    FigureStyle,
    legend_columns,
    save,
    settings_of,
    symlog_places,
)
from kltui.figures.picture import COLUMNS, Panel, PaperFigure, rows
from kltui.figures.solids import solid_box
from kltui.sanitize import csv_text, safe_text, short_name
from kltui.view.export import csv_field

SCRIPT = """# Draws {picture} again from {table}.
import csv, itertools, matplotlib.figure, operator, pathlib, textwrap
matplotlib.rcParams.update({settings})
here, panels = pathlib.Path(__file__), {panels}
figure = matplotlib.figure.Figure({size}, layout="{layout}")
axes = {{p: figure.add_subplot({rows}, {columns}, n, title=textwrap.fill(p, {letters}, break_on_hyphens=False), **look) for n, (p, look) in enumerate(panels.items(), 1)}}
for (panel, _, label, line, mark, size, width), part in itertools.groupby(csv.DictReader(here.with_suffix(".csv").read_text(encoding="utf-8").splitlines()), operator.itemgetter("panel", "layer", "series", "line", "mark", "size", "width")):
    colour, {names} = zip(*([r["colour"]] + [float(r[c] or "nan") for c in {read}] for r in part))
    {draw}
{finish}
figure.savefig(here.with_suffix(".redrawn.pdf"))
"""
# The points of a layer in one colour at once, otherwise each with the line to it.
_PLOT = (
    "[axes[panel].plot({xyz}, ls=line, marker=mark, color=colour[s][-1], label=label, ms=float(size), mew=float(width) * (mark in '_|x+'),"
    " lw=float(width), markevery=None if s == slice(None) else [-1])"
    " for s in ([slice(None)] if len({{*colour}}) == 1 else [slice(max(0, i - 1), i + 1) for i in range(len(x))])]"
)
_BARS = "({plot}, axes[panel].vlines(x, low, high, color=colour, lw=0.5))"
_VALUES = (
    'axes[panel].scatter({xyz}, c=value, marker=mark, s=float(size)**2, lw=0, cmap="viridis_r", norm="{norm}", vmin={low:.6g}, vmax={high:.6g})'
    " if any(v == v for v in value) else "
)
_TURN = '[axes[p].tick_params(axis="x", rotation=90) for p in {titles}]'
_WHOLE = "[axes[p].xaxis.set(major_locator=matplotlib.ticker.MaxNLocator(5, integer=True)) for p in {titles}]"
_SOLID = (
    '[axes[p].set_box_aspect(look["box_aspect"], zoom=0.85) for p, look in panels.items() if "box_aspect" in look]; '
    '[axis.set(major_locator=matplotlib.ticker.MaxNLocator(4)) for a in axes.values() if a.name == "3d" for axis in (a.xaxis, a.yaxis, a.zaxis)]'
)
_LOG = (
    '[axis.set(major_locator=matplotlib.ticker.LogLocator(subs=(1, 2, 5) if operator.truediv(*axis.get_view_interval()[::-1]) < 80 else (1,)), major_formatter="{x:g}", minor_formatter="")'
    ' for a in figure.axes for axis in (a.xaxis, a.yaxis) if axis.get_scale() == "log"]'
)
_COLOUR_BAR = "[figure.colorbar(axes[p].collections[0], ax=axes[p], label=words) for p, words in {bars}.items() if axes[p].collections]"
_LEGEND = (
    "(named := dict([*{{text: handle for a in axes.values() for handle, text in zip(*a.get_legend_handles_labels())}}.items()][:{most}]))"
    ' and figure.legend(named.values(), named, loc="outside lower center", ncols={ncols}, frameon=False)'
)


def checked_path(path: Path) -> Path:
    """The path of a figure to write. Raises UsageError if its format is unknown or its folder not writable."""
    return checked_file("--out", path, "figure", FORMATS)


def checked_file(option: str, path: Path, what: str, formats: Sequence[str]) -> Path:
    """The path that `option` names for a `what` in one of `formats`. Raises UsageError if it has another format or is not writable."""
    if path.suffix[1:].lower() not in formats:
        raise UsageError(
            f"{option} {safe_text(str(path))}: a {what} is written as {', '.join(formats)}",
            f"For example {option} {safe_text(path.stem or what)}.{formats[0]}",
        )
    if path.is_dir():
        raise UsageError(
            f"{option} {safe_text(str(path))} is a folder", f"Name a file in it, such as {what}.{formats[0]}."
        )
    check_folder(path.parent, option)
    return path


def check_folder(folder: Path, option: str = "--out") -> None:
    """Raises UsageError if the folder that `option` names is not writable and cannot be created."""
    hint = "Choose a folder that you may write to."
    there = next(f for f in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(f))
    if not there.is_dir():
        raise UsageError(
            f"{option}: cannot make {safe_text(str(folder))}: {safe_text(str(there))} is not a folder", hint
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{option}: {safe_text(str(there))} is not writable", hint)


def write(picture: PaperFigure, path: Path, look: FigureStyle) -> list[Path]:
    """Writes a figure, its CSV and its script, all or none of them; returns their paths."""
    table, script = path.with_suffix(".csv"), path.with_suffix(".py")
    with replacing_together(path.parent) as aside:
        with (aside / path.name).open("wb") as file:
            size = save(picture, path, look, file)
        write_table(aside / table.name, COLUMNS, rows(picture))
        (aside / script.name).write_bytes(script_text(picture, path, look, size).encode())
    return [path, table, script]


def script_text(picture: PaperFigure, path: Path, look: FigureStyle, size: tuple[float, float]) -> str:
    """The script that draws a figure of `size` inches again from the CSV beside it."""
    columns = max(1, min(picture.columns, len(picture.panels)))
    xyz = ["x", "y", "z"] if any(p.z is not None for p in picture.panels) else ["x", "y"]
    layers = [layer for panel in picture.panels for layer in panel.layers]
    bars = any(layer.low is not None and layer.kind != "cells" for layer in layers)
    value = any(layer.value is not None for layer in layers)
    read = xyz + ["low", "high"] * bars + ["value"] * value
    draw = _PLOT.format(xyz=", ".join(f"{v}[s]" for v in xyz))
    draw = _BARS.format(plot=draw) if bars else draw
    draw = _VALUES.format(xyz=", ".join(xyz), **_value_scale(picture)) * value + draw
    return SCRIPT.format(
        picture=ascii(safe_text(path.name)),
        table=ascii(safe_text(path.with_suffix(".csv").name)),
        settings=ascii(_plain(settings_of(look))),
        panels=ascii({csv_text(p.title): _axes(p) for p in picture.panels}),
        size=tuple(round(side, 2) for side in size),
        layout="compressed" if any(layer.kind == "cells" for layer in layers) else "constrained",
        rows=-(-len(picture.panels) // columns),
        columns=columns,
        letters=max(12, int(size[0] / columns / TITLE_LETTER)),
        names=", ".join(read),
        read=tuple(read),
        draw=draw,
        finish=_finish(picture, size[0]),
    )


def _plain(settings: Mapping[str, object]) -> dict[str, object]:
    """The settings that are numbers, words, or lists of them, and so can be written into a script."""
    plain = (bool, int, float, str)
    return {
        name: value
        for name, value in settings.items()
        if isinstance(value, plain) or (isinstance(value, list) and all(isinstance(v, plain) for v in value))
    }


def _finish(picture: PaperFigure, width: float) -> str:
    """Statements on ticks, colour bars and the legend, once everything is drawn."""
    scales = {axis.scale for p in picture.panels for axis in (p.x, p.y)}
    upright = [csv_text(p.title) for p in picture.panels if p.x.ticks]
    whole = [csv_text(p.title) for p in picture.panels if p.x.whole and p.x.scale == "linear"]
    bars = {csv_text(p.title): safe_text(p.value_label) for p in picture.panels if p.value_label}
    labels = list(dict.fromkeys(layer.label for p in picture.panels for layer in p.layers if layer.label))
    said = [_TURN.format(titles=ascii(upright))] if upright else []
    said += [_WHOLE.format(titles=ascii(whole))] if whole else []
    said += [_SOLID] if any(p.z is not None for p in picture.panels) else []
    said += [_COLOUR_BAR.format(bars=ascii(bars))] if bars else []
    said += [_LOG] if "log" in scales or any(p.value_log for p in picture.panels) else []
    said += [_LEGEND.format(most=LEGEND_MAX, ncols=legend_columns(labels, width))] if labels else []
    return "; ".join(said) or "pass"


def _value_scale(picture: PaperFigure) -> dict[str, object]:
    """Scale and limits of the values shown by colour: those of the first panel that has any, for all panels."""
    panel = next((p for p in picture.panels if p.value_label), None)
    if panel is None:
        return {"norm": "linear", "low": 0.0, "high": 1.0}
    every = np.concatenate([layer.value for layer in panel.layers if layer.value is not None])
    known = every[np.isfinite(every) & ((every > 0) | (not panel.value_log))]
    ends = (float(known.min()), float(known.max())) if len(known) else (0.1, 1.0)
    low, high = panel.value_limits or ends
    return {"norm": "log" if panel.value_log else "linear", "low": low, "high": high}


def _axes(panel: Panel) -> dict[str, object]:
    """The arguments of matplotlib's add_subplot for a panel's axes."""
    look: dict[str, object] = {}
    if panel.z is not None:
        middle, half = solid_box(panel)
        look = {"projection": "3d", "proj_type": "ortho", "box_aspect": tuple(half.round(6).tolist())}
        ends = zip("xyz", (middle - half).tolist(), (middle + half).tolist(), strict=True)
        look |= {f"{which}lim": (low, high) for which, low, high in ends}
        look |= dict(zip(("azim", "elev"), panel.turned, strict=True)) if panel.turned else {}
    for which, axis in (("x", panel.x), ("y", panel.y), ("z", panel.z)):
        if axis is None:
            continue
        look[f"{which}label"] = safe_text(axis.label)
        if axis.scale != "linear":
            look[f"{which}scale"] = axis.scale
        ticks = axis.ticks or (_symlog_ticks(panel, which) if axis.scale == "symlog" else ())
        if ticks:
            look[f"{which}ticks"] = [at for at, _ in ticks]
            look[f"{which}ticklabels"] = [short_name(word, NAME_MAX) for _, word in ticks]
        if axis.limits:
            look[f"{which}lim"] = axis.limits
    cells = [layer for layer in panel.layers if layer.kind == "cells"]
    if cells:
        look["xlim"] = (-0.5, float(cells[0].x.max()) + 0.5)
        look["ylim"] = (float(cells[0].y.max()) + 0.5, -0.5)  # as a matrix is read
    if cells or (panel.equal and panel.z is None):
        look |= {"aspect": "equal", "adjustable": "box" if cells else "datalim"}
    return look


def _symlog_ticks(panel: Panel, which: str) -> Sequence[tuple[float, str]]:
    """Ticks of a symlog axis over the data of its panel."""
    every = np.concatenate([np.zeros(0), *(getattr(layer, which) for layer in panel.layers)])
    known = every[np.isfinite(every)]
    return symlog_places(float(known.min()), float(known.max())) if len(known) else ()


def write_table(path: Path, columns: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Writes a CSV in the format of exports: floats with all their digits, "" for undefined or missing values."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([csv_field(value) for value in line] for line in lines)
    with replacing(path) as file:
        file.write(stream.getvalue().encode())
