"""A figure's files: the picture, its points as CSV, and a short script that draws them again from that CSV."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from kltui.atomic_files import replacing, replacing_together
from kltui.errors import UsageError
from kltui.figures.draw import FORMATS, FigureStyle, save
from kltui.figures.picture import COLUMNS, Panel, PaperFigure, rows
from kltui.figures.solids import solid_box
from kltui.sanitize import csv_text, safe_text
from kltui.view.export import csv_field

SCRIPT = """# Draws {picture} again from {table}.
import csv, itertools, matplotlib, operator, pathlib, textwrap
from matplotlib.figure import Figure
here, panels = pathlib.Path(__file__), {panels}
figure = Figure({size}, layout="constrained")
axes = {{p: figure.add_subplot({rows}, {columns}, n, title=textwrap.fill(p, 32), **look) for n, (p, look) in enumerate(panels.items(), 1)}}
table = csv.DictReader(here.with_suffix(".csv").read_text(encoding="utf-8").splitlines())
for (panel, _, label, line, mark, colour, size, width), part in itertools.groupby(table, operator.itemgetter("panel", "layer", "series", "line", "mark", "colour", "size", "width")):
    {names} = zip(*([float(r[c] or "nan") for c in {read}] for r in part))
    {draw}
(named := {{text: handle for a in axes.values() for handle, text in zip(*a.get_legend_handles_labels())}}) and figure.legend(named.values(), named, loc="outside lower center", ncols={columns} + 1, fontsize=6)
with matplotlib.rc_context({{"pdf.fonttype": 42}}): figure.savefig(here.with_suffix(".redrawn.pdf"))
"""
_PLOT = "axes[panel].plot(x, y, {z}ls=line, marker=mark, color=colour, label=label, ms=float(size), lw=float(width))"
_BARS = "; axes[panel].vlines(x, low, high, color=colour, lw=0.5)"
_TURN = '; axes[panel].tick_params(axis="x", rotation=90)'
_VALUES = (
    'axes[panel].scatter(x, y, {z}c=value, marker=mark, s=float(size)**2, lw=0, cmap="viridis_r", norm="{norm}", vmin={low:.6g}, vmax={high:.6g})'
    " if any(v == v for v in value) else "
)


def checked_path(path: Path) -> Path:
    """The path of a figure to write. Raises UsageError where no figure can be written so."""
    return checked_file("--out", path, "figure", FORMATS)


def checked_file(option: str, path: Path, what: str, formats: Sequence[str]) -> Path:
    """The path that an option names for a `what` in one of `formats`. Raises UsageError where it cannot be written so."""
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
    """Raises UsageError where the folder that an option writes to can neither be written nor made."""
    hint = "Choose a folder that you may write to."
    there = next(f for f in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(f))
    if not there.is_dir():
        raise UsageError(
            f"{option}: cannot make {safe_text(str(folder))}: {safe_text(str(there))} is not a folder", hint
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{option}: {safe_text(str(there))} is not writable", hint)


def write(picture: PaperFigure, path: Path, look: FigureStyle) -> list[Path]:
    """Paths of the figure, its CSV and its script, all complete."""
    table, script = path.with_suffix(".csv"), path.with_suffix(".py")
    with replacing_together(path.parent) as aside:
        with (aside / path.name).open("wb") as file:
            save(picture, path, look, file)
        write_table(aside / table.name, COLUMNS, rows(picture))
        (aside / script.name).write_bytes(script_text(picture, path).encode())
    return [path, table, script]


def script_text(picture: PaperFigure, path: Path) -> str:
    """The script that draws a figure again from the CSV beside it."""
    layers = [layer for panel in picture.panels for layer in panel.layers]
    read = ["x", "y"]
    read += ["z"] if any(p.z is not None for p in picture.panels) else []
    read += ["low", "high"] if any(layer.low is not None for layer in layers) else []
    read += ["value"] if any(layer.value is not None for layer in layers) else []
    draw = (_VALUES if "value" in read else "") + _PLOT + (_BARS if "low" in read else "")
    named = any(p.x.ticks for p in picture.panels)  # upright names of ticks need room
    draw += _TURN if named else ""
    columns = min(picture.columns, len(picture.panels))
    n_rows = -(-len(picture.panels) // columns)
    return SCRIPT.format(
        picture=ascii(safe_text(path.name)),
        table=ascii(safe_text(path.with_suffix(".csv").name)),
        panels=ascii({csv_text(p.title): _axes(p) for p in picture.panels}),
        size=(round((3.35 + named) * columns, 2), round((2.8 + 1.5 * named) * n_rows, 2)),
        rows=n_rows,
        columns=columns,
        names=", ".join(read),
        read=tuple(read),
        draw=draw.format(z="z, " if "z" in read else "", **_value_scale(picture)),
    )


def _value_scale(picture: PaperFigure) -> dict[str, object]:
    """Scale and limits of the values that colours say: one for all panels, those of the first that has some."""
    panel = next((p for p in picture.panels if p.value_label), None)
    if panel is None:
        return {"norm": "linear", "low": 0.0, "high": 1.0}
    every = np.concatenate([layer.value for layer in panel.layers if layer.value is not None])
    known = every[np.isfinite(every) & ((every > 0) | (not panel.value_log))]
    ends = (float(known.min()), float(known.max())) if len(known) else (0.1, 1.0)
    low, high = panel.value_limits or ends
    return {"norm": "log" if panel.value_log else "linear", "low": low, "high": high}


def _axes(panel: Panel) -> dict[str, object]:
    """What add_subplot takes for a panel's axes."""
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
        if axis.ticks:
            look[f"{which}ticks"] = [at for at, _ in axis.ticks]
            look[f"{which}ticklabels"] = [safe_text(word, 40) for _, word in axis.ticks]
        if axis.limits:
            look[f"{which}lim"] = axis.limits
    cells = [layer for layer in panel.layers if layer.kind == "cells"]
    if cells:
        look["ylim"] = (float(cells[0].y.max()) + 0.5, -0.5)  # as a matrix is read
    if cells or (panel.equal and panel.z is None):
        look |= {"aspect": "equal", "adjustable": "box" if cells else "datalim"}
    return look


def write_table(path: Path, columns: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Writes a CSV as exports are: floats with all their digits, "" for what is undefined or absent."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([csv_field(value) for value in line] for line in lines)
    with replacing(path) as file:
        file.write(stream.getvalue().encode())
