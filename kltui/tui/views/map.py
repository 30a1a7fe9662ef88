"""Map: every run as a trajectory, live while a job scores."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.style import Style
from textual.geometry import Region

from kltui.comparable import standing_note
from kltui.errors import KltuiError
from kltui.safe import safe_text
from kltui.tui.canvas import Span, TextPane, fitted, width_of, wrapped
from kltui.tui.figures import briefly, with_error
from kltui.tui.plot import PlotPane
from kltui.tui.run_tree import RunTree
from kltui.tui.views.base import ColumnOfPanes, View

if TYPE_CHECKING:
    from kltui.analysis.kl import KL
    from kltui.analysis.map import Map
    from kltui.analysis.shape import AgainstNull
    from kltui.figures.shown import Shown
    from kltui.tui.atlas import Array

METHODS = ("tsne", "pca", "mds")
MOST_NUMBERS = 20_000_000  # of vectors through which the nearest are looked for
REST_SECONDS = 0.15
FEWEST_FOR_TSNE = 5
SAID = {"tsne": "t-SNE", "pca": "PCA", "mds": "MDS"}


class MapPlot(PlotPane):
    """The trajectories of all runs that are not hidden, in one picture."""

    title = "Map"

    def __init__(self) -> None:
        super().__init__(id="map-plot")
        self.map: Map | None = None
        self.drawn_method = ""
        self.waiting = ""
        self.hidden: set[str] = set()
        self.null_run = ""
        self._ends: list[tuple[int, str]] = []
        self._before: dict[int, int] = {}
        self._drawn_for: tuple[object, ...] = ()

    def header_left(self) -> list[Span]:
        """Which picture, of what."""
        look = self.look
        said = SAID.get(self.drawn_method, safe_text(self.drawn_method, 60))
        unit = "  √(bits/byte)" if self.drawn_method in ("pca", "mds") else ""
        count = f"  {len(self.names)} checkpoints" if self.names else ""
        count += f", {len(self.left_out)} left out" if self.left_out else ""
        return [*super().header_left(), (f"  {said}", look("text", bold=True)), (unit + count, look("muted"))]

    @property
    def left_out(self) -> dict[str, str]:
        """{name: why} of the vectors that would have emptied the map."""
        return self.map.left_out if self.map is not None else {}

    def header_right(self) -> list[Span]:
        """What is still being computed."""
        return [(self.waiting, self.look("warning"))] if self.waiting else []

    def show_map(self, found: Map, coordinates: Array, method: str, null_run: str = "") -> None:
        """Draws a map with its coordinates; the window stays when only points have joined.

        Coordinates beyond the map's own are those of a random walk beside `null_run`.
        """
        same = method == self.drawn_method and self.map is not None and len(found) == len(self.map)
        same = same and null_run == self.null_run
        self.null_run = null_run
        self.map, self.drawn_method, self.coordinates = found, method, coordinates
        self._draw(keep_window=same)
        self.go_to(self.kl.selection.cursor)

    def _draw(self, *, keep_window: bool) -> None:
        import numpy as np

        from kltui.view.scene import Scene, threads

        if self.map is None:
            return
        self._drawn_for = self._draws()
        number, keep = self.kl.snapshot.run_number, self._kept()
        lines: list[tuple[int, Sequence[int]]] = []
        self._ends, self._before = [], {}
        for t in self.map.trajectories():
            rows = [r for r in t.rows if keep[r]]
            self._before.update(zip(t.rows[1:], t.rows, strict=False))
            if rows and t.run not in self.hidden:
                lines.append((number.get(t.run, 0), rows))
                self._ends.append((rows[-1], t.label))
        lines += self._loose(keep)
        walk = range(len(self.map), len(self.coordinates))
        if walk and self._null_base not in self.hidden:
            lines.append((number.get(self._null_base, 0), walk))
        code_n, segments = threads(lines, len(self.coordinates))
        xy = np.ascontiguousarray(self.coordinates, dtype=np.float64)
        scene = Scene(xy, code_n, segments, n_points=len(self.map), equal=True)
        self.show(scene, self.map.names, keep_window=keep_window)

    def _draws(self) -> tuple[object, ...]:
        """What the lines are made of, beside the coordinates."""
        return self.map, self.null_run, self.kl.snapshot, self.kl.filter, frozenset(self.hidden)

    @property
    def _null_base(self) -> str:
        """The run that the random walk belongs to, without its variant."""
        trajectories = self.map.trajectories() if self.map is not None else []
        return next((t.run for t in trajectories if t.label == self.null_run), self.null_run)

    def _kept(self) -> list[bool]:
        assert self.map is not None
        rows, keep = self.kl.snapshot.by_name, self.kl.filter
        return [(row := rows.get(n)) is None or keep(row) for n in self.map.names]

    def _loose(self, keep: Sequence[bool]) -> list[tuple[int, Sequence[int]]]:
        """Checkpoints without a step, each a line of its own."""
        assert self.map is not None
        number = self.kl.snapshot.run_number
        loose = [
            (k, p)
            for k, p in enumerate(self.map.points)
            if p.step is None and keep[k] and p.run not in self.hidden
        ]
        self._ends += [(k, p.name) for k, p in loose]
        return [(number.get(p.run, 0), [k]) for k, p in loose]

    def shown_figure(self) -> Shown | None:
        """The figure of this very picture."""
        from kltui.figures.shown import Shown

        if self.map is None:
            return None
        keep = self._kept()
        rows = [k for k, p in enumerate(self.map.points) if keep[k] and p.run not in self.hidden]
        names = tuple(self.map.names[k] for k in rows)
        return Shown("trajectories", names, method=self.drawn_method, xy_Kd=self.coordinates[rows])

    def redraw_runs(self) -> None:
        """Draws again if runs were hidden, filtered or named otherwise; marks always."""
        if self._drawn_for != self._draws():
            self._draw(keep_window=True)
        else:
            self.lay_over()

    def labels(self) -> list[tuple[int, str, Style]]:
        """Each run's name at its last checkpoint."""
        if self.map is None:
            return []
        number, look = self.kl.snapshot.run_number, self.look
        made = [
            (row, safe_text(label, 24), look(look.series(number.get(self.map.points[row].run, 0))))
            for row, label in self._ends
        ]
        if len(self.coordinates) > len(self.map):
            made.append((len(self.coordinates) - 1, "random walk", look("muted")))
        return made

    def marks(self) -> list[tuple[int, str, Style]]:
        """Markers at the ends of runs, ticks on what is selected, and A and B."""
        if self.map is None:
            return []
        number, look, chosen = self.kl.snapshot.run_number, self.look, self.kl.selection
        made = []
        for row, _ in self._ends:
            n = number.get(self.map.points[row].run, 0)
            made.append((row, look.marker(n), look(look.series(n), bold=True)))
        rows = {name: k for k, name in enumerate(self.names)}
        made += [(rows[n], look.glyph("◇", "+"), look("text")) for n in chosen.selected if n in rows]
        for letter, name in (("A", chosen.a), ("B", chosen.b)):
            if name in rows:
                made.append((rows[name], letter, look("ground", "accent", bold=True)))
        return made

    def cursor_moved(self) -> None:
        """Takes the shared cursor along."""
        self.kl.set_cursor(self.names[self.cursor])

    def readout(self) -> list[Span]:
        """Name, step, KL to the checkpoint before, mean log-likelihood."""
        look = self.look
        if self.map is None or not 0 <= self.cursor < len(self.map):
            return [(" hjkl moves to the nearest point, [ ] along the run", look("faint"))]
        point = self.map.points[self.cursor]
        n = self.kl.snapshot.run_number.get(point.run, 0)
        spans = [
            (f" {look.marker(n)} ", look(look.series(n))),
            (safe_text(point.name, 40), look("text", bold=True)),
        ]
        before = self._before.get(self.cursor)
        if before is not None:
            kl = self.map.pair_rows(before, self.cursor)
            step = self.map.points[before].step
            spans += [
                (f"   KL from @{step} ", look("muted")),
                (with_error(kl.value, kl.se), look("text")),
            ]
        mean = (f"   {mean_of(self.map, self.cursor):.1f} nats/text", look("muted"))
        return [*spans, mean] if width_of([*spans, mean]) <= self.body_width else spans

    def do_hide_run(self) -> None:
        if self.map is None or self.cursor < 0:
            return
        self.hidden ^= {self.map.points[self.cursor].run}
        self.kl.say(
            f"hidden: {', '.join(sorted(self.hidden))}; Z shows all" if self.hidden else "all runs shown"
        )
        self.redraw_runs()
        if self.kl.view is not None:
            self.kl.view.cursor_moved()

    def label_here(self) -> str:
        """The trajectory under the cursor: its run, with the variant; "" where there is none."""
        trajectories = self.map.trajectories() if self.map is not None else []
        return next((t.label for t in trajectories if self.cursor in t.rows), "")

    def do_show_runs(self) -> None:
        self.hidden.clear()
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
        if self.map is None or self.cursor < 0:
            return
        here = next((t for t in self.map.trajectories() if self.cursor in t.rows), None)
        if here is not None:
            self.go(here.rows[which])
            self.cursor_moved()


