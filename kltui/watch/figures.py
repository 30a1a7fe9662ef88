"""Figures of the runs of a workspace as they stand: loss, its change, KL to the checkpoint before."""

from __future__ import annotations

from pathlib import Path

from kltui.analysis import spikes
from kltui.analysis.spikes import Figures
from kltui.errors import KltuiError
from kltui.workspace import Workspace


def run_figures(workspace: Path, corpus: str, settings: str) -> dict[str, list[Figures]]:
    """{run: its checkpoints by rising step} over one corpus under one group of settings; {} before two are scored."""
    with Workspace.open(workspace) as ws:
        try:
            shown = ws.map(corpus=corpus, settings=settings)
        except KltuiError:  # nothing of that corpus is stored yet
            return {}
        return spikes.run_figures(shown)
