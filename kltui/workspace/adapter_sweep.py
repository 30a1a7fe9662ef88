"""Weight distances of adapters in a workspace: between the steps of a run, and from each to its base.

They are computed from the factors in the adapters' files. The files are checked against the fingerprint recorded at
scoring, before and after the computation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kltui.analysis.adapter_weights import sqdist
from kltui.errors import KltuiError
from kltui.registry.adapter_tensors import F64, Change, base_tensor, read_change
from kltui.registry.adapters import is_adapter, joined_weights
from kltui.registry.checkpoint import HubSource, LocalSource, Source
from kltui.registry.digest import TOKENIZER_MARK
from kltui.registry.reading import Hashed, has_moved, hash_files, still_holds
from kltui.registry.tokenizer import named_source, own_tokenizer, tokenizer_folder
from kltui.store import CheckpointRow

Distances = dict[tuple[str, str], float]


@dataclass
class AdapterSweep:
    """Computed distances of adapters {(weights a, weights b): squared distance}, and the problems met, one line each."""

    distances: Distances = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def run(
        self,
        members: Sequence[CheckpointRow],
        rows: Sequence[CheckpointRow],
        known: Mapping[tuple[str, str], float],
        window: int,
    ) -> None:
        """Adds the missing pairs of a run of adapters that are up to `window` apart, and those of each adapter with its base."""
        opened: dict[str, tuple[Change, CheckpointRow]] = {}
        for at, row in enumerate(members):
            base = base_row(row, rows)
            if base is None:
                self.problems.append(
                    f"{row.name}: its base is not in the workspace, so it has no weight distances"
                )
                continue
            wanted = [(base.weights, row.weights)]
            near = [*members[max(0, at - window) : at], *members[at + 1 : at + 1 + window]]
            wanted += [(m.weights, row.weights) for m in near]
            if all(a == b or (a, b) in known or (b, a) in known for a, b in wanted):
                continue
            try:
                opened[row.name] = self._pairs(row, base, members[max(0, at - window) : at], opened)
            except (KltuiError, OSError) as error:
                self.problems.append(_problem(row.name, error))

    def _pairs(
        self,
        row: CheckpointRow,
        base: CheckpointRow,
        before: Sequence[CheckpointRow],
        opened: Mapping[str, tuple[Change, CheckpointRow]],
    ) -> tuple[Change, CheckpointRow]:
        """The adapter's change and its base; adds the distances to its base and to the adapters `before` it.

        Raises KltuiError or OSError if its files cannot be read or are not those that were scored.
        """
        hashed = _checked(row, base)
        change = read_change(hashed.folder)
        tensors = _Base(base)
        others = [
            (row_, c) for row_ in before if row_.name in opened for c, b in [opened[row_.name]] if b == base
        ]
        made: Distances = {}
        for other, theirs in [(base, None), *others]:
            try:
                made[other.weights, row.weights] = sqdist(theirs, change, tensors)
            except KltuiError as error:
                self.problems.append(_problem(f"{row.name} to {other.name}", error))
        if has_moved(hashed):
            raise _changed(row)
        self.distances |= {pair: value for pair, value in made.items() if pair[0] != pair[1]}
        return change, base


def adapter_runs(rows: Sequence[CheckpointRow]) -> list[list[CheckpointRow]]:
    """The adapters among `rows`, one list for each run."""
    runs: dict[str, list[CheckpointRow]] = defaultdict(list)
    for row in rows:
        if is_adapter(row.checkpoint):
            runs[row.checkpoint.run].append(row)
    return list(runs.values())


def base_row(row: CheckpointRow, rows: Sequence[CheckpointRow]) -> CheckpointRow | None:
    """The checkpoint among `rows` that is the base of an adapter, in the adapter's variant; None if there is none."""
    base, variant = row.checkpoint.base, row.checkpoint.quantization
    if not base:
        return None
    source = named_source(base)
    same = [
        r for r in rows if str(r.checkpoint.source) == str(source) and r.checkpoint.quantization == variant
    ]
    return same[0] if same else None


def _checked(row: CheckpointRow, base: CheckpointRow) -> Hashed:
    """The adapter's files. Raises KltuiError unless they are those that were scored on this base."""
    folder = _folder(row.checkpoint.source)
    if folder is None:
        raise KltuiError(
            "its files are no longer in the cache, so it has no weight distances", "score it again"
        )
    own = own_tokenizer(folder)
    hashed = hash_files(folder, own if own != folder else None)
    if joined_weights(base.weights, hashed.weights) != row.weights:
        raise _changed(row)
    return hashed


def _changed(row: CheckpointRow) -> KltuiError:
    return KltuiError(
        "its files have changed since scoring, so it has no weight distances",
        "score it again, then compare its weights",
    )


def _problem(name: str, error: KltuiError | OSError) -> str:
    if isinstance(error, KltuiError):
        return f"{name}: {error.message} ({error.hint})"
    return f"{name}: {error.filename or ''}: {error.strerror or error}"


class _Base:
    """Function that returns a tensor of a base by name; its files are first checked against what was scored."""

    def __init__(self, row: CheckpointRow) -> None:
        self._row = row
        self._folder: Path | None = None

    def __call__(self, name: str) -> F64:
        if self._folder is None:
            self._folder = _base_folder(self._row)
        return base_tensor(self._folder, name)


def _folder(source: Source) -> Path | None:
    """The folder of a source's files, for the hub in its cache; None if they are not there."""
    if isinstance(source, HubSource):
        from kltui.registry.hub import cached_folder

        return cached_folder(source)
    return source.path if isinstance(source, LocalSource) else None


def _base_folder(row: CheckpointRow) -> Path:
    """The folder of a base's files. Raises KltuiError if they are missing or are not those that were scored."""
    source = row.checkpoint.source
    if isinstance(source, HubSource):
        source = replace(source, commit=row.weights.partition(TOKENIZER_MARK)[0].rpartition("@")[2])
    folder = _folder(source)
    if folder is None or not folder.is_dir():
        raise KltuiError(f"the files of its base {row.name} are missing", "Fetch or copy them again.")
    outside = tokenizer_folder(folder, row.checkpoint.tokenizer)
    if not still_holds(folder, row.weights, None if outside == folder else outside):
        raise _changed(row)
    return folder
