"""A workspace in which every string is out to get the terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fake_workspace import FakeWorkspace, checkpoints

from kltui.registry.checkpoint import LocalSource
from kltui.store.rows import CheckpointRow, JobItemRow, JobRow

EVIL = (
    "\x1b]0;owned\x07title",
    "\x1b[2J\x1b[31mred",
    "\x9b31mC1",
    "\u202egnp.exe\u202c",
    "\u2066isolated\u2069",
    "nul\x00inside",
    "[bold red]markup[/]",
    "[@click=app.quit]press[/]",
    "line\nbreak\r\ttab\bback\vdown",
    "x" * 5000,
    "\U000e0041tag\u200bzero\ufeff",
    "\x1b]52;c;ZXZpbA==\x07clip",
    "lone\udc80surrogate",
    "\x1b]8;;http://evil\x07link\x1b]8;;\x07",
    "zalgo" + "\u0301\u0302\u0316" * 300,
    "family\U0001f469\u200d\U0001f469\u200d\U0001f466 heart\u2764\ufe0f flag\U0001f1e9\U0001f1ea",
    "模型" * 40,
    "\x90dcs\x9c\x9dosc\x9c\x85nel\u2028line\u2029",
)
ALL = "".join(EVIL[:9])


class EvilWorkspace(FakeWorkspace):
    """Evil texts, domains, errors, hints, sources and logs."""

    def checkpoints(self) -> list[CheckpointRow]:
        rows = super().checkpoints()
        return [replace(r, error=ALL, hint=ALL) if i % 7 == 3 else r for i, r in enumerate(rows)]

    def jobs(self) -> list[JobRow]:
        return [replace(j, message=ALL, host=ALL) for j in super().jobs()]

    def job_items(self, job_id: int) -> list[JobItemRow]:
        return [
            replace(i, name=ALL, stage="\x1b[5mscore", error=ALL, hint=ALL) for i in super().job_items(job_id)
        ]

    def texts(self, sha256: str | None = None) -> list[str]:
        return [EVIL[i % len(EVIL)] + ALL for i in range(self.n_texts)]

    def domains(self, sha256: str | None = None) -> list[str]:
        return [EVIL[i % len(EVIL)] for i in range(self.n_texts)]


def evil_workspace() -> EvilWorkspace:
    """The standard workspace with evil names of runs, sizes, types, parents, tags and folders."""
    made = []
    runs: dict[str, str] = {}
    for c in checkpoints():
        evil = runs.setdefault(c.run, EVIL[len(runs) * 2 % len(EVIL)])
        made.append(replace(c, run=evil + c.run, size=EVIL[1], type=EVIL[0], parent=EVIL[3], tags=(EVIL[6],),
                            source=LocalSource(Path("/models") / EVIL[8].replace("/", "")), quantization=c.quantization))  # fmt: skip
    return EvilWorkspace(n_texts=60, names=made)
