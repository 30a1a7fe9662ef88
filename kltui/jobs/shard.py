"""One job on many machines: each scores its part into the workspace's inbox, and one process takes the parts in.

A part touches no database: one file per checkpoint, written aside, synced and renamed, so that any shared file system
will do, a part can be run again where it stopped, and two that run the same part do no harm. What is taken in is
what a single run would have stored, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kltui.analysis.point import Point
from kltui.errors import KltuiError, StoreError, UsageError
from kltui.jobs.jobfile import load_job
from kltui.jobs.keep import Keeper
from kltui.jobs.narrate import Narrator
from kltui.jobs.plan import Plan, make_plan, settings_key
from kltui.jobs.prepare import Ready
from kltui.safe import safe_text
from kltui.scoring.settings import Progress, ScoreResult, Vector
from kltui.store import Store
from kltui.store.synced import write_synced
from kltui.store.writer_lock import Writer

INBOX = "inbox"
FORMAT = 1


def parse_shard(text: str) -> tuple[int, int]:
    """(i, n) of "i/n", the i-th of n parts counted from 0. Raises UsageError."""
    part_text, slash, count_text = text.partition("/")
    if slash and part_text.isdecimal() and count_text.isdecimal() and int(part_text) < int(count_text):
        return int(part_text), int(count_text)
    raise UsageError(f"--shard {text}: expected I/N with I from 0 to N - 1", "For example --shard 0/3")


def part(plan: Plan, number: int, count: int) -> Plan:
    """The plan with only every `count`-th checkpoint, from the one at `number` on."""
    checkpoints = plan.checkpoints[number::count]
    if not checkpoints:
        raise UsageError(
            f"--shard {number}/{count}: the job has only {len(plan.checkpoints)} checkpoints",
            "Use fewer parts.",
        )
    return replace(plan, checkpoints=checkpoints)


class InboxKeeper:
    """Keeps a part's results as files in the inbox; of the workspace's store it only reads what is there."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._inbox = plan, plan.workspace / INBOX
        self._taken = held_by_store(plan)
        self._collected = {_file_name(plan, Ready(i, Path(), w)) for i, w in self._taken.items()}
        self.taken_from: Writer | None = None

    def fingerprints(self) -> Mapping[tuple[str, str], str]:
        """None: they are remembered in the store, which a part does not write."""
        return {}

    def register(self, log: Path | None) -> str:
        """Nothing is written before there is a result, and there is nothing to say."""
        return ""

    def held(self) -> dict[int, str]:
        """{index: weights} of the checkpoints whose result waits in the inbox, or has been taken in."""
        at = {checkpoint.name: i for i, checkpoint in enumerate(self._plan.checkpoints)}
        asked = _request(self._plan)
        waiting = {
            at[about["name"]]: str(about["weights"])
            for about in _abouts(self._inbox)
            if about.get("request") == asked and about.get("name") in at and about.get("weights")
        }
        return waiting | self._taken

    def keeps(self, ready: Ready) -> bool:
        """Whether this checkpoint's result waits in the inbox, or has been taken in."""
        name = _file_name(self._plan, ready)
        return name in self._collected or (self._inbox / name).is_file()

    def store(self, ready: Ready, result: ScoreResult) -> None:
        """Puts one checkpoint's result into the inbox: all of it or nothing."""
        path = self._inbox / _file_name(self._plan, ready)
        write_synced(path, pack(self._plan, ready, result))

    def item_started(self, index: int) -> None: ...

    def item_failed(self, index: int, error: str, hint: str) -> None: ...

    def note(self, progress: Mapping[int, Progress]) -> None: ...

    def count_kept(self, indices: Collection[int]) -> set[int]:
        """Those of `indices` whose result waits in the inbox, or has been taken in, for the weights last seen."""
        told = {
            about.get("name")
            for about in _abouts(self._inbox)
            if about.get("request") == _request(self._plan)
        }
        # It runs as the job ends, perhaps by a signal: no time to read what may be many gigabytes.
        taken = held_by_store(self._plan, indices, by_hash=False)
        return {i for i in indices if i in taken or self._plan.checkpoints[i].name in told}

    def note_devices(self, devices: str) -> None: ...

    def finish(self, status: str, message: str) -> None: ...

    def same_weights(self) -> list[tuple[Point, ...]]:
        """None: a part does not know the others' checkpoints."""
        return []


def _request(plan: Plan) -> str:
    """What the results of two parts must have in common to belong to one job."""
    settings = plan.settings
    asked = [plan.corpus.sha256, settings_key(settings), settings.layers, settings.tokens]
    return json.dumps(asked)


def _file_name(plan: Plan, ready: Ready) -> str:
    name = plan.checkpoints[ready.index].name
    digest = hashlib.sha256("\0".join((_request(plan), name, ready.weights)).encode()).hexdigest()
    return f"{digest[:32]}.safetensors"


def held_by_store(
    plan: Plan, indices: Collection[int] | None = None, *, by_hash: bool = True
) -> dict[int, str]:
    """{index: weights} of what the workspace's store holds of a plan, as `Keeper.held`; nothing where it cannot be read."""
    try:
        store = Store.read(plan.workspace)
    except StoreError:
        return {}
    try:
        return Keeper(plan, store).held(indices, by_hash=by_hash)
    finally:
        store.close()


def _oldest_first(inbox: Path) -> list[Path]:
    """The inbox's files, those of a checkpoint's present weights after those of the weights it had before."""
    return sorted(inbox.glob("*.safetensors"), key=lambda path: (path.stat().st_mtime_ns, path.name))


