"""`kltui WORKSPACE` where no job can be started: `restless_app.py WORKSPACE STACKS`.

Asked by SIGUSR1, it writes to the file STACKS where all its threads and tasks are.
"""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import sys
from collections.abc import Sequence
from pathlib import Path


def main() -> int:
    """The exit code of the interface."""
    from kltui.tui.main import prepare_environment, run_tui

    prepare_environment()
    from kltui.jobs import launch
    from kltui.tui import app_session
    from kltui.tui.dialogs import place_form

    def no_jobs(module: str, function: str, *arguments: str) -> list[str]:
        return ["/bin/false"]

    def no_place(command: Sequence[str], width: int) -> tuple[int, str, str]:
        return 2, "", "kltui: there are no models here\n"

    launch.python_command = no_jobs
    place_form._run = no_place
    app_session.BUSY_SECONDS = app_session.IDLE_SECONDS = 0.3
    with Path(sys.argv[2]).open("w", buffering=1) as stacks:
        signal.signal(
            signal.SIGUSR1, lambda *_: [task.print_stack(file=stacks) for task in asyncio.all_tasks()]
        )
        faulthandler.register(signal.SIGUSR1, stacks, chain=True)
        return run_tui(Path(sys.argv[1]))


if __name__ == "__main__":
    raise SystemExit(main())
