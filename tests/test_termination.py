"""Files that go together: a signal at any moment leaves what was before or what is new, and nothing else."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from kltui.atomic_files import replacing, replacing_together
from kltui.termination import EndedError, ending_undoes, undisturbed

OLD = {"kl.csv": "old", "names.csv": "old", "stranger.txt": "mine"}
NEW = {"kl.parquet": "new", "names.csv": "new", "stranger.txt": "mine"}
WATCHED = ("atomic_files.py", "termination.py", "test_termination.py", "contextlib.py")


def write_all(folder: Path) -> None:
    with replacing_together(folder, obsolete=["kl.csv"]) as aside:
        (aside / "kl.parquet").write_text("new")
        (aside / "names.csv").write_text("new")


def write_one(folder: Path) -> None:
    with replacing(folder / "names.csv") as file:
        file.write(b"new")


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() if path.is_file() else "folder" for path in folder.iterdir()}


def signalled(work: Callable[[], None], number: int, at: int) -> tuple[bool, bool]:
    """(whether the signal came, whether it ended the work): it comes at the `at`th line that runs in the files watched."""
    left = [at]

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.endswith(WATCHED):
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                sys.settrace(None)
                signal.raise_signal(number)
        return trace

    try:
        with ending_undoes():
            sys.settrace(trace)
            try:
                work()
            finally:
                sys.settrace(None)
    except EndedError as error:
        assert error.exit_code == 128 + number
        return True, True
    return left[0] <= 0, False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_at_any_line_leaves_all_of_the_old_or_all_of_the_new(number: int, tmp_path: Path) -> None:
    at, ended = 0, 0
    while True:
        at += 1
        folder = tmp_path / f"{number}-{at}"
        folder.mkdir()
        for name, text in OLD.items():
            (folder / name).write_text(text)
        came, was_ended = signalled(lambda f=folder: write_all(f), number, at)  # type: ignore[misc]
        if not came:
            break
        ended += was_ended
        assert contents(folder) in (OLD, NEW), at
    assert ended > 60
    assert contents(folder) == NEW


def test_a_folder_made_for_files_that_never_came_is_gone(tmp_path: Path) -> None:
    at = 0
    while True:
        at += 1
        folder = tmp_path / str(at) / "deep"
        came, _ = signalled(lambda f=folder: write_all(f), signal.SIGTERM, at)  # type: ignore[misc]
        if not came:
            break
        assert not folder.parent.exists() or contents(folder).keys() == {"kl.parquet", "names.csv"}, at


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # a file that nobody closed yet
def test_one_file_is_the_old_or_the_new_at_any_line(tmp_path: Path) -> None:
    at = 0
    while True:
        at += 1
        folder = tmp_path / str(at)
        folder.mkdir()
        (folder / "names.csv").write_text("old")
        came, _ = signalled(lambda f=folder: write_one(f), signal.SIGTERM, at)  # type: ignore[misc]
        if not came:
            break
        assert contents(folder) in ({"names.csv": "old"}, {"names.csv": "new"}), at


@pytest.mark.parametrize("fault", [OSError("no space"), ValueError("a bug"), KeyboardInterrupt()])
def test_an_error_while_writing_changes_nothing(fault: BaseException, tmp_path: Path) -> None:
    (tmp_path / "kl.csv").write_text("old")
    with pytest.raises(type(fault)), replacing_together(tmp_path, obsolete=["kl.csv"]) as aside:
        (aside / "kl.parquet").write_text("ne")
        raise fault
    assert contents(tmp_path) == {"kl.csv": "old"}


def test_an_error_while_moving_puts_back_what_was_moved(tmp_path: Path) -> None:
    for name in ("kl.csv", "a.csv"):
        (tmp_path / name).write_text("old")
    (tmp_path / "names.csv").mkdir()
    with pytest.raises(IsADirectoryError), replacing_together(tmp_path, obsolete=["kl.csv"]) as aside:
        for name in ("a.csv", "kl.parquet", "names.csv", "z.csv"):
            (aside / name).write_text("new")
    assert contents(tmp_path) == {"kl.csv": "old", "a.csv": "old", "names.csv": "folder"}


def test_signals_wait_while_they_may_not_disturb_and_ignored_ones_stay_ignored() -> None:
    said = []
    with pytest.raises(EndedError), ending_undoes():
        with undisturbed():
            signal.raise_signal(signal.SIGTERM)
            said.append("went on")
        said.append("too far")
    assert said == ["went on"]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_undoes():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
