"""Paths that kltui can be given: models, texts, a workspace, and what it has no use for."""

from __future__ import annotations

from pathlib import Path

from tiny_models import write_run

from kltui.store import Store


def write_paths(folder: Path) -> Path:
    """Writes run/ with two checkpoints, texts.jsonl, notes/ without anything, and the empty workspace ws/; returns `folder`."""
    write_run(folder / "run", steps=(0, 10), seed=1)
    (folder / "texts.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (folder / "notes").mkdir()
    Store.write(folder / "ws").close()
    return folder
