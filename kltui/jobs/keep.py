"""The batch's hold on the store: what is there already, and each result in one transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kltui.jobs.plan import Plan, settings_key
from kltui.jobs.prepare import Ready
from kltui.scoring.settings import Progress, ScoreResult
from kltui.store import Store
from kltui.store.side_tables import side_path
from kltui.store.synced import write_synced

TOKENS = "tokens"


class Keeper:
    """Everything a batch writes, by the index of its plan's checkpoints."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self._plan, self._store = plan, store
        self._settings = settings_key(plan.settings)
        self._job = self._corpus = 0
        self._ids: list[int] = []

    def register(self, log: Path | None) -> None:
        """Writes the corpus, the checkpoints and the job, and marks it as running."""
        with self._store.atomic():
            self._corpus = self._store.corpora.add(self._plan.corpus, self._plan.job.corpus.source)
            self._ids = [self._store.checkpoints.upsert(c) for c in self._plan.checkpoints]
            job = self._plan.job
            self._job = self._store.jobs.register(job.digest(), job.to_toml(), self._ids, log)
            self._store.jobs.start(self._job)

    def keeps(self, ready: Ready) -> bool:
        """Whether every vector asked of this checkpoint is stored; if so its item is marked done."""
        cid = self._ids[ready.index]
        stored = self._store.vectors.stored_layers(cid, self._corpus, self._settings, ready.weights)
        complete = None in stored and self._has_layers(stored) and self._has_tokens(ready)
        with self._store.atomic():
            self._note_weights(ready)
            if complete:
                self._store.jobs.item_done(self._job, cid, {}, len(self._plan.corpus))
        return complete

    def _has_layers(self, stored: Mapping[int | None, str]) -> bool:
        asked = self._plan.settings.layers
        if asked == "none":
            return True
        if asked == "all":
            return "all" in stored.values()
        return set(asked) <= set(stored)

    def _has_tokens(self, ready: Ready) -> bool:
        if not self._plan.settings.tokens:
            return True
        return self._store.side_files.intact(self._store.folder, self._tokens_path(ready))

    def _tokens_path(self, ready: Ready) -> str:
        name = self._plan.checkpoints[ready.index].name
        return side_path(TOKENS, name, self._corpus, self._settings, ready.weights)

    def _note_weights(self, ready: Ready) -> None:
        self._store.checkpoints.set_weights(self._ids[ready.index], ready.weights, ready.commit)
        if ready.signature:
            self._store.fingerprints.put(ready.folder, ready.signature, ready.weights)

    def store(self, ready: Ready, result: ScoreResult) -> None:
        """Stores all vectors of a checkpoint and marks it done: all of it or nothing."""
        cid = self._ids[ready.index]
        side = self._write_tokens(ready, result)
        replaced = ""
        asked = self._plan.settings.layers
        request = asked if isinstance(asked, str) else "some"
        with self._store.atomic():
            self._note_weights(ready)
            for vector in result.vectors:
                key = {**result.key, "weights": ready.weights}
                if vector.layer is not None:
                    key |= {"layer": str(vector.layer), "layers": request}
                self._store.vectors.put(
                    cid,
                    self._corpus,
                    vector.layer,
                    key,
                    self._settings,
                    vector.loglik_N,
                    vector.n_scored_N,
                    self._job,
                )
            if side:
                replaced = self._store.side_files.put(cid, self._corpus, TOKENS, self._settings, *side)
            self._store.jobs.item_done(self._job, cid, result.stats, len(self._plan.corpus))
        if replaced:
            (self._store.folder / replaced).unlink(missing_ok=True)

    def _write_tokens(self, ready: Ready, result: ScoreResult) -> tuple[str, str] | None:
        """Writes the per-token log-probabilities aside, syncs and renames; (relative path, SHA-256)."""
        if result.token_logprobs is None:
            return None
        from safetensors.numpy import save

        lengths = np.array([len(t) for t in result.token_logprobs], np.int64)
        flat = np.concatenate([*result.token_logprobs, np.empty(0, np.float32)])
        data = save({"logprobs": flat, "lengths": lengths})
        path = self._tokens_path(ready)
        write_synced(self._store.folder / path, data)
        return path, hashlib.sha256(data).hexdigest()

    def item_started(self, index: int) -> None:
        """Marks a checkpoint as under way."""
        with self._store.atomic():
            self._store.jobs.item_started(self._job, self._ids[index])

    def item_failed(self, index: int, error: str, hint: str) -> None:
        """Keeps why a checkpoint failed."""
        with self._store.atomic():
            self._store.jobs.item_failed(self._job, self._ids[index], error, hint)

    def note(self, progress: Mapping[int, Progress]) -> None:
        """Renews the sign of life, with the progress of what is under way."""
        self._store.note_progress(self._job, {self._ids[i]: p for i, p in progress.items()})

    def finish(self, status: str, message: str) -> None:
        """Writes the job's end."""
        with self._store.atomic():
            self._store.jobs.finish(self._job, status, message)
