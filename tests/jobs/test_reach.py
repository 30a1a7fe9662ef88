"""A store may name any process: only the one that writes it is ever signalled."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kltui.errors import KltuiError
from kltui.jobs import launch
from kltui.jobs.writer_signals import NotReachableError, signal_writer
from kltui.store import JobRow, Store
from kltui.store.writer_lock import _process_identity

WAITS = "import signal, sys; print(flush=True); signal.sigwait([signal.SIGUSR2])"
WRITES = (
    "import sys; from pathlib import Path; from kltui.store import Store; s = Store.write(Path(sys.argv[1]));"
    " print(flush=True); sys.stdin.read()"
)


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that has nothing to do with any store, and ends by any signal."""
    process = subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process.pid
    assert process.poll() is None, "a stranger was signalled"
    process.kill()
    process.wait()
    process.stdout.close()


def running(folder: Path, pid: int, boot: str | None = None) -> JobRow:
    """The job of a store that says it runs in the process `pid`."""
    store = Store.write(folder)
    with store.atomic():
        job = store.jobs.register("d", "", [], None)
        store.jobs.start(job)
        store.db.execute("UPDATE job SET pid = ?", (pid,))
    store.close()
    db = sqlite3.connect(folder / "kltui.sqlite")
    row = (1, socket.gethostname(), pid, _process_identity(pid) if boot is None else boot, 2e9, 2e12)
    db.execute("INSERT INTO writer VALUES (?, ?, ?, ?, ?, ?)", row)
    db.commit()
    db.close()
    reader = Store.read(folder)
    (found,) = reader.jobs.all()
    reader.close()
    return found


def test_a_stranger_that_a_store_names_as_its_writer_is_not_signalled(tmp_path: Path, stranger: int) -> None:
    """Name, start and container are right: only the store is not open there."""
    job = running(tmp_path, stranger)
    assert job.status == "running" and job.process == _process_identity(stranger)
    for do in (launch.stop, launch.pause):
        with pytest.raises(KltuiError, match="no signal was sent"):
            do(job)


@pytest.mark.parametrize("pid", [-1, 0, 1, -(2**31), 2**31 - 1, 2**63 - 1])
def test_no_id_that_stands_for_many_or_none_is_signalled(
    tmp_path: Path, pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("signalled"))
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: pytest.fail("signalled"))
    job = running(tmp_path, pid, boot="")
    with pytest.raises(KltuiError):
        launch.stop(job)
    for identity in ("", _process_identity(1), _process_identity(os.getpid())):
        with pytest.raises(NotReachableError):
            signal_writer(pid, identity, tmp_path, signal.SIGTERM)


def test_a_process_id_that_is_used_again_is_not_signalled(tmp_path: Path, stranger: int) -> None:
    boot, start, space = _process_identity(stranger).split(":")
    for other in (f"{boot}:{int(start) - 1}:{space}", f"{boot}:{start}:7", f"another:{start}:{space}", boot):
        with pytest.raises(NotReachableError, match="no signal was sent"):
            signal_writer(stranger, other, tmp_path, signal.SIGTERM)


def test_the_writer_itself_is_signalled(tmp_path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITES, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdin is not None and writer.stdout is not None
    writer.stdout.readline()
    identity = _process_identity(writer.pid)
    with pytest.raises(NotReachableError):
        signal_writer(writer.pid, identity, tmp_path / "other", signal.SIGTERM)
    signal_writer(writer.pid, identity, tmp_path, signal.SIGTERM)
    assert writer.wait(120) == -signal.SIGTERM
    with pytest.raises(NotReachableError):
        signal_writer(writer.pid, identity, tmp_path, signal.SIGTERM)
    writer.stdin.close()
    writer.stdout.close()
