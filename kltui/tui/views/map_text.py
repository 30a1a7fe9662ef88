"""The panes beside the map: legend, nearest checkpoints, and facts about the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len

from kltui.analysis.number_text import aligned, figure
from kltui.sanitize import in_ascii, safe_text
from kltui.store.comparable import standing_note
from kltui.tui.data import label_of_row
from kltui.tui.number_format import briefly
from kltui.tui.views.map_colours import LEVELS, PARENT, RAMP, UNSCORED, VARIANT
from kltui.tui.views.map_plot import SHARE, UNIT, MapPlot
from kltui.tui.widgets.canvas import Span, fitted, fitted_name, wrapped
from kltui.tui.widgets.run_tree import counted

if TYPE_CHECKING:
    from kltui.analysis.embed import Picture
    from kltui.analysis.kl import KL
    from kltui.analysis.shape import AgainstNull

Lines = list[list[Span]]
RAMP_LINES = 2
UNCERTAIN = 0.3  # root mean square error of points along an axis, relative to their spread
MIN_NAME = 12  # cells of a name below which names can no longer be told apart


def legend_title(plot: MapPlot) -> str:
    """The title of the legend."""
    by = plot.colours.by
    return "Runs" if by == "run" else f"Colour: {safe_text(by, 30)}"


def legend(plot: MapPlot, width: int) -> Lines:
    """Every run or group with its marker; for scores, the ramp with its range."""
    if plot.colours.by == "run":
        return _runs(plot, width)
    return _groups(plot, width) if plot.colours.groups else _ramp(plot, width)


def _runs(plot: MapPlot, width: int) -> Lines:
    look, snapshot = plot.look, plot.kl.snapshot
    here = snapshot.by_name.get(plot.kl.selection.cursor)
    current_label = label_of_row(here) if here is not None else ""
    lines: Lines = []
    widest = min(max(8, width - 16), max((cell_len(safe_text(name)) for name in snapshot.labels), default=0))
    excluded = 0
    for label, (scored, shown) in _counts(plot).items():
        if scored and not shown:
            excluded += 1
            continue
        number = snapshot.run_number[label]
        hidden, current = snapshot.labels[label] in plot.hidden, label == current_label
        ink = "faint" if hidden else "text"
        lines.append(
            [
                (look.glyph("▌", ">") if current else " ", look("accent")),
                (look.marker(number) + " ", look("faint" if hidden else look.series(number))),
                (fitted_name(label, widest), look(ink, bold=current)),
                (f" {shown:>4}" + ("  hidden" if hidden else ""), look("faint")),
            ]
        )
    if excluded:
        lines.append(
            [(f" {counted(excluded, 'run')} not on this map ({plot.kl.key('basis')})", look("muted"))]
        )
    return lines


def _counts(plot: MapPlot) -> dict[str, tuple[int, int]]:
    """{label: (number of scored checkpoints, number on the map)}; cached until checkpoints or map change."""
    snapshot, found = plot.kl.snapshot, plot.map
    if plot.run_counts[0] is not snapshot.rows or plot.run_counts[1] is not found:
        on_map = None if plot.known_lines is None else plot.known_lines.n_of_label
        counts = {
            label: (scored, scored if on_map is None else on_map.get(label, 0))
            for label, scored in snapshot.scored_of_label.items()
        }
        plot.run_counts = snapshot.rows, found, counts
    return plot.run_counts[2]


def _groups(plot: MapPlot, width: int) -> Lines:
    look = plot.look
    widest = max(8, width - 10)
    widest = min(widest, max(cell_len(safe_text(label)) for label, _, _ in plot.colours.groups))
    here = plot.colours.series(plot.cursor) if plot.cursor >= 0 else -1
    return [
        [
            (look.glyph("▌", ">") if series == here else " ", look("accent")),
            (look.marker(series) + " ", look(look.series(series))),
            (fitted(label, widest), look("text", bold=series == here)),
            (f" {count:>4}", look("faint")),
        ]
        for label, series, count in plot.colours.groups
    ]


def _ramp(plot: MapPlot, width: int) -> Lines:
    """The ramp with the lowest and the highest score, and the number of points without a score."""
    look, found = plot.look, plot.colours
    lines: Lines = [[(f" {figure(found.low)} ", look("text"))]]
    for level in range(LEVELS):
        block = look.glyph("██", "##") if look.color else f"{level} "
        lines[0].append((block, look(plot.series_ink(RAMP + level))))
    lines[0].append((f" {figure(found.high)}", look("text")))
    series_n = found.series_n
    none = int((series_n < RAMP).sum()) if series_n is not None else 0
    if none:
        mark = look.marker(0) if look.color else plot.point_marker(UNSCORED)
        ink = look(plot.series_ink(UNSCORED), bold=True)
        lines.append([(f" {mark}", ink), (f" {none} without a score", look("muted"))])
    return lines


def nearest(plot: MapPlot, width: int, name: str, near: Sequence[tuple[str, KL]]) -> Lines:
    """The checkpoints `near` with their KL to `name`, on which the cursor last rested."""
    look = plot.look
    if not near:
        return [[(" shown when the cursor rests", look("faint"))]]
    before = "nearest to " if cell_len(safe_text(name)) <= width - 11 else "to "  # below the pane's title
    lines: Lines = [[(before + fitted_name(name, max(8, width - cell_len(before))), look("muted"))]]
    texts = aligned([briefly(kl.value, kl.se) for _, kl in near])
    texts = [in_ascii(text) for text in texts] if look.ascii_only else texts  # this changes their width
    if width - len(texts[0]) - 5 < MIN_NAME:
        texts = aligned([text.partition(" ")[0] for text in texts])  # names need the room more than errors
    wide = len(texts[0])
    for (other, _), text in zip(near, texts, strict=True):
        mark, style = plot.mark_of(plot.names.index(other)) if other in plot.names else ("-", look("muted"))
        lines.append(
            [
                (f" {mark} ", style),
                (f"{text}  ", look("text")),
                (fitted_name(other, max(8, width - wide - 5)), look("muted")),
            ]
        )
    return lines


def facts(plot: MapPlot, width: int, shape: AgainstNull | None) -> Lines:
    """The picture's quality measures, errors and lines, vectors left out, and a run compared with random walks."""
    if plot.map is None or plot.picture is None:
        return []
    look = plot.look
    said = [f"{plot.method_said}: {plot.counted()}", *plot.picture.words(), *_perplexity_said(plot.picture)]
    said += _errors_said(plot) + _paler_said(plot)
    lines = [[(part, look("muted"))] for text in said for part in wrapped(text, max(8, width))]
    return (
        lines + _descent(plot) + _left_out(plot, width) + _standing(plot, width) + _against_null(plot, shape)
    )


