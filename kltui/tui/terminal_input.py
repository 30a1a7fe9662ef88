"""What a terminal sends, read as Textual's events: no bytes end the reading."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from functools import lru_cache

from textual import events
from textual._xterm_parser import XTermParser
from textual.keys import Keys
from textual.message import Message

MOST_CELLS = (
    10_000  # in a row or a column: more is no terminal's size, and would be a frame that fills the memory
)


class Input:
    """Events out of bytes that come in pieces; what is no UTF-8 is read as U+FFFD."""

    def __init__(self, debug: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._parser = _Parser(debug)

    def feed(self, data: bytes) -> Iterator[Message]:
        """The events that are whole with these bytes."""
        text = self._decoder.decode(data)
        if text:  # to the parser an empty text is the end
            yield from filter(_is_possible, self._parser.feed(text))

    def tick(self) -> Iterator[Message]:
        """The events that are whole because nothing followed for a while, such as the escape key."""
        yield from self._parser.tick()

    def close(self) -> None:
        """Ends the reading; what is not whole is dropped."""
        for _ in self._parser.feed(""):
            pass


class _Parser(XTermParser):
    """Textual's parser, which would end at numbers that are no characters, or at a mouse on a screen of no size."""

    @lru_cache(maxsize=1024)  # noqa: B019  as the method that it stands for
    def _parse_extended_key(self, sequence: str) -> list[events.Key] | None:
        try:
            keys = super()._parse_extended_key(sequence)
        except (ValueError, OverflowError):
            return [events.Key(Keys.Ignore, sequence)]
        if keys is None or all(key.character is None or _has_utf8(key.character) for key in keys):
            return keys
        return [events.Key(Keys.Ignore, sequence)]

    def parse_mouse_code(self, code: str) -> Message | None:
        try:
            return super().parse_mouse_code(code)
        except ArithmeticError:
            return None


def _has_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_possible(event: Message) -> bool:
    """Whether an event can be meant: a terminal has some cells, and not millions of them."""
    if isinstance(event, events.Resize):
        return 0 < event.size.width <= MOST_CELLS and 0 < event.size.height <= MOST_CELLS
    return True
