"""Opens files that kltui did not write: only regular ones, decompressed by suffix, at most as large as memory allows."""

from __future__ import annotations

import gzip
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from kltui import lfs_pointer
from kltui.errors import KltuiError
from kltui.sanitize import safe_text

LINE_MAX_BYTES = 1 << 28
BLOCK_BYTES = 1 << 20
COMPRESSED = (".gz", ".zst")
_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}  # fmt: skip


class UnreadableFileError(KltuiError):
    """Raised for a path that cannot be read as a regular file."""


def open_regular(path: Path) -> BinaryIO:
    """The regular file at `path`, open for reading bytes. Raises UnreadableFileError without waiting, also for a pipe or a device."""
    try:
        _check_kind(path, path.stat().st_mode)  # opening a device may already have an effect
        # The path may have changed in the meantime: without O_NONBLOCK, opening a pipe would wait for its writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        file = os.fdopen(handle, "rb")
    except OSError as error:
        raise UnreadableFileError(
            f"{safe_text(str(path))} cannot be read: {error.strerror or error}",
            "Check the path and its permissions.",
        ) from error
    try:
        status = os.fstat(handle)
        _check_kind(path, status.st_mode)
        if (
            status.st_size <= lfs_pointer.MAX_BYTES
            and os.pread(handle, len(lfs_pointer.BEGIN), 0) == lfs_pointer.BEGIN
        ):
            raise UnreadableFileError(f"{safe_text(str(path))} {lfs_pointer.WORDS}", lfs_pointer.HINT)
    except KltuiError:
        file.close()
        raise
    return file


def _check_kind(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = _KINDS.get(stat.S_IFMT(mode), "no regular file")
        raise UnreadableFileError(f"{safe_text(str(path))} is {what}, not a file", "Name a file.")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file at `path` opened for reading bytes, decompressed if it is .gz or .zst.

    Raises UnreadableFileError, also for errors while reading.
    """
    with ExitStack() as stack:
        file = stack.enter_context(open_regular(path))
        unpack, damage = _unpacker(path)
        try:
            yield stack.enter_context(unpack(file)) if unpack else file
        except damage as error:
            raise UnreadableFileError(
                f"{safe_text(str(path))} cannot be unpacked: {safe_text(str(error), 200)}",
                "It may be incomplete or compressed in another format: fetch or compress it again.",
            ) from error
        except OSError as error:
            raise UnreadableFileError(
                f"{safe_text(str(path))} cannot be read: {error.strerror or error}", "Check the disk."
            ) from error


def _unpacker(path: Path) -> tuple[Any, tuple[type[Exception], ...]]:
    """(function that wraps a compressed file in one that decompresses, or None; exceptions that it raises for damage)."""
    suffix = path.suffix.lower()
    if suffix not in COMPRESSED:
        return None, ()
    if suffix == ".gz":
        return (lambda file: gzip.GzipFile(fileobj=file)), (gzip.BadGzipFile, EOFError, zlib.error)
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise UnreadableFileError(
            f"{safe_text(str(path))} is compressed with zstandard, which Python supports only from 3.14 on",
            "pip install '.[corpora]' (in kltui's folder) adds support; or decompress it: zstd -d FILE",
        ) from None
    # Large datasets are compressed with `zstd --long=31`, a window of up to 2 GiB; by default zstd allows 128 MiB.
    widest = zstd.DecompressionParameter.window_log_max
    options: dict[int, int] = {widest: widest.bounds()[1]}
    return (lambda file: zstd.ZstdFile(file, options=options)), (EOFError, zstd.ZstdError)


def read_whole(path: Path) -> bytes:
    """All bytes of a file, decompressed. Raises UnreadableFileError if they are more than half of this machine's memory."""
    maximum, n_bytes, blocks = memory_bytes() // 2, 0, []
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > maximum:
            raise _too_large(path, maximum)
        while block := file.read(BLOCK_BYTES):
            blocks.append(block)
            n_bytes += len(block)
            if n_bytes > maximum:
                raise _too_large(path, maximum)
    return b"".join(blocks)


def _too_large(path: Path, maximum: int) -> UnreadableFileError:
    return UnreadableFileError(
        f"{safe_text(str(path))} has more than {maximum:,} bytes, which is half of this machine's memory",
        "Use a machine with more memory, or split the file.",
    )


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes including the newline) of every line. Raises UnreadableFileError if one exceeds LINE_MAX_BYTES."""
    with opened(path) as file:
        number = 0
        while line := file.readline(LINE_MAX_BYTES):
            number += 1
            if len(line) == LINE_MAX_BYTES and not line.endswith(b"\n"):
                raise UnreadableFileError(
                    f"{safe_text(str(path))}, line {number} has more than {LINE_MAX_BYTES >> 20} MiB",
                    "Each line should contain one object: check that the file is JSON Lines.",
                )
            yield number, line


def memory_bytes() -> int:
    """Size of this machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
