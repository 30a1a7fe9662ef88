"""A power cut at any moment: only what was synced is sure to survive, and everything acknowledged had been.

The shim records every write, truncation, sync and removal, and what was told on standard output in between. From that
record the disk is rebuilt as a power cut would leave it: of the writes since a file's last sync, any may be missing or
torn; a removal counts once its folder was synced.
"""

from __future__ import annotations

import json
import random
import sqlite3
from pathlib import Path

import pytest
from fault_kit import Lives, Op, read_trace, truths, vectors, write_job


class Disk:
    """Files as they surely are, and what has been asked since without a sync.

    A file that is made where one was removed is another file: to sync it says nothing of the folder, in which the name may
    still be that of the old one. `files` is by path and number of the file of that name.
    """

    def __init__(self) -> None:
        self.files: dict[tuple[str, int], bytearray] = {}
        self.pending: list[tuple[Op, int]] = []
        self.number: dict[str, int] = {}  # of the file that a path names now

    def do(self, op: Op) -> None:
        number = self.number.setdefault(op.path, 0)
        if op.kind == "S":
            settled = [p for p in self.pending if self._settles(op.path, *p)]
            self.pending = [p for p in self.pending if not self._settles(op.path, *p)]
            for p in settled:
                apply(self.files, *p)
        elif op.kind in "WTU":
            self.pending.append((op, number))
            self.number[op.path] += op.kind == "U"

    def _settles(self, synced: str, op: Op, number: int) -> bool:
        if op.kind == "U":
            return str(Path(op.path).parent) == synced
        return op.path == synced and number == self.number[synced]

    def after_power_cut(self, chance: random.Random) -> dict[str, bytearray]:
        """The files with any of the unsettled calls done, or half done."""
        files = {key: bytearray(data) for key, data in self.files.items()}
        for op, number in self.pending:
            fate = chance.random()
            if fate < 0.5:
                apply(files, op, number)
            elif fate < 0.6 and op.kind == "W":
                apply(files, Op("W", op.path, op.at, op.data[: len(op.data) // 2]), number)
        # the oldest that was not removed: a name that was removed and given again is in the folder as it was, or as it is
        return {path: files[path, number] for path, number in sorted(files, reverse=True)}


def apply(files: dict[tuple[str, int], bytearray], op: Op, number: int) -> None:
    if op.kind == "U":
        files.pop((op.path, number), None)
        return
    data = files.setdefault((op.path, number), bytearray())
    if op.kind == "T":
        del data[op.at :]
        data.extend(bytes(max(0, op.at - len(data))))
    else:
        data.extend(bytes(max(0, op.at - len(data))))
        data[op.at : op.at + len(op.data)] = op.data


def names_told(op: Op) -> list[str]:
    events = [json.loads(line) for line in op.data.splitlines() if line.startswith(b"{")]
    return [e["name"] for e in events if e["event"] == "checkpoint" and e["status"] in ("done", "kept")]


@pytest.mark.parametrize("kind", ["ext4", "nfs4"])
def test_power_cuts_lose_nothing_that_was_told(shim: None, tmp_path: Path, kind: str) -> None:
    job, trace, mounts = write_job(tmp_path, checkpoints=4), tmp_path / "trace", tmp_path / "mounts"
    mounts.write_text(f"somewhere / {kind} rw 0 0\n")
    recorded = {"FAULT_FOLDER": str(tmp_path / "ws"), "FAULT_TRACE": str(trace), "FAULT_NO_SYNC": "1"}
    life = Lives(tmp_path).run("--batch", str(job), "--json", FAULT_MOUNTS=str(mounts), **recorded)
    assert life.code == 0, life.err
    ops = [op for op in read_trace(trace) if not op.path.endswith("-shm")]
    journals = {Path(op.path).name for op in ops if op.kind == "W"}
    assert ("kltui.sqlite-wal" in journals) == (kind == "ext4")
    disk, reported, right, chance = Disk(), set[str](), truths(job), random.Random(3)
    synced_since_told = False
    for number, op in enumerate(ops):
        disk.do(op)
        synced_since_told |= op.kind == "S"
        if op.kind == "A" and names_told(op):
            assert synced_since_told, "a vector was told without a sync of its own"
            reported |= set(names_told(op))
            synced_since_told = False
        if op.kind == "A" or number % 9 == 0:
            check_cut(disk.after_power_cut(chance), tmp_path / f"cut{number}", reported, right)
    assert reported == set(right)


def check_cut(files: dict[str, bytearray], folder: Path, reported: set[str], right: dict[str, bytes]) -> None:
    """The files make a sound workspace with everything told so far, each bit right."""
    folder.mkdir()
    for path, data in files.items():
        (folder / Path(path).name).write_bytes(data)
    if reported:
        db = sqlite3.connect(folder / "kltui.sqlite")
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.close()
        stored = vectors(folder)
        assert reported <= set(stored), f"lost by the power cut: {reported - set(stored)}"
        assert all(value == right[name] for name, value in stored.items())
