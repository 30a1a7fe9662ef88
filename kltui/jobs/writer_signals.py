"""Sends signals to the process that writes a store, and never to another one with the recorded process id."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

from kltui.errors import KltuiError
from kltui.store.lock_file import LockFile
from kltui.store.store import FILE_NAME
from kltui.store.writer_lock import is_process


class NotReachableError(KltuiError):
    """Raised if a process has ended, belongs to another user, or is not the one recorded in the store."""


def signal_writer(pid: int, identity: str, folder: Path, number: signal.Signals) -> None:
    """Sends a signal to the process of that id and identity if it has the store in `folder` open.

    A damaged or copied store may name any process, and ids are reused. Raises NotReachableError.
    """
    with ExitStack() as stack:
        try:
            # An open pidfd refers to this process even if its id is reused.
            pinned = os.pidfd_open(pid) if hasattr(os, "pidfd_open") and pid > 1 else -1
            if pinned >= 0:
                stack.callback(os.close, pinned)
            if pid <= 1 or not is_process(pid, identity) or not _has_open(pid, folder):
                raise NotReachableError(
                    f"process {pid} does not write to {folder}, so no signal was sent",
                    "The job may have just ended or run in another container, or the workspace was copied or is damaged: try"
                    " kltui --check.",
                )
            if pinned >= 0:
                signal.pidfd_send_signal(pinned, number)
            else:
                os.kill(pid, number)
        except (ProcessLookupError, OverflowError):
            raise NotReachableError(f"process {pid} has just ended") from None
        except PermissionError:
            raise NotReachableError(f"process {pid} belongs to another user") from None


def _has_open(pid: int, folder: Path) -> bool:
    """Whether the process has the store's database open; on systems without /proc, whether any process holds its lock."""
    open_files = Path(f"/proc/{pid}/fd")
    if not Path("/proc/self/fd").exists():
        lock = LockFile(folder)
        held = lock.take() is False
        lock.release(log_left=True)
        return held
    try:
        store = (folder / FILE_NAME).stat()
    except FileNotFoundError:
        return False
    return any(_is_file(link, store) for link in open_files.iterdir())


def _is_file(link: Path, file: os.stat_result) -> bool:
    try:
        state = link.stat()
    except OSError:
        return False
    return (state.st_dev, state.st_ino) == (file.st_dev, file.st_ino)
