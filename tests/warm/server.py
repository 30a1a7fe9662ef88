"""A process that has imported what kltui needs and forks for every process of it that tests want; see hand_over.py.

python server.py SOCKET MODULE ...      ends when its standard input does

It imports the modules when it is first asked for a fork.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any


def receive(line: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """(what is asked, the file descriptors that came with it). Raises EOFError where the asker was killed meanwhile."""
    size, fds, _, _ = socket.recv_fds(line, 8, 16)
    left, data = int.from_bytes(size, "little"), b""
    while len(data) < left or not size:
        got = line.recv(left - len(data)) if size else b""
        if not got:
            for fd in fds:
                os.close(fd)
            raise EOFError
        data += got
    return json.loads(data), fds


def work(task: dict[str, Any], fds: list[int]) -> int:
    """In the fork: what the process that asked would have done; its exit status."""
    moved = [
        fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in fds
    ]  # out of the way of the numbers that are wanted
    wanted = [0, 1, 2, *task["passed"]]
    for fd, number in zip(moved, wanted, strict=True):
        os.dup2(fd, number)
    kept = set(wanted)
    for name in [path.name for path in Path("/proc/self/fd").iterdir()]:
        if int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))
    if task.get("session"):
        os.setsid()
    os.chdir(task["cwd"])
    os.environ.clear()
    os.environ.update(task["env"])
    read_environment()
    if patch := os.environ.get("KLTUI_TEST_PATCH"):
        runpy.run_path(patch)
    sys.argv = ["-c", *task["arguments"]]
    try:
        if "code" in task:
            return run(task["code"])
        return int(importlib.import_module(task["module"]).main() or 0)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        threading._shutdown()  # type: ignore[attr-defined]  # as at the end of every process: threads are waited for
        for file in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # a full disk, a reader that is gone: the status stays
                file.flush()


def read_environment() -> None:
    """Has the hub's library take from the environment what it takes when it is imported: cache, address, whether offline."""
    if constants := sys.modules.get("huggingface_hub.constants"):
        importlib.reload(constants)


def run(code: str) -> int:
    """Runs a program as `python -c` does, and what it has asked for at its end."""
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    return 0


def load(names: list[str]) -> None:
    """Imports modules, and for MODULE:NAME what some libraries import only when it is asked for.

    A module of kltui that warns while it is imported is an error here as it is in a test.
    """
    for name in names:
        module, _, attribute = name.partition(":")
        with warnings.catch_warnings():
            if module.startswith("kltui"):
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", SyntaxWarning)
            imported = importlib.import_module(module)
            if attribute:
                getattr(imported, attribute)
    gc.freeze()  # no fork need look through all of that for garbage


def serve(path: str, names: list[str]) -> None:
    """Forks for everyone who connects, until standard input ends."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    print("ready", flush=True)
    lines: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        wake, woken = os.pipe()[::-1]
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for what in (listener, sys.stdin, woken):
            selector.register(what, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    return
                if key.fileobj is listener:
                    line, _ = listener.accept()
                    load(names)
                    names = []
                    try:
                        pid = start(line)
                    except (EOFError, ConnectionError):
                        line.close()
                        continue
                    lines[pid] = line
                    selector.register(line, selectors.EVENT_READ, pid)
                elif key.fileobj == woken:
                    os.read(woken, 4096)
                elif is_gone(key.fileobj):  # type: ignore[arg-type]  # it was killed: so is its fork
                    selector.unregister(key.fileobj)
                    if key.data in lines:
                        os.kill(key.data, signal.SIGKILL)
            bury(lines, selector)


def is_gone(line: socket.socket) -> bool:
    """Whether the other end of a line that can be read has ended."""
    try:
        return not line.recv(1)
    except ConnectionError:
        return True


def start(line: socket.socket) -> int:
    """A fork that does what the other end asks."""
    task, fds = receive(line)
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os._exit(work(task, fds))
    for fd in fds:
        os.close(fd)
    with contextlib.suppress(OSError):  # the asker was killed: that is seen when its line is read
        line.sendall(f"{pid}\n".encode())
    return pid


def bury(lines: dict[int, socket.socket], selector: selectors.BaseSelector) -> None:
    """Tells of every fork that has ended how it did."""
    while lines:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        line = lines.pop(pid)
        with contextlib.suppress(OSError):
            line.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        with contextlib.suppress(KeyError):
            selector.unregister(line)
        line.close()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
    os._exit(0)  # nothing of torch's needs to be put away
