"""Styles by role, for one palette: the only source of a widget's colours."""

from __future__ import annotations

from functools import lru_cache

from rich.color import Color
from rich.style import Style

from kltui.view.palette import DARK, Palette, marker_of, shades


class Theme:
    """Styles of a palette. Without colour, the cursor is reversed, emphasis is bold or dim, and series have letters."""

    def __init__(self, palette: Palette = DARK, *, color: bool = True, ascii_only: bool = False) -> None:
        self.palette = palette
        self.color = color
        self.ascii_only = ascii_only
        self._style = lru_cache(maxsize=4096)(self._make)

    def __call__(
        self,
        ink: str | int = "text",
        ground: str | int = "ground",
        *,
        bold: bool = False,
        underline: bool = False,
    ) -> Style:
        """The style of text colour `ink` on background `ground`, each a role of the palette or an xterm-256 index."""
        return self._style(ink, ground, bold, underline)

    def _make(self, ink: str | int, ground: str | int, bold: bool, underline: bool) -> Style:
        if not self.color:
            return Style(
                bold=bold or ink == "accent" or None,
                underline=underline or None,
                reverse=(ground == "cursor") or None,
                dim=(ink in ("faint", "rule")) or None,
            )
        return Style(
            color=Color.from_ansi(self.index(ink)),
            bgcolor=Color.from_ansi(self.index(ground)),
            bold=bold or None,
            underline=underline or None,
        )

    def index(self, role: str | int) -> int:
        """The xterm-256 index of a role."""
        return role if isinstance(role, int) else int(getattr(self.palette, role))

    def series(self, number: int, shade: int = -1) -> int:
        """The xterm-256 index of a series in one of its shades; the last shade is the full colour."""
        family = shades(self.palette)
        return family[number % len(family)][shade]

    def marker(self, number: int) -> str:
        """The marker of a series, which also distinguishes series of the same colour."""
        return marker_of(number, ascii_only=self.ascii_only, colour=self.color)

    def glyph(self, fancy: str, plain: str) -> str:
        """The one-cell character `fancy`, or `plain` if only ASCII may be shown."""
        return plain if self.ascii_only else fancy
