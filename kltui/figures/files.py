"""A figure's files: the picture, its points as CSV, and a short script that draws them again from that CSV."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kltui.atomic_files import replacing, replacing_together
from kltui.errors import UsageError
from kltui.figures.draw import (
    FORMATS,
    FigureStyle,
    box_of,
    box_with_ends,
    colour_bars_of,
    drawing_settings,
    panels_of,
    prepared,
    save,
    settings_of,
)
from kltui.figures.fonts import missing_fonts
from kltui.figures.legend import LegendLayout
from kltui.figures.page_layout import too_tall
from kltui.figures.picture import (
    COLUMNS,
    DASHES,
    Panel,
    PaperFigure,
    extends,
    matplotlib_dash,
    names_left_out,
    rows,
)
from kltui.figures.solids import solid_box, zoom_of
from kltui.figures.words import SMALLEST, literal
from kltui.sanitize import csv_text, safe_text
from kltui.view.export import csv_field

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCRIPT = """# Draws {picture} again from {table}.
import csv, itertools, matplotlib.figure, operator, pathlib
matplotlib.rcParams.update({settings})
here, panels = pathlib.Path(__file__), {panels}
figure = matplotlib.figure.Figure({size})
axes = {{panel: figure.add_axes(box, **look) for panel, (box, look) in panels.items()}}
[(getattr(axes[p], f"set_{{w}}ticks")(at, words, **look), getattr(axes[p], f"{{w}}axis").set_minor_formatter("")) for p, w, at, words, look in {ticks}]
for (panel, _, label, line, size, width), part in itertools.groupby(csv.DictReader(here.with_suffix(".csv").read_text(encoding="utf-8").splitlines()), operator.itemgetter("panel", "layer", "series", "line", "size", "width")):
    colour, mark, {names} = zip(*([r["colour"], r["mark"]] + [float(r[c] or "nan") for c in {read}] for r in part))
    {draw}
{finish}
figure.savefig(here.with_suffix(".redrawn.pdf"))
"""
# The points of a layer in one colour at once, otherwise each with the line to it.
_PLOT = (
    "[axes[panel].plot({xyz}, ls={dash}, marker=max(mark), color=colour[s][-1], label=label, ms=float(size), mew=float(width) * (max(mark) in '_|x+'),"
    " lw=float(width), markevery=[k for k, m in enumerate(mark[s]) if m and (s == slice(None) or k == len(mark[s]) - 1)]{solid})"
    " for s in ([slice(None)] if len({{*colour}}) == 1 else [slice(max(0, i - 1), i + 1) for i in range(len(x))])]"
)
_BARS = "({plot}, axes[panel].vlines(x, low, high, color=colour, lw=0.6, alpha=0.7))"
_BANDS = (
    "({plot}, axes[panel].fill_between(x, low, high, color=colour[-1], alpha=0.25, lw=0) if sum(v == v for v in low) > 1 else"
    " axes[panel].vlines(x, low, high, color=colour, lw=0.6, alpha=0.7))"
)
_VALUES = (
    'axes[panel].scatter({xyz}, c=value, marker=max(mark), s=float(size)**2, lw=0, zorder=2.2, plotnonfinite=True, cmap=matplotlib.colormaps["viridis_r"].with_extremes(bad="#c8c8c8"), norm="{norm}", vmin={low:.6g}, vmax={high:.6g})'
    " if any(v == v for v in value) else "
)
_CELLS = (
    'axes[panel].add_collection(matplotlib.collections.PolyCollection([[(i - 0.5, j - 0.5), (i + 0.5, j - 0.5), (i + 0.5, j + 0.5), (i - 0.5, j + 0.5)] for i, j in zip(x, y)], array=[v or {zero:.6g} for v in value], edgecolor="face", lw=0.1, cmap="viridis_r", norm="{norm}", clim=({low:.6g}, {high:.6g})))'
    ' if max(mark) == "s" and any(v == v for v in value) else '
)
_SOLID = (
    '[axes[p].set_box_aspect(look["box_aspect"], zoom=zoom) for p, (_, look), zoom in zip(panels, panels.values(), {zooms})]; '
    "[(a.patch.set_visible(False), setattr(a.zaxis, 'labelpad', -3), [a.tick_params(axis=w, pad=0) for w in 'xyz']) for a in axes.values()]"
)
_COLOUR_BARS = (
    "[(bar := figure.colorbar(next(c for c in axes[p].collections if c.get_array() is not None), cax=figure.add_axes(box), label=words, extend=ends),"
    " bar.set_ticks(at, labels=said), bar.ax.yaxis.set_minor_formatter(''))"
    " for p, box, words, at, said, ends in {bars}]"
)
_ABOVE = "figure.suptitle({words}, x={x}, y={y}, fontsize={size}, fontweight='normal', ha='center', va='top')"
_LEGEND = (
    "found = {{text: handle for a in [*axes.values()][::-1] for handle, text in [*zip(*a.get_legend_handles_labels())][::-1]}}; "
    'figure.legend(*zip(*[(found.get(t, matplotlib.lines.Line2D([], [], ls="")), w) for t, w in {labels}]), loc="lower center", bbox_to_anchor={place},'
    " ncols={ncols}, frameon=False, handlelength={handle}, columnspacing=1.2, markerscale={mark}, borderaxespad=0)"
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


def write(
    picture: PaperFigure, path: Path, look: FigureStyle, notify: Callable[[str], None] = lambda said: None
) -> list[Path]:
    """Writes a figure, its CSV and its script, all or none of them; returns their paths.

    `notify` gets what is to be said of missing fonts, names without room and too large a height.
    """
    table, script = path.with_suffix(".csv"), path.with_suffix(".py")
    with missing_fonts(notify), replacing_together(path.parent) as aside:
        picture, look = prepared(picture, look, notify)
        # in memory first, because on a full disk matplotlib's PDF writer fails with errors of its own
        drawn = io.BytesIO()
        figure = save(picture, path, look, drawn)
        (aside / path.name).write_bytes(drawn.getvalue())
        write_table(aside / table.name, COLUMNS, rows(picture))
        with drawing_settings(look):  # without them, another draw would choose other ticks
            (aside / script.name).write_bytes(script_text(picture, path, look, figure).encode())
    for panel, axes in zip(picture.panels, panels_of(figure), strict=True):
        left_out = names_left_out(panel, len(axes.get_xticks()), len(axes.get_yticks()))
        if left_out:
            notify(left_out)
    tall = too_tall(figure.get_figheight())
    if tall:
        notify(tall)
    return [path, table, script]


def script_text(picture: PaperFigure, path: Path, look: FigureStyle, figure: Figure) -> str:
    """The script that draws a `figure` again from the CSV beside it, with the layout that it has."""
    figure.set_layout_engine("none")  # another draw would lay it out anew, a little differently
    figure.draw_without_rendering()
    xyz = ["x", "y", "z"] if any(p.z is not None for p in picture.panels) else ["x", "y"]
    layers = [layer for panel in picture.panels for layer in panel.layers]
    bars = any(layer.low is not None and layer.kind != "cells" for layer in layers)
    value = any(layer.value is not None for layer in layers)
    read = xyz + ["low", "high"] * bars + ["value"] * value
    solid = ", clip_on=False" if len(xyz) > 2 else ""
    dashes = {layer.dash: matplotlib_dash(layer.dash) for layer in layers if layer.dash in DASHES}
    dash = f"{dashes}.get(line, line)" if dashes else "line"
    draw = _PLOT.format(xyz=", ".join(f"{v}[s]" for v in xyz), solid=solid, dash=dash)
    draw = (_BANDS if any(layer.band for layer in layers) else _BARS).format(plot=draw) if bars else draw
    shown = _CELLS if any(layer.kind == "cells" for layer in layers) else _VALUES
    draw = shown.format(xyz=", ".join(xyz), **_value_scale(picture)) * value + draw
    drawn = list(zip(picture.panels, panels_of(figure), strict=True))
    return SCRIPT.format(
        picture=ascii(safe_text(path.name)),
        table=ascii(safe_text(path.with_suffix(".csv").name)),
        settings=ascii(_plain(settings_of(look))),
        panels=ascii({csv_text(safe_text(p.title)): (box_of(axes), _axes(p, axes)) for p, axes in drawn}),
        size=tuple(round(float(side), 4) for side in figure.get_size_inches()),
        ticks=ascii([found for p, axes in drawn for found in _ticks(csv_text(safe_text(p.title)), axes)]),
        names=", ".join(read),
        read=tuple(read),
        draw=draw,
        finish=_finish(picture, drawn, figure),
    )


def _plain(settings: Mapping[str, object]) -> dict[str, object]:
    """The settings that are numbers, words, or lists of them, and so can be written into a script."""
    plain = (bool, int, float, str)
    return {
        name: value
        for name, value in settings.items()
        if isinstance(value, plain) or (isinstance(value, list) and all(isinstance(v, plain) for v in value))
    }


def _finish(picture: PaperFigure, drawn: Sequence[tuple[Panel, Any]], figure: Figure) -> str:
    """Statements on boxes of three axes, colour bars and the legend, once everything is drawn."""
    said = [_ABOVE.format(**found) for found in _lines_above(figure)]
    if any(p.z is not None for p in picture.panels):
        said.append(_SOLID.format(zooms=[round(zoom_of(axes), 5) for _, axes in drawn]))
    bars = [
        (csv_text(safe_text(p.title)), box_with_ends(bar), bar.ax.get_ylabel(), *found[2:4], extends(p))
        for p, axes in drawn
        for bar in colour_bars_of(axes)
        for found in _ticks("", bar.ax)
        if found[1] == "y"
    ]
    said += [_COLOUR_BARS.format(bars=ascii(bars))] if bars else []
    for legend in figure.legends:
        layout: LegendLayout = legend.drawn_as  # type: ignore[attr-defined]
        box = legend.get_window_extent().transformed(figure.transFigure.inverted())
        place = (round(float(box.x0 + box.x1) / 2, 4), round(float(box.y0), 4))
        labels = ascii([(csv_text(safe_text(label)), literal(words)) for label, words in layout.words])
        said.append(
            _LEGEND.format(
                labels=labels, place=place, ncols=layout.columns, handle=layout.handle, mark=layout.mark
            )
        )
    return "; ".join(said) or "pass"


def _lines_above(figure: Figure) -> Iterator[dict[str, object]]:
    """The line above the panels, if there is one: its words, place and size."""
    if figure.get_suptitle():
        drawn: Any = figure._suptitle  # type: ignore[attr-defined]
        box = drawn.get_window_extent().transformed(figure.transFigure.inverted())
        place = {"x": round(float(box.x0 + box.x1) / 2, 4), "y": round(float(box.y1), 4)}
        yield {"words": ascii(drawn.get_text()), "size": SMALLEST, **place}


def _ticks(panel: str, axes: Any) -> Iterator[tuple[str, str, list[float], list[str], dict[str, object]]]:
    """(panel, axis, positions, labels, their look) of the ticks of each axis of a drawn panel that are in view."""
    for which in "xyz" if axes.name == "3d" else "xy":
        low, high = sorted(getattr(axes, f"get_{which}lim")())
        labels = getattr(axes, f"get_{which}ticklabels")()
        found = zip(getattr(axes, f"get_{which}ticks")(), labels, strict=True)
        shown = [(float(at), label) for at, label in found if low <= at <= high]
        look: dict[str, object] = {}
        if shown and which == "x" and (turned := shown[0][1].get_rotation()):
            place = {"ha": shown[0][1].get_ha(), "va": shown[0][1].get_va(), "rotation_mode": "anchor"}
            look = {"rotation": turned, **place}
        if shown:
            look["fontsize"] = round(float(shown[0][1].get_fontsize()), 2)
        yield (
            panel,
            which,
            [float(f"{at:.12g}") for at, _ in shown],
            [label.get_text() for _, label in shown],
            look,
        )


def _value_scale(picture: PaperFigure) -> dict[str, object]:
    """Scale and limits of the values shown by colour: those of the first panel that has any, for all panels."""
    panel = next((p for p in picture.panels if p.value_label), None)
    if panel is None:
        return {"norm": "linear", "low": 0.0, "high": 1.0, "zero": 0.0}
    every = np.concatenate([layer.value for layer in panel.layers if layer.value is not None])
    known = every[np.isfinite(every) & ((every > 0) | (not panel.value_log))]
    ends = (float(known.min()), float(known.max())) if len(known) else (0.1, 1.0)
    low, high = panel.value_limits or ends
    shown = {"norm": "log", "zero": low} if panel.value_log else {"norm": "linear", "zero": 0.0}
    return shown | {"low": low, "high": high}


def _axes(panel: Panel, axes: Any) -> dict[str, object]:
    """The arguments of matplotlib's add_axes for a drawn panel's axes."""
    look: dict[str, object] = {"title": axes.get_title()}
    if panel.z is not None:
        _, half = solid_box(panel)
        look |= {"projection": "3d", "proj_type": "ortho", "box_aspect": tuple(half.round(6).tolist())}
        look |= {"azim": float(axes.azim), "elev": float(axes.elev)}
    for which, axis in (("x", panel.x), ("y", panel.y), ("z", panel.z)):
        if axis is None:
            continue
        look[f"{which}label"] = getattr(axes, f"get_{which}label")()
        if axis.scale != "linear":
            look[f"{which}scale"] = axis.scale
        look[f"{which}lim"] = tuple(float(f"{end:.9g}") for end in getattr(axes, f"get_{which}lim")())
    return look


def write_table(path: Path, columns: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Writes a CSV in the format of exports: floats with all their digits, "" for undefined or missing values."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([csv_field(value) for value in line] for line in lines)
    with replacing(path) as file:
        file.write(stream.getvalue().encode())
