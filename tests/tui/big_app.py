"""Runs the interface on a fixed workspace: `big_app.py CHECKPOINTS [evil | ticking | again] [TEXTS]` (0: the standard one).

With `again` a new interface begins, in the same process, once the one before has ended and a line was typed. At SIGUSR1 it
appends the names of its threads, as a line, to the file that THREADS_FILE names.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path


def main() -> int:
    """The exit code of the interface."""
    from kltui.tui.main import prepare_environment

    prepare_environment()
    if "THREADS_FILE" in os.environ:
        signal.signal(signal.SIGUSR1, lambda *_: write_threads(Path(os.environ["THREADS_FILE"])))
    from kltui.tui.app import KltuiApp

    while True:
        code = KltuiApp(Path("/workspaces/demo"), opener=opened).run() or 0
        if "again" not in sys.argv:
            return code
        print("ENDED", code, flush=True)  # as the shell of a pane says it
        if not sys.stdin.readline():
            return code
        print(
            "\x1b[2J\x1b[H", end="", flush=True
        )  # what was said of this one is not taken for the next one's


def write_threads(to: Path) -> None:
    """Appends the names of all threads but asyncio's, of which there are as many as have been needed at once."""
    names = (thread.name for thread in threading.enumerate())
    with to.open("a") as file:
        file.write(" ".join(sorted(name for name in names if not name.startswith("asyncio_"))) + "\n")


def opened(_: Path) -> object:
    """The workspace that the arguments ask for."""
    from evil_workspace import evil_workspace
    from fake_workspace import FakeWorkspace, TickingWorkspace, checkpoints

    if "evil" in sys.argv:
        return evil_workspace()
    if "ticking" in sys.argv:
        return TickingWorkspace()
    count = int(sys.argv[1])
    if not count:
        return FakeWorkspace()
    n_texts = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    return FakeWorkspace(n_texts, names=checkpoints(tuple(range(0, 10 * (count // 4), 10))))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
