"""A test's kltui and its scoring processes are forks of one that has imported what they need, instead of new ones.

To import torch and transformers takes seconds, and kltui itself one; a test of what a batch stores has nothing to say of
them. Nothing in kltui knows of this. The process itself stays, passes signals on to the fork, and ends as it ends.
KLTUI_TEST_WARM is the socket of the server; with KLTUI_TEST_WARM_MAIN the command itself is a fork, too: not for a test
that kills it, since the fork lives a moment longer.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path

WORKERS = ("kltui.jobs.worker", "kltui.jobs.fork_server")
MODULES = (*WORKERS, "kltui.scoring.device")
MAIN = "kltui.cli"


def asked() -> tuple[str, list[str]] | None:
    """(module, arguments) where this process was started to call the `main` of a module that is to be a fork."""
    words = sys.orig_argv
    if "-c" not in words or len(words) < words.index("-c") + 3:
        return None
    at = words.index("-c")
    modules = (*MODULES, MAIN) if "KLTUI_TEST_WARM_MAIN" in os.environ else MODULES
    module = next((m for m in modules if f"from {m} import main;" in words[at + 1]), None)
    return (module, words[at + 3 :]) if module else None


def hand_over(module: str, arguments: list[str]) -> None:
    """Lets a fork of the warm process do this one's work, and ends as it does."""
    line = socket.socket(socket.AF_UNIX)
    line.connect(os.environ["KLTUI_TEST_WARM"])
    passed = [int(a) for a in arguments if a.isdecimal()] if module in WORKERS else []
    task = {
        "module": module,
        "arguments": arguments,
        "cwd": str(Path.cwd()),
        "env": dict(os.environ),
        "passed": passed,
    }
    data = json.dumps(task).encode()
    socket.send_fds(line, [len(data).to_bytes(8, "little")], [0, 1, 2, *passed])
    line.sendall(data)
    for fd in passed:
        os.close(fd)  # else the other end would not see it close
    answers = line.makefile("rb")
    pid = int(answers.readline())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda n, _: os.kill(pid, n))
    status = int(answers.readline())
    sys.stdout = sys.stderr = None
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status)


def where_asked() -> None:
    """Hands over where this is a process to be a fork; else nothing."""
    if "KLTUI_TEST_WARM" in os.environ and (found := asked()):
        hand_over(*found)
