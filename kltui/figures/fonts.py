"""Fonts of a figure: installed ones for letters that its own lacks, and what is missing, as sentences."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from kltui.figures.picture import PaperFigure
from kltui.sanitize import safe_text
from kltui.view.tables import count

_GLYPH = re.compile(r"Glyph \d+ .* missing from font", re.DOTALL)
_FAMILY = re.compile(r"findfont: Font family (.*) not found")
_SHOWN = 12  # letters that are quoted
_LAST_RESORT = "Last Resort"  # matplotlib's font of boxes, which has every letter
_NO_GLYPH = "drawn as boxes, because no font found has a glyph for them: "


class _Heard(logging.Handler):
    """Keeps what matplotlib logs about fonts."""

    def __init__(self) -> None:
        super().__init__()
        self.families: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the name of a family that was not found."""
        found = _FAMILY.search(record.getMessage())
        if found:
            self.families[found[1].strip("[]'\"")] = None


@contextmanager
def missing_fonts(notify: Callable[[str], None]) -> Iterator[None]:
    """Within it matplotlib prints no warnings about fonts; afterwards `notify` gets a sentence for each kind of them."""
    logger, heard = logging.getLogger("matplotlib.font_manager"), _Heard()
    before, logger.propagate = logger.propagate, False
    logger.addHandler(heard)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        logger.removeHandler(heard)
        logger.propagate = before
    for family in heard.families:
        notify(f"font {safe_text(family, 60)} is not installed: another one is used")
    for warning in caught:
        if not _GLYPH.match(str(warning.message)):  # of letters `without_glyph` speaks
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def letters_of(picture: PaperFigure) -> str:
    """The distinct characters of all words of a figure, sorted."""
    words = [picture.title]
    for panel in picture.panels:
        axes = [axis for axis in (panel.x, panel.y, panel.z) if axis is not None]
        words += [panel.title, panel.value_label, *(layer.label for layer in panel.layers)]
        words += [text for axis in axes for text in (axis.label, *(word for _, word in axis.ticks))]
    return "".join(sorted(set(safe_text("".join(words))) - {"\u00a0"}))


def found_fonts(letters: str) -> tuple[tuple[str, ...], str]:
    """(the families of installed fonts for the letters that the fonts of matplotlib's settings lack, the letters that none has)."""
    from matplotlib import rcParams

    if rcParams["text.usetex"]:  # then LaTeX chooses the fonts
        return (), ""
    lacking = _without(letters, _paths(tuple(rcParams["font.family"])))
    return _installed(lacking) if lacking else ((), "")


@lru_cache(maxsize=32)
def _installed(letters: str) -> tuple[tuple[str, ...], str]:
    """(families of installed fonts that together have as many of the letters as possible, the letters that none has)."""
    from matplotlib.font_manager import fontManager

    families: list[str] = []
    plain = (e for e in fontManager.ttflist if e.style == "normal" and _LAST_RESORT not in e.name)
    for name in sorted({entry.name for entry in plain}, key=_order):
        left = _without(letters, _paths((name,)))
        if left != letters:
            families.append(name)
            letters = left
        if not letters:
            break
    return tuple(families), letters


def _order(family: str) -> tuple[bool, bool, str]:
    """The place of a family among the fonts tried: Noto's first, then those without serifs."""
    return not family.startswith("Noto Sans"), "Sans" not in family and "Gothic" not in family, family


def _paths(families: Sequence[str]) -> list[Any]:
    """The files of the regular fonts of some families."""
    from matplotlib.font_manager import FontProperties, findfont

    return [findfont(FontProperties(family=[family])) for family in families]


def _without(letters: str, paths: Iterable[Any]) -> str:
    """Those of the letters for which none of the font files has an outline."""
    from matplotlib.font_manager import get_font
    from matplotlib.ft2font import FaceFlags

    for path in paths:
        try:
            font = get_font(path)
        except (OSError, RuntimeError, ValueError):  # a font of a kind that matplotlib cannot draw
            continue
        if FaceFlags.SCALABLE in font.face_flags:
            letters = "".join(c for c in letters if not font.get_char_index(ord(c)))
    return letters


def without_glyph(letters: str) -> tuple[str, str]:
    """(what a figure says of letters that no font has, what the message says); ("", "") without any."""
    if not letters:
        return "", ""
    more = f" and {len(letters) - _SHOWN} more" if len(letters) > _SHOWN else ""
    codes = " ".join(f"U+{ord(c):04X}" for c in letters[:_SHOWN])
    said = f"{count(len(letters), 'letter')} {_NO_GLYPH}{safe_text(letters[:_SHOWN])} ({codes}){more}"
    hint = "install a font that has them, for example one of Noto's, and draw the figure again"
    return f"{_NO_GLYPH}{codes}{more}", f"{said}; {hint}"
