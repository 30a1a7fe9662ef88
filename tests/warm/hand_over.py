"""A test's kltui and its scoring processes are forks of one that has imported what they need, instead of new ones.

To import torch and transformers takes seconds, and kltui itself one; a test of what a batch stores has nothing to say of
them. Nothing in kltui knows of this. The process itself stays, passes signals on to the fork, and ends as it ends.
KLTUI_TEST_WARM is the socket of the server; with KLTUI_TEST_WARM_MAIN the command itself is a fork, too: not for a test
that kills it, since the fork lives a moment longer. With KLTUI_TEST_WARM_WORKERS so are the processes that run the tests.
KLTUI_TEST_PATCH names a file that every fork runs first: what a sitecustomize is to a new interpreter.
"""

from __future__ import annotations

import os
import sys

# A test that stops one of these by SIGSTOP has it started for real: else it would stop the one that stands for it alone.
MODULES = ("kltui.jobs.worker", "kltui.jobs.fork_server", "kltui.jobs.import_preview", "kltui.scoring.device",
           "kltui.tui.embed_worker", "kltui.tui.report_worker", "kltui.workspace.weight_process")  # fmt: skip
MAIN = "kltui.cli"
RUNNER = "import sys;exec(eval(sys.stdin.readline()))"  # how pytest-xdist's execnet starts Python
SPAWN = "from multiprocessing.spawn import spawn_main;"  # how multiprocessing does


def asked() -> dict[str, object] | None:
    """What the fork is to do where this process was started to be one: a module's `main` with arguments, or code."""
    words = sys.orig_argv
    if "-c" not in words or len(words) < words.index("-c") + 2:
        return None
    code, *arguments = words[words.index("-c") + 1 :]
    if code.startswith(SPAWN) or (code == RUNNER and "KLTUI_TEST_WARM_WORKERS" in os.environ):
        return {"code": code, "arguments": arguments}
    modules = (*MODULES, MAIN) if "KLTUI_TEST_WARM_MAIN" in os.environ else MODULES
    module = next((m for m in modules if f"from {m} import main;" in code), None)
    return {"module": module, "arguments": arguments[1:]} if module else None  # the first is where kltui lies


def inherited() -> list[int]:
    """The file descriptors, beside the standard ones, with which this process was started."""
    found = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
    return [fd for fd in found if fd > 2 and _is_inheritable(fd)]


def _is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:  # that of the listing itself
        return False


def hand_over(task: dict[str, object]) -> None:
    """Lets a fork of the warm process do this one's work, with its file descriptors, and ends as it does.

    Returns where there is no warm process any more.
    """
    import json
    import signal
    import socket

    passed = inherited()
    line = socket.socket(socket.AF_UNIX)
    try:
        line.connect(os.environ["KLTUI_TEST_WARM"])
    except OSError:  # the tests have ended
        return
    whole = {**task, "cwd": os.getcwd(), "env": dict(os.environ), "passed": passed}  # noqa: PTH109
    data = json.dumps(whole).encode()
    socket.send_fds(line, [len(data).to_bytes(8, "little")], [0, 1, 2, *passed])
    line.sendall(data)
    for fd in (0, 1, *passed):
        os.close(fd)  # else the other ends would not see the fork close them
    answers = line.makefile("rb")
    pid = int(answers.readline())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda n, _: os.kill(pid, n))
    status = int(answers.readline() or 70)
    sys.stdout = sys.stderr = None
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status)


def where_asked() -> None:
    """Hands over where this is a process to be a fork; else nothing."""
    if "KLTUI_TEST_WARM" in os.environ and (found := asked()):
        hand_over(found)
