"""Weight distances of a workspace: computed from the files at hand, kept in its store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from kltui.errors import KltuiError, StoreError
from kltui.registry.checkpoint import HubSource
from kltui.store import CheckpointRow, Store
from kltui.weight_process import BadFolderError, WeightProcess

Progress = Callable[[str, int, int], None]
Distances = dict[tuple[str, str], float]


def compute_missing(
    folder: Path,
    rows: Sequence[CheckpointRow],
    known: Mapping[tuple[str, str], float],
    window: int,
    progress: Progress | None,
) -> tuple[Distances, list[str]]:
    """({(weights a, weights b): squared distance} for pairs up to `window` apart, problems met), run by run.

    Every file is read once. What is computed is kept in the store at once, unless another process writes it.
    """
    found: Distances = {}
    problems: list[str] = []
    runs: dict[str, list[CheckpointRow]] = defaultdict(list)
    for row in rows:
        if row.checkpoint.step is not None:
            runs[row.checkpoint.run].append(row)
    with WeightProcess() as process:
        for run, members in runs.items():
            if not _missing(members, known, window):
                continue
            try:
                new, n_params, absent = _sweep(process, run, members, window, progress, problems)
            except KltuiError as error:
                problems.append(_worded(run, error))
                continue
            if absent:
                problems.append(
                    f"{run}: the files of {len(absent)} checkpoints are not at hand, {absent[0]} among them"
                )
            problems += _keep(folder, new, n_params)
            found |= new
    return found, list(dict.fromkeys(problems))


def _worded(name: str, error: KltuiError) -> str:
    return f"{name}: {error.message}" + (f" ({error.hint})" if error.hint else "")


def _missing(members: Sequence[CheckpointRow], known: Mapping[tuple[str, str], float], window: int) -> bool:
    return any(
        (a.weights, b.weights) not in known and a.weights != b.weights
        for i, a in enumerate(members)
        for b in members[i + 1 : i + 1 + window]
    )


def _sweep(
    process: WeightProcess,
    run: str,
    members: Sequence[CheckpointRow],
    window: int,
    progress: Progress | None,
    problems: list[str],
) -> tuple[Distances, int, list[str]]:
    at_hand = [(row, where) for row in members if (where := _files(row)) is not None]
    absent = sorted({row.name for row in members} - {row.name for row, _ in at_hand})
    while True:
        if len(at_hand) < 2:
            return {}, 0, absent
        try:
            band, n_params = process.banded_distances(
                [where for _, where in at_hand],
                min(window, len(at_hand) - 1),
                [row.name for row, _ in at_hand],
                (lambda done, total: progress(run, done, total)) if progress else None,
            )
            break
        except BadFolderError as error:
            problems.append(_worded(at_hand.pop(error.place)[0].name, error))
    pairs = {
        (at_hand[k][0].weights, at_hand[k + d][0].weights): float(band[k, d - 1])
        for k in range(len(at_hand))
        for d in range(1, band.shape[1] + 1)
        if k + d < len(at_hand) and np.isfinite(band[k, d - 1])
    }
    return pairs, n_params, absent


def _files(row: CheckpointRow) -> Path | None:
    """Folder with the checkpoint's weights, if they are on this machine."""
    source = row.checkpoint.source
    if isinstance(source, HubSource):
        from kltui.registry.hub import cached_folder

        return cached_folder(source)
    return source.path if source.path.is_dir() else None


def _keep(folder: Path, distances: Distances, n_params: int) -> list[str]:
    """Keeps the distances; why that could not be, which is no reason not to show them."""
    try:
        store = Store.write(folder)
        try:
            with store.atomic():
                store.weight_distances.put(distances, n_params)
        finally:
            store.close()
    except StoreError as error:
        return [f"distances are not stored, and computed again next time: {error.message}"]
    return []
