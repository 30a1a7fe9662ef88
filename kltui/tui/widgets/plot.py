"""The base of all plots: zoom, pan, and a cross-hair that keys move to the nearest point in a direction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.strip import Strip

from kltui.sanitize import in_ascii
from kltui.tui.views.welcome import empty_line, welcome
from kltui.tui.widgets.axis_line import beside_name
from kltui.tui.widgets.canvas import Pane, Span, fitted, shortened, strip_of
from kltui.tui.widgets.label_room import NEAR_WAYS, UP_FIRST, LabelRoom, Way
from kltui.view.palette import SHADES
from kltui.view.ticks import axis_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kltui.kernels.native import Direction
    from kltui.tui.theme import Theme
    from kltui.view.axis import Axis, Scale
    from kltui.view.cell_buffer import CellBuffer, Kind
    from kltui.view.plot_data import Floats, Scene, Window

Patch = tuple[int, str, Style]
Y_AXIS = 8
MANY_POINTS = 20_000  # of which a change of markers is drawn after the answer to the key
MORE_TICKS = 8  # how many denser divisions of an axis are tried
NAME_ROWS = 1.3  # rows above a fitted scene, for the name of the y axis
NO_PLOT = "there is no plot here to zoom or pan"


class PlotPane(Pane):
    """A plot of a scene through a window. Subclasses call `show` with a scene and its points' names.

    `x_name` and `y_name` are the names of the axes with their unit; the scale of a logarithmic axis is added.
    """

    x_name = ""
    y_name = ""
    y_tick_rows = 5  # approximate number of rows between ticks
    line_ways: Sequence[Way] = NEAR_WAYS  # positions of the labels of lines

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.scene: Scene | None = None
        self.names: list[str] = []
        self.window: Window | None = None
        self.seen: Window | None = None  # the window at the present size
        # whether the window shows the whole scene, so that the user has not zoomed or panned
        self.fits = True
        self.cursor = -1
        self.note = ""
        self.in_order: set[int] = set()  # points whose labels stand one below the other, as `labels` has them
        self._planes: CellBuffer | None = None
        self._dots: Floats | None = None  # positions of all points in dots of `_drawn_kind`
        self._drawn_kind: Kind = "braille"
        self._seen_places: Floats | None = None  # what `_eyes` returns
        self._shape: tuple[Scene, tuple[float, float]] | None = None  # (scene, its shape)
        self._made_for: tuple[int, int, Kind, Theme] | None = None
        self._strips: dict[int, Strip] = {}
        self._y_labels: dict[int, str] = {}
        self._patches: dict[int, list[Patch]] = {}
        self._inks: dict[int, Style] = {}
        self._inks_of: Theme | None = None

    # -- for subclasses -------------------------------------------------------------------------

    def labels(self) -> list[tuple[int, str, Style]]:
        """(index of a point, text, style) of labels beside points."""
        return []

    def labels_of_lines(self) -> list[tuple[Sequence[int], str, Style]]:
        """(indices of points, text, style) of labels, each beside the first of its points that has room for it."""
        return []

    def marks(self) -> list[tuple[int, str, Style]]:
        """(index of a point, character, style) of marks over points, such as A and B."""
        return []

    def readout(self) -> list[Span]:
        """The line below the plot, about the point under the cursor."""
        return []

    def cursor_moved(self) -> None:
        """Called when a key or the mouse has moved the cursor to a point."""

    # -- size and drawing -----------------------------------------------------------------------

    @property
    def plot_width(self) -> int:
        """The width of the plot itself in cells."""
        return max(1, self.body_width - Y_AXIS)

    @property
    def plot_height(self) -> int:
        """The height of the plot itself; header, x axis and read-out take three lines."""
        return max(1, self.body_height - 2)

    def show(self, scene: Scene | None, names: list[str], *, keep_window: bool = False) -> None:
        """Shows another scene (None: nothing); with `keep_window`, through the same window. The cursor stays on its name."""
        here = self.names[self.cursor] if 0 <= self.cursor < len(self.names) else ""
        self.scene, self.names = scene, names
        self.cursor = self._number_of(here, names)
        if scene is not None and not (keep_window and self.window is not None):
            self.window, self.fits = self.fitted_window(scene), True
        self.redraw_plot()

    def _number_of(self, name: str, names: list[str]) -> int:
        """The index of `name` in `names`, -1 without one; looks at the cursor's place first."""
        if not name:
            return -1
        if 0 <= self.cursor < len(names) and names[self.cursor] == name:
            return self.cursor
        return names.index(name) if name in names else -1

    def place_of(self, name: str) -> int:
        """The index of the point called `name`; -1 if there is none."""
        return self._number_of(name, self.names)

    def fitted_window(self, scene: Scene) -> Window:
        """The window that shows the whole scene."""
        from kltui.view.plot_data import fit_window

        return fit_window(scene)

    def shape(self) -> tuple[float, float] | None:
        """Width and height of the whole scene in the same unit; None if the axes have different units."""
        if self.scene is None or not self.scene.equal:
            return None
        if self._shape is None or self._shape[0] is not self.scene:
            whole = self.fitted_window(self.scene)
            self._shape = self.scene, (whole.x.span, whole.y.span)
        return self._shape[1]

    def redraw_plot(self) -> None:
        """Draws everything again, after data, window, kind of dots or colours have changed."""
        self._planes, self._strips = None, {}
        self.refresh()

    def _prepare(self) -> bool:
        """Rasterises the scene if necessary; whether there is something to show."""
        if self.scene is None or self.window is None:
            return False
        if not self._is_drawn():
            from kltui.view.cell_buffer import dots_of, draw

            width, height, kind, look = self._made_for = self._makes_for()
            seen = self.seen = self._window_at(width, height, kind)
            dots = self._dots = dots_of(self.scene, seen, width, height, kind)
            self._drawn_kind, self._seen_places = kind, None
            self._planes = draw(
                self.scene, seen, width, height, kind, self.point_marker, marked=not look.color, dots_n2=dots
            )
            self._strips = {}
            self._y_labels = self._make_y_labels(height)
            self._patches = self._make_patches()
        return True

    def _makes_for(self) -> tuple[int, int, Kind, Theme]:
        """Size, kind of dots and colours of a drawing at present."""
        return self.plot_width, self.plot_height, self.kind, self.look

    def _is_drawn(self) -> bool:
        """Whether the scene is drawn as it would be at present; not after a new size, until the next repaint."""
        return self._planes is not None and self._made_for == self._makes_for()

    def _window_at(self, width: int, height: int, kind: Kind) -> Window:
        """The window at this size: with room for the y axis' name above a fitted scene, and equal units if required."""
        from kltui.view.cell_buffer import eye_ratio

        assert self.scene is not None and self.window is not None
        window = self.window
        if self.fits and height > 2:
            window = window.with_room_above(NAME_ROWS / height)
        return window.equalised(eye_ratio(width, height, kind)) if self.scene.equal else window

    def point_marker(self, series: int) -> str:
        """The character for a series' points, used if there are no colours."""
        return self.look.marker(series)

    @property
    def kind(self) -> Kind:
        """The kind of characters that draw dots."""
        from kltui.view.cell_buffer import KINDS

        return "ascii" if self.kl.ascii_only else KINDS[self.kl.marker_kind % len(KINDS)]

    def lines_depend_on(self) -> tuple[object, ...]:
        """Also the kind of dots, which all plots share."""
        return *super().lines_depend_on(), self.kind

    def body_line(self, y: int) -> list[Span] | Strip:
        """Plot rows, then the x axis, then the read-out."""
        if not self._prepare():
            return empty_line(self, y - 1, *self.placeholder())
        if y < self.plot_height:
            return self._plot_row(y)
        return self._x_axis() if y == self.plot_height else shortened(self.readout(), self.body_width)

    def how_to_move(self, words: str, *actions: str) -> list[Span]:
        """A line below the plot: `words` with the keys that move to a near point, walk along a run, and do `actions`."""
        key = self.kl.key
        keys = key("left", "down", "up", "right"), key("previous_step", "next_step"), *map(key, actions)
        return [(" " + words.format(*keys), self.look("faint"))]

    def placeholder(self) -> list[tuple[str, str]]:
        """(ink, text) lines that are shown while there is nothing to draw."""
        return [("muted", self.note or "computing …")]

    def _plot_row(self, y: int) -> Strip:
        strip = self._strips.get(y)
        if strip is None:
            strip = self._strips[y] = self._make_row(y)
        return strip

    def _make_row(self, y: int) -> Strip:
        assert self._planes is not None
        look, width = self.look, self.plot_width
        ground, faint = look(), look("faint")
        label = self._y_labels.get(y, " " * (Y_AXIS - 1))
        axis: list[Span] = [(label, faint), (look.glyph("│", "|"), look("rule"))]
        spans = [(t, ground if c < 0 else self.ink(c)) for t, c in self._planes.runs(y)]
        patches = self._patches.get(y)
        if not patches:
            return strip_of([*axis, *spans], Y_AXIS + width, ground)
        return Strip.join([strip_of(axis, Y_AXIS, ground), patched(strip_of(spans, width, ground), patches)])

    def ink(self, code: int) -> Style:
        """The style of a colour code."""
        look = self.look
        if self._inks_of is not look:
            self._inks, self._inks_of = {}, look
        style = self._inks.get(code)
        if style is None:
            style = self._inks[code] = self.make_ink(code)
        return style

    def make_ink(self, code: int) -> Style:
        """The style of a colour code; `ink` caches it for each palette."""
        series, shade = divmod(code, SHADES)
        return self.look(self.look.series(series, shade))

    def _make_y_labels(self, rows: int) -> dict[int, str]:
        """{row: label of its tick}."""
        assert self.seen is not None
        ticks = _ticks(self.seen.y, max(2, rows // self.y_tick_rows), rows // 2)
        from kltui.view.cell_buffer import DOTS

        _, down = DOTS[self.kind]
        return {
            _cell_of(1 - place, rows, down): fitted(label, Y_AXIS - 1, right=True) for place, label in ticks
        }

    def _x_axis(self) -> list[Span]:
        """The x axis: tick labels, and at one of its ends the axis' name."""
        assert self.seen is not None
        name = self._named(self.x_name, self.seen.x.scale, self.plot_width * 2 // 3)
        least = max(2, self.plot_width // 10)
        counts = range(least, least + MORE_TICKS)
        before, cells, after = beside_name((self._x_ticks(count) for count in counts), name)
        faint, muted = self.look("faint"), self.look("muted")
        return [(before, muted), (cells, faint), (after, muted)]

    def _x_ticks(self, count: int) -> str:
        """A line of the pane's width with about `count` labels of the x axis, without those that would touch others."""
        assert self.seen is not None
        from kltui.view.cell_buffer import DOTS

        across, _ = DOTS[self.kind]
        cells, free = [" "] * self.body_width, 0
        for place, label in _ticks(self.seen.x, count, self.plot_width // 4):
            at = Y_AXIS + _cell_of(place, self.plot_width, across) - len(label) // 2
            at = max(0, min(at, self.body_width - len(label)))
            if at >= free:
                cells[at : at + len(label)] = label
                free = at + len(label) + 1
        return "".join(cells)

    def _y_name(self) -> Patch | None:
        """The y axis' name in the upper left corner; None without one."""
        assert self.seen is not None
        name = self._named(self.y_name, self.seen.y.scale, self.plot_width)
        return (0, name, self.look("muted")) if name else None

    def _named(self, name: str, scale: Scale, maximum: int) -> str:
        return axis_name(in_ascii(name) if self.look.ascii_only else name, scale, maximum)

    # -- labels, marks and cross-hair -----------------------------------------------------------

    def _make_patches(self) -> dict[int, list[Patch]]:
        """{row: its patches}: labels first, then marks, then the cross-hair, which covers the others.

        No mark is in the y axis' name, whose digits it could look like.
        """
        name = self._y_name()
        patches: dict[int, list[Patch]] = {0: [name]} if name else {}
        letters = {(x, 0) for x in range(len(name[1]))} if name else set()
        marks = ((self.cell(point), glyph, style) for point, glyph, style in self.marks())
        placed = [(cell, glyph, style) for cell, glyph, style in marks if cell and cell not in letters]
        shown = {cell: glyph for cell, glyph, _ in placed}
        if self.cursor >= 0 and (cell := self.cell(self.cursor)):
            placed.append((cell, self.look.glyph("◉", "@"), self.look("text", bold=True)))
        taken = {cell for cell, _, _ in placed}
        taken |= {(x, 0) for x in range(len(name[1]) + 1)} if name else set()
        room, lowest = self._room(taken), -1
        for point, text, style in self.labels():
            cell = self.cell(point)
            if cell is None:
                continue
            if point in self.in_order:
                at = room.first(cell, text, [way for way in UP_FIRST if cell[1] + way[1] > lowest])
                lowest = at[1] if at is not None else lowest
            else:
                at, text = room.clearest(cell, text, shown.get(cell, "")) or (None, text)
            if at is not None:
                patches.setdefault(at[1], []).append(self._set_apart(at[0], text, style))
        for points, text, style in self.labels_of_lines():
            cells = filter(None, map(self.cell, points))
            places = (room.first(cell, text, self.line_ways) for cell in cells)
            if at := next(filter(None, places), None):
                patches.setdefault(at[1], []).append(self._set_apart(at[0], text, style))
        for (x, y), glyph, style in placed:
            patches.setdefault(y, []).append((x, glyph, style))
        return patches

    def _room(self, taken: Iterable[tuple[int, int]]) -> LabelRoom:
        """Where labels can be, besides the cells in `taken`."""
        assert self._planes is not None
        drawn = [row.tobytes() for row in self._planes.codes >= 0]
        return LabelRoom(self.plot_width, self.plot_height, taken, drawn)

    def _set_apart(self, column: int, text: str, style: Style) -> Patch:
        """The patch of a label; with a blank on either side where lines are drawn with characters that names have too."""
        if self.look.color and self.kind != "ascii":
            return column, text, style
        before = " " * (column > 0)
        after = " " * (column + cell_len(text) < self.plot_width)
        return column - len(before), before + text + after, style

    def cell(self, point: int) -> tuple[int, int] | None:
        """(column, row) of a point in the plot; None if it is outside."""
        if self._dots is None or not 0 <= point < len(self._dots):
            return None
        x, y = self._cells_of(self._dots[point : point + 1])[0]
        if not (0 <= x < self.plot_width and 0 <= y < self.plot_height):
            return None
        return int(x), int(y)

    def one_a_cell(self, points: NDArray[np.intp]) -> list[int]:
        """The visible ones of `points`, and of several in one cell only the first."""
        import numpy as np

        if self._dots is None:
            return []
        points = points[points < len(self._dots)]
        x, y = self._cells_of(self._dots.take(points, axis=0)).T
        seen = (x >= 0) & (x < self.plot_width) & (y >= 0) & (y < self.plot_height)
        points, x, y = points[seen], x[seen].astype(np.intp), y[seen].astype(np.intp)
        _, first = np.unique(y * self.plot_width + x, return_index=True)
        found: list[int] = points[np.sort(first)].tolist()
        return found

    def lay_over(self) -> None:
        """Updates cross-hair, marks and labels, and redraws only the rows that change."""
        if not self._is_drawn():
            self.refresh()
            return
        old, self._patches = self._patches, self._make_patches()
        changed = [y for y in {*old, *self._patches} if old.get(y) != self._patches.get(y)]
        for y in changed:
            self._strips.pop(y, None)
        self.redraw(*changed, self.plot_height + 1)

    # -- moving ---------------------------------------------------------------------------------

    def go(self, point: int) -> None:
        """Moves the cursor to a point, and the window if the point is outside."""
        if not 0 <= point < len(self.names):
            return
        self.cursor = point
        if self._prepare() and self.cell(point) is None:
            self._centre_on(point)
        self.lay_over()

    def go_to(self, name: str) -> None:
        """Moves the cursor to the point called `name`, if there is one."""
        point = self.place_of(name)
        if point >= 0 and point != self.cursor:
            self.go(point)

    def _centre_on(self, point: int) -> None:
        assert self.scene is not None and self.seen is not None
        place = self.seen.place(self.scene.scaled()[point : point + 1])[0]
        if place[0] == place[0] and place[1] == place[1]:
            self._look_through(self.seen.panned(float(place[0]) - 0.5, float(place[1]) - 0.5))

    def _look_through(self, window: Window) -> None:
        """Draws everything through a window chosen by the user."""
        self.window, self.fits = window, False
        self.redraw_plot()

    def _eyes(self) -> Floats:
        """n x 2 positions on the screen in widths of a cell, which is twice as high as wide; NaN for points not drawn.

        Cached until the plot is drawn again.
        """
        assert self.scene is not None and self._dots is not None
        if self._seen_places is None:
            self._seen_places = self._cells_of(self._dots, taller=2.0)
            drawn = (self.scene.code_n >= 0) & self.scene.is_point_n
            if not drawn.all():
                self._seen_places[~drawn] = float("nan")
        return self._seen_places

    def _cells_of(self, dots_n2: Floats, taller: float = 1.0) -> Floats:
        """Positions in cells of positions in dots; rows are multiplied by `taller`."""
        from kltui.view.cell_buffer import cells_of

        return cells_of(dots_n2, self._drawn_kind, taller)

    def _towards(self, direction: Direction) -> None:
        if not self._prepare():
            return
        eyes = self._eyes()
        if self.cursor < 0:
            self._go_near(eyes, self.plot_width / 2, float(self.plot_height), "")
        else:
            self._go_near(eyes, float(eyes[self.cursor, 0]), float(eyes[self.cursor, 1]), direction)

    def _go_near(self, eyes: Floats, x: float, y: float, direction: Direction) -> None:
        from kltui.kernels import native

        found = native.nearest(eyes, x, y, direction)
        if found >= 0:
            self.go(found)
            self.cursor_moved()

    def do_left(self) -> None:
        self._towards("left")

    def do_right(self) -> None:
        self._towards("right")

    def do_up(self) -> None:
        self._towards("up")

    def do_down(self) -> None:
        self._towards("down")

    def _say_no_plot(self) -> None:
        lines = welcome(self.kl) or self.placeholder()
        waits = bool(lines) and lines[0][1].endswith("…")
        self.kl.say("the plot is still being computed" if waits else NO_PLOT, "warning")

    def _zoom(self, factor: float) -> None:
        if not self._prepare() or self.seen is None or self.scene is None:
            self._say_no_plot()
            return
        at = (0.5, 0.5)
        if self.cursor >= 0:
            place = self.seen.place(self.scene.scaled()[self.cursor : self.cursor + 1])[0]
            if 0 <= place[0] <= 1 and 0 <= place[1] <= 1:
                at = (float(place[0]), float(place[1]))
        self._look_through(self.seen.zoomed(factor, at))

    def do_zoom_in(self) -> None:
        self._zoom(1.5)

    def do_zoom_out(self) -> None:
        self._zoom(1 / 1.5)

    def do_zoom_reset(self) -> None:
        if self.scene is None:
            self._say_no_plot()
        elif self.fits:
            self.kl.say("everything is in view")
        else:
            self.window, self.fits = self.fitted_window(self.scene), True
            self.redraw_plot()

    def _pan(self, right: float, up: float) -> None:
        if not self._prepare() or self.seen is None:
            self._say_no_plot()
        else:
            self._look_through(self.seen.panned(right, up))

    def do_pan_left(self) -> None:
        self._pan(-0.2, 0)

    def do_pan_right(self) -> None:
        self._pan(0.2, 0)

    def do_pan_right_by_arrow(self) -> None:
        """Pans right, on screens where key L has another action."""
        self._pan(0.2, 0)

    def do_pan_up(self) -> None:
        self._pan(0, 0.2)

    def do_pan_down(self) -> None:
        self._pan(0, -0.2)

    def do_marker(self) -> None:
        self.kl.marker_kind += 1
        self.kl.say(f"marker: {self.kind}")
        panes = self.kl.view.panes if self.kl.view is not None else ()
        others = [p for p in panes if isinstance(p, PlotPane) and p is not self and p.display]
        if self.scene is not None and len(self.scene.xy_n2) > MANY_POINTS:
            self._redraw_in_turn([self, *others])
        else:
            self.redraw_plot()
            self._redraw_in_turn(others)

    def _redraw_in_turn(self, plots: Sequence[PlotPane]) -> None:
        """Draws these plots again after the answer to the key, one in each frame."""
        if plots:
            self.call_after_refresh(plots[0].redraw_plot)
            self.call_after_refresh(self._redraw_in_turn, plots[1:])

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """Moves the cursor to the point nearest to the mouse."""
        if self._prepare():
            column = event.x - Y_AXIS - (2 if self.barred else 0)
            self._go_near(self._eyes(), float(column), 2.0 * (event.y - 1), "")

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Zooms in with the wheel."""
        self.do_zoom_in()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Zooms out with the wheel."""
        self.do_zoom_out()


def _cell_of(place: float, cells: int, dots: int) -> int:
    """The cell, of `cells` with so many dots each, in which a value at `place` (0 to 1) of an axis is drawn.

    >>> _cell_of(0.0, 8, 4), _cell_of(0.92, 8, 4), _cell_of(1.0, 8, 4), _cell_of(0.5, 3, 1)
    (0, 7, 7, 1)
    """
    return int((place * (cells * dots - 1) + 0.5) / dots)


def _ticks(axis: Axis, least: int, maximum: int) -> Sequence[tuple[float, str]]:
    """(place, label) of about `least` ticks, or of up to `maximum` if those were fewer than two."""
    made = (axis.ticks(count) for count in range(least, max(least, maximum) + 1))
    return next((t for t in made if len(t) > 1), axis.ticks(least))


def patched(row: Strip, patches: list[Patch] | tuple[Patch, ...]) -> Strip:
    """The row with each patch's text written over it at its column."""
    for x, text, style in patches:
        piece = Strip([Segment(text, style)])
        end = x + piece.cell_length
        row = Strip.join([row.crop(0, x), piece, row.crop(end, row.cell_length)])
    return row
