"""Files that several write at once: no errors, nothing torn, nothing of the living removed."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kltui import atomic_files as module
from kltui.atomic_files import replacing
from kltui.errors import StoreError
from kltui.store.atomic_write import write_atomic

SIZE = 40_000
WRITER = f"""
import sys
from pathlib import Path
from kltui.store.atomic_write import write_atomic
path, mark = Path(sys.argv[1]), sys.argv[2].encode()
print(flush=True); sys.stdin.readline()
for n in range(154):
    write_atomic(path, mark * {SIZE} if n % 2 else mark * {SIZE // 3})
"""


def test_two_writers_of_one_file_do_no_harm(tmp_path: Path) -> None:
    """308 writes by two processes of one shard's file: 108 errors and 6 torn reads, when they shared a name aside."""
    path = tmp_path / "inbox" / "shard.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"a" * SIZE)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), mark], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for mark in "ab"
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdin is not None
        writer.stdout.readline()
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    reads = 0
    while any(writer.poll() is None for writer in writers):
        data = path.read_bytes()
        assert len(data) in (SIZE, SIZE // 3) and data.count(data[:1]) == len(data), "a torn read"
        reads += 1
    assert [writer.wait() for writer in writers] == [0, 0] and reads > 0
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    for writer in writers:
        assert writer.stdin is not None and writer.stdout is not None
        writer.stdin.close()
        writer.stdout.close()


def test_threads_of_one_process_have_names_of_their_own(tmp_path: Path) -> None:
    path, errors = tmp_path / "f", list[BaseException]()

    def write(mark: bytes) -> None:
        try:
            for _ in range(50):
                with replacing(path) as file:
                    file.write(mark)
                    file.flush()
                    file.write(mark)
                assert len(set(path.read_bytes())) == 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(bytes([65 + n]) * 3000,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and [p.name for p in tmp_path.iterdir()] == ["f"]


def test_what_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == ["f"]


def test_names_and_rights_are_those_of_any_file(tmp_path: Path) -> None:
    for name in ("x" * 255, "é" * 127):
        write_atomic(tmp_path / name, b"1")
        assert (tmp_path / name).read_bytes() == b"1"
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "shared", b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o640
    with pytest.raises(StoreError):
        write_atomic(tmp_path / "shared" / "below", b"1")


def test_old_remains_of_killed_writers_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    path = tmp_path / "f"
    names = [".f.dead.part", ".f.living.part", ".f.new.part", ".g.dead.part", "f.part"]
    for name in names:
        (tmp_path / name).write_bytes(b"half")
        if "new" not in name:
            old = time.time() - module.LEFT_AFTER_S - 10
            os.utime(tmp_path / name, (old, old))
    with (tmp_path / ".f.living.part").open("rb+") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        write_atomic(path, b"1")
        assert {p.name for p in tmp_path.iterdir()} == {"f", *names[1:]}


def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    """A write raises its error without a path; without one the command line would blame standard output."""
    with pytest.raises(OSError, match="No space left") as raised, replacing(tmp_path / "page.html"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert raised.value.filename == str(tmp_path / "page.html") and list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="refused") as raised, replacing(tmp_path / "page.html"):
        raise OSError(errno.ECONNREFUSED, "refused")
    assert raised.value.filename is None
