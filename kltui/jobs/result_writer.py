"""The batch's access to the store: which results are stored already, and writing each result in one transaction."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kltui.analysis.point import Point
from kltui.jobs.names import as_called_here
from kltui.jobs.plan import Plan, settings_key
from kltui.jobs.prepare import Ready
from kltui.jobs.shard_result import flat_tokens
from kltui.registry.checkpoint import Checkpoint
from kltui.registry.digest import weight_files_digest
from kltui.scoring.settings import Progress, ScoreResult
from kltui.store import Store
from kltui.store.atomic_write import write_atomic
from kltui.store.comparable import unconditional_settings
from kltui.store.same_weights import KIND, in_store
from kltui.store.side_tables import TOKENS, TOKENS_ALONE, side_paths
from kltui.store.writer_lock import Writer
from kltui.version import __version__

NO_LAYERS = "no layers"
BITS = "bits_per_weight"  # a statistic of scoring, and the kind of the records that store it by the identity of the weights


def _layer_finders() -> dict[str, str]:
    """Versions of the software that determines whether a model's layers can be scored."""
    return {"kltui": __version__, "transformers": version("transformers")}


def _is_remembered(ready: Ready) -> bool:
    """Whether a checkpoint's fingerprint is cached under the state of its files."""
    return ready.settled and not ready.commit and not ready.adapted


class Keeps(Protocol):
    """The protocol for storing the results of a batch: `ResultWriter`, or for a shard `InboxWriter`."""

    previous_owner: Writer | None

    def fingerprints(self) -> Mapping[tuple[str, str], str]: ...
    def register(self, log: Path | None) -> str: ...
    def held(self) -> Mapping[int, str]: ...
    def keeps(self, ready: Ready) -> bool: ...
    def store(self, ready: Ready, result: ScoreResult) -> None: ...
    def item_started(self, index: int) -> None: ...
    def item_failed(self, index: int, error: str, hint: str) -> None: ...
    def note(self, progress: Mapping[int, Progress]) -> None: ...
    def count_kept(self, indices: Collection[int]) -> set[int]: ...
    def note_devices(self, devices: str) -> None: ...
    def finish(self, status: str, message: str) -> None: ...
    def same_weights(self) -> list[tuple[Point, ...]]: ...


