"""Documents cut into chunks of bounded UTF-8 length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kltui.errors import UsageError

LONGEST_CODE_POINT = 4  # bytes in UTF-8


def chunk_document(text: str, max_bytes: int = 1024, min_bytes: int = 256) -> list[str]:
    """Cuts `text` into chunks of at most `max_bytes` UTF-8 bytes; those of `min_bytes` or less are dropped (arXiv 2502.16173).

    No code point is cut. A lone surrogate, which UTF-8 cannot represent, becomes U+FFFD. Raises UsageError for invalid bounds.

    >>> [len(chunk.encode()) for chunk in chunk_document("é" * 600)]   # the 176 bytes left over are dropped
    [1024]
    """
    return list(kept_chunks([text], max_bytes, min_bytes))


def kept_chunks(pieces: Iterable[str], max_bytes: int = 1024, min_bytes: int = 256) -> Iterator[str]:
    """The chunks of the document that consists of `pieces`, as `chunk_document`."""
    check_chunk_bytes(max_bytes, min_bytes)
    for chunk in _cut(pieces, max_bytes):
        if len(chunk) > min_bytes:
            yield chunk.decode()


def cut_document(text: str, max_bytes: int = 1024) -> list[str]:
    """All chunks of `text`, including short ones; joined, they are the document."""
    check_chunk_bytes(max_bytes, 0)
    return [chunk.decode() for chunk in _cut([text], max_bytes)]


def check_chunk_bytes(max_bytes: int, min_bytes: int) -> None:
    """Raises UsageError unless every code point fits into a chunk, and a chunk can be longer than `min_bytes`."""
    if max_bytes < LONGEST_CODE_POINT:
        raise UsageError(
            f"max_bytes = {max_bytes}: a UTF-8 code point takes up to {LONGEST_CODE_POINT} bytes",
            f"Set max_bytes to {LONGEST_CODE_POINT} or more; the papers use 1024.",
        )
    if not 0 <= min_bytes < max_bytes:
        raise UsageError(
            f"min_bytes = {min_bytes} with max_bytes = {max_bytes} would drop every chunk",
            "A chunk is kept when it has more than min_bytes bytes: set 0 <= min_bytes < max_bytes.",
        )


def well_formed(text: str) -> str:
    """`text` with every lone surrogate replaced by U+FFFD, so that it has a UTF-8 form."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


def _cut(pieces: Iterable[str], max_bytes: int) -> Iterator[bytes]:
    """Consecutive chunks of UTF-8, each as many whole code points as fit into `max_bytes`."""
    rest = b""
    for piece in pieces:
        data = rest + well_formed(piece).encode()
        start = 0
        while len(data) - start > max_bytes:
            end = _boundary(data, start + max_bytes)
            yield data[start:end]
            start = end
        rest = data[start:]
    if rest:
        yield rest


def _boundary(data: bytes, end: int) -> int:
    """Largest index <= `end` that does not split a code point of `data`."""
    while data[end] & 0xC0 == 0x80:  # a continuation byte
        end -= 1
    return end
