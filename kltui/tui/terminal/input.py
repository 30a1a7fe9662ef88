"""Converts the bytes that a terminal sends into Textual's events; invalid bytes are no error."""

from __future__ import annotations

import codecs
import re
import time
from collections.abc import Callable, Iterator

from textual import events
from textual.message import Message

from kltui.tui.terminal.textual_private import BRACKETED_PASTE_END, BRACKETED_PASTE_START, TolerantParser

UNKNOWN = "\ufffd"  # the decoder's replacement for invalid UTF-8
MAX_CELLS = 10_000  # columns or lines: a larger size is an error, and its frame would fill the memory


# a paste without an end mark is ended after this pause, or it would take all further keys
PASTE_PATIENCE_S = 2.0
MAX_PASTED = 4_000_000  # characters
_MARKS = re.compile(f"{re.escape(BRACKETED_PASTE_START)}|{re.escape(BRACKETED_PASTE_END)}")


class Input:
    """Converts bytes into events; invalid UTF-8 is ignored as a key, and becomes U+FFFD in pasted text."""

    def __init__(self, debug: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._parser = TolerantParser(debug)
        self._clock = clock
        self._heard = clock()
        self._tail = ""  # the last characters, with which a paste mark may begin
        self._pasted = -1  # characters of the present paste; -1 outside one

    def feed(self, data: bytes) -> Iterator[Message]:
        """The events completed by these bytes."""
        text = self._decoder.decode(data)
        if text:  # an empty text would end the parser
            self._heard = self._clock()
            self._follow(text)
            yield from filter(_is_possible, self._parser.feed(text))
            if self._pasted > MAX_PASTED:
                yield from self._end_paste()

    def tick(self) -> Iterator[Message]:
        """The events completed by a pause in the input, such as the escape key."""
        if self._pasted >= 0 and self._clock() - self._heard > PASTE_PATIENCE_S:
            yield from self._end_paste()
        yield from filter(_is_possible, self._parser.tick())

    def _follow(self, text: str) -> None:
        """Counts the characters of the present paste."""
        seen, end = self._tail + text, 0
        for mark in _MARKS.finditer(seen):
            self._pasted, end = (0 if mark.group() == BRACKETED_PASTE_START else -1), mark.end()
        self._tail = seen[max(end, len(seen) - len(BRACKETED_PASTE_START) + 1) :]
        if self._pasted >= 0:
            self._pasted += len(text)

    def _end_paste(self) -> Iterator[Message]:
        self._tail, self._pasted = "", -1
        yield from filter(_is_possible, self._parser.feed(BRACKETED_PASTE_END))

    def close(self) -> None:
        """Ends the parser; incomplete input is dropped."""
        for _ in self._parser.feed(""):
            pass


def _is_possible(event: Message) -> bool:
    """Whether an event is valid: no key from invalid UTF-8, no size of 0 or beyond MAX_CELLS."""
    if isinstance(event, events.Key):
        return event.character != UNKNOWN
    if isinstance(event, events.Resize):
        return 0 < event.size.width <= MAX_CELLS and 0 < event.size.height <= MAX_CELLS
    return True
