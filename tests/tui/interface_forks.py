"""A process that has imported the interface, and forks for every test that wants it on a terminal.

python interface_forks.py SOCKET    ends when the other end of the socket, given by its file descriptor, is closed

Each request is JSON, {"words", "env", "controlling"}, with the terminal's file descriptor; the answer is a process id. `words` is
what would stand behind `python`: a script, or -m and a module. A fork is left by whoever forked it, so that the nearest
ancestor that takes orphans in, the process that runs the tests, is its parent and can wait for it.
"""

from __future__ import annotations

import asyncio
import atexit
import fcntl
import gc
import importlib
import json
import os
import runpy
import socket
import sys
import termios
import threading
import traceback
from pathlib import Path
from typing import Any

LOADED = ("kltui.cli", "kltui.tui.app", "kltui.tui.opening", "kltui.tui.export", "kltui.store", "kltui.workspace",
          "kltui.analysis.map", "fake_workspace", "evil_workspace")  # fmt: skip


def load() -> None:
    """Imports what the interface does until it has shown every screen."""
    from kltui.tui.main import prepare_environment

    prepare_environment()
    for name in LOADED:
        importlib.import_module(name)
    for screen in importlib.import_module("kltui.tui.actions").SCREENS:
        importlib.import_module(f"kltui.tui.views.{screen}")
    asyncio.run(show_once())
    gc.freeze()


async def show_once() -> None:
    """Has an interface begin without a terminal, so that its styles are parsed once for all forks."""
    from fake_workspace import FakeWorkspace
    from shared_styles import parsing_once
    from textual.css.stylesheet import Stylesheet

    from kltui.tui.app import KltuiApp

    Stylesheet._parse_rules = parsing_once()  # type: ignore[method-assign]
    app = KltuiApp(Path("/workspaces/demo"), opener=lambda _: FakeWorkspace(8))  # type: ignore[arg-type,return-value]
    async with app.run_test() as pilot:
        await pilot.pause()


def take_terminal(terminal: int, *, controlling: bool) -> None:
    """Makes this process the first of its session, with a terminal for standard input and output."""
    os.setsid()
    if controlling:
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    for fd in range(3):
        os.dup2(terminal, fd)
    os.closerange(3, max(terminal, 256) + 1)
    stdin, stdout, stderr = (os.fdopen(fd, mode, 1, closefd=False) for fd, mode in enumerate("rww"))
    sys.stdin = sys.__stdin__ = stdin  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = stdout  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = stderr  # type: ignore[misc]


def run(words: list[str]) -> int:
    """The exit status of a program as Python runs it from its command line."""
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def work(asked: dict[str, Any], terminal: int) -> int:
    """In the fork: the program that is asked for, to its end."""
    os.chdir("/")
    os.environ.clear()
    os.environ.update(asked["env"])
    take_terminal(terminal, controlling=asked["controlling"])
    try:
        return run(asked["words"])
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()


def orphan(asked: dict[str, Any], terminal: int) -> int:
    """The process id of a fork whose parent has ended."""
    ours, theirs = os.pipe()
    between = os.fork()
    if between == 0:
        pid = os.fork()
        if pid:
            os.write(theirs, str(pid).encode())
            os._exit(0)
        os._exit(work(asked, terminal))
    os.close(theirs)
    os.waitpid(between, 0)
    pid = int(os.read(ours, 20))
    os.close(ours)
    return pid


def serve(line: socket.socket) -> None:
    """Forks for each request until there is no more to come."""
    load()
    while True:
        data, fds, _, _ = socket.recv_fds(line, 1 << 18, 1)
        if not data:
            return
        pid = orphan(json.loads(data), fds[0])
        os.close(fds[0])
        line.send(str(pid).encode())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    serve(socket.socket(fileno=int(sys.argv[1])))