def _perplexity_said(picture: Picture) -> list[str]:
    """The perplexity of t-SNE, and whether nearly every point counts as a neighbour with it; [] if the title says it."""
    used, n = picture.perplexity, len(picture.xyz_Kd)
    if not used >= picture.perplexity_asked:
        return []
    few = f", high for {n} points: far ones count as neighbours too" if 2 * used > n else ""
    return [f"perplexity {used:g}{few}"]


def _errors_said(plot: MapPlot) -> list[str]:
    if plot.errors and plot.n_ellipses:
        what = "one standard error, 39%" if plot.errors == 1 else f"{SHARE:.0%}"
        return [
            f"ellipses: {what} of where a point may lie; texts are the sample",
            f"largest half axis {figure(plot.largest_error, 2)} {UNIT}",
            *_uncertain_axes(plot),
        ]
    return [f"{plot.kl.key('errors')} draws errors"] if plot.drawn_method == "pca" else []


def _paler_said(plot: MapPlot) -> list[str]:
    """What paler colours of a run mean; [] if there are none."""
    if not plot.look.color or plot.colours.by in plot.scores or plot.known_lines is None:
        return []
    if plot.dims == 3:
        return ["paler: farther away"]
    return ["paler: earlier step"] if any(len(rows) > 1 for _, rows in plot.known_lines.lines) else []


def _uncertain_axes(plot: MapPlot) -> list[str]:
    """The axes whose direction another sample of texts would change so much that the delta method is too optimistic.

    Compared with resampled texts, ellipses of 95 % hold 94 to 96 % of them, but down to 87 % along such axes.
    """
    if plot.covariances is None or plot.picture is None:
        return []
    import numpy as np

    error_d = np.einsum("kdd->d", plot.covariances)
    spread_d = (plot.picture.xyz_Kd[: len(plot.covariances), : len(error_d)] ** 2).sum(axis=0)
    shares = np.sqrt(error_d / np.where(spread_d > 0, spread_d, np.inf))
    return [
        f"axis {k} is uncertain (errors are {share:.0%} of its spread): ellipses along it are approximate"
        for k, share in enumerate(shares, 1)
        if share > UNCERTAIN
    ]


def _descent(plot: MapPlot) -> Lines:
    """The meaning of the broken lines, if there are any."""
    if plot.scene is None or not plot.descent:
        return []
    from kltui.view.palette import SHADES

    look, drawn = plot.look, {int(c) for c in plot.scene.code_n[len(plot.names) :] // SHADES}
    named = ((PARENT, "╌╌ parent to child", "-- parent to child"),
             (VARIANT, "┈┈ original to quantised", ".. original to quantised"))  # fmt: skip
    return [
        [(plain if look.ascii_only else fancy, look(plot.series_ink(series)))]
        for series, fancy, plain in named
        if series in drawn
    ]


def _left_out(plot: MapPlot, width: int) -> Lines:
    """The vectors left out of the map, with reasons, and the number of those left out of their runs."""
    look, lines = plot.look, list[list[Span]]()
    for name, why in plot.left_out.items():
        lines.append([(fitted(f"left out: {safe_text(name)}", width), look("warning"))])
        lines.append([(fitted(f"  {why}", width), look("muted"))])
    repeats = plot.map.repeats.left_out if plot.map is not None else ()
    if repeats:
        said = f"{counted(len(repeats), 'checkpoint')} with the weights of another step not drawn"
        lines += [[(part, look("muted"))] for part in wrapped(said, max(8, width))]
    return lines


def _standing(plot: MapPlot, width: int) -> Lines:
    """The note on a map of imported and own vectors, which names the settings in which they may differ."""
    note = standing_note(plot.map.record) if plot.map is not None else ""
    parts = wrapped(safe_text(note.removeprefix("; "), 400), max(8, width)) if note else []
    return [[(part, plot.look("muted"))] for part in parts]


def _against_null(plot: MapPlot, found: AgainstNull | None) -> Lines:
    """The run's shape and, in brackets, the medians of random walks with its step lengths."""
    look = plot.look
    if found is None:
        return []
    own = found.shape
    lines: Lines = [[(f"{safe_text(own.run, 22)} (random walks)", look("muted"))]]
    for name, value, null in (
        ("straightness", f"{own.straightness:.2f}", f"{found.null_straightness:.2f}"),
        ("turning", f"{own.turning:.0f}°", f"{found.null_turning:.0f}°"),
        ("winding", f"{abs(own.winding):.2f}", f"{found.null_winding:.2f}"),
    ):
        lines.append([(f" {name:<13}", look("muted")), (value, look("text")), (f"  ({null})", look("faint"))])
    more = 100 * found.share_winding_more
    lines.append([(f" {more:.0f}% of {found.n_walks} walks wind more", look("muted"))])
    return lines
