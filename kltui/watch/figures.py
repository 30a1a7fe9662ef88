"""Loss, change in loss and KL to the previous checkpoint, for the runs in a workspace."""

from __future__ import annotations

from pathlib import Path

from kltui.analysis import spikes
from kltui.analysis.spikes import Figures
from kltui.errors import KltuiError
from kltui.workspace import Workspace


def run_figures(workspace: Path, corpus: str, settings: str) -> dict[str, list[Figures]]:
    """{run: figures of its checkpoints by rising step} on the corpus with that SHA-256, scored with `settings`.

    {} if nothing is scored there yet.
    """
    with Workspace.open(workspace) as ws:
        try:
            shown = ws.map(corpus=corpus, settings=settings)
        except KltuiError:  # nothing of that corpus is stored yet
            return {}
        return spikes.run_figures(shown)
