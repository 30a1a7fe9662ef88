"""The Jobs screen: jobs, their progress and failures; keys to start, pause, stop and continue them."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from textual.geometry import Region
from textual.strip import Strip

from kltui.errors import KltuiError
from kltui.sanitize import safe_text
from kltui.tui.data import ACTIVE, stopped_share
from kltui.tui.dialogs import jobs_start, prompts
from kltui.tui.gpu import GpuUse, read_gpus, said
from kltui.tui.views.base import WIDE, ColumnOfPanes, View
from kltui.tui.views.welcome import empty_line
from kltui.tui.widgets.canvas import Span, TextPane, fitted, shortened, width_of, wrapped
from kltui.tui.widgets.table import Cell, Column, Table

if TYPE_CHECKING:
    from kltui.store.rows import JobItemRow, JobRow

INK = {
    "queued": "muted",
    "running": "accent",
    "paused": "warning",
    "done": "good",
    "failed": "bad",
    "stopped": "warning",
    "lost": "bad",
}
LOG_BYTES = 32_768
GPU_SECONDS = 2.0
DEVICE_CELLS = 46


def duration(seconds: float) -> str:
    """Seconds as a short time.

    >>> duration(59), duration(3671), duration(90061)
    ('59s', '1h01m', '1d01h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def rate(per_second: float) -> str:
    """A rate in at most five characters.

    >>> rate(0), rate(9.5), rate(812.3), rate(215000)
    ('', '9.5', '812', '215k')
    """
    if per_second <= 0:
        return ""
    if per_second < 10:
        return f"{per_second:.1f}"
    return f"{per_second:.0f}" if per_second < 10_000 else f"{per_second / 1000:.0f}k"


def bar(share: float, width: int, full: str, rest: str) -> tuple[str, str]:
    """The full and the remaining part of a progress bar of `width` cells."""
    done = max(0, min(width, round(share * width)))
    return full * done, rest * (width - done)


class JobList(Table):
    """All jobs, newest first."""

    title = "Jobs"
    gpus: tuple[GpuUse, ...] | None = None
    columns = (
        Column("job", 4, right=True),
        Column("state", 8),
        Column("done", 9, right=True),
        Column("failed", 6, right=True),
        Column("started", 12),
        Column("took", 7, right=True),
        Column("message", 10, share=1, rank=1),
    )

    def header_right(self) -> list[Span]:
        """The device of the running job under the cursor, and the use of the GPUs while a job runs on this machine."""
        job, look = self.job, self.look
        device = job.message if job is not None and job.status == "running" else ""
        spans = [(fitted(device, min(len(device), DEVICE_CELLS)) + "  ", look("text"))] if device else []
        return spans if self.gpus is None else [*spans, (said(self.gpus), look("muted"))]

    def show_gpus(self, gpus: tuple[GpuUse, ...] | None) -> None:
        """Shows the use of the GPUs; None hides it. Redraws only the header."""
        if gpus != self.gpus:
            self.gpus = gpus
            self.refresh(Region(0, 0, self.size.width, 1))

    def row_count(self) -> int:
        return len(self.kl.snapshot.jobs)

    def _empty_line(self, y: int) -> list[Span]:
        return empty_line(
            self,
            y,
            (
                "muted",
                f"No job yet. Press {self.kl.key('start')} to start one, or {self.kl.key('add')} to add models.",
            ),
        )

    @property
    def job(self) -> JobRow | None:
        """The job under the cursor."""
        jobs = self.kl.snapshot.jobs
        return jobs[min(self.cursor, len(jobs) - 1)] if jobs else None

    def cells(self, index: int) -> Sequence[Cell]:
        job = self.kl.snapshot.jobs[index]
        started = time.strftime("%d %b %H:%M", time.localtime(job.started)) if job.started else ""
        took = duration((job.ended or time.time()) - job.started) if job.started and job.ended else ""
        return [
            Cell(str(job.id), bold=True),
            Cell(job.status, INK.get(job.status, "text")),
            Cell(f"{job.done}/{job.total}"),
            Cell(str(job.failed) if job.failed else "", "bad"),
            Cell(started, "muted"),
            Cell(took, "muted"),
            Cell("its process ended" if job.status == "lost" else job.message, "faint"),
        ]

    def moved(self) -> None:
        """Shows the items and the log of the job."""
        view = self.kl.view
        if isinstance(view, JobsView):
            view.job_id = self.job.id if self.job else None
            self.kl.reload_soon()
            view.items.update_data()
            view.log_pane.update_data()

    def do_enter(self) -> None:
        view = self.kl.view
        if isinstance(view, JobsView):
            view.focus_on(view.items)


class JobItems(Table):
    """The checkpoints of one job, with progress and rates."""

    title = "Checkpoints"
    columns = (
        Column("checkpoint", 18, share=3),
        Column("stage", 8),
        Column("progress", 15, share=2),
        Column("texts/s", 7, right=True),
        Column("tok/s", 6, right=True),
        Column("time", 7, right=True),
    )

    @property
    def rows(self) -> tuple[JobItemRow, ...]:
        """The items of the job under the cursor, in order."""
        view = self.kl.view
        job = view.list.job if isinstance(view, JobsView) else None
        return self.kl.snapshot.items.get(job.id, ()) if job else ()

    @property
    def item(self) -> JobItemRow | None:
        """The item under the cursor, or the last one if there are fewer; None without items."""
        rows = self.rows
        return rows[min(self.cursor, len(rows) - 1)] if rows else None

    def row_count(self) -> int:
        return len(self.rows)

    def _empty_line(self, y: int) -> list[Span]:
        return []

    def body_line(self, y: int) -> Sequence[Span] | Strip:
        """Titles, items and, a line below them, why one failed and what helps, where the log is not beside them."""
        below = y - 2 - self.row_count()
        if below < 0 or self.top or self.kl.size.width >= WIDE:
            return super().body_line(y)
        lines = self._why()
        return lines[below] if below < len(lines) else []

    def _why(self) -> list[list[Span]]:
        """The failure under the cursor, or the first one."""
        failed = [item for item in self.rows if item.status == "failed"]
        if not failed:
            return []
        item = self.item if self.item in failed else failed[0]
        view, width = self.kl.view, max(8, self.body_width - 4)
        job = view.list.job if isinstance(view, JobsView) else None
        said = [
            *((text, "text") for text in wrapped(f"{item.name}: {item.error}", width)),
            *((text, "muted") for text in wrapped(item.hint, width) if text),
            *((part, "warning") for text in self._way_out(job) for part in wrapped(text, width)),
        ]
        return [[(f"  {text}", self.look(ink))] for text, ink in said]

    def _way_out(self, job: JobRow | None) -> list[str]:
        return way_out(job, retry=self.kl.key("retry"), read_only=self.kl.read_only) if job else []

    def header_left(self) -> list[Span]:
        """The last message of a job that is not running, which may not fit in the list, where no log beside begins with it."""
        view, spans = self.kl.view, super().header_left()
        job = view.list.job if isinstance(view, JobsView) else None
        if job is None or not last_message(job) or self.kl.size.width >= WIDE:
            return spans
        room = self.body_width - width_of([*spans, *self.header_right()]) - 1
        whole, device, _ = safe_text(job.message).partition(" (")
        said = whole if device and cell_len(job.message) > room - 2 else safe_text(job.message)
        return [*spans, *shortened([(f"  {said}", self.look("muted"))], room)]

    def header_right(self) -> list[Span]:
        """The job's progress bar and remaining time; the key that runs what is missing where no log beside it names it."""
        view, look = self.kl.view, self.look
        job = view.list.job if isinstance(view, JobsView) else None
        if job is None or not job.total:
            return []
        if self._way_out(job) and self.kl.size.width < WIDE:
            lacking = f"{job.total - job.done} of {job.total}"
            said = (
                f"missing: {lacking}"
                if self.kl.read_only
                else f"{self.kl.key('retry')} runs the rest: {lacking}"
            )
            return [(said, look("warning"))]
        if job.status != "running" and job.done + job.failed >= job.total:
            return []  # a finished job needs no progress bar
        full, rest = bar(job_share(job, self.rows), 20, look.glyph("━", "#"), look.glyph("─", "-"))
        left = time_left(job, self.rows)
        text = f"  {100 * job_share(job, self.rows):3.0f}%" + (f"  {duration(left)} left" if left else "")
        return [(full, look("good")), (rest, look("rule")), (text, look("muted"))]

    def cells(self, index: int) -> Sequence[Cell]:
        item = self.rows[index]
        view = self.kl.view
        job = view.list.job if isinstance(view, JobsView) else None
        if job is not None and (share := stopped_share(job, item)) is not None:
            return [
                Cell(item.name, "muted"),
                Cell("stopped", "warning"),
                Cell(f"at {share:.0%}", "warning"),
                *[Cell("")] * 3,
            ]
        ink = {"done": "good", "failed": "bad", "running": "accent"}.get(item.status, "muted")
        stage = item.stage if item.status == "running" else "kept" if is_kept(item) else item.status
        cells = [Cell(item.name, "text" if item.status in ("running", "done") else "muted"), Cell(stage, ink)]
        if item.status == "failed":
            return [*cells, Cell(item.error, "bad", rest=True)]
        return [
            *cells,
            Cell(self._bar(item), ink),
            Cell(rate(item.texts_per_s) if item.status in ("running", "done") else ""),
            Cell(rate(item.tokens_per_s) if item.status in ("running", "done") else ""),
            Cell(duration(spent(item)) if spent(item) and item.status != "queued" else "", "muted"),
        ]

    def _bar(self, item: JobItemRow) -> str:
        width = max(4, self.widths()[2])
        share = 1.0 if item.status == "done" else item.texts_done / max(1, item.texts_total)
        if item.status not in ("running", "done") or (item.status == "running" and not item.texts_total):
            return ""
        full, rest = bar(share, width - 5, self.look.glyph("━", "#"), self.look.glyph("─", "-"))
        return f"{full}{rest} {100 * share:3.0f}%"

    def update_data(self) -> None:
        """Moves the cursor to the item being scored if the view is following."""
        view = self.kl.view
        if isinstance(view, JobsView) and view.following:
            at = next((i for i, item in enumerate(self.rows) if item.status == "running"), None)
            if at is not None:
                self.cursor = at
        self.cursor = max(0, min(self.cursor, self.row_count() - 1))
        self.keep_in_view()
        self.refresh()

    def moved(self) -> None:
        """Moves the shared cursor too, and updates the log pane."""
        item = self.item
        if item is not None and item.name in self.kl.snapshot.by_name:
            self.kl.selection.cursor = item.name
            self.kl.redraw_status()
        if self._why():
            self.refresh()
        if isinstance(self.kl.view, JobsView):
            self.kl.view.log_pane.update_data()

    def do_enter(self) -> None:
        """Moves the focus to the error of a failed checkpoint."""
        view, item = self.kl.view, self.item
        if isinstance(view, JobsView) and item is not None and item.status == "failed":
            view.show_why(item.name)


def job_share(job: JobRow, items: Sequence[JobItemRow]) -> float:
    """The completed fraction of a job, 0 to 1, with the current checkpoint counted by its texts while the job exists."""
    current = [i for i in items if i.status == "running" and i.texts_total and job.status in ACTIVE]
    part = sum(i.texts_done / i.texts_total for i in current)
    return min(1.0, (job.done + job.failed + part) / job.total) if job.total else 0.0


def spent(item: JobItemRow) -> float:
    """Seconds that a checkpoint took, or has taken so far; 0 for one that was already stored."""
    return 0.0 if is_kept(item) else item.seconds


def is_kept(item: JobItemRow) -> bool:
    """Whether a checkpoint's vector was stored already, so that it was not scored."""
    return item.status == "done" and not item.stats.get("seconds_score")


def time_left(job: JobRow, items: Sequence[JobItemRow]) -> float:
    """Estimated remaining seconds of a running job, from the speed of its finished checkpoints; 0 if unknown.

    Assumes that as many checkpoints are scored in parallel as at present.
    """
    if job.status != "running" or not items:
        return 0.0
    taken = [s for i in items if i.status == "done" and (s := spent(i)) > 0]
    running = [i for i in items if i.status == "running"]
    if not taken:
        taken = [i.seconds * i.texts_total / i.texts_done for i in running if i.texts_done]
    if not taken:
        return 0.0
    waiting = sum(i.status == "queued" for i in items)
    under_way = sum(1 - i.texts_done / max(1, i.texts_total) for i in running)
    return (waiting + under_way) * sum(taken) / len(taken) / max(1, len(running))


def last_message(job: JobRow) -> str:
    """What a job said when it ended; "" while it runs, and for one whose process was killed, which said its device last."""
    return "" if job.status in ("running", "lost") else job.message


def way_out(job: JobRow, *, retry: str = "R", read_only: bool = False) -> list[str]:
    """Sentences on why a job ended without scoring everything, and on the key `retry`, which continues it; [] otherwise."""
    missing = job.total - job.done
    if job.status == "running" or not missing:
        return []
    lost = (
        "Its process has ended: killed, out of memory, or the machine was restarted."
        if job.status == "lost"
        else ""
    )
    again = f"Press {retry} to run the rest: {missing} of {job.total}; stored results are not scored again."
    if read_only:
        again = f"{missing} of {job.total} are missing; without --read-only, {retry} runs them."
    return [*([lost] if lost else []), again]


class JobsView(View):
    """The list of jobs above the checkpoints of one; its log beside them."""

    screen_name = "jobs"
    DEFAULT_CSS = """
    JobsView JobItems { height: 1fr; }
    """

    def make_columns(self) -> Sequence[ColumnOfPanes]:
        self.job_id: int | None = None
        self._newest = -1
        self._gpu_task: asyncio.Task[None] | None = None
        self.following = True
        self.list, self.items = JobList(), JobItems()
        self.log_pane = TextPane("Log", self._log_lines)
        return [ColumnOfPanes([self.list, self.items]), ColumnOfPanes([self.log_pane], width=52, minimum=120)]

    def _log_lines(self, width: int) -> list[list[Span]]:
        look, job = self.look, self.list.job
        if job is None:
            return []
        lines: list[list[Span]] = []
        if message := last_message(job):
            lines += [[(part, look("text"))] for part in wrapped(safe_text(message), max(8, width))]
        for words in way_out(job, retry=self.kl.key("retry"), read_only=self.kl.read_only):
            lines += [[(part, look("warning"))] for part in wrapped(words, max(8, width))]
        for item in self.kl.snapshot.items.get(job.id, ()):
            if item.status == "failed":
                lines += [[]] if lines else []
                lines += [[(part, look("bad", bold=True))] for part in wrapped(item.name, max(8, width))]
                lines += [[(part, look("text"))] for part in wrapped(item.error, max(8, width))]
                lines += [[(part, look("muted"))] for part in wrapped(item.hint, max(8, width)) if part]
        tail = [part for text in log_tail(job) or [no_log(job)] for part in wrapped(text, max(8, width))]
        if lines and tail:
            lines += [[], [("log", look("faint"))]]
        if self.following:
            # Show the newest lines below the failures without scrolling.
            tail = tail[-max(5, self.log_pane.body_height - len(lines)) :]
        return lines + [[(part, look("muted"))] for part in tail]

    def show_why(self, name: str) -> None:
        """Moves the focus to the log pane, scrolled to the error of a failed checkpoint."""
        self.focus_on(self.log_pane)

        def go_there() -> None:
            heads = ["".join(text for text, _ in line) for line in self.log_pane.all_lines()]
            head = wrapped(name, max(8, self.log_pane.body_width))[0]
            if head in heads:
                self.log_pane.scroll_by(heads.index(head) - self.log_pane.top)

        self.call_after_refresh(go_there)

    def update_data(self) -> None:
        """Keeps the cursor on its job when newer ones appear, and updates the log."""
        ids = [job.id for job in self.kl.snapshot.jobs]
        if ids and ids[0] != self._newest:
            # The user came to this screen to see a job that was just started.
            self.job_id = self._newest = ids[0]
        if self.job_id in ids:
            self.list.cursor = ids.index(self.job_id)
        if self._gpu_task is None or self._gpu_task.done():
            self._gpu_task = asyncio.create_task(self._watch_gpus())
        self.items.display = bool(ids)
        self.list.styles.height = "1fr" if not ids else max(5, min(12, len(ids) + 3))
        super().update_data()

    async def _watch_gpus(self) -> None:
        """Reads the use of the GPUs regularly while this screen is shown and a job runs on this machine."""
        here = socket.gethostname()
        while self.kl.view is self and any(
            job.status == "running" and job.host == here for job in self.kl.snapshot.jobs
        ):
            self.list.show_gpus(await read_gpus())
            await asyncio.sleep(GPU_SECONDS)
        self.list.show_gpus(None)

    def on_unmount(self) -> None:
        """Stops reading the use of the GPUs."""
        if self._gpu_task is not None:
            self._gpu_task.cancel()

    def do_follow(self) -> None:
        self.following = not self.following
        self.kl.say("following the current checkpoint" if self.following else "not following")
        self.update_data()

    def do_add(self) -> None:
        jobs_start.add_models(self.kl)

    def do_start(self) -> None:
        jobs_start.start_file(self.kl)

    def do_pause(self) -> None:
        job = self.list.job
        if job is None:
            self.kl.say(self._no_job(), "warning")
        elif job.status == "running":
            self._ask_of(job, "pause")
        else:
            jobs_start.resume(self.kl, job)

    def do_retry(self) -> None:
        if self.list.job is None:
            self.kl.say(self._no_job(), "warning")
        else:
            jobs_start.resume(self.kl, self.list.job)

    def _no_job(self) -> str:
        return f"there is no job yet: {self.kl.key('start')} starts one"

    def do_stop(self) -> None:
        job = self.list.job
        if job is None or job.status != "running":
            self.kl.say("this job is not running" if job else self._no_job(), "warning")
            return
        question = f"Stop job {job.id}?"
        detail = f"{job.done} of {job.total} checkpoints are stored and stay stored.\nPress {self.kl.key('retry')} to run the rest later."

        def answered(key: str | None) -> None:
            if key == "y":
                self._ask_of(job, "stop")

        self.app.push_screen(prompts.confirm(question, detail, self.look("text")), answered)

    def _ask_of(self, job: JobRow, what: str) -> None:
        from kltui.jobs import launch

        try:
            (launch.pause if what == "pause" else launch.stop)(job)
        except KltuiError as error:
            self.kl.complain(error)
            return
        self.kl.say("will pause after this checkpoint" if what == "pause" else "stopping")
        self.kl.reload_soon()

    def csv_rows(self) -> list[list[object]]:
        """Rows with the checkpoints of the job under the cursor."""
        rows: list[list[object]] = [
            ["checkpoint", "status", "texts_done", "texts_total", "tokens_done", "seconds", "error", "hint"]
        ]
        return rows + [
            [i.name, i.status, i.texts_done, i.texts_total, i.tokens_done, spent(i), i.error, i.hint]
            for i in self.items.rows
        ]

    def copied(self) -> str:
        """The failed checkpoint's error, else the path of the job's log."""
        item = self.items.item
        if self.focus_pane is self.items and item is not None and item.error:
            return safe_text(f"{item.name}: {item.error} {item.hint}")
        return str(self.list.job.log) if self.list.job and self.list.job.log.name else ""


def no_log(job: JobRow) -> str:
    """Why no line of a job's log can be shown."""
    if job.log.is_file():
        return "the log is empty"
    return "there is no log: a job that was started in a shell writes there"


def log_tail(job: JobRow) -> list[str]:
    """The last lines of a job's log; [] if it cannot be read."""
    try:
        with job.log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_BYTES))
            data = file.read()
    except OSError:
        return []
    text = data.decode("utf-8", errors="replace")
    lines = text.splitlines()
    return [line for line in (lines[1:] if size > LOG_BYTES else lines) if line.strip()]


VIEW = JobsView
