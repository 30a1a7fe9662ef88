"""Bytes from a terminal: in whatever pieces they come they give the same events, and no bytes stop the next key."""

from __future__ import annotations

from collections.abc import Iterable

from textual import events
from textual.message import Message

from kltui.tui.terminal.input import Input

LIBRARIES = ("textual",)
MAX_INPUT = 1 << 10  # it is read three times, character by character
WORDS = (
    b"\x1b[A", b"\x1b[1;5C", b"\x1bOP", b"\x1b[200~", b"\x1b[201~", b"\x1b[I", b"\x1b[O", b"\x1b[<0;10;10M", b"\x1b[<64;1;1m",
    b"\x1b[48;24;80;480;800t", b"\x1b[48;0;0;0;0t", b"\x1b[?2026;2$y", b"\x1b[?2048;1$y", b"\x1b[24;80R", b"\x1b[97;5u", b"\x1b[97;5;97u",
    b"\x1b[9999999u", b"\x1b[55296u", b"\x1b[1;99999999999999999999u", b"\x1b[97;;1114112u", b"\x1b[:;:u", b"\x1b[M !!", b"\x1b\x1b",
    b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\x00", b"\x7f", b"\xe2\x80\xae", b";" * 8, b"9" * 30, b"-1",
)  # fmt: skip


def one_input(data: bytes) -> None:
    """Reads it whole, byte by byte, and in pieces."""
    whole = _heard([data])
    assert _heard(data[i : i + 1] for i in range(len(data))) == whole
    size = 1 + len(data) % 7
    assert _heard(data[i : i + size] for i in range(0, len(data), size)) == whole


def _heard(pieces: Iterable[bytes]) -> list[str]:
    """The events of these pieces; after them, and the end of a paste, a key is heard as itself."""
    source = Input()
    found: list[Message] = []
    for piece in pieces:
        found += source.feed(piece)
    if source._parser._timeout_time is not None:
        source._parser._timeout_time = 0.0  # as if nothing followed for a while
    found += source.tick()
    after = [*source.feed(b"\x1b[201~"), *source.feed(b"j")]
    assert isinstance(after[-1], events.Key) and after[-1].key == "j", after
    return [_shown(event) for event in found]


def _shown(event: Message) -> str:
    """An event by its class and what it says."""
    said = {name: value for name, value in vars(event).items() if not name.startswith("_") and name != "time"}
    return f"{type(event).__name__} {said}"


def seeds() -> dict[str, bytes]:
    """Keys of several protocols, pastes, the mouse, answers of a terminal, and what is none of it."""
    made = {f"sequence_{i:02}": b"a" + word + b"b" for i, word in enumerate(WORDS)}
    return made | {
        "paste": b"\x1b[200~a\nb\x1b[Ac\xff\x00\x1b[201~j",
        "paste_open": b"\x1b[200~a\x1b",
        "escape": b"\x1b",
        "latin1": "Grüße".encode("latin-1"),
        "mouse_without_size": b"\x1b[48;0;0;0;0t\x1b[<35;5;5M",
        "codepoints": b"\x1b[97:65;2;65:66u\x1b[0;0;0u\x1b[1114111u",
        "long": b"\x1b[" + b"1;" * 40 + b"u",
    }