def _abouts(inbox: Path) -> Iterator[dict[str, Any]]:
    """What the files in the inbox tell of themselves, unchecked and without their numbers."""
    from safetensors import SafetensorError, safe_open

    for path in inbox.glob("*.safetensors"):
        with suppress(SafetensorError, OSError, ValueError), safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            if isinstance(about, dict):
                yield about


def pack(plan: Plan, ready: Ready, result: ScoreResult) -> bytes:
    """One checkpoint's result as the bytes of a safetensors file, its identity and checksum in the metadata."""
    from safetensors.numpy import save

    arrays: dict[str, NDArray[Any]] = {
        "loglik_LN": np.stack([v.loglik_N for v in result.vectors]),
        "n_scored_LN": np.stack([v.n_scored_N for v in result.vectors]),
    }
    if result.token_logprobs is not None:
        arrays["tokens"] = np.concatenate([*result.token_logprobs, np.empty(0, np.float32)])
        arrays["lengths"] = np.array([len(t) for t in result.token_logprobs], np.int64)
    about = {
        "format": FORMAT,
        "request": _request(plan),
        "name": plan.checkpoints[ready.index].name,
        "weights": ready.weights,
        "commit": ready.commit,
        "folder": str(ready.folder),
        "signature": ready.signature if ready.settled else "",
        "layers": [v.layer for v in result.vectors],
        "key": result.key,
        "stats": result.stats,
    }
    about_text = json.dumps(about)
    return save(arrays, {"about": about_text, "sha256": _checksum(arrays, about_text)})


@dataclass(frozen=True)
class Parcel:
    """One file of the inbox, opened and checked."""

    about: dict[str, Any]
    result: ScoreResult

    def ready(self, index: int) -> Ready:
        """The checkpoint as it was when it was scored, at `index` of a plan."""
        a = self.about
        return Ready(
            index, Path(a["folder"]), a["weights"], a["commit"], a["signature"], bool(a["signature"])
        )


def unpack(path: Path) -> Parcel:
    """The result in an inbox file. Raises KltuiError where it is damaged or from another release."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise KltuiError(f"{path.name} cannot be read: {error}") from error
    about_text = metadata.get("about", "")
    if metadata.get("sha256") != _checksum(arrays, about_text):
        raise KltuiError(f"{path.name} is damaged: its checksum does not match")
    about = json.loads(about_text)
    if about["format"] != FORMAT:
        raise KltuiError(f"{path.name} is of format {about['format']}, this kltui reads {FORMAT}")
    return Parcel(about, _result(about, arrays))


def _result(about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> ScoreResult:
    rows = zip(about["layers"], arrays["loglik_LN"], arrays["n_scored_LN"], strict=True)
    tokens = None
    if "tokens" in arrays:
        tokens = tuple(np.split(arrays["tokens"], np.cumsum(arrays["lengths"])[:-1]))
    vectors = tuple(Vector(layer, loglik_N, n_N) for layer, loglik_N, n_N in rows)
    return ScoreResult(vectors, about["key"], about["stats"], (), tokens)


def _checksum(arrays: Mapping[str, NDArray[Any]], about: str) -> str:
    digest = hashlib.sha256(about.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def collect(
    job_path: Path, overrides: Sequence[str] = (), *, as_json: bool = False
) -> tuple[int, Path | None]:
    """Takes the job's results in the inbox into the workspace's store; (exit code, workspace).

    0 when every checkpoint of the job is stored now, 1 when some are missing or a file could not be read.
    """
    plan = make_plan(load_job(job_path, overrides))
    narrator = Narrator(as_json)
    with ExitStack() as stack:
        store = Store.write(plan.workspace)
        stack.callback(store.close)
        return _Collection(plan, store, narrator).run(), plan.workspace


class _Collection:
    """One look through the inbox."""

    def __init__(self, plan: Plan, store: Store, narrator: Narrator) -> None:
        self._plan, self._store, self._narrator = plan, store, narrator
        self._keeper = Keeper(plan, store)
        self._index = {checkpoint.name: i for i, checkpoint in enumerate(plan.checkpoints)}

    def run(self) -> int:
        log = Path(os.environ["KLTUI_LOG"]) if "KLTUI_LOG" in os.environ else None
        self._keeper.register(log)
        taken = damaged = strangers = 0
        for path in _oldest_first(self._plan.workspace / INBOX):
            try:
                parcel = unpack(path)
            except KltuiError as error:
                damaged += 1
                self._narrator.say(f"left in the inbox: {safe_text(error.message, 300)}", "red")
                continue
            index = self._index.get(parcel.about["name"])
            if index is None or parcel.about["request"] != _request(self._plan):
                strangers += 1
                continue
            self._keeper.store(parcel.ready(index), parcel.result)
            path.unlink()
            taken += 1
            self._narrator.ended(parcel.about["name"], "done", stats=parcel.result.stats)
        return self._end(taken, damaged, strangers)

    def _end(self, taken: int, damaged: int, strangers: int) -> int:
        held = self._keeper.held()
        missing = [name for name, index in self._index.items() if index not in held]
        said = [f"{taken} taken in", f"{len(self._index) - len(missing)} of {len(self._index)} stored"]
        if damaged:
            said.append(f"{damaged} damaged: delete them and run their parts again")
        if strangers:
            said.append(f"{strangers} of another job left in the inbox")
        if missing:
            said.append(f"missing: {safe_text(', '.join(missing[:3]))}{', ...' * (len(missing) > 3)}")
        whole = not missing and not damaged
        self._keeper.finish("done" if whole else "stopped", ", ".join(said))
        self._narrator.event(
            "collect", taken=taken, damaged=damaged, strangers=strangers, missing=len(missing)
        )
        self._narrator.say(", ".join(said), "green" if whole else "red")
        return int(not whole)
