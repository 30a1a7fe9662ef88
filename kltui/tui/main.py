"""Starts the interface from the command line, and does what must be done before Textual is imported."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from kltui.errors import UsageError
from kltui.tui.terminal.guard import guarded

if TYPE_CHECKING:
    from kltui.tui.app import KltuiApp
    from kltui.tui.basis import Basis
    from kltui.tui.data import Snapshot
    from kltui.tui.read_ahead import ReadAhead
    from kltui.tui.ui_state import Memory

SSH_FPS = "10"
# After a key the threads of the interface acquire Python's lock about ten times. Python lets another thread that computes
# hold it for 5 ms each time, which adds up to 50 ms while a large workspace is read.
SWITCH_SECONDS = 0.0005
# Automatic garbage collection covers young objects only. Traversing all objects of 100,000 checkpoints stops every thread
# for about 50 ms; AppSession does it when no key has been pressed for a while.
THRESHOLDS = (700, 10, 1_000_000)
HANG_SECONDS = 3.0


def run_tui(
    path: Path | None,
    *,
    read_only: bool = False,
    ascii: bool = False,
    no_mouse: bool = False,
    basis: Basis | None = None,
    values: str = "conditional",
    begin: Callable[[KltuiApp], None] | None = None,
) -> int:
    """Runs the interface on workspace `path` (None: shows the recent workspaces) and returns the exit code.

    `basis`: the map settings (None: those of the last session); `values`: which values of pairs maps are made of.
    `begin` is called with the application once the workspace is read.

    The exit code after signal n is 128 + n. Raises UsageError without a terminal.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "the interface needs a terminal, and this is not one",
            "Without a terminal, use kltui --batch JOB to score and kltui --report WORKSPACE to read the results.",
        )
    return guarded(
        lambda: _run(
            path, read_only=read_only, ascii=ascii, no_mouse=no_mouse, basis=basis, values=values, begin=begin
        )
    )


def _run(
    path: Path | None,
    *,
    read_only: bool,
    ascii: bool,
    no_mouse: bool,
    basis: Basis | None,
    values: str,
    begin: Callable[[KltuiApp], None] | None,
) -> int:
    from kltui.tui.ui_state import Memory

    memory = Memory(_state_folder() / "view.json")
    ahead = _read_ahead(path, basis, values, memory) if path is not None else None
    prepare_environment()
    color = "NO_COLOR" not in os.environ
    from kltui.tui.app import KltuiApp
    from kltui.tui.keymap import keys_path, load_keymap

    app = KltuiApp(
        path,
        read_only=read_only,
        ascii_only=ascii or not _unicode(),
        keymap=load_keymap(keys_path()),
        memory=memory,
        color=color,
        basis=basis,
        begin=begin,
    )
    app.reader.values, app.reader.ahead = values, ahead
    # Coroutines that have not started when the user quits are no error.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    code = app.run(mouse=not no_mouse)
    if app.failure:
        sys.stderr.write(f"{app.failure}\n\nThis is a bug in kltui's interface; jobs are not affected.\n")
        return _ended(1)
    _say_what_goes_on(app.left_running, app.reader.path)
    return _ended(1 if code is None else code)


def _read_ahead(path: Path, basis: Basis | None, values: str, memory: Memory) -> ReadAhead:
    """Another process that reads the workspace as the session will; it is forked before there are any threads."""
    from kltui.tui.read_ahead import ReadAhead

    def question() -> Snapshot | None:
        from kltui.tui.basis import basis_of
        from kltui.tui.data import SnapshotReader

        reader = SnapshotReader(path)
        reader.values = values
        if basis is not None:
            reader.basis = basis
        else:
            reader.restore(basis_of(memory.load(path).get("basis")))
        found = reader.first()
        # With settings that do not fit, the interface would make maps before it has read the workspace and replaced them.
        return None if reader.forgotten else found

    return ReadAhead(question)


def prepare_environment() -> None:
    """Sets the environment variables that Textual reads when it is imported, and imports it."""
    # What is allocated before the first frame stays, so collections would only take time; the app enables them later.
    gc.disable()
    gc.set_threshold(*THRESHOLDS)
    sys.setswitchinterval(SWITCH_SECONDS)
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    if os.environ.get("SSH_CONNECTION"):
        os.environ.setdefault("TEXTUAL_FPS", SSH_FPS)
    _import_textual()


class _Absent(ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def _import_textual() -> None:
    """Imports Textual without its command palette and the widgets that it imports; kltui has a palette of its own."""
    palette = "textual.command"
    if palette in sys.modules or "textual.app" in sys.modules:
        return
    sys.modules[palette] = _Absent(palette)
    try:
        import_module("textual.app")
    finally:
        del sys.modules[palette]  # later imports get the real module


def _unicode() -> bool:
    encoding = (getattr(sys.stderr, "encoding", "") or "").lower().replace("-", "")
    return encoding in ("utf8", "utf_8", "utf16") and os.environ.get("TERM") != "linux"


def _state_folder() -> Path:
    from platformdirs import user_state_path

    return user_state_path("kltui")


def _say_what_goes_on(running: int, path: Path | None) -> None:
    if running:
        what, them = ("job goes", "it") if running == 1 else ("jobs go", "them")
        with contextlib.suppress(OSError):  # the terminal may be gone
            sys.stderr.write(f"{running} {what} on in the background; kltui {path} shows {them} again.\n")


def _ended(code: int) -> int:
    """`code`; ends the process after HANG_SECONDS even if a thread waits for a disk that does not respond."""
    guard = threading.Timer(HANG_SECONDS, os._exit, (code,))
    guard.daemon = True
    guard.start()
    return code