class ResultWriter:
    """Everything a batch writes, by the index of its plan's checkpoints."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self._plan, self._store = plan, store
        self.previous_owner = store.previous_owner
        self._settings = settings_key(plan.settings)
        self._job = self._corpus = 0
        self._ids: list[int] = []
        self._called: list[Checkpoint] = []
        self._renamed: set[int] = set()
        self._remembered: Mapping[tuple[str, str], str] = {}  # as of the last call of `fingerprints`
        self._kept: list[
            int
        ] = []  # row ids of checkpoints that are already stored but not yet marked as such in the job

    def fingerprints(self) -> Mapping[tuple[str, str], str]:
        """Remembered fingerprints, {(folder, signature): sha256}."""
        self._remembered = self._store.fingerprints.all()
        return self._remembered

    def register(self, log: Path | None) -> str:
        """Writes the corpus, the checkpoints and the job, and marks it as running; returns a note on renamed checkpoints, or ""."""
        with self._store.atomic():
            self._corpus = self._store.corpora.add(self._plan.corpus, self._plan.job.corpus.source)
            self._called = called = as_called_here(self._plan.checkpoints, self._store)
            self._ids = [self._store.checkpoints.upsert(c) for c in called]
            job = self._plan.job
            self._job = self._store.jobs.register(job.digest(), job.to_toml(), self._ids, log)
            self._store.jobs.start(self._job)
        asked = [c.name for c in self._plan.checkpoints]
        others = {i: (a, c.name) for i, (a, c) in enumerate(zip(asked, called, strict=True)) if a != c.name}
        self._renamed = set(others)
        if not others:
            return ""
        before, now = next(iter(others.values()))
        return f"{len(others)} checkpoints have other names in this workspace, such as {now} for {before}"

    def _settle(self, ready: Ready) -> int:
        """Row id of a checkpoint whose weights are now known.

        If a checkpoint was renamed by hand and its source has new weights since, these get a row under the original name.
        """
        index, before = ready.index, self._ids[ready.index]
        if index in self._renamed and self._store.checkpoints.weights(before) not in ("", ready.weights):
            with self._store.atomic():
                self._ids[index] = self._store.checkpoints.upsert(self._plan.checkpoints[index])
                self._store.jobs.item_moved(self._job, before, self._ids[index])
                self._redo_parents()
        self._renamed.discard(index)
        return self._ids[index]

    def _redo_parents(self) -> None:
        """Updates the parents of the job's checkpoints after a name has changed its meaning."""
        called = as_called_here(self._plan.checkpoints, self._store)
        for before, now in zip(self._called, called, strict=True):
            if now.parent != before.parent and now.name == before.name:
                self._store.checkpoints.upsert(now)
        self._called = called

    def keeps(self, ready: Ready) -> bool:
        """Whether every requested vector of this checkpoint is stored; if so, it is marked as done in the job, a little later.

        Nothing is written at once if its weights are recorded already, because every transaction waits for the disk.
        """
        cid = self._settle(ready)
        complete = self._holds(ready, cid, self._corpus)
        if complete:
            self._kept.append(cid)
        if not complete or not self._is_known(ready, cid):
            with self._store.atomic():
                self._note_weights(ready)
                self._mark_kept()
        return complete

    def _is_known(self, ready: Ready, checkpoint_id: int) -> bool:
        """Whether everything that `_note_weights` would write is already stored."""
        if self._store.checkpoints.weights(checkpoint_id) != ready.weights or ready.commit:
            return False
        return (
            not _is_remembered(ready)
            or self._remembered.get((str(ready.folder), ready.signature)) == ready.weights
        )

    def _mark_kept(self) -> None:
        """Marks the checkpoints that were found stored as done in the job, within a transaction."""
        if self._kept:
            self._store.jobs.items_kept(self._job, self._kept, len(self._plan.corpus))
            self._kept = []

    def count_kept(self, indices: Collection[int]) -> set[int]:
        """Those of `indices` that are completely stored for the weights last seen; marks their items done."""
        kept = set(self.held(indices, by_hash=False))
        if kept:
            with self._store.atomic():
                ids = [self._ids[index] for index in kept]
                self._store.jobs.items_kept(self._job, ids, len(self._plan.corpus))
        return kept

    def held(self, indices: Collection[int] | None = None, *, by_hash: bool = True) -> dict[int, str]:
        """{index: weights} of the checkpoints (of `indices`) that are completely stored for the weights last seen.

        Writes nothing. Without `by_hash`, side files count if they exist, without being read.
        """
        corpora = {c.sha256: c.id for c in self._store.corpora.all()}
        rows = {row.name: row for row in self._store.checkpoints.all()}
        corpus = corpora.get(self._plan.corpus.sha256)
        found = {}
        called = as_called_here(self._plan.checkpoints, self._store)
        for index in range(len(called)) if indices is None else indices:
            row = rows.get(called[index].name)
            if corpus is None or row is None or not row.weights:
                continue
            if self._holds(Ready(index, Path(), row.weights), row.id, corpus, by_hash):
                found[index] = row.weights
        return found

    def _holds(self, ready: Ready, checkpoint_id: int, corpus_id: int, by_hash: bool = True) -> bool:
        stored = self._store.vectors.stored_layers(checkpoint_id, corpus_id, self._settings, ready.weights)
        if None not in stored or not (self._has_layers(stored) or self._no_layers_to_have(ready)):
            return False
        if self._plan.settings.unconditional:
            alone = unconditional_settings(self._settings)
            if (
                stored.keys()
                - self._store.vectors.stored_layers(checkpoint_id, corpus_id, alone, ready.weights).keys()
            ):
                return False
        if not self._plan.settings.tokens:
            return True
        kinds = (TOKENS, TOKENS_ALONE)[: 1 + self._plan.settings.unconditional]
        return all(
            any(
                self._store.side_files.intact(self._store.folder, path, by_hash)
                for path in self._tokens_paths(kind, ready, checkpoint_id, corpus_id)
            )
            for kind in kinds
        )

    def _has_layers(self, stored: Mapping[int | None, str]) -> bool:
        asked = self._plan.settings.layers
        if asked == "none":
            return True
        if asked == "all":
            return "all" in stored.values()
        return set(asked) <= set(stored)

    def _no_layers_to_have(self, ready: Ready) -> bool:
        """Whether this version of kltui and of transformers has already found that the requested layers cannot be scored."""
        found = self._store.records.all(NO_LAYERS).get(self._layers_request(ready))
        return found is not None and found["found_by"] == _layer_finders()

    def _layers_request(self, ready: Ready) -> str:
        """The name of the record that says why layers are not stored: the weights, variant, settings and layers."""
        quantization = self._plan.checkpoints[ready.index].quantization
        return json.dumps([ready.weights, quantization, self._settings, self._plan.settings.layers])

    def _tokens_paths(self, kind: str, ready: Ready, checkpoint_id: int, corpus_id: int) -> tuple[str, str]:
        name = self._plan.checkpoints[ready.index].name
        return side_paths(kind, checkpoint_id, name, corpus_id, self._settings, ready.weights)

    def _note_weights(self, ready: Ready) -> None:
        self._store.checkpoints.set_weights(self._ids[ready.index], ready.weights, ready.commit)
        if _is_remembered(ready):
            self._store.fingerprints.put(ready.folder, ready.signature, ready.weights)

    def store(self, ready: Ready, result: ScoreResult) -> None:
        """Stores all vectors of a checkpoint and marks it as done, in one transaction."""
        cid = self._settle(ready)
        files = "" if ready.mix or ready.served or ready.adapted else weight_files_digest(ready.folder)
        written = {
            kind: self._write_tokens(kind, ready, tokens)
            for kind, tokens in ((TOKENS, result.token_logprobs), (TOKENS_ALONE, result.unconditional_tokens))
            if tokens is not None
        }
        replaced = []
        asked = self._plan.settings.layers
        request = asked if isinstance(asked, str) else "some"
        with self._store.atomic():
            self._note_weights(ready)
            if files:
                self._store.records.put(KIND, ready.weights, {"sha256": files})
            if (bits := result.stats.get(BITS)) is not None:
                self._store.records.put(BITS, ready.weights, {"bits": bits})
            # The newest vector of a checkpoint is shown in its row, so that of responses with their prompts comes last.
            alone = unconditional_settings(self._settings)
            response_alone = {"scored": "response alone"}
            for settings, said, vectors in (
                (alone, response_alone, result.unconditional),
                (self._settings, dict[str, str](), result.vectors),
            ):
                for vector in vectors:
                    key = {**result.key, **said, "weights": ready.weights}
                    if vector.layer is not None:
                        key |= {"layer": str(vector.layer), "layers": request}
                    self._store.vectors.put(
                        cid, self._corpus, vector.layer, key, settings, vector.loglik_N, vector.n_scored_N, self._job
                    )  # fmt: skip
            if result.no_layers:
                found = {"reason": result.no_layers, "found_by": _layer_finders()}
                self._store.records.put(NO_LAYERS, self._layers_request(ready), found)
            for kind, side in written.items():
                replaced.append(self._store.side_files.put(cid, self._corpus, kind, self._settings, *side))
            self._store.jobs.item_done(self._job, cid, result.stats, len(self._plan.corpus))
        for path in filter(None, replaced):
            (self._store.folder / path).unlink(missing_ok=True)

    def _write_tokens(
        self, kind: str, ready: Ready, tokens: Sequence[NDArray[np.float32]]
    ) -> tuple[str, str]:
        """Writes per-token log-probabilities atomically to a file; returns (relative path, SHA-256)."""
        from safetensors.numpy import save

        flat, lengths = flat_tokens(tokens)
        data = save({"logprobs": flat, "lengths": lengths})
        path = self._tokens_paths(kind, ready, self._ids[ready.index], self._corpus)[0]
        write_atomic(self._store.folder / path, data)
        return path, hashlib.sha256(data).hexdigest()

    def item_started(self, index: int) -> None:
        """Marks a checkpoint as in progress."""
        with self._store.atomic():
            self._store.jobs.item_started(self._job, self._ids[index])

    def item_failed(self, index: int, error: str, hint: str) -> None:
        """Stores why a checkpoint failed."""
        with self._store.atomic():
            self._store.jobs.item_failed(self._job, self._ids[index], error, hint)

    def note(self, progress: Mapping[int, Progress]) -> None:
        """Updates the heartbeat and the progress of the current checkpoints."""
        if self._kept:
            with self._store.atomic():
                self._mark_kept()
        self._store.note_progress(self._job, {self._ids[i]: p for i, p in progress.items()})

    def note_devices(self, devices: str) -> None:
        """Stores the devices that the job computes on, for display during the job."""
        with self._store.atomic():
            self._store.jobs.say(self._job, f"on {devices}")

    def wait(self, words: str) -> None:
        """Marks the job as running, with `words` on what it is waiting for."""
        with self._store.atomic():
            self._store.jobs.start(self._job)
            self._store.jobs.say(self._job, words)

    def finish(self, status: str, message: str) -> None:
        """Stores the job's final status."""
        with self._store.atomic():
            self._mark_kept()
            self._store.jobs.finish(self._job, status, message)

    def same_weights(self) -> list[tuple[Point, ...]]:
        """Groups of the workspace's scored checkpoints that have the same weights."""
        return in_store(self._store)
