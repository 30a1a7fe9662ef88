"""One panel of the Curves screen: a quantity of every run against the training step."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len
from rich.style import Style

from kltui.analysis.number_text import with_error
from kltui.sanitize import in_ascii, safe_text, short_name
from kltui.tui.data import label_of_row, run_of
from kltui.tui.widgets.canvas import Span, width_of
from kltui.tui.widgets.plot import PlotPane
from kltui.view.curve_content import TOO_FEW_TEXTS, Content, PanelKind, is_near
from kltui.view.palette import SHADES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kltui.analysis.curves import Curve
    from kltui.tui.session import Session
    from kltui.view.axis import Scale
    from kltui.view.plot_data import Floats, Scene, Window

PUBLISHED_LINE, SETTLED_LINE = 4000, 4001  # series that are not runs
ROOMY = 100  # width from which the header shows the checkpoint's name and the unit
MAX_ENDS = 12  # with more runs, their ends have no markers and names
# Panels of at most so many points are drawn at once when something has changed, others in another thread after the
# answer to the key: when no key has come for PAUSE_S seconds, but after LONGEST_S at the latest.
FEW_POINTS = 1000
PAUSE_S, LONGEST_S = 0.02, 0.5
NAMED_FROM = (44, 9)  # least width and height of a plot with names of runs


def all_gone(kl: Session) -> str:
    """Why no curve is drawn where every run is hidden or filtered out, and what to press."""
    return f"every run is hidden or filtered out: press {kl.key('show_runs')} to show them, {kl.key('out')} to clear the filter"


@dataclass(frozen=True)
class Wanted:
    """What the panels depend on: version of the vectors, marks, the cursor's run, window of exponents, weight distances."""

    version: int
    a: str
    b: str
    run: str
    window: int
    weights: int


class DrawnCurve(NamedTuple):
    """The drawn part of a curve: index of its first point in the scene, its run's number, and the points that pass."""

    curve: Curve
    first: int
    number: int
    names: tuple[str, ...]
    steps: tuple[int, ...]
    values: tuple[float, ...]
    errors: tuple[float, ...]
    arrays: tuple[Floats, Floats, Floats]  # steps, values and errors


@dataclass
class Build:
    """Collects points, codes and segments of a scene; the curves' own points must be added first."""

    n: int = 0
    xy: list[Floats] = field(default_factory=list)
    codes: list[NDArray[np.int16]] = field(default_factory=list)
    segments: list[NDArray[np.int64]] = field(default_factory=list)

    def points(self, xy_n2: Floats, code: int) -> int:
        """Adds n points of one code; returns the index of the first."""
        import numpy as np

        first = self.n
        self.xy.append(xy_n2)
        self.codes.append(np.full(len(xy_n2), code, dtype=np.int16))
        self.n += len(xy_n2)
        return first

    def lines(self, ends_m4: Floats, code: int) -> int:
        """Adds m lines, each (x, y, x, y) of its ends; returns the index of the first end."""
        import numpy as np

        first = self.points(ends_m4.reshape(-1, 2), code)
        self.segments.append(np.arange(first, self.n, dtype=np.int64).reshape(-1, 2))
        return first

    def thread(self, first: int, n: int) -> None:
        """Joins n consecutive points, from index `first` on, by a line."""
        import numpy as np

        rows = np.arange(first, first + n, dtype=np.int64)
        self.segments.append(np.column_stack([rows[:-1], rows[1:]]))


class PanelPicture(NamedTuple):
    """What a panel draws: from which choices, its curves, their scene and names, what stands at them, and the whole window."""

    drawn_for: tuple[object, ...]
    drawn: list[DrawnCurve]
    scene: Scene | None
    names: list[str]
    words: list[tuple[int, str, int]]
    ends: list[tuple[DrawnCurve, int]]
    spiked: list[int]
    window: Window | None


