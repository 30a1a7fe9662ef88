"""Figures of the runs of a workspace as they stand: loss, its change, KL to the checkpoint before."""

from __future__ import annotations

import math
from pathlib import Path

from kltui.analysis.map import Map
from kltui.errors import KltuiError
from kltui.view.sections.loss import bits_per_byte
from kltui.watch.rules import Figures, with_medians
from kltui.workspace import Workspace


def run_figures(workspace: Path, corpus: str, settings: str) -> dict[str, list[Figures]]:
    """{run: its checkpoints by rising step} over one corpus under one group of settings; {} before two are scored."""
    with Workspace.open(workspace) as ws:
        try:
            shown = ws.map(corpus=corpus, settings=settings)
        except KltuiError:  # nothing of that corpus is stored yet
            return {}
        return {
            t.label: with_medians([_of(shown, t.label, t.rows, k) for k in range(len(t.rows))])
            for t in shown.trajectories()
        }


def _of(shown: Map, run: str, rows: tuple[int, ...], place: int) -> Figures:
    row = rows[place]
    loss, se = bits_per_byte(shown.loglik_KN[row], shown.text_bytes_N, shown.text_ids_N)
    point = shown.points[row]
    if place == 0:
        return Figures(point.name, run, point.step or 0, loss, se)
    before = rows[place - 1]
    # of the paired difference: what all checkpoints find hard about a text cancels
    change, change_se = bits_per_byte(
        shown.loglik_KN[row] - shown.loglik_KN[before], shown.text_bytes_N, shown.text_ids_N
    )
    kl = shown.pair_rows(before, row)
    value, error = (kl.value, kl.se) if kl is not None else (math.nan, math.nan)
    return Figures(point.name, run, point.step or 0, loss, se, change, change_se, value, error)
