"""Decodes UTF-8 files, in blocks or as a whole, without a leading BOM; invalid bytes are replaced and counted."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from kltui.errors import KltuiError
from kltui.sanitize import safe_text

BLOCK_BYTES = 1 << 20


def decoded(file: BinaryIO, path: Path, seen: Counter[str]) -> Iterator[str]:
    """The text of a UTF-8 file in pieces, without a leading BOM; each invalid sequence becomes U+FFFD and is counted in `seen`."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    block = without_bom(file.read(BLOCK_BYTES), path, seen)
    while True:
        try:
            yield decoder.decode(block, final=not block)
        except UnicodeDecodeError:
            decoder.errors = "replace"
            seen["invalid_utf8"] += 1
            yield decoder.decode(block, final=not block)
        if not block:
            return
        block = file.read(BLOCK_BYTES)


def without_bom(head: bytes, path: Path, seen: Counter[str]) -> bytes:
    """The first bytes of a file without its BOM. Raises KltuiError for UTF-16."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise KltuiError(
            f"{safe_text(str(path))} is UTF-32 text, not UTF-8",
            "Convert it first: iconv -f UTF-32 -t UTF-8 OLD > NEW",
        )
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or _every_other_is_nul(head[:1024]):
        raise KltuiError(
            f"{safe_text(str(path))} is UTF-16 text, not UTF-8",
            "Convert it first: iconv -f UTF-16 -t UTF-8 OLD > NEW",
        )
    if head.startswith(codecs.BOM_UTF8):
        seen["bom_stripped"] += 1
        return head[len(codecs.BOM_UTF8) :]
    return head


def decode(data: bytes, seen: Counter[str]) -> str:
    """UTF-8 `data` as text; each invalid sequence becomes U+FFFD, and `seen` counts one."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        seen["invalid_utf8"] += 1
        return data.decode(errors="replace")


def _every_other_is_nul(head: bytes) -> bool:
    """Whether bytes look like Western text in UTF-16 without a BOM, in which every other byte is NUL."""
    return len(head) > 3 and any(head[k::2].count(0) > 0.8 * len(head[k::2]) for k in (0, 1))
