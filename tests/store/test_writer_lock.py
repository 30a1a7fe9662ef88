"""One writer, whatever host names, process ids and file systems say of it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kltui.errors import StoreError
from kltui.store import Store, lock_file, store, writer_lock
from kltui.store.lock_file import LockFile

WRITES = (
    "import os, sys; from pathlib import Path; from kltui.store import Store; s = Store.write(Path(sys.argv[1]));"
    " print(os.getpid(), flush=True); sys.stdin.read(); s.close()"
)
TAKES = """
import sys, time
from pathlib import Path
from kltui.store.lock_file import LockFile
folder = Path(sys.argv[1])
for _ in range(40):
    lock = LockFile(folder)
    while not lock.take():
        time.sleep(0.0005)
    (folder / "inside").touch(exist_ok=False)
    (folder / "inside").unlink()
    lock.release(log_left=False)
"""


@contextmanager
def writing(folder: Path, *before: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process that holds a store, and the process id that it sees itself under."""
    command = [*before, sys.executable, "-c", WRITES, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(120)
        process.stdout.close()


def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the file system have no locks."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock_file.fcntl, "flock", flock)


def set_writer(folder: Path, boot: str, pid: int = 7, heartbeat: float | None = None) -> None:
    """Names a writer of this host by that identity in the store."""
    row = (1, socket.gethostname(), pid, boot, 0.0, time.time() if heartbeat is None else heartbeat)
    db = sqlite3.connect(folder / "kltui.sqlite")
    db.execute("INSERT OR REPLACE INTO writer VALUES (?, ?, ?, ?, ?, ?)", row)
    db.commit()
    db.close()


def in_another_container(boot: str | None = None) -> str:
    """The identity of a process with this one's start, in another pid namespace or on another machine."""
    mine, start, space = writer_lock._process_identity(os.getpid()).split(":")
    return f"{boot or mine}:{start}:{space if boot else int(space) + 1}"


def can_unshare() -> bool:
    tried = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return shutil.which("unshare") is not None and subprocess.run(tried, capture_output=True).returncode == 0


@pytest.mark.parametrize("locks", ["locks", "no locks"])
def test_a_container_of_the_same_host_name_holds_its_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: str
) -> None:
    """A real one: its process is number 1 or 2 there, and numbers 1 and 2 here are others."""
    if not can_unshare():
        pytest.skip("no right to make a pid namespace")
    if locks == "no locks":
        no_locks(monkeypatch)
    with writing(tmp_path, "unshare", "--pid", "--fork", "--mount-proc") as (_, pid):
        assert pid < 10
        with pytest.raises(StoreError, match=rf"is being written by process {pid} on {socket.gethostname()}"):
            Store.write(tmp_path)
    Store.write(tmp_path).close()


def test_a_writer_of_this_very_number_in_another_container_is_not_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_locks(monkeypatch)
    mine = Store.write(tmp_path)
    set_writer(tmp_path, in_another_container(), pid=os.getpid())
    with pytest.raises(StoreError, match="has taken"), mine.atomic():
        raise AssertionError("not reached")
    with pytest.raises(StoreError, match="is being written"):
        Store.write(tmp_path)
    mine.close()
    db = sqlite3.connect(tmp_path / "kltui.sqlite")
    assert db.execute("SELECT COUNT(*) FROM writer").fetchone() == (1,), "it gave up the other's row"
    db.close()


