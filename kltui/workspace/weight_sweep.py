"""Computes missing weight distances of a workspace from the available files, and stores them.

Distances are between the weights that were scored: each checkpoint's files are checked against its fingerprint before and
after the computation; checkpoints whose files differ are left out and reported.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from kltui.errors import KltuiError, StoreError
from kltui.registry.adapters import is_adapter
from kltui.registry.checkpoint import HubSource, LocalSource
from kltui.registry.digest import TOKENIZER_MARK
from kltui.registry.reading import Hashed, are_settled, has_moved, stamps, still_holds
from kltui.registry.tokenizer import tokenizer_folder
from kltui.store import CheckpointRow, Store
from kltui.workspace.adapter_sweep import AdapterSweep, adapter_runs
from kltui.workspace.weight_process import BadFolderError, WeightProcess

Progress = Callable[[str, int, int], None]  # (run, bytes read, bytes in all)
Distances = dict[tuple[str, str], float]

CHECKED = "weight_distances"  # kind of the record that states that stored distances were computed from checked files
SCORE_AGAIN = "score it again, then compare its weights"


@dataclass
class Computed:
    """Computed distances {(weights a, weights b): squared distance}, problems met, and weights whose files have changed.

    Stored distances of the `overwritten` weights may be wrong: they may have been computed from the changed files.
    """

    distances: Distances = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    overwritten: set[str] = field(default_factory=set)


def compute_missing(
    folder: Path,
    rows: Sequence[CheckpointRow],
    known: Mapping[tuple[str, str], float],
    remembered: Mapping[tuple[str, str], str],
    window: int,
    progress: Progress | None,
    variants: Sequence[tuple[CheckpointRow, CheckpointRow]] = (),
) -> Computed:
    """Computes the squared distances of pairs up to `window` apart in a run that are not in `known`, and of each of `variants`.

    `rows` are the checkpoints in order, `variants` pairs (model, its GGUF file). Every file is read once. `remembered` are
    fingerprints {(folder, stamps): sha256}, so that unchanged files need not be hashed again. Results are stored in the
    workspace `folder` after each run, unless another process is writing to it.
    """
    computed = Computed()
    runs: dict[str, list[CheckpointRow]] = defaultdict(list)
    for row in rows:
        if row.checkpoint.step is not None and not is_adapter(row.checkpoint):
            runs[row.checkpoint.run].append(row)
    groups = [*runs.items(), *((variant.name, [model, variant]) for model, variant in variants)]
    with WeightProcess() as process:
        for run, members in groups:
            if not _missing(members, known, window):
                continue
            sweep = _Sweep(run, members, remembered, computed)
            try:
                n_params = sweep.run(process, window, progress)
            except KltuiError as error:
                computed.problems.append(_problem(run, error))
                n_params = 0
            computed.distances |= sweep.distances
            computed.problems += _store(
                folder, sweep.distances, sweep.at_hand, n_params, computed.overwritten
            )
    adapters = AdapterSweep()
    for members in adapter_runs(rows):
        adapters.run(members, rows, known, window)
    computed.distances |= adapters.distances
    computed.problems += adapters.problems
    if adapters.distances:
        computed.problems += _store(folder, adapters.distances, (), 0, set())
    computed.problems = list(dict.fromkeys(computed.problems))
    return computed


def _problem(name: str, error: KltuiError) -> str:
    return f"{name}: {error.message}" + (f" ({error.hint})" if error.hint else "")


def _missing(members: Sequence[CheckpointRow], known: Mapping[tuple[str, str], float], window: int) -> bool:
    return any(
        (a.weights, b.weights) not in known and a.weights != b.weights
        for i, a in enumerate(members)
        for b in members[i + 1 : i + 1 + window]
    )


class _Sweep:
    """One pass over the files of a run's checkpoints."""

    def __init__(
        self,
        run: str,
        members: Sequence[CheckpointRow],
        remembered: Mapping[tuple[str, str], str],
        computed: Computed,
    ) -> None:
        self._run, self._computed = run, computed
        self.distances: Distances = {}
        self.at_hand: list[tuple[CheckpointRow, Hashed]] = []
        absent = []
        for row in members:
            where = _files(row)
            if where is None:
                absent.append(row.name)
            elif (hashed := self._checked(row, where, remembered)) is not None:
                self.at_hand.append((row, hashed))
        if absent:
            computed.problems.append(
                f"{run}: the files of {len(absent)} checkpoints are missing, {min(absent)} among them"
            )

    def run(self, process: WeightProcess, window: int, progress: Progress | None) -> int:
        """Fills `distances`; returns the number of parameters of the models, 0 if nothing could be compared."""
        while len(self.at_hand) > 1:
            try:
                band_Kb, n_params = process.banded_distances(
                    [hashed.folder for _, hashed in self.at_hand],
                    min(window, len(self.at_hand) - 1),
                    [row.name for row, _ in self.at_hand],
                    (lambda done, total: progress(self._run, done, total)) if progress else None,
                )
            except BadFolderError as error:
                self._computed.problems.append(_problem(self.at_hand.pop(error.place)[0].name, error))
                continue
            if not self._drop_moved():
                self.distances = self._pairs(band_Kb.shape[1], band_Kb)
                return n_params
        return 0

    def _pairs(self, width: int, band_Kb: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Distances:
        keys = [row.weights for row, _ in self.at_hand]
        return {
            (keys[k], keys[k + d]): float(band_Kb[k, d - 1])
            for k in range(len(keys))
            for d in range(1, width + 1)
            if k + d < len(keys) and np.isfinite(band_Kb[k, d - 1])
        }

    def _checked(
        self, row: CheckpointRow, folder: Path, remembered: Mapping[tuple[str, str], str]
    ) -> Hashed | None:
        """The checkpoint's files if they are those that were scored; otherwise records a problem and returns None."""
        try:
            outside = _tokenizer_of(row, folder)
            at_ns, seen = time.time_ns(), stamps(folder, outside)
            hashed = Hashed(folder, row.weights, seen, are_settled(seen, at_ns), outside)
            if remembered.get((str(folder), seen)) == row.weights or still_holds(
                folder, row.weights, outside
            ):
                return hashed
        except (KltuiError, OSError) as error:
            self._computed.problems.append(f"{row.name}: {error}")
            return None
        self._refuse(row)
        return None

    def _drop_moved(self) -> bool:
        """Whether files changed during the comparison; removes the checkpoints concerned."""
        moved = [(row, hashed) for row, hashed in self.at_hand if has_moved(hashed)]
        for pair in moved:
            self.at_hand.remove(pair)
            self._refuse(pair[0])
        return bool(moved)

    def _refuse(self, row: CheckpointRow) -> None:
        """Records that the files of a checkpoint have changed; does nothing if it was never scored."""
        if not row.scored:
            return
        self._computed.overwritten.add(row.weights)
        self._computed.problems.append(
            f"{row.name}: its files have changed since scoring, so it has no weight distances ({SCORE_AGAIN})"
        )


def _tokenizer_of(row: CheckpointRow, folder: Path) -> Path | None:
    """The folder of the checkpoint's tokenizer, None if it is the model's own."""
    found = tokenizer_folder(folder, row.checkpoint.tokenizer)
    return None if found == folder else found


def _files(row: CheckpointRow) -> Path | None:
    """Folder with the checkpoint's weights; None if they are not on this machine."""
    source = row.checkpoint.source
    if isinstance(source, HubSource):
        from kltui.registry.hub import cached_folder

        # The commit that was scored; the revision may refer to another one by now.
        commit = row.weights.partition(TOKENIZER_MARK)[0].rpartition("@")[2]
        return cached_folder(replace(source, commit=commit))
    return source.path if isinstance(source, LocalSource) and source.exists else None


def _store(
    folder: Path,
    distances: Distances,
    at_hand: Sequence[tuple[CheckpointRow, Hashed]],
    n_params: int,
    overwritten: set[str],
) -> list[str]:
    """Stores the distances and the fingerprints that were checked; returns a problem, in a list, if that is impossible.

    Opens the store only if there is something to store, because opening it for writing verifies all rows.
    """
    if not (distances or at_hand or overwritten):
        return []
    try:
        store = Store.write(folder)
        try:
            with store.atomic():
                store.weight_distances.drop(overwritten)
                store.weight_distances.put(distances, n_params)
                store.records.put(CHECKED, "files checked", {})
                for row, hashed in at_hand:
                    if hashed.settled:
                        store.fingerprints.put(hashed.folder, hashed.stamps, row.weights)
        finally:
            store.close()
    except StoreError as error:
        return [f"distances could not be stored and will be computed again next time: {error.message}"]
    return []
