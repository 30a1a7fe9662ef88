"""The Diffusion screen: how fast distances from a checkpoint grow, in likelihood and in weight space."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from rich.style import Style

from kltui.analysis import number_text
from kltui.analysis.number_text import aligned, figure
from kltui.analysis.point import label_of
from kltui.errors import KltuiError
from kltui.sanitize import safe_text, short_name
from kltui.tui.data import label_of_row
from kltui.tui.filter import EVERY
from kltui.tui.views.base import ColumnOfPanes, RunPlotsView
from kltui.tui.weights import Weights, compute_weights, known_distances
from kltui.tui.widgets.canvas import Span, TextPane, wrapped
from kltui.tui.widgets.curve_panel import FEW_POINTS, LONGEST_S, PAUSE_S, all_gone
from kltui.tui.widgets.plot import PlotPane
from kltui.tui.widgets.window_plot import WindowPlot, slope_words
from kltui.view.curve_content import WINDOWS
from kltui.view.palette import SHADES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kltui.analysis.diffusion import Exponent, ExponentSummary
    from kltui.analysis.map import Map
    from kltui.analysis.noise import NoiseFloor
    from kltui.figures.shown import ShownSubject
    from kltui.view.axis import Scale
    from kltui.view.plot_data import Floats, Scene, Window

PUBLISHED = 4000 * SHADES  # the code of lines that belong to no run


def _spread(q: tuple[float, float, float]) -> str:
    """A median with its quartiles, or alone if they are unknown (a single start)."""
    return number_text.spread(*q) if math.isfinite(q[1]) else number_text.figure(q[0])


@dataclass(frozen=True, eq=False)
class DrawnExponents:
    """The plot data of the exponents of n starts, made in the analysis thread because there may be very many.

    `ends` are (run, its number, index of the point of its last start); `bars_m2` the ends of the error bars; `runs`
    {run: its exponents by rising start}.
    """

    names: list[str]
    xy_n2: Floats
    code_n: NDArray[np.int16]
    segments_m2: NDArray[np.int64]
    bars_m2: Floats
    bar_codes: NDArray[np.int16]
    ends: list[tuple[str, int, int]]
    runs: dict[str, list[Exponent]]
    summaries: list[ExponentSummary]
    floors: dict[str, NoiseFloor]
    _seen: dict[Scale, tuple[Scene, Window]] = field(default_factory=dict)

    @cached_property
    def places(self) -> dict[str, int]:
        """{name: the number of its point}."""
        return {name: i for i, name in enumerate(self.names)}

    def seen(self, scale: Scale) -> tuple[Scene, Window]:
        """The scene with this step axis, the published medians across, and the window that shows all of it; kept."""
        if scale not in self._seen:
            import numpy as np

            from kltui.view.plot_data import Scene, fit_window

            n, lines = len(self.names), np.array(self._published(), dtype=np.float64)
            xy = np.concatenate([self.xy_n2, self.bars_m2, lines])
            published = np.full(len(lines), PUBLISHED, dtype=np.int16)
            codes = np.concatenate([self.code_n, self.bar_codes, published])
            pairs = np.arange(n, len(xy), dtype=np.int64).reshape(-1, 2)
            scene = Scene(xy, codes, np.concatenate([pairs, self.segments_m2]), scale, n_points=n)
            self._seen[scale] = scene, fit_window(scene)
        return self._seen[scale]

    def _published(self) -> list[tuple[float, float]]:
        """The ends of the lines of the published medians of c_q."""
        from kltui.analysis.diffusion import PUBLISHED_EXPONENTS

        starts = self.xy_n2[:, 0]
        ends = float(starts.min()), float(starts.max())
        return [(x, c_q) for _, c_q, _ in PUBLISHED_EXPONENTS.values() for x in ends]

    def nearest(self, run: str, step: int) -> Exponent | None:
        """The exponent of a run whose start is nearest to a step, the earlier of equals; None if it has none."""
        own = self.runs.get(run, [])
        at = bisect_left(own, step, key=lambda e: e.start)
        return min(own[max(0, at - 1) : at + 1], key=lambda e: abs(e.start - step), default=None)


def start_names(found: Map) -> dict[tuple[str, int], str]:
    """{(label of a curve, step): name of the checkpoint}."""
    return {
        (t.label, step): found.names[row]
        for t in found.trajectories()
        for step, row in zip(t.steps, t.rows, strict=True)
    }


def drawn_exponents(
    exponents: Sequence[Exponent], number: Mapping[str, int], names: Mapping[tuple[str, int], str]
) -> DrawnExponents:
    """The plot data of `exponents`; `number` is {run: number}, `names` that of `start_names`."""
    import numpy as np

    from kltui.analysis.diffusion import summarise
    from kltui.view.plot_data import threads

    places: dict[str, list[int]] = {}
    for i, e in enumerate(exponents):
        places.setdefault(e.run, []).append(i)
    code_n, segments = threads([(number.get(r, 0), rows) for r, rows in places.items()], len(exponents))
    xy = np.array([(e.start, e.c_q) for e in exponents], dtype=np.float64).reshape(-1, 2)
    se = np.array([e.se_q for e in exponents], dtype=np.float64)
    known = np.isfinite(se)
    x, y, se = *xy[known].T, se[known]
    bars = np.column_stack([x, y - se, x, y + se]).reshape(-1, 2)
    own = np.array([number.get(e.run, 0) * SHADES + SHADES - 3 for e in exponents], dtype=np.int16)
    return DrawnExponents(
        [names[e.run, e.start] for e in exponents],
        xy,
        code_n,
        segments,
        bars,
        np.repeat(own[known], 2),
        [(run, number.get(run, 0), rows[-1]) for run, rows in places.items()],
        {run: sorted((exponents[i] for i in rows), key=lambda e: e.start) for run, rows in places.items()},
        summarise(exponents),
        {run: exponents[rows[-1]].floor for run, rows in places.items()},
    )


def kept(found: Map, exponents: Sequence[Exponent], names: Collection[str]) -> list[Exponent]:
    """The exponents whose start is one of the checkpoints `names`."""
    starts = {start for start, name in start_names(found).items() if name in names}
    return [e for e in exponents if (e.run, e.start) in starts]


class ExponentPlot(PlotPane):
    """The exponent c_q of every start, against the start's step."""

    title = "Exponent c_q by start"
    x_name, y_name = "start, training step", "exponent c_q"
    line_ways = (True, 0), (False, 0)  # above or below its line, a label would name another one

    def __init__(self) -> None:
        super().__init__(id="exponent-plot")
        self.exponents: Sequence[Exponent] = ()
        self.drawn: DrawnExponents | None = None
        self.x_scale: Scale = "linear"

    def show_exponents(self, exponents: Sequence[Exponent], drawn: DrawnExponents) -> None:
        """Draws the exponents of all runs."""
        same = self.drawn is not None and (drawn is self.drawn or drawn.names == self.names)
        same = same and self.scene is not None and self.scene.x_scale == self.x_scale
        self.exponents, self.drawn = exponents, drawn
        self.show(drawn.seen(self.x_scale)[0] if exponents else None, drawn.names, keep_window=same)

    def fitted_window(self, scene: Scene) -> Window:
        """The window that shows all, found with the scene."""
        seen = self.drawn.seen(self.x_scale) if self.drawn is not None and self.exponents else None
        return seen[1] if seen is not None and seen[0] is scene else super().fitted_window(scene)

    def place_of(self, name: str) -> int:
        """The number of the point called `name`, -1 where there is none."""
        return self.drawn.places.get(name, -1) if self.drawn is not None else -1

    def ink(self, code: int) -> Style:
        """A neutral colour for published medians, the run's for everything else."""
        return self.look("faint") if code == PUBLISHED else super().ink(code)

    def labels(self) -> list[tuple[int, str, Style]]:
        """Each run's marker and name at its last start."""
        look = self.look
        return [
            (at, f"{look.marker(n)} {short_name(run, 24)}", look(look.series(n)))
            for run, n, at in self._ends()
        ]

    def labels_of_lines(self) -> list[tuple[Sequence[int], str, Style]]:
        """The sizes of the published medians, those whose lines share a row in one label."""
        if self.scene is None:
            return []
        from kltui.analysis.diffusion import PUBLISHED_EXPONENTS

        first = len(self.scene.xy_n2) - 2 * len(PUBLISHED_EXPONENTS)
        rows: dict[int, tuple[int, list[str]]] = {}
        for k, size in enumerate(PUBLISHED_EXPONENTS):
            at = first + 2 * k
            if cell := self.cell(at):
                rows.setdefault(cell[1], (at, []))[1].append(size)
        return [
            ((at, at + 1), f"published {', '.join(sizes)}", self.look("faint")) for at, sizes in rows.values()
        ]

    def marks(self) -> list[tuple[int, str, Style]]:
        """Each run's marker at its last start."""
        look = self.look
        return [(at, look.marker(n), look(look.series(n), bold=True)) for _, n, at in self._ends()]

    def _ends(self) -> list[tuple[str, int, int]]:
        """(run, its number, index of the point of its last start)."""
        return self.drawn.ends if self.drawn is not None else []

    def cursor_moved(self) -> None:
        """Moves the shared cursor to the start under the cross-hair."""
        self.kl.set_cursor(self.names[self.cursor])

    def readout(self) -> list[Span]:
        """The exponent of the start under the cross-hair."""
        look = self.look
        if not 0 <= self.cursor < len(self.exponents):
            return self.how_to_move("{} picks a start, {} walks, {} window, {} noise", "window", "noise")
        e = self.exponents[self.cursor]
        alpha = f"   α {e.alpha:.2f}" if math.isfinite(e.alpha) else ""
        return [
            (f" {short_name(self.names[self.cursor], 30)}", look("text", bold=True)),
            (
                f"   c {slope_words(e.c_q, e.se_q)}   R² {e.r2_q:.2f}   D {e.dimension_q:.2f}{alpha}",
                look("muted"),
            ),
        ]

    def do_axis_scale(self) -> None:
        self.x_scale = "log1p" if self.x_scale == "linear" else "linear"
        self.kl.say(f"step axis: {'log10(1 + step)' if self.x_scale == 'log1p' else 'linear'}")
        if len(self.names) <= FEW_POINTS:
            self._rescale()
        else:
            self.kl.run_worker(self._rescale_later(), group="exponents drawn", exclusive=True)

    async def _rescale_later(self) -> None:
        """The logarithms of very many starts are taken in another thread."""
        drawn, scale = self.drawn, self.x_scale
        if drawn is not None:
            await asyncio.to_thread(drawn.seen, scale)
            await self.kl.calm(PAUSE_S, LONGEST_S)
            self._rescale()

    def _rescale(self) -> None:
        if self.drawn is not None:
            self.show_exponents(self.exponents, self.drawn)


