"""Runs the interface on a workspace, `restless_app.py WORKSPACE STATE`, in which it can start no job."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """The exit code of the interface; what it says of a bug of its own is kept in STATE/failure.txt."""
    from kltui.tui.app import prepare_environment

    prepare_environment()
    from kltui.jobs import launch
    from kltui.tui import app_core, place_form
    from kltui.tui.interface import KltuiApp
    from kltui.tui.memory import Memory

    def no_jobs(module: str, function: str, *arguments: str) -> list[str]:
        return ["/bin/false"]

    for caller in (launch, place_form):
        if hasattr(caller, "python_command"):
            caller.python_command = no_jobs
    app_core.BUSY_SECONDS = app_core.IDLE_SECONDS = 0.3
    workspace, state = Path(sys.argv[1]), Path(sys.argv[2])
    app = KltuiApp(workspace, memory=Memory(state / "view.json"))
    code = app.run() or 0
    if app.failure:
        (state / "failure.txt").write_text(app.failure)
        return 1
    return code


if __name__ == "__main__":
    raise SystemExit(main())
