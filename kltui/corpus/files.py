"""Files of others opened with care: only regular ones, never a line or a whole that no memory holds."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from kltui.errors import KltuiError
from kltui.safe import safe_text

LINE_MOST_BYTES = 1 << 28
_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}  # fmt: skip


class UnreadableFileError(KltuiError):
    """A path at which there is nothing that can be read as a file."""


def open_regular(path: Path) -> BinaryIO:
    """The regular file at `path`, open for reading bytes. Raises UnreadableFileError; a pipe or device is never waited for."""
    try:
        _check_kind(path, path.stat().st_mode)  # to open some devices does something already
        # What stands there may have changed meanwhile: without O_NONBLOCK a pipe would wait for its writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        file = os.fdopen(handle, "rb")
    except OSError as error:
        raise UnreadableFileError(
            f"{safe_text(str(path))} cannot be read: {error.strerror or error}",
            "Check the path and its permissions.",
        ) from error
    try:
        _check_kind(path, os.fstat(handle).st_mode)
    except KltuiError:
        file.close()
        raise
    return file


def _check_kind(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = _KINDS.get(stat.S_IFMT(mode), "no regular file")
        raise UnreadableFileError(f"{safe_text(str(path))} is {what}, not a file", "Name a file.")


def read_whole(path: Path) -> bytes:
    """The bytes of a file that is read as one. Raises UnreadableFileError where they are more than half of this machine's memory."""
    with open_regular(path) as file:
        size, most = os.fstat(file.fileno()).st_size, memory_bytes() // 2
        if size > most:
            raise UnreadableFileError(
                f"{safe_text(str(path))} has {size:,} bytes, which is more than half of this machine's memory",
                "Read it on a larger machine, or in parts.",
            )
        try:
            return file.read(size + 1)
        except OSError as error:
            raise UnreadableFileError(
                f"{safe_text(str(path))} cannot be read: {error.strerror or error}", "Check the disk."
            ) from error


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes with the line's end) of every line. Raises UnreadableFileError at one beyond LINE_MOST_BYTES."""
    with open_regular(path) as file:
        number = 0
        while line := file.readline(LINE_MOST_BYTES):
            number += 1
            if len(line) == LINE_MOST_BYTES and not line.endswith(b"\n"):
                raise UnreadableFileError(
                    f"{safe_text(str(path))}, line {number} has more than {LINE_MOST_BYTES >> 20} MiB",
                    "One line holds one object: is this file what its name says?",
                )
            yield number, line


def memory_bytes() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