def mean_of(found: Map, row: int) -> float:
    """Mean log-likelihood of one vector over its scored texts, nats per text; nan where none is."""
    import numpy as np

    values = found.loglik_KN[row]
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


def _rows_of(found: Map, label: str) -> list[int]:
    return [r for t in found.trajectories() if t.label == label for r in t.rows]


class MapView(View):
    """The plot; the runs with their colours beside it; and the tree of checkpoints where there is room."""

    screen_name = "map"
    has_figure = True

    def make_columns(self) -> Sequence[ColumnOfPanes]:
        self.method = "tsne"
        self.null_run = ""
        self.shape: AgainstNull | None = None
        self._loading: object = None
        self._stale = False
        self._near: tuple[str, list[tuple[str, KL]]] = ("", [])
        self.following = False
        self.released: tuple[str, ...] = ()  # pictures that came with a release
        self._asked: tuple[int, str, str] = (-1, "", "")
        self.plot = MapPlot()
        self.legend = TextPane("Runs", self._legend)
        self.runs = RunTree()
        return [
            ColumnOfPanes([self.runs], width=50, least=160),
            ColumnOfPanes([self.plot]),
            ColumnOfPanes([self.legend], width=42, least=120),
        ]

    def on_mount(self) -> None:
        """Takes up the method of the last session."""
        kept = self.kl.kept("map.method")
        if isinstance(kept, str) and kept in METHODS:
            self.method = kept

    def kept(self) -> dict[str, object]:
        """What the next session starts with."""
        return {"method": self.method if self.method in METHODS else METHODS[0]}

    def update_data(self) -> None:
        """Reads the map again where vectors have changed; draws marks, filter and colours anew."""
        super().update_data()
        if (self.kl.atlas.version, self.method, self.null_run) != self._asked and not self.kl.atlas.is_empty:
            self._ask()
        elif self.plot.map is not None:
            self.plot.redraw_runs()
            self.plot.go_to(self.kl.selection.cursor)

    def cursor_moved(self) -> None:
        """Cross-hair, legend and tree follow the shared cursor."""
        self.plot.go_to(self.kl.selection.cursor)
        self.legend.update_data()
        self.runs.find_cursor()
        self._ask_near()

    def _ask_near(self) -> None:
        """Looks for the nearest checkpoints as soon as the cursor rests."""
        found, name = self.plot.map, self.kl.selection.cursor
        if found is not None and name in found.names and found.loglik_KN.size <= MOST_NUMBERS:
            self.run_worker(self._find_near(found, name), group="near", exclusive=True)

    async def _find_near(self, found: Map, name: str) -> None:
        await asyncio.sleep(REST_SECONDS)
        near = await self.kl.atlas.ask(f"near {name}", lambda: found.nearest(name, 8))
        self._near = (name, near)
        self.legend.update_data()

    def _ask(self) -> None:
        before = self._asked
        self._asked = (self.kl.atlas.version, self.method, self.null_run)
        if self._loading is not None and self._asked[1:] == before[1:]:
            # A t-SNE that is cut short by every new checkpoint would never be seen.
            self._stale = True
            if self.plot.drawn_method != "tsne":
                self.run_worker(self._show_meanwhile(), group="map-pca", exclusive=True)
            return
        self.run_worker(self._load(), group="map", exclusive=True)

    async def _show_meanwhile(self) -> None:
        with suppress(KltuiError):  # told when the picture itself is made
            await self._show_pca()

    async def _show_pca(self) -> None:
        self.plot.show_map(*await self._picture("pca", self.null_run), "pca", self.null_run)

    async def _load(self) -> None:
        mine = self._loading = object()
        self._stale = False
        try:
            await self._draw()
        except KltuiError as error:
            self.plot.note = error.message
            self._waiting("")
            self.plot.refresh()
            self.kl.complain(error)
        finally:
            if self._loading is mine:
                self._loading = None
        self._follow()
        self.legend.update_data()
        self._ask_near()
        if self._stale:
            self._ask()

    async def _draw(self) -> None:
        """Shows the map by the chosen method; by PCA while t-SNE is computed, and where there is too little for it."""
        atlas, method = self.kl.atlas, self.method
        atlas.progress = self._told_by_thread(asyncio.get_running_loop())
        self._waiting("MDS is being computed" if method == "mds" else "")
        if method == "tsne" and len(await atlas.map()) < FEWEST_FOR_TSNE:
            method = "pca"
            self.plot.waiting = f"t-SNE from {FEWEST_FOR_TSNE} checkpoints on"
        if method == "tsne" and (self.null_run or not atlas.has_picture("tsne")):
            self._waiting(f"t-SNE is being computed{self._meanwhile}")
            if self.plot.drawn_method != "tsne":
                await self._show_pca()
        self.released = tuple(await atlas.released())
        null_run = self.null_run if method in METHODS else ""
        found, coordinates = await self._picture(method, null_run)
        if not self._stale or self.plot.drawn_method == "tsne":
            self.plot.show_map(found, coordinates, method, null_run)
        self.shape = await self._shape()
        if method == self.method:
            self._waiting("")

    async def _picture(self, method: str, null_run: str) -> tuple[Map, Array]:
        atlas = self.kl.atlas
        return await (atlas.walk_picture(null_run, method) if null_run else atlas.picture(method))

    async def _shape(self) -> AgainstNull | None:
        """The shape of the run beside random walks of its step lengths, where one is laid over it."""
        if not self.null_run:
            return None
        found, run = await self.kl.atlas.map(), self.null_run
        shapes = await self.kl.atlas.ask(f"shape {run}", lambda: found.select(_rows_of(found, run)).shapes())
        return shapes[0] if shapes else None

    def _told_by_thread(self, loop: asyncio.AbstractEventLoop) -> Callable[[float, str], None]:
        def told(share: float, of: str) -> None:
            with suppress(RuntimeError):  # the interface has just been left
                loop.call_soon_threadsafe(self._told, share, of)

        return told

    def _told(self, share: float, of: str) -> None:
        if self.plot.waiting.startswith("t-SNE"):
            self._waiting(f"{of} {100 * share:.0f}%{self._meanwhile}")

    @property
    def _meanwhile(self) -> str:
        """What is shown until t-SNE is there: PCA, or the last t-SNE."""
        return "; the last one meanwhile" if self.plot.drawn_method == "tsne" else "; PCA meanwhile"

    def _waiting(self, text: str) -> None:
        if text != self.plot.waiting:
            self.plot.waiting = text
            self.plot.refresh(Region(0, 0, self.plot.size.width, 1))

    def do_null(self) -> None:
        """Lays a random walk beside the run under the cursor, or takes it away."""
        run = self.plot.label_here()
        if self.null_run:
            self.null_run, self.shape = "", None
            self.kl.say("random walk taken away")
        elif run:
            self.null_run = run
            self.kl.say(f"a random walk with the step lengths of {run}; w takes it away")
        else:
            self.kl.say("put the cursor on a run first", "warning")
            return
        self._ask()

    def _follow(self) -> None:
        if not self.following:
            return
        active = {job.id for job in self.kl.snapshot.active_jobs}
        items = [i for j, found in self.kl.snapshot.items.items() if j in active for i in found]
        newest = [i.name for i in items if i.status == "done" and i.name in self.plot.names]
        if newest:
            self.kl.set_cursor(newest[-1])

    def do_follow(self) -> None:
        self.following = not self.following
        self.kl.say("following the newest checkpoint" if self.following else "not following")
        self._follow()

    def do_method(self) -> None:
        methods = (*METHODS, *self.released)
        self.method = (
            methods[(methods.index(self.method) + 1) % len(methods)] if self.method in methods else METHODS[0]
        )
        self.kl.say(f"picture: {SAID.get(self.method, safe_text(self.method, 60))}")
        if not self.kl.atlas.is_empty:
            self._ask()

    def _legend(self, width: int) -> list[list[Span]]:
        look, snapshot = self.look, self.kl.snapshot
        here = snapshot.by_name.get(self.kl.selection.cursor)
        lines: list[list[Span]] = []
        widest = min(max(8, width - 16), max((cell_len(safe_text(run)) for run in snapshot.runs), default=0))
        for run, rows in snapshot.runs.items():
            number = snapshot.run_number[run]
            hidden = run in self.plot.hidden
            scored = [r for r in rows if r.scored]
            ink = "faint" if hidden else "text"
            current = here is not None and here.checkpoint.run == run
            lines.append(
                [
                    (look.glyph("▌", ">") if current else " ", look("accent")),
                    (look.marker(number) + " ", look("faint" if hidden else look.series(number))),
                    (fitted(run, widest), look(ink, bold=current)),
                    (f" {len(scored):>4}" + ("  hidden" if hidden else ""), look("faint")),
                ]
            )
        return (
            lines
            + self._left_out(width)
            + self._standing(width)
            + self._against_null()
            + self._neighbours(width)
        )

    def _left_out(self, width: int) -> list[list[Span]]:
        """Vectors that would have emptied the map, and why they are not on it."""
        look, lines = self.look, list[list[Span]]()
        for name, why in self.plot.left_out.items():
            lines.append([(fitted(f" left out: {safe_text(name)}", width), look("warning"))])
            lines.append([(fitted(f"  {why}", width), look("muted"))])
        return lines

    def _standing(self, width: int) -> list[list[Span]]:
        """What stands beside a map of imported and own vectors: in what they differ."""
        note = standing_note(self.plot.map.record) if self.plot.map is not None else ""
        parts = wrapped(safe_text(note.removeprefix("; "), 400), max(8, width)) if note else []
        return [[(part, self.look("muted"))] for part in parts]

    def _against_null(self) -> list[list[Span]]:
        """The run's shape, and in brackets the median of random walks with its step lengths."""
        look, found = self.look, self.shape
        if found is None:
            return []
        own = found.shape
        lines: list[list[Span]] = [[], [(f"{safe_text(own.run, 22)} (random walks)", look("muted"))]]
        for name, value, null in (
            ("straightness", f"{own.straightness:.2f}", f"{found.null_straightness:.2f}"),
            ("turning", f"{own.turning:.0f}°", f"{found.null_turning:.0f}°"),
            ("winding", f"{abs(own.winding):.2f}", f"{found.null_winding:.2f}"),
        ):
            lines.append(
                [(f" {name:<13}", look("muted")), (value, look("text")), (f"  ({null})", look("faint"))]
            )
        more = 100 * found.share_winding_more
        lines.append([(f" {more:.0f}% of {found.n_walks} walks wind more", look("muted"))])
        return lines

    def _neighbours(self, width: int) -> list[list[Span]]:
        """The checkpoints nearest by KL to the one that the cursor last rested on."""
        look, (name, near) = self.look, self._near
        if not near:
            return []
        said = fitted(name, min(cell_len(safe_text(name)), max(8, width - 22)))
        lines: list[list[Span]] = [[], [(f"nearest to {said}, bits/byte", look("muted"))]]
        for other, kl in near:
            number = self.kl.run_number(other)
            lines.append(
                [
                    (f" {look.marker(number)} ", look(look.series(number))),
                    (f"{briefly(kl.value, kl.se):<16} ", look("text")),
                    (fitted(other, max(8, width - 20)), look("muted")),
                ]
            )
        return lines

    def shown_figure(self) -> Shown | None:
        """The figure of the picture that is on screen, without what is hidden or filtered out."""
        return self.plot.shown_figure()

    def csv_rows(self) -> list[list[object]]:
        """Every checkpoint in the picture with its place; a random walk's points are numbered."""
        plot = self.plot
        if plot.map is None:
            return []
        rows: list[list[object]] = [["name", "method", "x", "y"]]
        walk = [f"{plot.null_run}~null {i}" for i in range(len(plot.coordinates) - len(plot.map))]
        names = [*plot.map.names, *walk]
        return rows + [
            [name, plot.drawn_method, float(x), float(y)]
            for name, (x, y) in zip(names, plot.coordinates, strict=True)
        ]

    def copied(self) -> str:
        """The point's name."""
        return safe_text(self.kl.selection.cursor)


VIEW = MapView
