"""A process that looks at a workspace ahead: what it saw is what the interface reads, and it leaves nothing of itself."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from fake_workspace import FakeWorkspace
from full_store import fill

from kltui.errors import StoreError
from kltui.tui.app import KltuiApp
from kltui.tui.basis import Basis
from kltui.tui.data import Snapshot, SnapshotReader, first_look
from kltui.tui.read_ahead import ReadAhead
from kltui.workspace import workspace


def is_there(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_what_was_seen_is_what_is_read(tmp_path: Path) -> None:
    fill(tmp_path)
    ahead = ReadAhead.begin(lambda: first_look(tmp_path))
    assert ahead is not None
    found, reader = ahead.result(), SnapshotReader(tmp_path)
    assert found is not None
    read = asyncio.run(reader.snapshot())
    reader.close()
    assert replace(found, items={}) == replace(read, items={}, generation=-1)
    assert len(read.rows) == len(read.losses) == 3
    assert not is_there(ahead.pid)


def test_of_a_large_workspace_the_beginning_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    monkeypatch.setattr(workspace, "MAX_AT_ONCE", 2)
    found = first_look(tmp_path)
    assert not found.loaded and found.counts == {"run": (3, 3)}


def fails() -> None:
    raise StoreError("the disk is gone", "")


def ends() -> None:
    os._exit(9)


@pytest.mark.parametrize("look", [fails, ends, lambda: None])
def test_a_look_that_fails_sees_nothing_and_says_nothing(
    look: Callable[[], None], capfd: pytest.CaptureFixture[str]
) -> None:
    ahead = ReadAhead.begin(look)
    assert ahead is not None and ahead.result() is None
    assert not is_there(ahead.pid) and capfd.readouterr() == ("", "")


def test_a_look_that_is_not_wanted_ends() -> None:
    ahead = ReadAhead.begin(lambda: time.sleep(60))
    assert ahead is not None
    ahead.give_up()
    assert not is_there(ahead.pid)


class Seen:
    """Stands in for a process that has seen something."""

    def __init__(self, found: Snapshot | None) -> None:
        self.found, self.given_up = found, False

    def result(self) -> Snapshot | None:
        return self.found

    def give_up(self) -> None:
        self.given_up = True


async def test_what_was_seen_is_shown_and_read_again(make_app: Callable[..., KltuiApp], until) -> None:
    fake = FakeWorkspace()
    seen = Snapshot(path=fake.path, rows=tuple(fake.checkpoints()[:3]), loaded=True)
    app = make_app(fake)
    app.reader.ahead = Seen(seen)
    shown: list[int] = []
    take = app._take
    app._take = lambda new, ids=None: (shown.append(len(new.rows)), take(new, ids))[1]
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: len(app.snapshot.rows) == 84)
    assert shown == [3, 84] and app.reader.ahead is None


async def test_another_basis_than_the_usual_is_read_by_the_interface(
    make_app: Callable[..., KltuiApp], until
) -> None:
    seen = Seen(Snapshot(loaded=True))
    app = make_app(FakeWorkspace(), basis=Basis(mode="clip"))
    app.reader.ahead = seen
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: len(app.snapshot.rows) == 84)
    assert seen.given_up
