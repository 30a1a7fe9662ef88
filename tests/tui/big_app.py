"""Runs the interface on a fixed workspace: `big_app.py CHECKPOINTS [evil | ticking] [TEXTS]` (0: the standard one)."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """The exit code of the interface."""
    from kltui.tui.main import prepare_environment

    prepare_environment()
    from kltui.tui.app import KltuiApp

    return KltuiApp(Path("/workspaces/demo"), opener=opened).run() or 0


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
