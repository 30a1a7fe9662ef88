"""The plot of the map: trajectories in two or three dimensions, with colours, errors and lines of descent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.style import Style

from kltui.analysis.number_text import figure
from kltui.analysis.point import grid_of, trajectory_of
from kltui.sanitize import safe_text, short_name
from kltui.tui.number_format import briefly, loss_of
from kltui.tui.selection import NO_RUN
from kltui.tui.views.map_colours import (
    BOX,
    LEVELS,
    PARENT,
    RAMP,
    UNSCORED,
    VARIANT,
    Colours,
    Scores,
    ramp_ink,
)
from kltui.tui.views.map_scene import (
    Cloud,
    MapLines,
    Threads,
    cloud_of,
    ellipses,
    layer_threads,
    lines_of,
    model_of,
    related,
)
from kltui.tui.widgets.canvas import Span, spelled, width_of
from kltui.tui.widgets.plot import PlotPane
from kltui.tui.widgets.run_tree import counted
from kltui.view.palette import SHADES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from kltui.analysis.embed import Picture
    from kltui.analysis.map import Map
    from kltui.figures.shown import ShownSubject
    from kltui.view.plot_data import Floats, Scene, Window
    from kltui.view.space import Outline, Turn

    Rows = NDArray[np.intp]
    ColouredFor = tuple[Map, str, Mapping[str, int], Scores]

SAID = {"tsne": "t-SNE", "pca": "PCA", "mds": "MDS"}
UNIT = "√(bits/byte)"
SHARE = 0.95  # of where a point may lie, in the wide ellipses
ERRORS = ("", "± 1 s.e.", f"± {SHARE:.0%}")
MAX_ELLIPSES = 40  # more would overlap too much


class MapPlot(PlotPane):
    """The trajectories of all runs that are not hidden."""

    title = "Map"

    def __init__(self) -> None:
        super().__init__(id="map-plot")
        self.map: Map | None = None
        self.raw: Map | None = None  # the map's vectors as they were scored
        self.picture: Picture | None = None
        self.n_total = 0  # number of scored checkpoints; the first picture of a large map shows fewer
        self.waiting = ""
        self.null_run = ""
        self.colours = Colours()
        self.by = "run"
        self.scores: Scores = {}
        self.turn: Turn | None = None
        self.errors = 0  # index in ERRORS
        self.covariances: NDArray[np.float64] | None = None
        self.n_ellipses = 0
        self.largest_error = math.nan  # largest half axis of an ellipse, sqrt(bits/byte)
        self.descent = True
        self.n_shown = 0
        #: (rows, map, {label: (scored, on the map)} counted for them)
        self.run_counts: tuple[object, object, dict[str, tuple[int, int]]] = (None, None, {})
        self._ends: list[tuple[int, str]] = []
        self.known_lines: MapLines | None = None
        self._ticked_for: tuple[object, ...] = ()
        self._ticked: Rows | None = None
        self._coloured_for: tuple[object, ...] = ()
        self._drawn_for: tuple[object, ...] = ()
        self._threads: Threads | None = None
        self._cloud: Cloud | None = None
        self._box_edges: list[tuple[Sequence[int], str]] = []

    # -- header ---------------------------------------------------------------------------------

    @property
    def drawn_method(self) -> str:
        """The method of the drawn picture; "" before there is one."""
        return self.picture.method if self.picture is not None else ""

    @property
    def dims(self) -> int:
        """The dimensions of the drawn picture."""
        return self.picture.dims if self.picture is not None else 2

    @property
    def method_said(self) -> str:
        """The method's name on screen."""
        return SAID.get(self.drawn_method, safe_text(self.drawn_method, 60)) + " 3-D" * (self.dims == 3)

    def header_left(self) -> list[Span]:
        """The method and the number of checkpoints, then as many quality measures as fit."""
        look = self.look
        spans = [*super().header_left(), (f"  {self.method_said}", look("text", bold=True))]
        room = self.body_width - width_of(self.header_right()) - 1
        for text in self._words() if self.map is not None else []:
            said = (text, look("muted"))
            if width_of([*spans, said]) <= room:
                spans.append(said)
        return spans

    def _words(self) -> Iterator[str]:
        assert self.map is not None and self.picture is not None
        yield f"  {self.counted()}"
        for words in self.picture.words():
            yield f", {words}"
        if self.errors and self.n_ellipses:
            part = "" if self.n_ellipses == self.n_shown else f" of {self.n_ellipses} points"
            yield f", {ERRORS[self.errors]}{part}"
        if self.colours.by != "run":
            yield f", by {safe_text(self.colours.by, 30)}"

    def counted(self) -> str:
        """The numbers of checkpoints drawn and scored, of layers, and of vectors left out, in words."""
        assert self.map is not None
        layers = self.known_lines.n_layers if self.known_lines is not None else 0
        total = max(self.n_total, len(self.map)) - layers
        of = "" if self.n_shown == total else f"{self.n_shown:,} of "
        said = of + counted(total, "checkpoint") + (f" and {counted(layers, 'layer')}" if layers else "")
        return said + (f", {len(self.left_out)} left out" if self.left_out else "")

    @property
    def left_out(self) -> dict[str, str]:
        """{name: reason} of the vectors left out because few texts would remain for the map."""
        return self.map.left_out if self.map is not None else {}

    def header_right(self) -> list[Span]:
        """What is being computed, and if there is room, what is shown in the meantime."""
        room = self.body_width - len(self.title) - len(self.method_said) - 6
        said = self.waiting if len(self.waiting) <= room else self.waiting.partition(";")[0]
        return [(said, self.look("warning"))] if said else []

    # -- drawing --------------------------------------------------------------------------------

    def show_map(
        self,
        found: Map,
        picture: Picture,
        *,
        null_run: str = "",
        n_total: int = 0,
        lines: MapLines | None = None,
        coloured: tuple[ColouredFor, Colours] | None = None,
        cloud: Cloud | None = None,
    ) -> None:
        """Draws a map's picture; the window stays if method, dimensions and number of points are the same.

        Rows of the picture beyond the map's own belong to a random walk for `null_run`. `lines`: the map's, if known.
        `coloured`: (what `coloured_for` gives, the colours computed from it), if known; `cloud`: the picture's, if known.
        """
        if coloured is not None:
            self.take_colours(*coloured)
        self._cloud = cloud or self._cloud
        before = self.picture
        same = before is not None and (before.method, before.dims) == (picture.method, picture.dims)
        same = same and self.map is not None and len(found) == len(self.map) and null_run == self.null_run
        if before is None or (found, null_run, picture.dims) != (self.map, self.null_run, before.dims):
            self.covariances = None
        self.null_run, self.n_total = null_run, n_total
        if lines is not None or found is not self.map:
            self.known_lines = lines or lines_of(found)
        self.map, self.picture = found, picture
        self._draw(keep_window=same)
        self.follow(self.kl.selection.cursor)

    def _draw(self, *, keep_window: bool) -> None:
        if self.map is None or self.picture is None or self.known_lines is None:
            return
        drawn_for = self._draws()
        if drawn_for != self._drawn_for or self._threads is None:
            self._drawn_for = drawn_for
            self._colour(self.map, self.known_lines)
            self._threads = self._make_threads(self.known_lines, len(self.picture.xyz_Kd))
        self._name_axes()
        self.show(self._scene(self.picture, self._threads), self.map.names, keep_window=keep_window)

    def _colour(self, found: Map, lines: MapLines) -> None:
        """Computes the points' series if the map, the property, the runs' numbers or the scores have changed."""
        from kltui.tui.views.map_colours import colours

        coloured_for = self.coloured_for(found)
        if coloured_for != self._coloured_for:
            self._coloured_for, self.colours = coloured_for, colours(*coloured_for, lines.labels)

    def coloured_for(self, found: Map) -> ColouredFor:
        """The map and all else that the colours of its points depend on."""
        return found, self.by, self.kl.snapshot.run_number, self.scores

    def take_colours(self, made_for: ColouredFor, found: Colours) -> None:
        """Uses colours that were computed from `made_for` from the next drawing on."""
        self._coloured_for, self.colours = made_for, found

    def _name_axes(self) -> None:
        assert self.picture is not None
        unit = (
            ", no unit" if self.drawn_method == "tsne" else f", {UNIT}" if self.drawn_method in SAID else ""
        )
        if self.dims == 3:
            turn = self._turn()
            self.x_name = f"turned {turn.azimuth:.0f}°{unit}"
            self.y_name = f"raised {turn.elevation:.0f}°{unit}"
            return
        names = [self.axis_said(k) for k in range(2)]
        self.x_name, self.y_name = names[0] + unit, names[1] + unit

    def axis_said(self, axis: int) -> str:
        """The name of an axis (from 0), for PCA with its share of the squared distances."""
        share = self.picture.axis_share if self.picture is not None else ()
        return f"axis {axis + 1}" + (f" ({share[axis]:.1%})" if axis < len(share) and any(share) else "")

    def _turn(self) -> Turn:
        from kltui.view.space import Turn

        self.turn = self.turn or Turn()
        return self.turn

    def _make_threads(self, lines: MapLines, n_places: int) -> Threads:
        """The lines to draw, without coordinates."""
        from kltui.view.plot_data import threads

        keep_n = self._kept(lines)
        drawn, loose = self._drawn_lines(lines, keep_n), lines.loose[keep_n[lines.loose]]
        self.n_shown = sum(map(len, drawn)) + len(loose)
        self._ends += self._loose_ends(lines, loose)
        drawn += layer_threads(lines, keep_n)
        if n_places > len(keep_n) and self._null_base not in self.hidden:
            drawn.append(range(len(keep_n), n_places))
        code_n, segments = threads([(0, rows) for rows in drawn], n_places)
        code_n[loose[code_n[loose] < 0]] = SHADES - 1
        return Threads(
            code_n, segments, self._series_of_all(n_places), related(lines, code_n) if self.descent else []
        )

    def _scene(self, picture: Picture, drawn: Threads) -> Scene:
        """The plot data: the lines at their (rotated) coordinates, with box, lines of descent and ellipses below them."""
        import numpy as np

        from kltui.view.cell_buffer import slices_of
        from kltui.view.plot_data import Scene
        from kltui.view.space import dashes, with_outlines

        if self._cloud is None or self._cloud.picture is not picture:
            self._cloud = cloud_of(picture)
        cloud, deep = self._cloud, picture.dims == 3
        places, box = cloud.turned(self._turn()) if deep else (cloud.places, cloud.box)
        shade_n = slices_of(np.ascontiguousarray(places[:, 2]), SHADES) if deep else drawn.code_n % SHADES
        code_n = np.where(drawn.code_n >= 0, drawn.series_n * SHADES + shade_n, -1).astype(np.int16)
        strokes = [
            (code, s) for code, count, a, b in drawn.related for s in dashes(places[a], places[b], count)
        ]
        under = [*box, *strokes, *self._ellipses(places, code_n)]
        edges = [range(len(places) + 12 * axis + 1, len(places) + 12 * axis + 12, 3) for axis in range(3)]
        self._box_edges = [(at, self.axis_said(axis)) for axis, at in enumerate(edges)] if deep else []
        places, code_n, segments = with_outlines(places, code_n, drawn.segments_m2, under)
        depth_n = np.ascontiguousarray(places[:, 2]) if deep else None
        xy = np.ascontiguousarray(places[:, :2])
        n_points = len(self.map) if self.map is not None else 0
        return Scene(xy, code_n, segments, n_points=n_points, equal=True, depth_n=depth_n)

    def _drawn_lines(self, lines: MapLines, keep_n: NDArray[np.bool_]) -> list[Sequence[int] | Rows]:
        """The shown rows of every trajectory; stores their ends in `_ends`."""
        made: list[Sequence[int] | Rows] = []
        self._ends = []
        for label, rows in lines.lines:
            kept = rows[keep_n[rows]]
            if len(kept):
                made.append(kept)
                self._ends.append((int(kept[-1]), label))
        return made

    def _loose_ends(self, lines: MapLines, loose: Rows) -> list[tuple[int, str]]:
        """(row, label) of every model without a step, and of the last point of each grid."""
        assert self.map is not None
        points = self.map.points
        grids = {lines.groups[lines.group_n[k]]: k for k in loose.tolist()}
        return [(k, grid if grid_of(points[k].tags) else points[k].name) for grid, k in grids.items()]

    def _kept(self, lines: MapLines) -> NDArray[np.bool_]:
        """Whether each row passes the filter and is not of a hidden run, (n,)."""
        import numpy as np

        kept: NDArray[np.bool_] = ~lines.hidden_n(self.hidden)
        if self.kl.filter.text:
            known, passing = self.kl.snapshot.by_name, self.kl.snapshot.passing_names(self.kl.filter)
            kept &= np.array([m in passing or m not in known for m in lines.models], dtype=bool)
        return kept

    def _series_of_all(self, n_places: int) -> NDArray[np.int16]:
        """The series of every place, (n_places,); the random walk has its run's."""
        import numpy as np

        own = self.colours.series_n
        assert own is not None
        walk = self.kl.snapshot.run_number.get(self.null_run, 0) if n_places > len(own) else 0
        return np.concatenate([own, np.full(n_places - len(own), walk, dtype=np.int16)])

    def _ellipses(self, places: Floats, code_n: NDArray[np.int16]) -> list[Outline]:
        """The outlines of the error ellipses, in the points' colours."""
        self.n_ellipses, self.largest_error = 0, math.nan
        if not self.errors or self.covariances is None or self.drawn_method != "pca":
            return []
        spreads = {row: self._spread(row) for row in self._rows_with_errors(code_n)}
        made, self.largest_error = ellipses(spreads, places, code_n, 0.0 if self.errors == 1 else SHARE)
        self.n_ellipses = len(made)
        return made

    def _spread(self, row: int) -> Floats:
        """The covariance of a point's position on the screen, 2 x 2."""
        import numpy as np

        assert self.covariances is not None
        C = self.covariances[row]
        if len(C) == 3:
            R = self._turn().rotation_33
            C = R @ C @ R.T
        return np.asarray(C[:2, :2])

    def _rows_with_errors(self, code_n: NDArray[np.int16]) -> list[int]:
        """All drawn points if they are at most MAX_ELLIPSES; otherwise the last of each run, selected and marked ones."""
        assert self.map is not None and self.covariances is not None
        import numpy as np

        n = min(len(self.map), len(self.covariances))
        drawn: list[int] = np.flatnonzero(code_n[:n] >= 0).tolist()
        if len(drawn) <= MAX_ELLIPSES:
            return drawn
        chosen = (*self.kl.selection.selected, self.kl.selection.a, self.kl.selection.b)
        few = {row for row, _ in self._ends} | set(self.map.rows_of(chosen))
        return sorted(few.intersection(drawn))

    def fitted_window(self, scene: Scene) -> Window:
        """The window that shows the whole scene, in three dimensions for every rotation."""
        from kltui.view.axis import Axis
        from kltui.view.plot_data import Window

        if self.dims != 3:
            return super().fitted_window(scene)
        reach = 1.05 * (self._cloud.reach if self._cloud is not None else 1.0)
        return Window(Axis("linear", -reach, reach), Axis("linear", -reach, reach))

    def turn_by(self, azimuth: float, elevation: float) -> Turn:
        """Rotates the picture, or the next one in three dimensions, by so many degrees; returns the new rotation."""
        self.turn = self._turn().by(azimuth, elevation)
        if self.dims == 3:
            self._draw(keep_window=True)
        return self.turn

    def _draws(self) -> tuple[object, ...]:
        """Everything that determines the drawn lines, except coordinates."""
        chosen, snapshot = self.kl.selection, self.kl.snapshot
        with_errors = (self.errors, tuple(chosen.selected), chosen.a, chosen.b) if self.errors else ()
        n_places = len(self.picture.xyz_Kd) if self.picture is not None else 0
        return (
            self.map, n_places, self.scores, self.null_run, snapshot.rows, snapshot.run_number, self.kl.filter, frozenset(self.hidden), self.by, with_errors,
            self.descent, self.covariances is None,
        )  # fmt: skip

    @property
    def _null_base(self) -> str:
        """The run of the random walk, without the variant."""
        trajectories = self.map.trajectories() if self.map is not None else []
        return next((t.run for t in trajectories if t.label == self.null_run), self.null_run)

    def shown_figure(self) -> ShownSubject | None:
        """The figure of this picture, with the same coordinates."""
        from kltui.figures.shown import ShownSubject

        if self.map is None or self.picture is None or self.known_lines is None:
            return None
        keep = self._kept(self.known_lines)
        rows = [k for k, p in enumerate(self.map.points) if keep[k] and p.layer is None]
        deep, turn = self.dims == 3, self._turn()
        return ShownSubject(
            "trajectories-3d" if deep else "trajectories",
            tuple(self.map.names[k] for k in rows),
            method=self.drawn_method,
            xy_Kd=self.picture.xyz_Kd[rows],
            colour=self.colours.by,
            turned=(turn.azimuth - 90.0, turn.elevation)
            if deep
            else None,  # matplotlib measures the azimuth from axis 1, kltui from axis 2
        )

    def redraw_runs(self, *, refit: bool = False) -> None:
        """Draws the lines again if they have changed, otherwise only markers, labels and cross-hair.

        With `refit`, a window that shows everything is fitted again.
        """
        if self._drawn_for != self._draws():
            self._draw(keep_window=not (refit and self.fits))
        else:
            self.lay_over()

    # -- colours, markers and labels ------------------------------------------------------------

    def series_ink(self, series: int, shade: int = -1) -> str | int:
        """The colour of a series, as xterm-256 index or role: of a run or group, a level of the ramp, or a neutral one."""
        if series >= RAMP:
            return ramp_ink(min(series - RAMP, LEVELS - 1), dark=self.look.palette.name == "dark")
        quiet = {BOX: "rule", PARENT: "muted", VARIANT: "faint", UNSCORED: "faint"}
        return quiet.get(series) or self.look.series(series, shade)

    def make_ink(self, code: int) -> Style:
        """The style of a colour code (series and shade)."""
        return self.look(self.series_ink(*divmod(code, SHADES)))

    def point_marker(self, series: int) -> str:
        """The marker of a run or group; for a score, its level as a digit."""
        if series >= RAMP:
            return str(series - RAMP)
        return "-" if series >= BOX else self.look.marker(series)

    def mark_of(self, row: int) -> Span:
        """The marker of a row of the map, in its colour."""
        series = self.colours.series(row)
        marker = (
            self.point_marker(series) if self.look.color is False or series < BOX else self.look.marker(0)
        )
        return marker, self.look(self.series_ink(series), bold=True)

    def labels(self) -> list[tuple[int, str, Style]]:
        """Each run's marker and name at its last checkpoint."""
        if self.map is None:
            return []
        look, made = self.look, list[tuple[int, str, Style]]()
        for row, label in self._ends:
            series = self.colours.series(row)
            ink = look("text" if series >= BOX else self.series_ink(series))
            # A mark in the ink of a name would look like another score.
            mark = "" if series >= BOX and look.color else f"{self.mark_of(row)[0]} "
            made.append((row, mark + short_name(label, 24), ink))
        if self.picture is not None and len(self.picture.xyz_Kd) > len(self.map):
            made.append((len(self.picture.xyz_Kd) - 1, "random walk", look("muted")))
        return made

    def labels_of_lines(self) -> list[tuple[Sequence[int], str, Style]]:
        """In three dimensions, each axis' name at one of the parallel edges of the box."""
        return [(at, said, self.look("faint")) for at, said in self._box_edges]

    def marks(self) -> list[tuple[int, str, Style]]:
        """Markers at the ends of runs, signs on selected checkpoints, and A and B."""
        if self.map is None:
            return []
        look, chosen = self.look, self.kl.selection
        made = [(row, *self.mark_of(row)) for row, _ in self._ends]
        if chosen.selected:
            tick, ink = look.glyph("◇", "+"), look("text")
            made += [(row, tick, ink) for row in self.one_a_cell(self._selected_rows(self.map))]
        for letter, name in (("A", chosen.a), ("B", chosen.b)):
            made += [(row, letter, look("ground", "accent", bold=True)) for row in self.map.rows_of([name])]
        return made

    def _selected_rows(self, found: Map) -> Rows:
        """The rows of the selected checkpoints, cached."""
        import numpy as np

        ticked_for = (found, tuple(self.kl.selection.selected))
        if self._ticked is None or ticked_for != self._ticked_for:
            self._ticked = np.array(found.rows_of(ticked_for[1]), dtype=np.intp)
            self._ticked_for = ticked_for
        return self._ticked

    def place_of(self, name: str) -> int:
        """The row of the vector called `name`; -1 if there is none."""
        return next(iter(self.map.rows_of([name])), -1) if self.map is not None else -1

    # -- cursor and read-out --------------------------------------------------------------------

    def follow(self, name: str) -> None:
        """Moves the cross-hair to the shared cursor, unless it is on a layer of that model."""
        here = self.names[self.cursor] if 0 <= self.cursor < len(self.names) else ""
        if not (here != name and model_of(here) == name):
            self.go_to(name)

    def cursor_moved(self) -> None:
        """Moves the shared cursor to the point's checkpoint."""
        self.kl.set_cursor(model_of(self.names[self.cursor]))

    def readout(self) -> list[Span]:
        """Name, KL from the checkpoint before, loss, error of the position, and score of the point, as many as fit."""
        look = self.look
        if self.map is None or not 0 <= self.cursor < len(self.map):
            return self.how_to_move("{} moves to the nearest point, {} along the run")
        if not self.n_shown:
            words = " all are hidden or filtered out: {} shows, {} clears the filter"
            return [(words.format(*map(self.kl.key, ("show_runs", "out"))), look("warning"))]
        figures, (mark, style) = list(self._figures(self.cursor)), self.mark_of(self.cursor)
        least = min((width_of(spelled(s, look)) for s in figures if s), default=0)
        room = self.body_width - 3 - min(least, max(0, self.body_width - 27))
        name = short_name(self.map.names[self.cursor], room)
        spans: list[Span] = [(f" {mark} ", style), (name, look("text", bold=True))]
        spans += next(s for s in figures if width_of(spelled([*spans, *s], look)) <= self.body_width or not s)
        for said in self._more(self.cursor):
            if width_of([*spans, more := (f"   {said}", look("muted"))]) <= self.body_width:
                spans.append(more)
        return spans

    def _figures(self, row: int) -> Iterator[list[Span]]:
        """Spans with KL from the checkpoint before and loss, from the longest form to none."""
        assert self.map is not None
        look, before = self.look, int(self.known_lines.before_n[row]) if self.known_lines is not None else -1
        raw = self.raw or self.map
        # The vectors as scored may have been read before or after those of the map, which then has others.
        loss: list[Span] = [
            (f"   loss {loss_of(raw, k)} bits/byte", look("muted"))
            for k in raw.rows_of([self.map.names[row]])
        ]
        if before >= 0:
            kl = self.map.pair_rows(before, row)
            head = (f"   KL from @{self.map.points[before].step} ", look("muted"))
            said = (briefly(kl.value, kl.se), look("text"))
            yield [head, said, *loss]
            yield [head, said, (" bits/byte", look("muted"))]
            yield [head, said]
        yield loss
        yield []

    def _more(self, row: int) -> Iterator[str]:
        assert self.map is not None
        if self.errors and self.covariances is not None and self.drawn_method == "pca":
            from kltui.analysis.uncertainty import ellipse_of

            e = ellipse_of("", 0.0, 0.0, self._spread(row))
            e, share = (e.scaled(SHARE), f" ({SHARE:.0%})") if self.errors == 2 else (e, "")
            yield f"place{share} ± {figure(e.major, 2)} by {figure(e.minor, 2)} {UNIT}"
        if self.colours.by in self.scores:
            score = self.scores[self.colours.by].get(self.map.names[row], math.nan)
            yield f"{safe_text(self.colours.by, 20)} {figure(score)}" if score == score else "no score"

    @property
    def hidden(self) -> set[str]:
        """The runs that the user has hidden in all plots."""
        return self.kl.selection.hidden

    def label_here(self) -> str:
        """The label of the trajectory under the cursor; "" if there is none."""
        return self.known_lines.label_of(self.cursor) if self.known_lines is not None else ""

    def do_hide_run(self) -> None:
        if self.map is None or not 0 <= self.cursor < len(self.map):
            self.kl.say(NO_RUN, "warning")
            return
        point = self.map.points[self.cursor]
        run, shows = trajectory_of(point.run, point.tags), self.kl.key("show_runs")
        self.kl.say(self.kl.selection.toggle_hidden(run, shows))
        self._runs_changed()

    def do_show_runs(self) -> None:
        self.kl.say(self.kl.selection.hide_none())
        self._runs_changed()

    def _runs_changed(self) -> None:
        self.redraw_runs()
        if self.kl.view is not None:
            self.kl.view.cursor_moved()

    def do_enter(self) -> None:
        """Shows the checkpoint in the tree."""
        self.kl.show_screen("registry")

    def do_first(self) -> None:
        self._go_along(0)

    def do_last(self) -> None:
        self._go_along(-1)

    def _go_along(self, which: int) -> None:
        lines = self.known_lines
        if lines is None or not 0 <= self.cursor < len(lines.line_n):
            return
        line = int(lines.line_n[self.cursor])
        if line >= 0:
            self.go(int(lines.lines[line][1][which]))
            self.cursor_moved()
