"""Curves: small multiples of loss, KL and updates against the training step."""

from __future__ import annotations

from collections.abc import Sequence

from kltui.tui.canvas import Span, TextPane
from kltui.tui.views.base import ColumnOfPanes, View


class CurvesView(View):
    """Loss and KL of every run against its steps."""

    screen_name = "curves"

    def make_columns(self) -> Sequence[ColumnOfPanes]:
        """One pane."""
        return [ColumnOfPanes([TextPane("Curves", self._lines)])]

    def _lines(self, width: int) -> list[list[Span]]:
        return []


VIEW = CurvesView
