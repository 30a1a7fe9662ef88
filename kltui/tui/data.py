"""The data of the screens: immutable snapshots of a workspace, read in a background thread."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from kltui.analysis.point import line_label, numbered, trajectory_of
from kltui.errors import KltuiError, NoWorkspaceError
from kltui.threads import one_blas_thread
from kltui.tui.basis import Basis
from kltui.tui.filter import Columns, Filter

if TYPE_CHECKING:
    from kltui.registry.checkpoint import Checkpoint
    from kltui.store.rows import CheckpointRow, JobItemRow, JobRow
    from kltui.tui.read_ahead import ReadAhead
    from kltui.tui.suggested_pairs import SuggestedPair
    from kltui.workspace import Workspace
    from kltui.workspace.losses import StoredLoss

Result = TypeVar("Result")
ACTIVE = ("queued", "running", "paused")
ALERT_SHOWN_S = 24 * 3600.0
MANY_ROWS = 5000  # above this, values derived from all rows are computed before a key needs them
#: cached properties of a snapshot that depend only on its rows, and those that depend on losses too
OF_LOSSES = ("_columns", "_passing", "_named")
OF_ROWS = (
    "by_name",
    "runs",
    "run_facts",
    "scored",
    "n_scored",
    "scored_of_label",
    "_lines",
    "_place_in_line",
    "_names",
    "_places",
    "suggested_pairs",
    "with_layers",
    "of_status",
)
FIRST_ROWS = 400  # checkpoints of a large workspace that are listed before all are read: more than any terminal has lines


class RunFacts(NamedTuple):
    """How many checkpoints of a run there are, are scored and have failed, and its first and last step, None without steps."""

    n: int
    scored: int
    failed: int
    first_step: int | None
    last_step: int | None


class StoppedItem(NamedTuple):
    """A checkpoint that was being scored when its job ended, and the share of its texts that it had reached."""

    job: JobRow
    share: float

    def words(self, jobs: str = "2", retry: str = "R") -> str:
        """How its scoring ended, and the keys that continue the job: those of the Jobs screen and of its retry."""
        how = "its process has ended" if self.job.status == "lost" else f"it has the status {self.job.status}"
        return (
            f"Job {self.job.id} stopped at {self.share:.0%} of it: {how}. "
            f"Press {jobs}, then {retry}, to run the rest."
        )


def stopped_share(job: JobRow, item: JobItemRow) -> float | None:
    """The share of its texts that a checkpoint had reached when its job ended; None if it was not being scored then."""
    begun = item.status == "running" or (item.status == "queued" and item.texts_done > 0)
    return item.texts_done / max(1, item.texts_total) if begun and job.status not in ACTIVE else None


@dataclass(frozen=True)
class Snapshot:
    """The state of a workspace at one moment. `problem` is the error message if it could not be read.

    While a large workspace is being read, `loaded` is False, `rows` are its first rows and `counts` is
    {run: (number of checkpoints, number of scored ones)}.
    """

    path: Path | None = None
    generation: int = -1
    rows: tuple[CheckpointRow, ...] = ()
    jobs: tuple[JobRow, ...] = ()
    items: dict[int, tuple[JobItemRow, ...]] = field(default_factory=dict)
    problem: str = ""
    hint: str = ""
    loaded: bool = False
    alert: str = ""
    losses: dict[int, StoredLoss] = field(default_factory=dict)
    known_numbers: dict[str, int] = field(default_factory=dict)
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    job_file: str = ""  # name of a job file beside an empty workspace, or where there is none

    @cached_property
    def by_name(self) -> dict[str, CheckpointRow]:
        """Rows by checkpoint name."""
        return {row.name: row for row in self.rows}

    @cached_property
    def runs(self) -> dict[str, list[CheckpointRow]]:
        """Rows of each run, or grid of interpolated models, in order of appearance."""
        runs: dict[str, list[CheckpointRow]] = {}
        for row in self.rows:
            runs.setdefault(run_of(row), []).append(row)
        return runs

    @cached_property
    def run_facts(self) -> dict[str, RunFacts]:
        """{run: what the list says of it}, counted once: a run may have very many checkpoints."""
        return {run: _facts_of(rows) for run, rows in self.runs.items()}

    @cached_property
    def _names(self) -> list[str]:
        return list(self.by_name)

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        """{run: indices of its rows}."""
        places: dict[str, list[int]] = {}
        for i, row in enumerate(self.rows):
            places.setdefault(run_of(row), []).append(i)
        return places

    @cached_property
    def _columns(self) -> Columns:
        return Columns(self.rows, self.losses)

    @cached_property
    def _passing(self) -> dict[str, list[bool]]:
        return {}

    @cached_property
    def _named(self) -> dict[str, set[str]]:
        return {}

    def passing(self, keep: Filter) -> list[bool]:
        """Whether each row passes; the result for the last filter is cached."""
        found = self._passing.get(keep.text)
        if found is None:
            found = keep.passing(self._columns)
            self._passing.clear()
            self._passing[keep.text] = found
        return found

    def passing_rows(self, keep: Filter) -> Sequence[CheckpointRow]:
        """The rows that pass, in their order."""
        return list(compress(self.rows, self.passing(keep))) if keep.text else self.rows

    def passing_names(self, keep: Filter) -> set[str]:
        """The names of the rows that pass; cached as in `passing`."""
        found = self._named.get(keep.text)
        if found is None:
            found = set(compress(self._names, self.passing(keep)))
            self._named.clear()
            self._named[keep.text] = found
        return found

    def rows_of_run(self, run: str, keep: Filter) -> list[CheckpointRow]:
        """The rows of a run that pass, in order; [] for a run that is there no more."""
        if not keep.text or run not in self.runs:
            return self.runs.get(run, [])
        passing = self.passing(keep)
        return [row for row, at in zip(self.runs[run], self._places[run], strict=True) if passing[at]]

    def names_of_run(self, run: str, keep: Filter) -> list[str]:
        """The names of the rows of a run that pass, in order; [] for a run that is there no more."""
        names, places = self._names, self._places.get(run, [])
        if not keep.text:
            return [names[at] for at in places]
        passing = self.passing(keep)
        return [names[at] for at in places if passing[at]]

    @cached_property
    def suggested_pairs(self) -> list[SuggestedPair]:
        """Pairs that a reader is likely to compare."""
        from kltui.tui.suggested_pairs import suggested_pairs

        return suggested_pairs(self.rows)

    @cached_property
    def with_layers(self) -> tuple[CheckpointRow, ...]:
        """The rows that have layer vectors."""
        return tuple(row for row in self.rows if row.layers)

    def unmatched(self, keep: Filter) -> list[str]:
        """The terms of a filter that match no row."""
        return keep.unmatched(self._columns)

    @cached_property
    def scored(self) -> tuple[tuple[Checkpoint, float, int], ...]:
        """The identity of the scored vectors: checkpoint, nats per text, number of layer vectors."""
        return tuple((r.checkpoint, r.mean_loglik, r.layers) for r in self.rows if r.scored)

    @cached_property
    def _lines(self) -> dict[tuple[str, str], list[str]]:
        """Names of the checkpoints of every run and variant."""
        lines: dict[tuple[str, str], list[str]] = {}
        for name, row in self.by_name.items():
            lines.setdefault((run_of(row), row.checkpoint.quantization), []).append(name)
        return lines

    @cached_property
    def _place_in_line(self) -> dict[str, int]:
        return {name: i for line in self._lines.values() for i, name in enumerate(line)}

    def along_run(self, row: CheckpointRow, by: int, keep: Filter) -> str:
        """Name of the checkpoint `by` places after `row` among those of its run and variant that pass; "" beyond the ends."""
        line = self._lines[run_of(row), row.checkpoint.quantization]
        if by and keep.text:
            passing = self.passing_names(keep)
            line = [name for name in line if name in passing or name == row.name]
            at = line.index(row.name) + by
        else:
            at = self._place_in_line[row.name] + by
        return line[at] if 0 <= at < len(line) else ""

    def nearest_passing(self, name: str, keep: Filter) -> str:
        """The checkpoint that passes and is fewest rows away from `name`, the later of two; "" if none passes."""
        at = self._names.index(name)
        places = compress(range(len(self.rows)), self.passing(keep))
        found = min(places, key=lambda i: (abs(i - at), i < at), default=None)
        return "" if found is None else self._names[found]

    def worked_out(self, before: Snapshot) -> Snapshot:
        """This snapshot with rows and losses of `before` where they are equal, so that cached properties are kept.

        Above MANY_ROWS rows, all properties that keys need are computed here.
        """
        rows = before.rows if self.rows == before.rows else self.rows
        losses = before.losses if self.losses == before.losses else self.losses
        made = replace(self, rows=rows, losses=losses)
        if rows is before.rows:
            of_both = (*OF_ROWS, *(OF_LOSSES if losses is before.losses else ()))
            made.__dict__.update({k: v for k, v in before.__dict__.items() if k in of_both})
        elif made.scored == before.scored:
            made.__dict__["scored"] = before.scored
        if len(rows) > MANY_ROWS:
            _ = made.by_name, made.runs, made.run_number, made.n_scored, made.scored, made._place_in_line
            _ = (
                made.run_facts,
                made.scored_of_label,
                made._names,
                made._places,
                made._columns.texts("name"),
                made.suggested_pairs,
                made.with_layers,
            )
        return made

    @cached_property
    def run_number(self) -> dict[str, int]:
        """{run or label: number that determines its colour and marker}: the stored one, otherwise the next free one.

        Runs of interpolated models, which maps name, have the number of their grid.
        """
        numbers = numbered(self.known_numbers, self.runs, self.labels)
        return {r.checkpoint.run: numbers[run] for run, rows in self.runs.items() for r in rows} | numbers

    @cached_property
    def labels(self) -> dict[str, str]:
        """{label of the curve of a run's variant: run}, in order of appearance."""
        return {line_label(run, variant, ()): run for run, variant in self._lines}

    def names_of_label(self, label: str) -> list[str]:
        """The names of the checkpoints on the curve with this label."""
        run = self.labels[label]
        return self._lines[run, label[len(run) + 1 :] or "none"]

    @cached_property
    def scored_of_label(self) -> dict[str, int]:
        """{label of a run's variant: number of its checkpoints that have a vector}."""
        return {
            label: sum(self.by_name[name].scored for name in self.names_of_label(label))
            for label in self.labels
        }

    @cached_property
    def of_status(self) -> Counter[str]:
        """How many checkpoints have each status."""
        return Counter(row.status for row in self.rows)

    @cached_property
    def n_scored(self) -> int:
        """How many checkpoints have a vector."""
        return sum(row.scored for row in self.rows)

    @cached_property
    def newest_done(self) -> tuple[str, ...]:
        """Names of the checkpoints that active jobs have scored, the newest last."""
        active = {job.id for job in self.active_jobs}
        items = (i for job, found in self.items.items() if job in active for i in found)
        return tuple(i.name for i in items if i.status == "done" and i.name in self.by_name)

    @cached_property
    def stopped(self) -> dict[str, StoppedItem]:
        """{name: how far its scoring was when its job ended}, of the jobs whose items are known; the newest job counts."""
        ended = (job for job in reversed(self.jobs) if job.status not in ACTIVE)
        return {
            item.name: StoppedItem(job, share)
            for job in ended
            for item in self.items.get(job.id, ())
            if (share := stopped_share(job, item)) is not None
        }

    @cached_property
    def active_jobs(self) -> tuple[JobRow, ...]:
        """Jobs that are queued, running or paused."""
        return tuple(job for job in self.jobs if job.status in ACTIVE)


def _facts_of(rows: Sequence[CheckpointRow]) -> RunFacts:
    steps = [row.checkpoint.step for row in rows if row.checkpoint.step is not None]
    failed = sum(row.status == "failed" for row in rows)
    ends = (min(steps), max(steps)) if steps else (None, None)
    return RunFacts(len(rows), sum(row.scored for row in rows), failed, *ends)


def label_of_row(row: CheckpointRow) -> str:
    """The label of the curve that a checkpoint is on: its run with the variant, or its interpolation grid."""
    c = row.checkpoint
    return line_label(c.run, c.quantization, c.tags)


def run_of(row: CheckpointRow) -> str:
    """The run or interpolation grid to which a checkpoint belongs in lists and plots."""
    return trajectory_of(row.checkpoint.run, row.checkpoint.tags)


USUAL_VALUES = "conditional"  # of pairs: log p(response | prompt)


class SnapshotReader:
    """Reads the workspace in a thread of its own, so that the interface never waits for a disk."""

    def __init__(self, path: Path | None, opener: Callable[[Path], Workspace] | None = None) -> None:
        self.path = path
        self.basis = Basis()
        self.forgotten = ""  # why the basis of the last session could not be restored
        self._from_before = False  # whether the basis is that of the last session and has not been checked
        self.values = USUAL_VALUES  # which values of pairs maps are made of
        self.ahead: ReadAhead | None = None  # another process that reads what is shown first
        self.after: asyncio.Event | None = (
            None  # what is read waits for it, to leave the interpreter to a frame
        )
        self._opener = opener
        self._last = Snapshot()
        self._workspace: Workspace | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kltui-reader")
        self._analyst = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kltui-analyst")
        self._drawer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kltui-drawer")

    async def read(self, question: Callable[[Workspace], Result]) -> Result:
        """The result of `question`, run in the reader's thread. Raises KltuiError if there is no workspace."""
        if self.after is not None:
            await self.after.wait()
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: at_one_moment(question, self._opened())
        )

    def restore(self, basis: Basis) -> None:
        """Restores the basis of the last session; if it is no longer valid, the whole map, with the reason in `forgotten`."""
        self.basis, self._from_before = basis, basis != Basis()

    async def use(self, basis: Basis) -> None:
        """Makes maps according to `basis` from now on. Raises KltuiError, and changes nothing, if it is invalid."""
        before = self.basis

        def apply(ws: Workspace) -> None:
            try:
                basis.check(ws)
            except KltuiError:
                before.apply(ws)
                raise

        await self.read(apply)
        self.basis = basis

    async def compute(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, run in the analysis thread with one BLAS thread."""
        return await asyncio.get_running_loop().run_in_executor(self._analyst, one_blas_thread(work))

    async def draw(self, work: Callable[[Workspace], Result]) -> Result:
        """The result of slow `work` (figures, whole exports) in a third thread, which opens the workspace for itself."""
        return await asyncio.get_running_loop().run_in_executor(self._drawer, self._on_its_own, work)

    def _on_its_own(self, work: Callable[[Workspace], Result]) -> Result:
        workspace = self._open_anew()
        try:
            return work(workspace)
        finally:
            workspace.close()

    async def snapshot(self, job: int | None = None) -> Snapshot:
        """The present state, with the items of the active jobs, of the newest job and of job `job`."""
        before = self._last
        try:
            self._last = await self.read(lambda ws: _snapshot(ws, self.path, job).worked_out(before))
            return self._last
        except NoWorkspaceError:
            # a disk may not respond
            from kltui.tui.job_files import job_files  # only without a workspace

            found = await asyncio.get_running_loop().run_in_executor(self._thread, job_files, self.path)
            return Snapshot(path=self.path, loaded=True, job_file=found[0].name if found else "")
        except KltuiError as error:
            return Snapshot(path=self.path, problem=error.message, hint=error.hint, loaded=True)

    async def beginning(self) -> Snapshot | None:
        """What is shown while the workspace is read here.

        What another process has read ahead, if it was started; else the first rows of a large workspace, and None for a
        small one or without a workspace.
        """
        if (found := await self._read_ahead()) is not None:
            return found
        try:
            return await self.read(lambda ws: _beginning(ws, self.path))
        except KltuiError:
            return None

    async def _read_ahead(self) -> Snapshot | None:
        ahead, self.ahead = self.ahead, None
        if ahead is None:
            return None
        found: Snapshot | None = await asyncio.get_running_loop().run_in_executor(self._thread, ahead.result)
        if found is not None and found.loaded:
            self._last = found
        return found

    def first(self) -> Snapshot:
        """What `beginning` is to show, read in this thread: all of a small workspace. Raises KltuiError."""
        return at_one_moment(
            lambda ws: _beginning(ws, self.path) or replace(_snapshot(ws, self.path, None), generation=-1),
            self._opened(),
        )

    async def generation(self) -> int:
        """The workspace's change counter; -1 without a workspace."""
        try:
            return await self.read(lambda ws: ws.generation())
        except KltuiError:
            return -1

    def _opened(self) -> Workspace:
        if self._workspace is None:
            self._workspace = self._open_anew()
            self._from_before = False
        return self._workspace

    def _open_anew(self) -> Workspace:
        if self.path is None:
            raise NoWorkspaceError("no workspace was given", "Start with: kltui WORKSPACE")
        workspace = (self._opener or _open)(self.path)
        workspace.values = self.values
        try:
            (self.basis.check if self._from_before else self.basis.apply)(workspace)
        except KltuiError as error:
            if not self._from_before:
                workspace.close()
                raise
            self.basis, self.forgotten = Basis(), error.message
            self.basis.apply(workspace)
        return workspace

    def anew(self, path: Path) -> SnapshotReader:
        """A reader of another workspace."""
        made = SnapshotReader(path, self._opener)
        made.values = self.values
        return made

    def close(self) -> None:
        """Closes the workspace and ends the threads."""
        if self.ahead is not None:
            self._thread.submit(self.ahead.close)
        workspace = self._workspace
        if workspace is not None:
            self._thread.submit(workspace.close)
        self._thread.shutdown(wait=False, cancel_futures=False)
        self._analyst.shutdown(wait=False, cancel_futures=True)
        self._drawer.shutdown(wait=False, cancel_futures=True)


def at_one_moment(question: Callable[[Workspace], Result], ws: Workspace) -> Result:
    """The result of `question`, which may read several things that belong together while a job stores vectors."""
    with ws.at_one_moment(brief=False):
        return question(ws)


def _open(path: Path) -> Workspace:
    from kltui.workspace import Workspace

    return Workspace.open(path)


def _snapshot(ws: Workspace, path: Path | None, job: int | None) -> Snapshot:
    generation = ws.generation()
    jobs = tuple(ws.jobs())
    wanted = {j.id for j in jobs if j.status in ACTIVE} | ({job} if job is not None else set())
    wanted |= {jobs[0].id} if jobs else set()
    known = {j.id for j in jobs}
    return Snapshot(
        path=path,
        generation=generation,
        rows=tuple(ws.checkpoints_on_corpus()),
        jobs=jobs,
        items={i: tuple(ws.job_items(i)) for i in wanted if i in known},
        loaded=True,
        alert=_alert(ws),
        losses=ws.losses(),
        known_numbers=ws.run_numbers(),
    )


def _beginning(ws: Workspace, path: Path | None) -> Snapshot | None:
    found = ws.beginning(FIRST_ROWS)
    if found is None:
        return None
    return Snapshot(path=path, rows=tuple(found.rows), counts=found.counts, known_numbers=ws.run_numbers())


def _alert(ws: Workspace) -> str:
    """The last alert of `--watch`; "" if it is older than ALERT_SHOWN_S or there was none."""
    found = list(ws.records("alert").values())
    if not found or time.time() - float(str(found[-1].get("at", 0.0))) > ALERT_SHOWN_S:
        return ""
    return f"alert: {found[-1].get('message', '')}"
