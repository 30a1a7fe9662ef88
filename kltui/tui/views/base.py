"""The base of the ten views: columns of panes, more of them on a wider terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from textual.app import ComposeResult
from textual.geometry import Region
from textual.strip import Strip

from kltui.sanitize import safe_text
from kltui.tui.data import run_of
from kltui.tui.selection import NO_RUN
from kltui.tui.widgets.canvas import Box, Pane, SessionWidget
from kltui.tui.workers import begun

if TYPE_CHECKING:
    from kltui.figures.shown import ShownSubject

WIDE, WIDEST = 120, 160
BARS = 3  # lines outside the view: tabs, status, keys


class ColumnOfPanes(NamedTuple):
    """Panes stacked in one column of `width` cells (0: the rest), shown on terminals of at least `minimum` columns.

    With panes `aside`, `panes` is one plot, and the others are right of it or below.
    """

    panes: Sequence[Pane]
    width: int = 0
    minimum: int = 0
    aside: Sequence[Pane] = ()

    @property
    def all_panes(self) -> list[Pane]:
        """`panes` and `aside`."""
        return [*self.panes, *self.aside]


class View(SessionWidget):
    """A view. Subclasses define `make_columns`; the first pane of the main column has the focus first."""

    screen_name: ClassVar[str] = ""
    job_id: int | None = None  # the job whose items it shows, if any
    has_figure: ClassVar[bool] = False  # whether there is a figure of it, for keys `e` and `I`
    needs_pair: ClassVar[bool] = False  # whether that is of A and B
    DEFAULT_CSS = """
    View { layout: horizontal; width: 100%; height: 1fr; }
    View > Box { height: 100%; width: 1fr; }
    """

    def __init__(self) -> None:
        super().__init__(id=f"view-{self.screen_name}")
        self.columns = list(self.make_columns())
        self._welcomes = False
        self._asides = [Box(*column.aside) for column in self.columns]
        self._boxes = [
            Box(*column.panes, *([aside] if column.aside else []))
            for column, aside in zip(self.columns, self._asides, strict=True)
        ]
        self.focus_pane: Pane = next(c.panes[0] for c in self.columns if not c.width)

    def make_columns(self) -> Sequence[ColumnOfPanes]:
        """The columns from left to right; exactly one, the main column, has width 0."""
        raise AssertionError("a view makes its columns")

    @property
    def panes(self) -> list[Pane]:
        """All panes, in the order of `tab`."""
        main = [p for c in self.columns if not c.width for p in c.all_panes]
        return main + [p for c in self.columns if c.width for p in c.all_panes]

    def compose(self) -> ComposeResult:
        """The columns' boxes."""
        yield from self._boxes

    def render_lines(self, crop: Region) -> list[Strip]:
        """[], because the columns cover the whole view."""
        return []

    def make_room(self, width: int) -> None:
        """Shows the columns that fit `width` cells, and always the focused one."""
        focused = next(i for i, c in enumerate(self.columns) if self.focus_pane in c.all_panes)
        if width < WIDE:
            shown = {focused}
        else:
            shown = {i for i, c in enumerate(self.columns) if width >= c.minimum}
            if focused not in shown:
                shown = {focused, next(i for i, c in enumerate(self.columns) if not c.width)}
        first = min(shown)
        fill = next((i for i in shown if not self.columns[i].width), focused)
        for i, (column, box) in enumerate(zip(self.columns, self._boxes, strict=True)):
            box.display = i in shown
            box.styles.width = "1fr" if i == fill else column.width
            for pane in column.panes:
                draw_bar(pane, i != first)
            if column.aside and i in shown:
                beside = sum(self.columns[k].width for k in shown if k != i)
                self._arrange(i, width - beside, must=width >= WIDE)

    def _arrange(self, column: int, width: int, *, must: bool) -> None:
        """Arranges a column's plot and the panes aside according to the shape of the plot's picture."""
        from kltui.tui.views.arrange import Arrangement, arranged
        from kltui.tui.views.welcome import welcome

        plot, box, aside = self.columns[column].panes[0], self._boxes[column], self._asides[column]
        panes = self.columns[column].aside
        height = self.kl.size.height - BARS - bool(self.kl.facts.corpus)  # the map's settings take one line
        if welcome(self.kl):  # its text takes the whole width, and the other panes would be empty
            how = Arrangement("alone")
        else:
            how = arranged(width - 2 * plot.barred, height, self.shape(), must=must)
        right = how.place == "right"
        plot.display = how.place != "alone" or self.focus_pane is plot
        aside.display = how.place != "alone" or self.focus_pane in panes
        box.styles.layout = "horizontal" if right else "vertical"
        plot.styles.width = how.plot + 2 * plot.barred if right else "100%"
        plot.styles.height = how.plot if how.place == "below" else "1fr"
        if how.place == "below":
            self._in_a_row(aside, panes, width, barred=plot.barred)
        else:
            self._in_a_stack(aside, panes, height if right else 0, barred=right or plot.barred)

    def _in_a_row(self, box: Box, panes: Sequence[Pane], width: int, *, barred: bool) -> None:
        """The panes next to each other; a line separates each from its neighbour, the first one if `barred`."""
        from kltui.tui.views.arrange import MIN_ACROSS

        box.styles.layout = "horizontal"
        order = sorted(panes, key=lambda pane: pane is not self.focus_pane)
        shown = order[: max(1, width // MIN_ACROSS)]
        for pane in panes:
            pane.display = pane in shown
            pane.styles.height, pane.styles.width = "1fr", f"{self.share_across(pane)}fr"
            draw_bar(pane, barred or pane is not next(p for p in panes if p in shown))

    def _in_a_stack(self, box: Box, panes: Sequence[Pane], height: int, *, barred: bool) -> None:
        """Stacks the panes in `height` lines; with 0, shows only the focused one."""
        from kltui.tui.views.arrange import stacked

        box.styles.layout = "vertical"
        focused = panes.index(self.focus_pane) if self.focus_pane in panes else 0
        lines = stacked([self.wanted_lines(pane) for pane in panes], height, focused)
        for i, pane in enumerate(panes):
            pane.display = bool(lines[i]) if height else i == focused
            pane.styles.height, pane.styles.width = (lines[i] or "1fr"), "100%"
            draw_bar(pane, barred)

    def shape(self) -> tuple[float, float] | None:
        """Width and height of the plot's picture in the same unit; None if it fills any pane."""
        return None

    def wanted_lines(self, pane: Pane) -> int:
        """The height that a pane aside needs, with its header; 0: all that is left."""
        return 0

    def share_across(self, pane: Pane) -> int:
        """The share of the width that a pane aside has in a row, in proportion to the others'."""
        return 1

    def focus_now(self) -> None:
        """Gives the focus to `focus_pane`."""
        self.screen.set_focus(self.focus_pane, scroll_visible=False)

    def shown_figure(self) -> ShownSubject | None:
        """The figure of what is shown; None while there is nothing to draw."""
        return None

    def no_figure(self) -> str:
        """Why there is nothing to draw; "" while that is not known."""
        chosen = self.kl.selection
        if self.needs_pair and not (chosen.a and chosen.b):
            a, b = self.kl.key("mark_a"), self.kl.key("mark_b")
            return f"mark A and B with {a} and {b}, here or on any screen"
        why = str(getattr(self.focus_pane, "note", ""))
        return "" if why.startswith("computing") else why

    def figure_panel(self) -> tuple[str, bool]:
        """(start of the title of the figure's panel that matters most, whether it alone is shown); "" if there is none."""
        return "", False

    def csv_rows(self) -> Iterable[list[object]]:
        """The rows of what is shown, titles first; empty if there are none."""
        return []

    def text_lines(self) -> list[str]:
        """What is shown as lines of text; [] if it has no such form."""
        return []

    def json_data(self) -> dict[str, object]:
        """The data of what is shown; {} if it has no such form."""
        return {}

    def copied(self) -> str:
        """The text that the key for copying copies; "": the name under the cursor."""
        return ""

    def kept(self) -> dict[str, object]:
        """{key: value} of this view's state, to be stored for the next session."""
        return {}

    def do_next_pane(self) -> None:
        self._step_focus(1)

    def do_previous_pane(self) -> None:
        self._step_focus(-1)

    def _step_focus(self, by: int) -> None:
        panes = self.panes
        self.focus_on(panes[(panes.index(self.focus_pane) + by) % len(panes)])

    def do_out(self) -> bool:
        """Moves the focus to the main pane; False if it is there already."""
        main = next(c.panes[0] for c in self.columns if not c.width)
        if self.focus_pane is main:
            return False
        self.focus_on(main)
        return True

    def do_corpus(self) -> None:
        """Asks for the corpus that all screens show."""
        from kltui.tui.dialogs.corpus_choice import choose_corpus

        self.kl.run_worker(choose_corpus(self.kl), group="corpus", exclusive=True)

    def do_basis(self) -> None:
        """Asks for the settings of the map that all screens show."""
        from kltui.tui.dialogs.basis_form import ask_basis

        self.kl.run_worker(ask_basis(self.kl), group="basis form", exclusive=True)

    def focus_on(self, pane: Pane) -> None:
        """Shows a pane and gives it the focus."""
        self.focus_pane = pane
        self.make_room(self.app.size.width)
        self.focus_now()

    def run_worker(self, work: Any, *given: Any, **how: Any) -> Any:
        """Runs a coroutine in the background; an error is shown on the status line and in empty plots."""
        return begun(
            super().run_worker, lambda w: self.kl.outlived(w, self._stays_empty), work, *given, **how
        )

    def _stays_empty(self, why: str) -> None:
        from kltui.tui.widgets.plot import PlotPane

        for pane in self.panes:
            if isinstance(pane, PlotPane) and pane.scene is None:
                pane.note = safe_text(why, 200)
                pane.refresh()

    def update_data(self) -> None:
        """Called when snapshot, selection, filter or map has changed while the view is shown, and when it is shown."""
        from kltui.tui.views.welcome import welcome

        if self._welcomes != bool(welcome(self.kl)):
            self._welcomes = not self._welcomes
            self.make_room(self.kl.size.width)
        for pane in self.panes:
            pane.update_data()

    def cursor_moved(self) -> None:
        """Called when the shared cursor was moved to another checkpoint."""
        self.update_data()

    def arrived(self) -> None:
        """Called every time the view is shown, once it has its size."""
        self.update_data()


class RunPlotsView(View):
    """A view whose plots leave hidden runs out, and whose cursor is on a checkpoint."""

    def do_hide_run(self) -> None:
        row = self.kl.snapshot.by_name.get(self.kl.selection.cursor)
        if row is None:
            self.kl.say(NO_RUN, "warning")
            return
        self.kl.say(self.kl.selection.toggle_hidden(run_of(row), self.kl.key("show_runs")))
        self.update_data()

    def do_show_runs(self) -> None:
        self.kl.say(self.kl.selection.hide_none())
        self.update_data()


def draw_bar(pane: Pane, barred: bool) -> None:
    """Turns the line at the pane's left on or off."""
    if pane.barred != barred:
        pane.barred = barred
        pane.refresh()
