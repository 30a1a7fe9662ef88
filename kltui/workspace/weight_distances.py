"""Squared distances between the weights of a workspace's checkpoints, stored or computed from their files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from kltui.store import CheckpointRow, Store

WeightProgress = Callable[[str, int, int], None]  # (run, bytes read, bytes in all)


class StoredDistances:
    """The base class of `Workspace` with its methods for distances between weights.

    `weight_problems` are the problems met by the last computation, one line each.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.path = store.folder
        self.weight_problems: list[str] = []

    def at_one_moment(self, *, brief: bool = True) -> AbstractContextManager[None]:
        """A block in which all that is read from the workspace is of one moment; see `Store.at_one_moment`."""
        return self._store.at_one_moment(brief=brief)

    def known_checkpoints(self) -> list[CheckpointRow]:
        """Every registered checkpoint; its state may be out of date."""
        return self._store.checkpoints.all()

    def weight_distances(
        self, compute: bool = False, window: int = 10, progress: WeightProgress | None = None
    ) -> dict[tuple[str, str], float]:
        """Squared weight distances {(name a, name b): sum over parameters} within runs, in both orders.

        With `compute`, missing pairs up to `window` checkpoints apart are computed from the available files,
        each read once, and stored in the workspace unless another process is writing to it; problems
        are in `weight_problems`.
        """
        rows = [r for r in self.known_checkpoints() if r.weights and r.checkpoint.quantization == "none"]
        stored = self._store.weight_distances.all()
        if compute:
            stored = self._computed_distances(rows, stored, window, progress)
        return within_runs(rows, stored)

    def adapter_distances(self) -> dict[tuple[str, str], float]:
        """Squared weight distances {(base, adapter): sum over parameters} that `weight_distances` has computed."""
        from kltui.workspace.adapter_sweep import adapter_runs, base_row

        rows = [r for r in self.known_checkpoints() if r.weights]
        stored = self._store.weight_distances.all()
        pairs = [(base, row) for run in adapter_runs(rows) for row in run if (base := base_row(row, rows))]
        found = {(base.name, row.name): stored.get((base.weights, row.weights)) for base, row in pairs}
        return {pair: value for pair, value in found.items() if value is not None}

    def gguf_distances(
        self, compute: bool = False, progress: WeightProgress | None = None
    ) -> dict[tuple[str, str], float]:
        """Squared weight distances {(model, its GGUF file): sum over parameters}, from the file's dequantised weights.

        With `compute` as for `weight_distances`.
        """
        from kltui.analysis.lineage import GGUF, variant_pairs
        from kltui.store.same_weights import point_of

        rows = [r for r in self.known_checkpoints() if r.weights and not r.weights.startswith("import:")]
        pairs = [(rows[a], rows[b]) for a, b in variant_pairs([point_of(r.checkpoint, None) for r in rows])]
        ggufs = [(a, b) for a, b in pairs if b.checkpoint.quantization.startswith(GGUF)]
        stored = self._store.weight_distances.all()
        if compute and ggufs:
            stored = self._computed_distances([], stored, 1, progress, ggufs)
        found = {(a.name, b.name): stored.get((a.weights, b.weights)) for a, b in ggufs}
        return {pair: value for pair, value in found.items() if value is not None}

    def _computed_distances(
        self,
        rows: Sequence[CheckpointRow],
        stored: dict[tuple[str, str], float],
        window: int,
        progress: WeightProgress | None,
        variants: Sequence[tuple[CheckpointRow, CheckpointRow]] = (),
    ) -> dict[tuple[str, str], float]:
        """`stored` with missing distances computed, and without those of weights whose files have been overwritten."""
        from kltui.workspace.weight_sweep import CHECKED, compute_missing

        at_hand = [r for r in rows if not r.weights.startswith("import:")]
        # Earlier releases did not check the files: compute their distances again if the files are available.
        known = stored if self._store.records.all(CHECKED) else {}
        computed = compute_missing(
            self.path, at_hand, known, self._store.fingerprints.all(), window, progress, variants
        )
        self.weight_problems = computed.problems
        new = computed.distances | {(b, a): value for (a, b), value in computed.distances.items()}
        return {pair: d for pair, d in stored.items() if not computed.overwritten & set(pair)} | new


def within_runs(
    rows: Sequence[CheckpointRow], stored: Mapping[tuple[str, str], float]
) -> dict[tuple[str, str], float]:
    """{(name a, name b): squared distance} for pairs of checkpoints of the same run, in the order of `rows`.

    It iterates over the stored distances, because a large run has far more pairs.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        places[row.weights].append(i)
    found = {
        (i, j): distance
        for (a, b), distance in stored.items()
        for i in places.get(a, ())
        for j in places.get(b, ())
        if i != j and rows[i].checkpoint.run == rows[j].checkpoint.run
    }
    return {(rows[i].name, rows[j].name): found[i, j] for i, j in sorted(found)}
