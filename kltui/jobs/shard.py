"""One job on many machines: each scores its shard into the workspace's inbox, and one process collects them.

A shard writes no database but one file per checkpoint, atomically. Any shared file system therefore works, a shard can be
resumed, and running the same shard twice does no harm. The collected results are bit for bit those of a single run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from kltui.analysis.point import Point
from kltui.errors import KltuiError, StoreError, UsageError
from kltui.jobs.jobfile import load_job
from kltui.jobs.plan import Plan, make_plan, settings_key
from kltui.jobs.prepare import Ready
from kltui.jobs.progress_report import ProgressReporter
from kltui.jobs.result_writer import ResultWriter
from kltui.jobs.shard_result import abouts, oldest_first, pack, unpack
from kltui.sanitize import safe_text
from kltui.scoring.settings import Progress, ScoreResult
from kltui.store import Store
from kltui.store.atomic_write import write_atomic
from kltui.store.writer_lock import Writer

INBOX = "inbox"


def parse_shard(text: str) -> tuple[int, int]:
    """(i, n) of "i/n", the i-th of n shards counted from 0. Raises UsageError."""
    part_text, slash, count_text = text.partition("/")
    if slash and part_text.isdecimal() and count_text.isdecimal() and int(part_text) < int(count_text):
        return int(part_text), int(count_text)
    raise UsageError(f"--shard {text}: expected I/N with I from 0 to N - 1", "For example --shard 0/3")


def select_shard(plan: Plan, number: int, count: int) -> Plan:
    """The plan with only every `count`-th checkpoint, from the one at `number` on.

    Raises UsageError if it would have none.
    """
    checkpoints = plan.checkpoints[number::count]
    if not checkpoints:
        raise UsageError(
            f"--shard {number}/{count}: the job has only {len(plan.checkpoints)} checkpoints",
            "Use fewer shards.",
        )
    return replace(plan, checkpoints=checkpoints)


class InboxWriter:
    """Writes a shard's results as files into the inbox; the workspace's store is only read."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._inbox = plan, plan.workspace / INBOX
        self._taken = held_by_store(plan)
        self._collected = {_file_name(plan, Ready(i, Path(), w)) for i, w in self._taken.items()}
        self.previous_owner: Writer | None = None

    def fingerprints(self) -> Mapping[tuple[str, str], str]:
        """{}: fingerprints are cached in the store, which a shard does not use for them."""
        return {}

    def register(self, log: Path | None) -> str:
        """Does nothing, and returns no note."""
        return ""

    def held(self) -> dict[int, str]:
        """{index: weights} of the checkpoints whose result is in the inbox or already stored."""
        at = {checkpoint.name: i for i, checkpoint in enumerate(self._plan.checkpoints)}
        asked = _request(self._plan)
        waiting = {
            at[about.name]: about.weights
            for about in abouts(self._inbox)
            if about.request == asked and about.name in at
        }
        return waiting | self._taken

    def keeps(self, ready: Ready) -> bool:
        """Whether this checkpoint's result is in the inbox or already stored."""
        name = _file_name(self._plan, ready)
        return name in self._collected or (self._inbox / name).is_file()

    def store(self, ready: Ready, result: ScoreResult) -> None:
        """Writes one checkpoint's result into the inbox, atomically."""
        path = self._inbox / _file_name(self._plan, ready)
        name = self._plan.checkpoints[ready.index].name
        write_atomic(path, pack(_request(self._plan), name, ready, result))

    def item_started(self, index: int) -> None: ...

    def item_failed(self, index: int, error: str, hint: str) -> None: ...

    def note(self, progress: Mapping[int, Progress]) -> None: ...

    def count_kept(self, indices: Collection[int]) -> set[int]:
        """Those of `indices` whose result is in the inbox or already stored, for the weights last seen."""
        asked = _request(self._plan)
        reported = {about.name for about in abouts(self._inbox) if about.request == asked}
        # This runs at the end of the job, perhaps after a signal, with no time to read many gigabytes.
        taken = held_by_store(self._plan, indices, by_hash=False)
        return {i for i in indices if i in taken or self._plan.checkpoints[i].name in reported}

    def note_devices(self, devices: str) -> None: ...

    def finish(self, status: str, message: str) -> None: ...

    def same_weights(self) -> list[tuple[Point, ...]]:
        """[]: a shard does not know the other shards' checkpoints."""
        return []


