"""Prepares checkpoints ahead of the scorer in a separate thread: downloads, locates and hashes files."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from kltui.errors import KltuiError, TryAgainError
from kltui.jobs.interpolation import Mix, MixPlan, mixed_weights
from kltui.jobs.messages import Task
from kltui.registry.adapters import Adapted, check_adapter, check_peft, is_adapter, joined_weights
from kltui.registry.checkpoint import Checkpoint, HubSource, LocalSource, ServedSource
from kltui.registry.digest import TOKENIZER_MARK, outside_mark, tokenizer_digest
from kltui.registry.layout import has_tokenizer
from kltui.registry.passed_on import check_folder
from kltui.registry.reading import ChangedError, Hashed, are_settled, hash_files, stamps, still_holds
from kltui.registry.tokenizer import (
    TokenizerPlace,
    check_named,
    named_source,
    no_tokenizer,
    own_tokenizer,
    tokenizer_folder,
)

log = logging.getLogger(__name__)

NICE = 10  # added to the niceness of the preparing thread: about a tenth of a core if all are busy, all of one if it is idle


@dataclass(frozen=True, slots=True)
class Ready:
    """A checkpoint whose files (or, with `mix`, the files of its parts) are on this machine.

    `signature` is the state of the files (sizes, times) just before they were hashed, and `settled` whether any later change
    will alter it, so that the fingerprint can be cached under it. `tokenizer` is the place of the tokenizer if it is not in
    `folder`. For a `served` model, `folder` is that of its tokenizer.
    """

    index: int
    folder: Path
    weights: str
    commit: str = ""
    signature: str = ""
    settled: bool = False
    mix: Mix | None = None
    tokenizer: TokenizerPlace | None = None
    notes: tuple[str, ...] = ()
    adapted: Adapted | None = None
    served: bool = False

    @property
    def hashed(self) -> Hashed:
        """The files with their hash."""
        outside = self.tokenizer.folder if self.tokenizer else None
        return Hashed(self.folder, self.weights, self.signature, self.settled, outside)


def task_of(ready: Ready, checkpoint: Checkpoint) -> Task:
    """The worker's task for a prepared checkpoint."""
    source = checkpoint.source
    hub = replace(source, commit=ready.commit) if isinstance(source, HubSource) else None
    outside = ready.tokenizer.hub if ready.tokenizer else None
    served = source if isinstance(source, ServedSource) else None
    return Task(
        ready.index, ready.hashed, checkpoint.quantization, ready.mix, hub, outside, ready.notes, served,
        ready.adapted,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class NotReady:
    """A checkpoint whose files could not be found, downloaded or read; `retry` if a later attempt may succeed."""

    index: int
    error: str
    hint: str
    retry: bool


class Preparer:
    """Prepares checkpoints in order, up to `ahead` beyond those already taken.

    `held` gives by index the weights of checkpoints that are completely stored: if the hub has the same commit, nothing is
    downloaded.
    """

    def __init__(
        self,
        checkpoints: Sequence[tuple[int, Checkpoint]],
        known: Callable[[Path, str], str],
        *,
        ahead: int = 1,
        allow_bin: bool = False,
        on_fetch: Callable[[int, str], None] = lambda index, message: None,
        mixes: Mapping[str, MixPlan] | None = None,
        held: Mapping[int, str] | None = None,
    ) -> None:
        self._checkpoints, self._known, self._allow_bin, self._on_fetch = (
            checkpoints,
            known,
            allow_bin,
            on_fetch,
        )
        self._mixes = mixes or {}
        self._held = held or {}
        # A grid of interpolations needs its parts repeatedly: they are hashed once, and resolved to one commit for the job.
        self._hashed: dict[tuple[Path, str], Hashed] = {}
        self._resolved: dict[HubSource, HubSource] = {}
        self._named: dict[str, TokenizerPlace] = {}
        self._out: queue.Queue[Ready | NotReady] = queue.Queue(maxsize=ahead)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prepare", daemon=True)
        self._thread.start()

    def take(self, timeout_s: float) -> Ready | NotReady | None:
        """The next prepared checkpoint, or None if none is ready within `timeout_s`."""
        try:
            return self._out.get(timeout=timeout_s) if timeout_s > 0 else self._out.get_nowait()
        except queue.Empty:
            return None

    def stop(self) -> None:
        """Asks the thread to stop; it does so after the current file."""
        self._stopped.set()

    def _run(self) -> None:
        _give_way()
        for index, checkpoint in self._checkpoints:
            prepared = self._prepare(index, checkpoint)
            while not self._stopped.is_set():
                try:
                    self._out.put(prepared, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if self._stopped.is_set():
                return

    def _prepare(self, index: int, checkpoint: Checkpoint) -> Ready | NotReady:
        try:
            if checkpoint.name in self._mixes:
                return self._mixed(index, checkpoint, self._mixes[checkpoint.name])
            return self._found(index, checkpoint)
        except KltuiError as error:
            return NotReady(index, error.message, error.hint, isinstance(error, TryAgainError))
        except OSError as error:
            return NotReady(
                index, f"cannot read {checkpoint.source}: {error.strerror or error}", "", retry=False
            )
        except Exception as error:
            # If this thread ended, the batch would wait for it forever.
            log.warning("while preparing %s", checkpoint.name, exc_info=error)
            return NotReady(
                index,
                f"{type(error).__name__}: {error}",
                "This is unexpected: the traceback is in the log.",
                retry=False,
            )

    def is_current(self, index: int, checkpoint: Checkpoint) -> bool:
        """Whether the stored vectors of a checkpoint belong to its current weights, as far as is known without downloading."""
        held, plan = self._held.get(index, ""), self._mixes.get(checkpoint.name)
        if not held:
            return False
        if plan is not None:
            now = [self._weights_now(index, part) for part in plan.parts]
            return "" in now or mixed_weights(now, plan.a, plan.b) == held
        return self._weights_now(index, checkpoint) in ("", held)

    def _is_held_on_hub_s_base(self, index: int, checkpoint: Checkpoint) -> bool:
        """Whether the current weights of an adapter on a hub base are stored, so that the base need not be downloaded."""
        held = self._held.get(index)
        if not held or not is_adapter(checkpoint) or not isinstance(named_source(checkpoint.base), HubSource):
            return False
        return self._weights_now(index, checkpoint) == held

    def _found(self, index: int, checkpoint: Checkpoint) -> Ready:
        source = checkpoint.source
        if isinstance(source, ServedSource):
            return self._served(index, source, checkpoint.tokenizer)
        if isinstance(source, HubSource):
            held = self._held.get(index, "")
            if held.startswith(f"{hub_stem(source)}@") and self.is_current(index, checkpoint):
                return self._unfetched(index, source, held)
        if self._is_held_on_hub_s_base(index, checkpoint):
            folder, _, commit = self._adapter_files(index, checkpoint)
            return Ready(index, folder, self._held[index], commit)
        ready = self._fetched(index, checkpoint)
        if ready.adapted is not None:
            if not has_tokenizer(ready.adapted.tokenizer):
                raise no_tokenizer(source)
            return ready
        if ready.tokenizer is not None:
            return replace(
                ready, notes=(*ready.notes, f"its tokenizer is the one in {ready.tokenizer.folder}")
            )
        if not has_tokenizer(ready.folder):
            raise no_tokenizer(source)
        return ready

    def _fetched(self, index: int, checkpoint: Checkpoint) -> Ready:
        source = checkpoint.source
        if is_adapter(checkpoint):
            return self._adapted(index, checkpoint)
        if isinstance(source, LocalSource):
            return self._local(index, source.path, checkpoint.tokenizer)
        if isinstance(source, ServedSource):
            return self._served(index, source, checkpoint.tokenizer)
        return self._fetch(index, source, checkpoint.tokenizer)

    def _served(self, index: int, source: ServedSource, named: str) -> Ready:
        """A served model, once its tokenizer is here and its server, which is waited for, has described the model."""
        from kltui.scoring.served import served_weights
        from kltui.scoring.served_client import ServedClient

        place = self._outside(index, named)
        facts = ServedClient(source).facts(lambda message: self._on_fetch(index, message))
        weights = served_weights(facts, tokenizer_digest(place.folder))
        return Ready(index, place.folder, weights, tokenizer=place, served=True)

    def _unfetched(self, index: int, source: HubSource, weights: str) -> Ready:
        """A checkpoint of the hub whose vectors are stored, so that its files are not downloaded."""
        from kltui.registry.hub import snapshot_folder

        commit = weights.partition(TOKENIZER_MARK)[0].rpartition("@")[2]
        return Ready(index, snapshot_folder(replace(source, commit=commit)), weights, commit=commit)

    def _weights_now(self, index: int, checkpoint: Checkpoint) -> str:
        """The identity of a checkpoint's weights, without downloading them; "" if it is unknown because kltui is offline."""
        source = checkpoint.source
        if is_adapter(checkpoint):
            base = self._weights_now(index, _base_of(checkpoint))
            return joined_weights(base, self._adapter_files(index, checkpoint)[1].weights) if base else ""
        if isinstance(source, LocalSource):
            return self._local(index, source.path, checkpoint.tokenizer).weights
        if isinstance(source, ServedSource):
            return self._served(index, source, checkpoint.tokenizer).weights
        from kltui.registry.hub import fetch_tokenizer, is_offline, resolve, snapshot_folder

        if source not in self._resolved:
            resolved = resolve(source, progress=lambda message: self._on_fetch(index, message))
            if not resolved.commit:
                return ""
            self._resolved[source] = resolved
        resolved = self._resolved[source]
        if not checkpoint.tokenizer:
            return hub_weights(resolved)
        try:
            if source.file:  # a GGUF file has no tokenizer files next to it
                folder = snapshot_folder(resolved)
            else:
                folder, _ = fetch_tokenizer(resolved, progress=lambda message: self._on_fetch(index, message))
            return hub_weights(resolved, self._tokenizer(index, folder, checkpoint.tokenizer))
        except KltuiError:
            if is_offline():
                return ""
            raise

    def _mixed(self, index: int, checkpoint: Checkpoint, plan: MixPlan) -> Ready:
        """A grid point, once its parts' files are here; their fingerprints identify its weights without computing these."""
        assert isinstance(checkpoint.source, LocalSource)
        if self.is_current(index, checkpoint):
            return Ready(index, checkpoint.source.path, self._held[index])
        parts = [self._fetched(index, part) for part in plan.parts]
        if parts[0].tokenizer is None and not has_tokenizer(parts[0].folder):
            raise no_tokenizer(plan.parts[0].source)
        mix = Mix(tuple(p.hashed for p in parts), plan.a, plan.b, self._allow_bin)
        weights = mixed_weights([p.weights for p in parts], plan.a, plan.b)
        return Ready(index, checkpoint.source.path, weights, mix=mix)

    def _local(self, index: int, folder: Path, named: str) -> Ready:
        place = self._tokenizer(index, folder, named)
        hashed = self._hashing(folder, place.folder if place else None)
        return Ready(
            index,
            folder,
            hashed.weights,
            signature=hashed.stamps,
            settled=hashed.settled,
            tokenizer=place,
            notes=overruled_tokenizer(folder, named),
        )

    def _adapted(self, index: int, checkpoint: Checkpoint) -> Ready:
        """An adapter with its base; both together identify its weights."""
        folder, hashed, commit = self._adapter_files(index, checkpoint)
        check_peft()
        base = self._fetched(index, _base_of(checkpoint))
        source = named_source(checkpoint.base)
        hub = replace(source, commit=base.commit) if isinstance(source, HubSource) else None
        adapted = Adapted(base.hashed, hashed, hub)
        notes = () if own_tokenizer(folder) is not None else base.notes
        return Ready(index, folder, adapted.weights, commit=commit, notes=notes, adapted=adapted)

    def _adapter_files(self, index: int, checkpoint: Checkpoint) -> tuple[Path, Hashed, str]:
        """(folder of an adapter, its files hashed, its commit on the hub or "")."""
        source, commit = checkpoint.source, ""
        if isinstance(source, HubSource):
            from kltui.registry.adapter_hub import fetch_adapter

            folder, resolved = fetch_adapter(
                self._resolved.get(source, source),
                allow_bin=self._allow_bin,
                progress=lambda message: self._on_fetch(index, message),
            )
            self._resolved[source], commit = resolved, resolved.commit
        else:
            assert isinstance(source, LocalSource)
            folder = source.path
        check_adapter(folder, self._allow_bin)
        own = own_tokenizer(folder)
        return folder, self._hash(folder, own if own != folder else None), commit

    def _hashing(self, folder: Path, tokenizer: Path | None) -> Hashed:
        """The hash of the folder, from the cache if its files have not changed. Raises KltuiError if it is no model folder."""
        check_folder(folder)
        return self._hash(folder, tokenizer)

    def _hash(self, folder: Path, tokenizer: Path | None) -> Hashed:
        seen = stamps(folder, tokenizer)
        known = self._known(folder, seen)
        if known and "@" not in known:  # an identity with "@" is a hub commit, not a hash of files
            return Hashed(folder, known, seen, settled=True, tokenizer=tokenizer)
        if (folder, seen) not in self._hashed:
            self._hashed[folder, seen] = hash_files(folder, tokenizer)
        return self._hashed[folder, seen]

    def _tokenizer(self, index: int, folder: Path, named: str) -> TokenizerPlace | None:
        """The place of the tokenizer of the model in `folder`, if it is outside of that; None if it is inside, or there is none."""
        own = own_tokenizer(folder)
        if own is not None:
            return TokenizerPlace(own) if own != folder else None
        return self._outside(index, named) if named else None

    def _outside(self, index: int, named: str) -> TokenizerPlace:
        """The place of the tokenizer that an entry names, looked up once."""
        if named not in self._named:
            self._named[named] = self._fetch_named(index, named)
        return self._named[named]

    def _fetch_named(self, index: int, named: str) -> TokenizerPlace:
        """The place of an entry's `tokenizer`, downloaded if necessary. Raises KltuiError if there is no tokenizer."""
        from kltui.registry.hub import fetch_tokenizer

        source = named_source(named)
        if isinstance(source, LocalSource):
            check_named(named)
            return TokenizerPlace(source.path)
        folder, resolved = fetch_tokenizer(source, progress=lambda message: self._on_fetch(index, message))
        if not has_tokenizer(folder):
            raise no_tokenizer(source)
        return TokenizerPlace(folder, resolved)

    def _fetch(self, index: int, source: HubSource, named: str) -> Ready:
        from kltui.registry.hub import fetch

        def report(message: str) -> None:
            self._on_fetch(index, message)

        asked = self._resolved.get(source, source)
        folder, resolved = fetch(asked, allow_bin=self._allow_bin, progress=report)
        self._resolved[source] = resolved
        check_folder(folder)
        place = self._tokenizer(index, folder, named)
        outside = place.folder if place else None
        weights, at_ns, seen = hub_weights(resolved, place), time.time_ns(), stamps(folder, outside)
        if not still_holds(
            folder, weights, outside
        ):  # files that the download has just hashed are not read again
            raise ChangedError(f"files of {resolved} changed in the hub's cache", "Run the job again.")
        settled, notes = are_settled(seen, at_ns), overruled_tokenizer(folder, named)
        return Ready(index, folder, weights, resolved.commit, seen, settled, tokenizer=place, notes=notes)


def _base_of(adapter: Checkpoint) -> Checkpoint:
    """An adapter's base as a checkpoint of its own, in the adapter's variant."""
    return replace(adapter, source=named_source(adapter.base), base="")


def overruled_tokenizer(folder: Path, named: str) -> tuple[str, ...]:
    """A note if an entry names a tokenizer, but the checkpoint or its run has its own, which takes precedence."""
    own = own_tokenizer(folder)
    if own is None or not named:
        return ()
    other = tokenizer_folder(Path(), named)
    if other is not None and (other == own or tokenizer_digest(other) == tokenizer_digest(own)):
        return ()
    return (
        f"the tokenizer next to its weights or in its run was used ({own}) and not the entry's, {named}, "
        "which is only for checkpoints without one",
    )


def hub_weights(source: HubSource, tokenizer: TokenizerPlace | None = None) -> str:
    """The identity of the weights of a resolved revision, and of an external tokenizer, in a vector's key."""
    mark = outside_mark(tokenizer.folder, with_config=bool(source.file)) if tokenizer else ""
    return f"{hub_stem(source)}@{source.commit}{mark}"


def hub_stem(source: HubSource) -> str:
    """The part before the commit of the identity of a repository's weights, or of one GGUF file in it."""
    return f"{source.repo}:{source.file}" if source.file else source.repo


def remembered(fingerprints: Mapping[tuple[str, str], str]) -> Callable[[Path, str], str]:
    """A function (folder, signature) -> SHA-256 or "", from {(path, signature): sha256}."""
    return lambda folder, seen: fingerprints.get((str(folder), seen), "")


def _give_way() -> None:
    """Lowers the priority of this thread below those that score, on Linux, where threads have priorities.

    On a CPU these use every core and wait for each other after every matrix product, so that hashing at the same priority
    would delay all of them.
    """
    if sys.platform.startswith("linux"):
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICE))
