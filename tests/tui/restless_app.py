"""Runs the interface on a workspace that changes by itself: `restless_app.py FOLDER SEED`; no job of it is ever started."""

from __future__ import annotations

import math
import random
import sys
import time
from dataclasses import replace
from pathlib import Path


def main() -> int:
    """The exit code of the interface."""
    from kltui.tui.app import prepare_environment

    prepare_environment()
    from kltui.jobs import process
    from kltui.tui import app_core
    from kltui.tui.interface import KltuiApp
    from kltui.tui.memory import Memory

    app_core.BUSY_SECONDS = app_core.IDLE_SECONDS = 0.3
    command = process.python_command

    def no_jobs(module: str, function: str, *arguments: str) -> list[str]:
        return ["/bin/false"] if module == "kltui.cli" else command(module, function, *arguments)

    process.python_command = no_jobs
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    from kltui.jobs import launch
    from kltui.tui import place_form

    for module in (launch, place_form):
        if hasattr(module, "python_command"):
            module.python_command = no_jobs
    workspace = restless(seed)
    app = KltuiApp(folder, opener=lambda _: workspace, memory=Memory(folder / "state" / "view.json"))
    code = app.run() or 0
    if app.failure:
        (folder / "failure.txt").write_text(app.failure)
        return 1
    return code


def restless(seed: int) -> object:
    """A workspace in which checkpoints appear, fail and vanish and jobs come and go, each time one looks."""
    from evil_workspace import EVIL
    from fake_workspace import FakeWorkspace, default_items, default_jobs

    from kltui.errors import StoreError

    class RestlessWorkspace(FakeWorkspace):
        def __init__(self) -> None:
            super().__init__(n_texts=40)
            self.everything = self.all
            self.random = random.Random(seed)
            self.next = 0.0
            self.states: dict[str, str] = {}

        def generation(self) -> int:
            if time.monotonic() > self.next:
                self.next = time.monotonic() + self.random.uniform(0.2, 1.5)
                self.change += 1
                self.stir()
            return self.change

        def stir(self) -> None:
            chance = self.random
            kept = chance.choice((0, 1, 2, 40, len(self.everything), len(self.everything)))
            self.all = (
                chance.sample(self.everything, kept) if chance.random() < 0.5 else self.everything[:kept]
            )
            self.count = chance.choice((0, len(self.all) // 2, len(self.all)))
            self.states = {c.name: chance.choice(("new", "running", "failed")) for c in self.all}
            rows = default_jobs(len(self.all))
            chance.shuffle(rows)
            statuses = ("queued", "running", "paused", "done", "failed", "stopped", "lost")
            self.job_rows = [
                replace(
                    row, status=chance.choice(statuses), message=chance.choice(EVIL), done=chance.randrange(9)
                )
                for row in rows[: chance.randrange(3)]
            ]
            self.item_rows = {2: default_items(self.all)} if chance.random() < 0.7 else {}

        def checkpoints(self) -> list:
            if self.random.random() < 0.02:
                raise StoreError("the disk is away for a moment", "Try again.")
            rows = []
            for row in super().checkpoints():
                state = self.states.get(row.name, "new")
                failed = state == "failed" and not row.scored
                rows.append(
                    row if row.scored
                    else replace(row, status=state, mean_loglik=math.nan, error=EVIL[row.id % len(EVIL)] if failed else "")
                )  # fmt: skip
            return rows

    return RestlessWorkspace()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
