"""The Map screen: every run as a trajectory, updated while a job scores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from textual.geometry import Region

from kltui.errors import KltuiError
from kltui.sanitize import safe_text
from kltui.tui.data import MANY_ROWS
from kltui.tui.views import map_text
from kltui.tui.views.base import ColumnOfPanes, View
from kltui.tui.views.layers import lens_models
from kltui.tui.views.map_plot import ERRORS, SAID, MapPlot
from kltui.tui.views.map_scene import Cloud, MapLines, cloud_of, lines_of
from kltui.tui.widgets.canvas import Pane, TextPane
from kltui.tui.widgets.run_tree import RunTree

if TYPE_CHECKING:
    from kltui.analysis.kl import KL
    from kltui.analysis.map import Map
    from kltui.analysis.shape import AgainstNull
    from kltui.figures.shown import ShownSubject
    from kltui.tui.map_cache import ShownMap
    from kltui.tui.views.map_colours import Colours
    from kltui.tui.views.map_plot import ColouredFor

METHODS = ("tsne", "pca", "mds")
MAX_NUMBERS = 20_000_000  # K x N above which nearest checkpoints are not computed
REST_SECONDS = 0.15
MIN_FOR_TSNE = 5
MIN_FOR_WALK = 3  # checkpoints of a run that can turn
TURN_DEGREES = 10.0
NEAREST, MAX_NEAREST = 8, 16
Asked = tuple[int, str, int, str, tuple[str, ...]]


def _rows_of(found: Map, label: str) -> list[int]:
    return [r for t in found.trajectories() if t.label == label for r in t.rows]


class MapView(View):
    """The plot; legend, nearest checkpoints and facts beside or below it; and the tree of runs if there is room."""

    screen_name = "map"
    has_figure = True

    def make_columns(self) -> Sequence[ColumnOfPanes]:
        self.null_run = ""
        self.layers_of: tuple[str, ...] = ()  # models whose layer vectors are shown too
        self.shape_found: AgainstNull | None = None
        self._loading: object = None
        self._stale = False
        self._broken = ""  # the error that ended the last computation
        self._near: tuple[str, list[tuple[str, KL]]] = ("", [])
        self.following = False
        self.released: tuple[str, ...] = ()  # names of pictures from imported releases
        self._asked: Asked | None = None
        self.plot = MapPlot()
        self.legend = TextPane("Runs", lambda width: map_text.legend(self.plot, width))
        self.nearest = TextPane(
            "Nearest, bits/byte", lambda width: map_text.nearest(self.plot, width, *self._near)
        )
        self.facts = TextPane("Picture", lambda width: map_text.facts(self.plot, width, self.shape_found))
        self.runs = RunTree()
        self._take_up()
        return [
            ColumnOfPanes([self.runs], width=51, minimum=160),
            ColumnOfPanes([self.plot], aside=[self.legend, self.nearest, self.facts]),
        ]

    def shape(self) -> tuple[float, float] | None:
        """Width and height of the picture in the same unit; a square before there is one."""
        return self.plot.shape() or (1.0, 1.0)

    def wanted_lines(self, pane: Pane) -> int:
        """The height for all runs, groups or the scores' ramp (legend), or for the nearest checkpoints; 0 for the facts."""
        if pane is self.legend:
            colours = self.plot.colours
            if colours.by != "run" and not colours.groups:
                return 2 + map_text.RAMP_LINES
            return 2 + max(1, len(colours.groups or self.kl.snapshot.labels))
        return NEAREST + 3 if pane is self.nearest else 0

    def share_across(self, pane: Pane) -> int:
        """Most for the nearest checkpoints, which are names beside numbers."""
        return 13 if pane is self.nearest else 10 if pane is self.legend else 7

    # -- state stored between sessions ----------------------------------------------------------

    def _take_up(self) -> None:
        """Restores method, dimensions, colours and rotation of the last session."""
        from kltui.view.space import Turn

        method, dims, by = (self.kl.kept(f"map.{key}") for key in ("method", "dims", "by"))
        # "": the default for the number of points
        self.method = method if isinstance(method, str) and method in METHODS else ""
        self.dims = 3 if dims == 3 else 2
        self.plot.by = by if isinstance(by, str) else "run"
        azimuth, elevation = self.kl.kept("map.azimuth"), self.kl.kept("map.elevation")
        if isinstance(azimuth, int | float) and isinstance(elevation, int | float):
            self.plot.turn = Turn(0.0, 0.0).by(azimuth, elevation)

    def kept(self) -> dict[str, object]:
        """The state to store for the next session."""
        kept: dict[str, object] = {"method": self.method if self.method in METHODS else "", "dims": self.dims}
        kept["by"] = self.plot.by
        if self.plot.turn is not None:
            kept |= {"azimuth": self.plot.turn.azimuth, "elevation": self.plot.turn.elevation}
        return kept

    # -- data -----------------------------------------------------------------------------------

    def update_data(self) -> None:
        """Makes the picture again if the vectors or its settings have changed, otherwise redraws selection and filter."""
        super().update_data()
        if self._wanted() != self._asked and not self.kl.map_cache.is_empty:
            self._ask()
        elif self.plot.map is not None:
            self.plot.redraw_runs()
            self.plot.follow(self.kl.selection.cursor)

    def cursor_moved(self) -> None:
        """Updates cross-hair, legend and tree, and later the nearest checkpoints."""
        self.plot.follow(self.kl.selection.cursor)
        self.legend.update_data()
        self.runs.find_cursor()
        self._ask_near()

    def _ask_near(self) -> None:
        """Finds the nearest checkpoints once the cursor has rested for REST_SECONDS."""
        found, name = self.plot.map, self.kl.selection.cursor
        if found is not None and found.rows_of([name]) and found.loglik_KN.size <= MAX_NUMBERS:
            self.run_worker(self._find_near(found, name), group="near", exclusive=True)

    async def _find_near(self, found: Map, name: str) -> None:
        await asyncio.sleep(REST_SECONDS)
        # As many as the pane has room for, within limits, because every movement of the cursor rewrites the list.
        n = min(max(NEAREST, self.nearest.body_height - 2), MAX_NEAREST)
        near = await self.kl.map_cache.ask(f"near {name} {len(found)} {n}", lambda: found.nearest(name, n))
        self._near = (name, near)
        self.nearest.update_data()

    def _wanted(self) -> Asked:
        """Everything that determines the picture."""
        return self.kl.map_cache.version, self.method, self.dims, self.null_run, self.layers_of

    def _ask(self) -> None:
        before, self._asked = self._asked, self._wanted()
        if self._loading is not None and before is not None and self._asked[1:] == before[1:]:
            # Restarting t-SNE for every new checkpoint of a running job would never finish it.
            self._stale = True
            if self.plot.drawn_method != "tsne":
                self.run_worker(self._show_meanwhile(), group="map-pca", exclusive=True)
            return
        self.run_worker(self._load(), group="map", exclusive=True)

    async def _show_meanwhile(self) -> None:
        with suppress(KltuiError):  # reported when the chosen picture is made
            async for shown in self.kl.map_cache.pictures("pca", self.dims, null_run=self.null_run):
                self._show(shown, await self._lines(shown.map))

    async def _load(self) -> None:
        mine = self._loading = object()
        self._stale, self._broken = False, ""
        try:
            await self._draw()
        except KltuiError as error:
            self._broken = error.message
            self.plot.note = error.in_one_line
            self._waiting(self._stopped(error) if self.plot.map is not None else "")
            self.plot.refresh()
            self.kl.complain(error)
        finally:
            if self._loading is mine:
                self._loading = None
        self._follow()
        super().update_data()
        self._ask_near()
        if self._stale:
            self._ask()

    def _stopped(self, error: KltuiError) -> str:
        """Words for the header beside an earlier picture: whether the chosen one can be tried again."""
        from kltui.tui.embedding import AGAIN

        if error.hint == AGAIN:
            return f"stopped: press {self.kl.key('refresh')} to start it again"
        method = self._method_for(self.kl.map_cache.n_total)[0]
        return (
            f"no {SAID.get(method, method)} of these vectors: {self.kl.key('method')} shows another picture"
        )

    async def _draw(self) -> None:
        """Computes the picture by the chosen method, and shows each intermediate picture."""
        map_cache = self.kl.map_cache
        map_cache.progress = self._reported_by_thread(asyncio.get_running_loop())
        method, hint = self._method_for(map_cache.n_total)
        self._waiting(hint)
        _, _, dims, null_run, layers = self._asked or self._wanted()
        null_run = null_run if method in METHODS else ""
        async for shown in map_cache.pictures(method, dims, null_run=null_run, layers=layers):
            is_meanwhile = shown.picture.method != method
            if is_meanwhile and not shown.final:
                self._waiting(f"{SAID.get(method, method)} is being computed{self._meanwhile(shown)}")
            if self.plot.drawn_method != method or not (is_meanwhile or (self._stale and method != "tsne")):
                self.plot.scores = await self._scores(shown.map)
                self.plot.raw = await map_cache.as_scored() if map_cache.is_prepared else shown.map
                lines = await self._lines(shown.map)
                cloud = await self.kl.reader.compute(partial(cloud_of, shown.picture))
                self._show(shown, lines, await self._coloured(shown.map, lines), cloud)
            if shown.final and self.plot.drawn_method == method:
                self._waiting(hint)
        self.released = tuple(await map_cache.released())
        self.shape_found = await self._shape()
        await self._read_errors()
        self._waiting(hint)

    def _method_for(self, n_points: int) -> tuple[str, str]:
        """(the method for a map of so many points, why it is not the chosen one or "")."""
        from kltui.analysis.embed import first_method

        method = self.method or first_method(n_points)
        if method == "tsne" and n_points < MIN_FOR_TSNE:
            return "pca", f"t-SNE needs {MIN_FOR_TSNE} checkpoints"
        return method, ""

    async def _lines(self, found: Map) -> MapLines | None:
        """The lines of a map, computed in the analysis thread; None if the map is drawn already."""
        return None if found is self.plot.map else await self.kl.reader.compute(lambda: lines_of(found))

    async def _coloured(self, found: Map, lines: MapLines | None) -> tuple[ColouredFor, Colours]:
        """(what the colours of a map's points depend on, the colours), computed in the analysis thread."""
        from kltui.tui.views.map_colours import colours

        coloured_for = self.plot.coloured_for(found)
        known = lines or self.plot.known_lines
        labels = known.labels if known is not None else None
        return coloured_for, await self.kl.reader.compute(lambda: colours(*coloured_for, labels))

    def _show(
        self,
        shown: ShownMap,
        lines: MapLines | None,
        coloured: tuple[ColouredFor, Colours] | None = None,
        cloud: Cloud | None = None,
    ) -> None:
        before = self.plot.shape()
        self.plot.show_map(
            shown.map,
            shown.picture,
            null_run=self.null_run,
            n_total=shown.n_total,
            lines=lines,
            coloured=coloured,
            cloud=cloud,
        )
        self.legend.title = map_text.legend_title(self.plot)
        if self.plot.shape() != before:
            self.make_room(self.kl.size.width)
        for pane in (self.legend, self.facts):
            pane.update_data()

    async def _scores(self, found: Map) -> dict[str, dict[str, float]]:
        """{task: {vector: score}} of the benchmark scores in the workspace."""
        from kltui.analysis.benchmark import scores_by_task

        given = await self.kl.reader.read(lambda ws: ws.benchmark_scores())
        if not given:
            return {}
        from kltui.view.sections.context import finals

        last = {found.points[k].run: found.names[k] for k in finals(found)}
        return scores_by_task(found.names, last, given)

    async def _shape(self) -> AgainstNull | None:
        """The run's shape compared with random walks, if a random walk is shown; otherwise None."""
        if not self.null_run:
            return None
        found, run = await self.kl.map_cache.map(), self.null_run
        shapes = await self.kl.map_cache.ask(
            f"shape {run}", lambda: found.select(_rows_of(found, run)).shapes()
        )
        return shapes[0] if shapes else None

    async def _read_errors(self) -> None:
        """Computes the covariances of the positions if error ellipses are on and PCA is shown."""
        plot = self.plot
        if not plot.errors or plot.drawn_method != "pca" or plot.map is None:
            return
        dims, null_run = plot.dims, plot.null_run
        layers = self.layers_of if plot.known_lines is not None and plot.known_lines.n_layers else ()
        found, covariances = await self.kl.map_cache.covariances(dims, null_run=null_run, layers=layers)
        if (found, dims, null_run) == (plot.map, plot.dims, plot.null_run):  # still those of what is drawn
            plot.covariances = covariances
            plot.redraw_runs(refit=True)
            self.facts.update_data()

    def _reported_by_thread(self, loop: asyncio.AbstractEventLoop) -> Callable[[float, str], None]:
        def reported(share: float, what: str) -> None:
            with suppress(RuntimeError):  # the event loop has ended
                loop.call_soon_threadsafe(self._reported, share, what)

        return reported

    def _reported(self, share: float, what: str) -> None:
        if self._loading is not None:
            said = SAID.get(self.plot.drawn_method, "")
            self._waiting(f"{what} {100 * share:.0f}%" + (f"; {said} meanwhile" if said else ""))

    def _meanwhile(self, shown: ShownMap) -> str:
        """Words on the picture that is shown in the meantime."""
        last = self.plot.drawn_method == self._method_for(self.kl.map_cache.n_total)[0]
        return "; the last one meanwhile" if last else f"; {SAID.get(shown.picture.method, '')} meanwhile"

    def _waiting(self, text: str) -> None:
        if text != self.plot.waiting:
            self.plot.waiting = text
            self.plot.refresh(Region(0, 0, self.plot.size.width, 1))

    # -- actions --------------------------------------------------------------------------------

    def do_refresh(self) -> bool:
        """Starts a picture again that failed; False, so that the application reads the workspace again too."""
        if self._broken:
            self._asked = None
            self.update_data()
        return False

    def do_null(self) -> None:
        """Adds a random walk for the run under the cursor, or removes it."""
        run = self.plot.label_here()
        if self.null_run:
            self.null_run, self.shape_found = "", None
            self.kl.say("random walk removed")
        elif run and self.plot.map is not None and len(_rows_of(self.plot.map, run)) < MIN_FOR_WALK:
            self.kl.say(
                f"{run} is too short for a random walk: it needs {MIN_FOR_WALK} checkpoints", "warning"
            )
            return
        elif run:
            self.null_run = run
            self.kl.say(f"a random walk with the step lengths of {run}; {self.kl.key('null')} removes it")
        else:
            self.kl.say("put the cursor on a run first", "warning")
            return
        self._ask()

    def _follow(self) -> None:
        if not self.following:
            return
        newest = [n for n in self.kl.snapshot.newest_done if n in self.plot.names]
        if newest:
            self.kl.set_cursor(newest[-1])

    def do_follow(self) -> None:
        self.following = not self.following
        self.kl.say("following the newest checkpoint" if self.following else "not following")
        self._follow()

    def do_method(self) -> None:
        methods = (*METHODS, *self.released)
        now = self.method or self._method_for(self.kl.map_cache.n_total)[0]
        self.method = methods[(methods.index(now) + 1) % len(methods)] if now in methods else METHODS[0]
        self.kl.say(f"picture: {SAID.get(self.method, safe_text(self.method, 60))}")
        self._ask_again()

    def do_dimensions(self) -> None:
        self.dims = 5 - self.dims
        turns = self.kl.key("turn_left", "turn_right", "turn_down", "turn_up")
        self.kl.say(f"{self.dims} dimensions" + (f"; {turns} turn it" if self.dims == 3 else ""))
        self._ask_again()

    def _ask_again(self) -> None:
        if not self.kl.map_cache.is_empty:
            self._ask()

    def _turn_by(self, azimuth: float, elevation: float) -> None:
        """Rotates a picture in three dimensions; switches to three dimensions if it has two."""
        if self.dims != 3:
            self.do_dimensions()
            return
        turn = self.plot.turn_by(azimuth, elevation)
        if self.plot.dims != 3:  # nothing else shows that the key was heard
            now = f"turned {turn.azimuth:.0f}°, raised {turn.elevation:.0f}°"
            self.kl.say(f"{now} once there is a picture in three dimensions")

    def do_turn_left(self) -> None:
        self._turn_by(-TURN_DEGREES, 0.0)

    def do_turn_right(self) -> None:
        self._turn_by(TURN_DEGREES, 0.0)

    def do_turn_up(self) -> None:
        self._turn_by(0.0, TURN_DEGREES)

    def do_turn_down(self) -> None:
        self._turn_by(0.0, -TURN_DEGREES)

    def do_errors(self) -> None:
        """Cycles through ellipses of one standard error, of 95 %, and none; switches to PCA, which alone has them."""
        plot, again = self.plot, self.kl.key("errors")
        asked, _ = self._method_for(self.kl.map_cache.n_total)
        if (plot.drawn_method, asked) != (
            "pca",
            "pca",
        ):  # PCA may be shown only while another picture is computed
            plot.errors, self.method = 1, "pca"
            self.kl.say(f"errors are for PCA: one standard error; press {again} again for 95%")
            self._ask_again()
            return
        plot.errors = (plot.errors + 1) % len(ERRORS)
        words = (
            "no errors",
            f"ellipses: one standard error; press {again} again for 95%",
            f"ellipses: 95%; press {again} to hide them",
        )
        self.kl.say(words[plot.errors])
        self._redraw(refit=True)
        self.run_worker(self._read_errors(), group="map-errors", exclusive=True)

    def do_colour_by(self) -> None:
        plot = self.plot
        if plot.map is None or plot.known_lines is None:
            return
        known = plot.known_lines.labels.properties(plot.scores)
        plot.by = known[(known.index(plot.by) + 1) % len(known)] if plot.by in known else known[0]
        self.kl.say(f"colour and marker by {safe_text(plot.by, 40)}")
        if len(plot.map) > MANY_ROWS:  # looking up the property of so many points takes longer than a key may
            self.run_worker(self._colour_again(plot.map), group="map-colours", exclusive=True)
        else:
            self._draw_colours()

    async def _colour_again(self, found: Map) -> None:
        coloured = await self._coloured(found, self.plot.known_lines)
        if found is self.plot.map:
            self.plot.take_colours(*coloured)
            self._draw_colours()

    def _draw_colours(self) -> None:
        self._redraw()
        self.make_room(self.kl.size.width)

    def do_descent(self) -> None:
        self.plot.descent = not self.plot.descent
        self.kl.say(f"lines of descent: {'drawn' if self.plot.descent else 'not drawn'}")
        self._redraw()

    def do_with_layers(self) -> None:
        """Shows the layers of the chosen models on the map, or hides them."""
        self.layers_of = () if self.layers_of else tuple(lens_models(self.kl))
        if self.layers_of:
            count = len(self.layers_of)
            self.kl.say(
                f"layers of {'one model' if count == 1 else f'{count} models'} shown; press {self.kl.key('with_layers')} to hide them"
            )
        elif self.plot.known_lines is not None and not self.plot.known_lines.n_layers:
            self.kl.say('no layer vectors are stored: score with layers = "all"', "warning")
        else:
            self.kl.say("models only")
        self._ask_again()

    def _redraw(self, *, refit: bool = False) -> None:
        self.plot.redraw_runs(refit=refit)
        self.legend.title = map_text.legend_title(self.plot)
        for pane in (self.legend, self.nearest, self.facts):
            pane.update_data()

    # -- exports --------------------------------------------------------------------------------

    def shown_figure(self) -> ShownSubject | None:
        """The figure of the picture on screen, without hidden runs and checkpoints that the filter excludes."""
        return self.plot.shown_figure()

    def csv_rows(self) -> Iterator[list[object]]:
        """Every point of the picture with its coordinates; a random walk's points are numbered."""
        plot = self.plot
        if plot.map is None or plot.picture is None:
            return
        places = plot.picture.xyz_Kd
        walk = [f"{plot.null_run}~null {i}" for i in range(len(places) - len(plot.map))]
        method = plot.drawn_method
        yield ["name", "method", "x", "y", "z"]
        for name, xyz in zip([*plot.map.names, *walk], places, strict=True):
            yield [name, method, *xyz.tolist(), *[""] * (3 - len(xyz))]

    def copied(self) -> str:
        """The name under the cursor."""
        return safe_text(self.kl.selection.cursor)


VIEW = MapView
