"""What a person would read on the screen of an app under test."""

from __future__ import annotations

from textual.app import App


def lines_of(app: App[int]) -> list[str]:
    """The screen's rows as text."""
    return [strip.text for strip in app.screen._compositor.render_strips()]


def text_of(app: App[int]) -> str:
    """All rows, one a line."""
    return "\n".join(lines_of(app))
