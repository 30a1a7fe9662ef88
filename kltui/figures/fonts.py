"""Fonts of a figure: what matplotlib says of missing ones, as sentences."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kltui.sanitize import safe_text
from kltui.view.tables import count

_GLYPH = re.compile(r"Glyph (\d+) .* missing from font\(s\) (.*)\.$")
_FAMILY = re.compile(r"findfont: Font family (.*) not found")
_SHOWN = 12  # letters that are quoted


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
    letters: dict[str, str] = {}
    for warning in caught:
        found = _GLYPH.match(str(warning.message))
        if found:
            letters[chr(int(found[1]))] = found[2]
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if letters:
        said = "".join(list(letters)[:_SHOWN]) + "…" * (len(letters) > _SHOWN)
        fonts = ", ".join(dict.fromkeys(letters.values()))
        notify(
            f"{fonts} lacks {count(len(letters), 'letter')}, drawn as boxes: {safe_text(said)};"
            " --style FILE with font.family: sans-serif, and the name of a font that has them"
        )