def _request(plan: Plan) -> str:
    """The settings that the results of two shards must share to belong to one job, as JSON."""
    settings = plan.settings
    asked: list[object] = [plan.corpus.sha256, settings_key(settings), settings.layers, settings.tokens]
    asked += ["unconditional"] * settings.unconditional
    return json.dumps(asked)


def _file_name(plan: Plan, ready: Ready) -> str:
    name = plan.checkpoints[ready.index].name
    digest = hashlib.sha256("\0".join((_request(plan), name, ready.weights)).encode()).hexdigest()
    return f"{digest[:32]}.safetensors"


def held_by_store(
    plan: Plan, indices: Collection[int] | None = None, *, by_hash: bool = True
) -> dict[int, str]:
    """{index: weights} of the stored checkpoints of a plan, as `ResultWriter.held`; empty if the store cannot be read."""
    try:
        store = Store.read(plan.workspace)
    except StoreError:
        return {}
    try:
        return ResultWriter(plan, store).held(indices, by_hash=by_hash)
    finally:
        store.close()


def collect(
    job_path: Path, overrides: Sequence[str] = (), *, as_json: bool = False
) -> tuple[int, Path | None]:
    """Moves the job's results from the inbox into the workspace's store; returns (exit code, workspace).

    The exit code is 0 if every checkpoint of the job is now stored, 1 if some are missing or a file could not be read.
    """
    plan = make_plan(load_job(job_path, overrides))
    reporter = ProgressReporter(as_json)
    with ExitStack() as stack:
        store = Store.write(plan.workspace)
        stack.callback(store.close)
        return _Collection(plan, store, reporter).run(), plan.workspace


class _Collection:
    """One pass over the inbox."""

    def __init__(self, plan: Plan, store: Store, reporter: ProgressReporter) -> None:
        self._plan, self._store, self._reporter = plan, store, reporter
        self._writer = ResultWriter(plan, store)
        self._index = {checkpoint.name: i for i, checkpoint in enumerate(plan.checkpoints)}

    def run(self) -> int:
        log = Path(os.environ["KLTUI_LOG"]) if "KLTUI_LOG" in os.environ else None
        self._writer.register(log)
        taken = strangers = 0
        left: list[str] = []
        for path in oldest_first(self._plan.workspace / INBOX):
            try:
                done = self._take(path)
            except KltuiError as error:
                if isinstance(error, StoreError):  # of the workspace, not of the file
                    raise
                left.append(safe_text(path.name))
                self._reporter.say(
                    f"left in the inbox: {safe_text(path.name)}: {safe_text(error.message, 300)}", "red"
                )
                continue
            taken += done
            strangers += not done
        return self._end(taken, left, strangers)

    def _take(self, path: Path) -> bool:
        """Stores the result in a file, if it belongs to this job; returns whether it does. Raises KltuiError if it is damaged."""
        shard_result = unpack(path, self._plan.corpus, _request(self._plan))
        index = self._index.get(shard_result.about.name) if shard_result else None
        if shard_result is None or index is None:
            return False
        self._writer.store(shard_result.ready(index, self._plan.checkpoints[index]), shard_result.result)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._reporter.say(
                f"{safe_text(path.name)} is stored, but its file could not be removed: {error.strerror}",
                "yellow",
            )
        self._reporter.ended(shard_result.about.name, "done", stats=shard_result.result.stats)
        return True

    def _end(self, taken: int, left: Sequence[str], strangers: int) -> int:
        held = self._writer.held()
        missing = [name for name, index in self._index.items() if index not in held]
        said = [f"{taken} newly stored", f"{len(self._index) - len(missing)} of {len(self._index)} stored"]
        if left:
            said.append(f"{len(left)} damaged: delete them and run their shards again")
        if strangers:
            said.append(f"{strangers} of another job left in the inbox")
        if missing:
            said.append(f"missing: {safe_text(', '.join(missing[:3]))}{', ...' * (len(missing) > 3)}")
        whole = not missing and not left
        self._writer.finish("done" if whole else "stopped", ", ".join(said))
        self._reporter.event(
            "collect",
            taken=taken,
            damaged=len(left),
            strangers=strangers,
            missing=len(missing),
            left=list(left),
        )
        self._reporter.say(", ".join(said), "green" if whole else "red")
        return int(not whole)