class CurvePanel(PlotPane):
    """A quantity against the step. All panels share the cursor; the header shows the value at it."""

    x_name = "step"
    y_tick_rows = 3
    DEFAULT_CSS = "CurvePanel { width: 1fr; height: 1fr; }"

    def __init__(self, kind: PanelKind, turns: asyncio.Lock) -> None:
        super().__init__(id=f"curves-{kind.key}")
        self.panel = kind
        self.waits = False  # whether it is still to be drawn
        self._turns = turns  # of all panels, which are drawn one after another
        self._keeps_window = True
        self._whole: tuple[Scene, Window] | None = None
        self.content = Content()
        self.x_scale: Scale = "log1p"
        self.y_scale: Scale = kind.scale
        self.names_runs = True
        self.drawn: list[DrawnCurve] = []
        self._words: list[tuple[int, str, int]] = []
        self._ends: list[tuple[DrawnCurve, int]] = []
        self._spiked: list[int] = []
        self._drawn_for: tuple[object, ...] = ()

    # -- header ---------------------------------------------------------------------------------

    def header_left(self) -> list[Span]:
        """The quantity with unit and scale, shortened if there is not enough room."""
        look, room = self.look, self.body_width - width_of(self.header_right()) - 1
        style = look("accent" if self.has_focus else "muted", bold=self.has_focus)
        scale = ", log" if self.y_scale == "log" else ""
        unit = f", {self.panel.unit}" if self.panel.unit else ""
        for title in (
            *self._titles_against(unit),
            self.panel.title + unit,
            self.panel.short + unit,
            self.panel.short,
        ):
            if cell_len(title + scale) <= room:
                return [(title + scale, style)]
        return [((self.panel.short + scale)[: max(room, 8)], style)]

    def _titles_against(self, unit: str) -> tuple[str, ...]:
        """A long and a short title that name what all curves are compared with; none if that differs."""
        against = {c.against for c in self.content.curves}
        if len(against) != 1 or "" in against:
            return ()
        name = safe_text(against.pop(), 60)
        return f"{self.panel.title}, against {name}{unit}", f"{self.panel.short}, against {name}{unit}"

    def header_right(self) -> list[Span]:
        """The value under the cursor with its standard error."""
        here = self.here()
        waits = [("drawing …", self.look("warning"))] if self.waits else []
        if here is None:
            return waits
        drawn, at = here
        spiked = (drawn.curve.run, drawn.steps[at]) in self.content.spikes
        text = with_error(drawn.values[at], drawn.errors[at]).removesuffix(" ± -")
        if self.body_width >= ROOMY:
            against = f" to {drawn.curve.against}" if drawn.curve.against else ""
            text = f"{safe_text(f'{drawn.names[at]}{against}', 60)}  {text} {self.panel.unit}".rstrip()
        return [
            *waits,
            ("  " * bool(waits), self.look()),
            (text, self.look("bad" if spiked else "text", bold=True)),
        ]

    def here(self) -> tuple[DrawnCurve, int] | None:
        """(the curve under the cursor, index of the point on it); None without one."""
        for drawn in self.drawn:
            if drawn.first <= self.cursor < drawn.first + len(drawn.steps):
                return drawn, self.cursor - drawn.first
        return None

    @property
    def plot_height(self) -> int:
        """The height of the plot itself; header and x axis take two lines."""
        return max(1, self.body_height - 1)

    def lay_over(self) -> None:
        """Updates cross-hair, marks and labels, and the header with the value under the cursor."""
        super().lay_over()
        self.redraw_focus()

    # -- drawing --------------------------------------------------------------------------------

    def show_content(self, content: Content) -> None:
        """Draws another content; a window that the user chose stays."""
        self.content = content
        self.note = content.missing
        self.draw_soon()

    def update_data(self) -> None:
        """Draws again if filter, hidden runs or colours have changed, otherwise only cross-hair, marks and labels."""
        if self._drawn_for != self._draws():
            self.draw_soon()
        else:
            self.follow()
            self.lay_over()

    def _draws(self) -> tuple[object, ...]:
        kl = self.kl
        hidden = frozenset(kl.selection.hidden)
        return self.content, kl.filter, hidden, kl.snapshot.run_number, self.x_scale, self.y_scale

    def draw_soon(self, *, keep_window: bool = True) -> None:
        """Draws again: at once where the points are few, otherwise after the answer to the key."""
        self._keeps_window &= keep_window
        if sum(map(len, self.content.curves)) <= FEW_POINTS:
            self._show_picture(self._picture())
            return
        self.waits = True
        self.redraw_focus()
        self.kl.run_worker(self._draw_in_turn(), group=f"draw {self.panel.key}", exclusive=True)

    async def _draw_in_turn(self) -> None:
        async with self._turns:
            await self.kl.calm(PAUSE_S, LONGEST_S)
            made = await asyncio.to_thread(self._picture)
            await self.kl.calm(PAUSE_S, LONGEST_S)
            self._show_picture(made)
            await asyncio.sleep(PAUSE_S)

    def _picture(self) -> PanelPicture:
        """The picture of the present content and choices; changes nothing, so that any thread may make it."""
        drawn_for = self._draws()
        drawn = self._shown_curves()
        names = [name for d in drawn for name in d.names]
        if not drawn or math.isnan(self._extent(drawn)[0]):
            return PanelPicture(drawn_for, drawn, None, names, [], [], [], None)
        scene, words = self._scene(drawn)
        ends, spiked = self._signs(drawn)
        return PanelPicture(drawn_for, drawn, scene, names, words, ends, spiked, super().fitted_window(scene))

    def _show_picture(self, made: PanelPicture) -> None:
        self.waits = False
        keep_window, self._keeps_window = self._keeps_window, True
        self._drawn_for, self.drawn, scene = made.drawn_for, made.drawn, made.scene
        self._words, self._ends, self._spiked = made.words, made.ends, made.spiked
        self.in_order = {at for at, _, series in made.words if series == PUBLISHED_LINE}
        self._whole = (scene, made.window) if scene is not None and made.window is not None else None
        if scene is None and self.content.curves:
            self.note = self._why_blank()
        same_axes = self.scene is not None and scene is not None and (
            (self.scene.x_scale, self.scene.y_scale) == (scene.x_scale, scene.y_scale)
        )  # fmt: skip
        self.show(scene, made.names, keep_window=keep_window and same_axes and not self.fits)
        self.follow()

    def _why_blank(self) -> str:
        """Why none of the content's curves is drawn, and what to press."""
        if not self.drawn:
            return all_gone(self.kl)
        if any(math.isfinite(value) for d in self.drawn for value in d.values):
            return f"every value is 0, which a log axis cannot show: press {self.kl.key('value_scale')} here for a linear one"
        return TOO_FEW_TEXTS if self.panel.short.startswith("KL") else "undefined at every step"

    def fitted_window(self, scene: Scene) -> Window:
        """The window of a scene, found with it."""
        if self._whole is not None and self._whole[0] is scene:
            return self._whole[1]
        return super().fitted_window(scene)

    def _shown_curves(self) -> list[DrawnCurve]:
        found: list[DrawnCurve] = []
        first = 0
        for curve in self.content.curves:
            kept = self._kept(curve)
            shown = curve if kept is None else curve.only(kept)
            if len(shown):
                number = self.kl.run_number(shown.names[0])
                parts = shown.names, shown.steps, shown.values, shown.errors
                found.append(DrawnCurve(curve, first, number, *parts, shown.arrays))
                first += len(shown)
        return found

    def _kept(self, curve: Curve) -> list[bool] | None:
        """Whether each point passes the filter and is not of a hidden run; None if all are."""
        snapshot, keep, hidden = self.kl.snapshot, self.kl.filter, self.kl.selection.hidden
        if not keep.text and not hidden:
            return None
        rows = snapshot.by_name
        passing = snapshot.passing_names(keep) if keep.text else rows
        shown = [name in passing or name not in rows for name in curve.names]
        if not hidden:
            return shown
        return [
            kept and ((row := rows.get(name)) is None or run_of(row) not in hidden)
            for name, kept in zip(curve.names, shown, strict=True)
        ]

    def _scene(self, drawn: Sequence[DrawnCurve]) -> tuple[Scene, list[tuple[int, str, int]]]:
        """The scene of some curves, and the words of its lines."""
        import numpy as np

        from kltui.view.plot_data import Scene

        build = Build()
        for d in drawn:
            build.points(np.column_stack(d.arrays[:2]), d.number * SHADES + SHADES - 1)
        n_points = build.n
        words = self._add_lines(build, drawn)
        self._add_errors(build, drawn)
        for d in drawn:
            build.thread(d.first, len(d.steps))
        scene = Scene(
            np.concatenate(build.xy),
            np.concatenate(build.codes),
            np.concatenate(build.segments),
            self.x_scale,
            self.y_scale,
            n_points,
        )
        return scene, words

    def _signs(self, drawn: Sequence[DrawnCurve]) -> tuple[list[tuple[DrawnCurve, int]], list[int]]:
        """The points of the curves' ends and of their spikes."""
        import numpy as np

        ends: list[tuple[DrawnCurve, int]] = []
        spiked: list[int] = []
        spikes = self.content.spikes
        for d in drawn:
            finite = np.flatnonzero(np.isfinite(d.arrays[1]))
            if len(finite):
                ends.append((d, d.first + int(finite[-1])))
            if spikes:
                places = (i for i, step in enumerate(d.steps) if (d.curve.run, step) in spikes)
                spiked += [d.first + i for i in places]
        return ends, spiked

    def _extent(self, drawn: Sequence[DrawnCurve]) -> tuple[float, float]:
        """Smallest and largest value that can be drawn, without error bars; NaN if there is none."""
        import numpy as np

        values = np.concatenate([d.arrays[1] for d in drawn])
        values = values[np.isfinite(values)]
        if self.y_scale == "log":
            values = values[values > 0]
        return (float(values.min()), float(values.max())) if len(values) else (math.nan, math.nan)

    def _add_lines(self, build: Build, drawn: Sequence[DrawnCurve]) -> list[tuple[int, str, int]]:
        """Adds lines, with labels, that are near the curves: at published medians, and upright where the run settled."""
        import numpy as np

        words: list[tuple[int, str, int]] = []
        low, high = self._extent(drawn)
        if math.isnan(low):
            return words
        left, right = min(d.steps[0] for d in drawn), max(d.steps[-1] for d in drawn)
        settled = self.content.settled
        if settled is not None and is_near(settled[0], left, right, self.x_scale):
            step, said = settled
            at = build.lines(np.array([[step, high, step, low]], float), SETTLED_LINE * SHADES)
            words.append((at, said, SETTLED_LINE))
        # From top to bottom, the order in which their labels are placed if there is not enough room.
        for value, said in sorted(self.content.near_lines(low, high, self.y_scale), reverse=True):
            at = build.lines(np.array([[left, value, right, value]], float), PUBLISHED_LINE * SHADES)
            words.append((at, said, PUBLISHED_LINE))
        return words

    def _add_errors(self, build: Build, drawn: Sequence[DrawnCurve]) -> None:
        """Adds error bars of one standard error; on a log axis, one that reaches 0 ends at the smallest value."""
        import numpy as np

        minimum, _ = self._extent(drawn)
        for d in drawn:
            x, value, error = d.arrays
            known = np.isfinite(value) & (error > 0)
            x, value, error = x[known], value[known], error[known]
            low = value - error
            if self.y_scale == "log":
                low = np.where(low > 0, low, np.minimum(minimum, value))
            build.lines(np.column_stack([x, low, x, value + error]), d.number * SHADES + 1)

    def ink(self, code: int) -> Style:
        """The style of a run, of published medians, or of the settled step."""
        series = code // SHADES
        if series < PUBLISHED_LINE:
            return super().ink(code)
        return self.look("warning" if series == PUBLISHED_LINE else "good")

    def name_runs(self, wanted: bool) -> None:
        """Turns the names of runs at their ends on or off (the table beside the panels has them too)."""
        if wanted != self.names_runs:
            self.names_runs = wanted
            self.lay_over()

    def labels(self) -> list[tuple[int, str, Style]]:
        """Labels of the lines, then each run's marker and name at its end if there is room."""
        plain, found = self.look.ascii_only, []
        for at, said, series in self._words:
            # Without colours, a run's letter before the label would look like its mark.
            said = said if self.look.color or series != PUBLISHED_LINE else f"[{said}]"
            found.append((at, in_ascii(said) if plain else said, self.ink(series * SHADES)))
        roomy = self.plot_width >= NAMED_FROM[0] and self.plot_height >= NAMED_FROM[1]
        if self.names_runs and roomy and len(self.drawn) <= MAX_ENDS:
            look = self.look
            found += [
                (at, f"{look.marker(d.number)} {short_name(d.curve.run, 24)}", look(look.series(d.number)))
                for d, at in self._ends
            ]
        return found

    def marks(self) -> list[tuple[int, str, Style]]:
        """Each run's marker at its end, signs on spikes, and A and B."""
        look, ends = self.look, self._ends if len(self.drawn) <= MAX_ENDS else []
        found = [(at, look.marker(d.number), look(look.series(d.number), bold=True)) for d, at in ends]
        found += [(at, "!", look("bad", bold=True)) for at in self._spiked]
        chosen = self.kl.selection
        for letter, name in (("A", chosen.a), ("B", chosen.b)):
            point = self._point_of(name)
            if point >= 0 and self.names[point] == name:
                found.append((point, letter, look("accent", bold=True)))
        return found

    # -- the cursor -----------------------------------------------------------------------------

    def follow(self) -> None:
        """Moves the cross-hair to the shared cursor's step, on its run's curve or on one that compares a run with it."""
        point = self._point_of(self.kl.selection.cursor)
        if point == self.cursor:
            return
        if point >= 0:
            self.go(point)
        else:
            self.cursor = -1
            self.lay_over()

    def _point_of(self, name: str) -> int:
        row = self.kl.snapshot.by_name.get(name)
        if row is None:
            return -1
        c, label = row.checkpoint, label_of_row(row)
        own = [d for d in self.drawn if d.curve.run == label] or [
            d for d in self.drawn if d.curve.against == label
        ]
        for d in own:
            at = bisect_left(d.steps, c.step or 0)
            if at < len(d.steps) and d.steps[at] == c.step:
                return d.first + at
        return -1

    def cursor_moved(self) -> None:
        """Moves the shared cursor to the point under the cross-hair."""
        self.kl.set_cursor(self.names[self.cursor])

    def do_left(self) -> None:
        self._step(-1)

    def do_right(self) -> None:
        self._step(1)

    def _step(self, by: int) -> None:
        """Moves along the run under the cursor; if it has no curve here, to an end of the longest curve."""
        row = self.kl.snapshot.by_name.get(self.kl.selection.cursor)
        runs = {label for d in self.drawn for label in (d.curve.run, d.curve.against)}
        if self.drawn and (row is None or label_of_row(row) not in runs):
            longest = max(self.drawn, key=lambda d: len(d.steps))
            self.kl.set_cursor(longest.names[0 if by > 0 else -1])
        else:
            self.kl.walk(by)

    def do_up(self) -> None:
        self._to_neighbour(1.0)

    def do_down(self) -> None:
        self._to_neighbour(-1.0)

    def _to_neighbour(self, sign: float) -> None:
        """Moves to the next curve above (1) or below (-1) at the cursor's step; after the last one, to the first."""
        here = self.here()
        row = self.kl.snapshot.by_name.get(self.kl.selection.cursor)
        step = row.checkpoint.step or 0 if row is not None else 0
        nearest = [(place, d, _nearest(d.steps, step)) for place, d in enumerate(self.drawn)]
        found = sorted(
            (sign * d.values[at], place, d.names[at])
            for place, d, at in nearest
            if math.isfinite(d.values[at])
        )
        if here is not None:
            own = next((f[:2] for f in found if self.drawn[f[1]] is here[0]), (-math.inf, -1))
            others = [f for f in found if f[2] != self.kl.selection.cursor]
            found = [f for f in others if f[:2] > own] + [f for f in others if f[:2] < own]
        if found:
            self.kl.set_cursor(found[0][2])

    def do_first(self) -> None:
        self._to_end(0)

    def do_last(self) -> None:
        self._to_end(-1)

    def _to_end(self, at: int) -> None:
        here = self.here()
        drawn = here[0] if here is not None else next(iter(self.drawn), None)
        if drawn is not None:
            self.kl.set_cursor(drawn.names[at])

    def do_value_scale(self) -> None:
        self.y_scale = "linear" if self.y_scale == "log" else "log"
        self.kl.say(f"{self.panel.short}: {'logarithmic' if self.y_scale == 'log' else 'linear'}")
        self.draw_soon(keep_window=False)


def _nearest(steps: Sequence[int], step: int) -> int:
    """The index of the step nearest to `step`."""
    at = bisect_left(steps, step)
    around = [k for k in (at - 1, at) if 0 <= k < len(steps)]
    return min(around, key=lambda k: abs(steps[k] - step))
