"""Detects immediately, without polling, that a job's process on this machine has ended."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kltui.store.rows import JobRow


class JobWatch:
    """Watches the processes of running jobs; `ended` is called with the id of a job whose process has ended.

    On systems without process descriptors (pidfd), it detects only the end of the interface's own child processes.
    """

    def __init__(self, ended: Callable[[int], None]) -> None:
        self._ended = ended
        self._open: dict[int, int] = {}  # {process id: descriptor}
        self._for_children = False

    def follow(self, jobs: Iterable[JobRow]) -> None:
        """Watches the processes of those of these jobs that run on this machine, and no others."""
        here = socket.gethostname()
        wanted = {job.pid: job.id for job in jobs if job.status == "running" and job.host == here and job.pid}
        for pid in self._open.keys() - wanted.keys():
            self._leave(pid)
        for pid, job in wanted.items():
            if pid not in self._open:
                self._take(pid, job)

    def _take(self, pid: int, job: int) -> None:
        loop = asyncio.get_running_loop()
        if not hasattr(os, "pidfd_open"):
            if not self._for_children:
                self._for_children = True
                loop.add_signal_handler(signal.SIGCHLD, self._ended, job)
            return
        with suppress(OSError, OverflowError):  # already ended: the next check of the workspace shows it
            self._open[pid] = os.pidfd_open(pid)
            loop.add_reader(self._open[pid], self._gone, pid, job)

    def _gone(self, pid: int, job: int) -> None:
        self._leave(pid)
        # Without this wait, a child would stay a zombie and look like a running process.
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        self._ended(job)

    def _leave(self, pid: int) -> None:
        descriptor = self._open.pop(pid)
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)

    def close(self) -> None:
        """Stops watching."""
        if self._for_children:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)
        for pid in list(self._open):
            self._leave(pid)
