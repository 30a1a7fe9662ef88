"""Report: every section of `--report` on screen."""

from __future__ import annotations

from collections.abc import Sequence

from kltui.tui.canvas import Span, TextPane
from kltui.tui.views.base import ColumnOfPanes, View


class ReportView(View):
    """The report's sections."""

    screen_name = "report"

    def make_columns(self) -> Sequence[ColumnOfPanes]:
        """One pane."""
        return [ColumnOfPanes([TextPane("Report", self._lines)])]

    def _lines(self, width: int) -> list[list[Span]]:
        return []


VIEW = ReportView