@pytest.mark.parametrize("boot", [None, "another-boot"])
def test_where_the_lock_is_free_a_writer_of_this_host_is_gone_however_fresh_its_sign(
    tmp_path: Path, boot: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store.write(tmp_path).close()
    set_writer(tmp_path, in_another_container(boot))
    monkeypatch.setattr(writer_lock, "WATCH_S", None)  # which is not waited for
    taken = Store.write(tmp_path)
    assert taken.previous_owner is not None and taken.previous_owner.pid == 7
    taken.close()


def test_without_locks_signs_of_life_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_locks(monkeypatch)
    monkeypatch.setattr(writer_lock, "WATCH_S", 0.01)
    Store.write(tmp_path).close()
    for boot in (None, "another-boot"):
        set_writer(tmp_path, in_another_container(boot))
        with pytest.raises(StoreError, match="process 7"):
            Store.write(tmp_path)
        set_writer(tmp_path, in_another_container(boot), heartbeat=time.time() - 1000)
        Store.write(tmp_path).close()


def test_on_a_network_file_system_a_lock_that_is_had_does_not_decide_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mounted so that locks stay on each machine, two machines have them at once."""
    monkeypatch.setattr(store, "file_system", lambda _: "nfs4")
    Store.write(tmp_path).close()
    set_writer(tmp_path, in_another_container("another-boot"))
    with pytest.raises(StoreError, match="process 7"):
        Store.write(tmp_path)


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    with writing(tmp_path) as (process, pid):
        with pytest.raises(StoreError, match=f"process {pid}"):
            Store.write(tmp_path)
        process.kill()
        process.wait()
        taken = Store.write(tmp_path)
        assert taken.previous_owner is not None and taken.previous_owner.pid == pid
        taken.close()


def test_a_lock_without_a_name_in_the_store_holds_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever process holds it, and whatever a damaged store says of its writer."""
    monkeypatch.setattr(store, "_PATIENCE_S", 0.2)
    Store.write(tmp_path).close()
    with (tmp_path / lock_file.NAME).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="is being written by another process"):
            Store.write(tmp_path)
        set_writer(tmp_path, "nonsense", pid=-1)
        with pytest.raises(StoreError, match="is being written by"):
            Store.write(tmp_path)
    Store.write(tmp_path).close()


def test_a_store_that_is_closed_leaves_no_lock_and_one_that_is_open_keeps_it(tmp_path: Path) -> None:
    first, second = Store.write(tmp_path), Store.write(tmp_path)
    assert (tmp_path / lock_file.NAME).exists()
    first.close()
    assert (tmp_path / lock_file.NAME).exists()
    second.close()
    assert [p.name for p in tmp_path.iterdir()] == ["kltui.sqlite"]


def test_of_many_that_take_the_lock_and_remove_its_file_one_has_it_at_a_time(tmp_path: Path) -> None:
    takers = [subprocess.Popen([sys.executable, "-c", TAKES, str(tmp_path)]) for _ in range(3)]
    assert [taker.wait(60) for taker in takers] == [0, 0, 0]
    assert not list(tmp_path.iterdir())


def test_a_count_that_is_illegible_is_no_count(tmp_path: Path) -> None:
    lock = LockFile(tmp_path)
    assert lock.take()
    lock.note(5, 77)
    path = tmp_path / lock_file.NAME
    sound = path.read_bytes()
    assert lock_file.noted(tmp_path) == (5, 77)
    lock.release(log_left=True)
    for other in (b"", sound[:9], sound.replace(b"77", b"78"), b"\xff" * 128, bytes(128), b"kltui 5 77\n"):
        path.write_bytes(other)
        assert lock_file.noted(tmp_path) is None


def test_threads_of_one_process_share_the_lock_whenever_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if one asks while another has locked the file and not yet noted that it did."""
    first, second, taken = LockFile(tmp_path), LockFile(tmp_path), []
    other = threading.Thread(target=lambda: taken.append(second.take()))
    flock = fcntl.flock

    def locked(fd: int, how: int) -> None:
        flock(fd, how)
        if other.ident is None:
            other.start()
            other.join(0.2)

    monkeypatch.setattr(lock_file.fcntl, "flock", locked)
    taken.append(first.take())
    other.join()
    assert taken == [True, True]
    first.release(log_left=False)
    assert (tmp_path / lock_file.NAME).exists()
    second.release(log_left=False)
    assert not list(tmp_path.iterdir())