class DiffusionView(RunPlotsView):
    """The exponents of all starts above the window of one start; beside them the medians of each run."""

    screen_name = "diffusion"
    has_figure = True

    def make_columns(self) -> Sequence[ColumnOfPanes]:
        self.window, self.noise = WINDOWS[0], False
        self._asked: tuple[object, ...] = ()
        self._fitted_map: Map | None = None
        self._fitted: tuple[tuple[object, ...], list[Exponent]] = (
            (),
            [],
        )  # (settings, exponents of all starts)
        self.made_with = (self.window, self.noise)  # settings of the exponents that are shown
        self.found: Map | None = None
        self.distances: Weights = {}
        self.computed: Weights = {}  # distances that could not be stored, by digests of weights
        self.exponents: list[Exponent] = []
        self.window_plot, self.exponent_plot = WindowPlot(), ExponentPlot()
        self.table = TextPane("Medians over starts [quartiles]", self._medians)
        return [
            ColumnOfPanes([self.exponent_plot, self.window_plot]),
            ColumnOfPanes([self.table], width=46, minimum=120),
        ]

    def update_data(self) -> None:
        """Computes again if vectors, window or noise correction have changed."""
        self.window_plot.display = self.exponent_plot.scene is not None
        super().update_data()
        kl = self.kl
        hidden = frozenset(kl.selection.hidden)
        wanted = (kl.map_cache.version, self.window, self.noise, kl.filter.text, hidden)
        if wanted != self._asked and not kl.map_cache.is_empty:
            self._asked = wanted
            self.run_worker(self._load(), group="diffusion", exclusive=True)

    async def _load(self) -> None:
        from kltui.view.curve_panels import no_window
        from kltui.view.sections.diffusion import undefined_exponents

        kl = self.kl
        try:
            found = await kl.map_cache.map()
            weights = await kl.reader.read(lambda ws: known_distances(ws, self.computed))
            window, noise = self.window, self.noise
            made_of = (weights, window, noise)
            if self._fitted_map is not found or self._fitted[0] != made_of:
                every = await kl.reader.compute(
                    lambda: found.diffusion(
                        weights or None, window=window, from_step="auto", noise_corrected=noise
                    )
                )
                self._fitted_map, self._fitted = found, (made_of, every)
            every, keep = self._fitted[1], self._passing()
            exponents = every if keep is None else await kl.reader.compute(lambda: kept(found, every, keep))
            number = kl.snapshot.run_number
            drawn = await kl.reader.compute(lambda: drawn_exponents(exponents, number, start_names(found)))
            scale = self.exponent_plot.x_scale
            if exponents:
                await kl.reader.compute(lambda: (drawn.seen(scale), drawn.places))
                await kl.calm(PAUSE_S, LONGEST_S)
        except KltuiError as error:
            self._say_nothing(error.in_one_line)
            return
        undefined = undefined_exponents(exponents, window) if exponents else ""
        exponents = [] if undefined else exponents
        self.found, self.distances, self.exponents = found, weights, exponents
        self.made_with = window, noise
        if undefined:
            self._say_nothing(undefined)
        elif not exponents:
            filtered = f"no start passes the filter: press {kl.key('out')} to clear it"
            gone = all_gone(kl) if kl.selection.hidden else filtered
            why = gone if every else await kl.reader.compute(lambda: no_window(found, window))
            self._say_nothing(why)
        self.window_plot.display = bool(exponents)
        self.exponent_plot.show_exponents(exponents, drawn)
        self.table.update_data()
        self.cursor_moved()

    def _passing(self) -> Collection[str] | None:
        """The names of the checkpoints that pass the filter and are not of a hidden run; None if all are."""
        snapshot, keep, hidden = self.kl.snapshot, self.kl.filter, self.kl.selection.hidden
        if not keep.text and not hidden:
            return None
        passing = snapshot.passing_names(keep) if keep.text else snapshot.by_name.keys()
        return passing - {
            name for run in hidden & snapshot.runs.keys() for name in snapshot.names_of_run(run, EVERY)
        }

    def _say_nothing(self, why: str) -> None:
        for plot in (self.exponent_plot, self.window_plot):
            plot.note = why
            plot.show(None, [])
        self.window_plot.display = False

    def cursor_moved(self) -> None:
        """Shows the window whose start is nearest to the shared cursor in its run."""
        if self.found is None:
            return
        self.exponent_plot.go_to(self.kl.selection.cursor)
        self.window_plot.show_window(self.found, self.distances, self._exponent())

    def _exponent(self) -> Exponent | None:
        row = self.kl.snapshot.by_name.get(self.kl.selection.cursor)
        if row is None or not self.exponents:
            return self.exponents[0] if self.exponents else None
        drawn = self.exponent_plot.drawn
        found = drawn.nearest(label_of_row(row), row.checkpoint.step or 0) if drawn is not None else None
        return found or self.exponents[0]

    def _medians(self, width: int) -> list[list[Span]]:
        from kltui.analysis.diffusion import PUBLISHED_EXPONENTS

        look, number, drawn = self.look, self.kl.snapshot.run_number, self.exponent_plot.drawn
        summaries = drawn.summaries if drawn is not None and self.exponents else []
        lines: list[list[Span]] = []
        names = ("c_q", "c_w", "alpha")
        said = aligned([_spread(q) for s in summaries for q in (s.c_q, s.c_w, s.alpha)])
        for k, s in enumerate(summaries):
            n = number.get(s.run, 0)
            name = safe_text(s.run, max(6, width - 14))
            starts = f"  {s.n_starts} start{'s' if s.n_starts > 1 else ''}"
            lines.append(
                [(look.marker(n) + " ", look(look.series(n))), (name, look("text")), (starts, look("faint"))]
            )
            lines += [
                [(f"  {what:<6}", look("muted")), (said[3 * k + i], look("text"))]
                for i, what in enumerate(names)
                if math.isfinite((s.c_q, s.c_w, s.alpha)[i][0])
            ]
        lines += self._hidden_runs(width)
        lines += [
            [],
            [(f"window {self.window}, noise {'subtracted' if self.noise else 'as it is'}", look("muted"))],
        ]
        if self.made_with != (self.window, self.noise):
            lines.append([("computing …", look("warning"))])
        elif self.noise:
            lines += self._floors(width)
        title = f"{'published (Pythia)':<{max(8, width - 26)}} {'c_q':>6} {'c_w':>6} {'alpha':>6}"
        lines += [[], [(title, look("muted"))]]
        for size, (c_w, c_q, alpha) in PUBLISHED_EXPONENTS.items():
            figures = "".join(f" {_figure(v):>6}" for v in (c_q, c_w, alpha))
            lines.append([(f"  {size}".ljust(max(8, width - 26)), look("faint")), (figures, look("faint"))])
        if self.exponents and not self.distances:
            said_of_weights = (
                "no weight distances stored:",
                f"press {self.kl.key('weights')} to compute them",
            )
            lines += [[], *([(text, look("warning"))] for text in said_of_weights)]
        return lines

    def _hidden_runs(self, width: int) -> list[list[Span]]:
        """A line for each curve with exponents whose run is hidden."""
        look, snapshot = self.look, self.kl.snapshot
        curves = dict.fromkeys(e.run for e in self._fitted[1])
        faint = look("faint")
        return [
            [
                (look.marker(snapshot.run_number.get(label, 0)) + " ", faint),
                (safe_text(label, max(6, width - 14)), faint),
                ("  hidden", faint),
            ]
            for label in curves
            if snapshot.labels.get(label, label) in self.kl.selection.hidden
        ]

    def _floors(self, width: int) -> list[list[Span]]:
        """Lines with the noise floor subtracted from each run's distances and its 95 % interval, or why it is not."""
        look, number = self.look, self.kl.snapshot.run_number
        lines: list[list[Span]] = []
        drawn = self.exponent_plot.drawn
        for run, f in drawn.floors.items() if drawn is not None else ():
            n = number.get(run, 0)
            interval = f" (95%: {figure(f.low, 2)} to {figure(f.high, 2)})" if math.isfinite(f.low) else ""
            said = (
                f"  {figure(f.value, 2)} bits/byte{interval}"
                if f.value
                else f"  nothing: {f.why}{f'; fitted {figure(f.estimate, 2)}{interval}' if interval else ''}"
            )
            lines.append(
                [(look.marker(n) + " ", look(look.series(n))), (safe_text(run, width - 2), look("text"))]
            )
            lines += [[(part, look("muted"))] for part in wrapped(said, max(10, width))]
        return lines

    def do_window(self) -> None:
        self.window = WINDOWS[(WINDOWS.index(self.window) + 1) % len(WINDOWS)]
        self.kl.say(f"window: {self.window} checkpoints")
        self.update_data()

    def do_noise(self) -> None:
        self.noise = not self.noise
        self.kl.say(
            "noise floor subtracted before the fit, if reliable"
            if self.noise
            else "distances without correction"
        )
        self.update_data()

    def do_weights(self) -> None:
        self.run_worker(self._compute_weights(), group="weights", exclusive=True)

    async def _compute_weights(self) -> None:
        computed = await compute_weights(self.kl)
        if computed is not None:
            self.computed, self._asked = computed, ()
            self.update_data()

    def shown_figure(self) -> ShownSubject | None:
        """The figure of the exponents with the present window: of the curves that have a start on screen."""
        from kltui.figures.shown import ShownSubject

        if self.found is None or not self.exponents:
            return None
        shown = {e.run for e in self.exponents}
        every = self._passing() is None
        names = () if every else tuple(p.name for p in self.found.points if label_of(p) in shown)
        return ShownSubject("diffusion", names, window=self.window, noise_corrected=self.noise)

    def csv_rows(self) -> Iterator[list[object]]:
        """The exponents of every run and start."""
        yield ["run", "start", "c_q", "r2_q", "c_w", "r2_w"]
        for e in self.exponents:
            yield [e.run, e.start, e.c_q, e.r2_q, e.c_w, e.r2_w]


def _figure(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


VIEW = DiffusionView
