"""Jobs and their items, the checkpoints to score, with the progress of each."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kltui.store.checksums import Checks
from kltui.store.damage import decoded
from kltui.store.rows import JobItemRow, JobRow, JobStatus
from kltui.store.writer_lock import Writer, current_writer

if TYPE_CHECKING:
    from kltui.scoring.settings import Progress


class Jobs:
    """The jobs of a workspace."""

    def __init__(self, db: sqlite3.Connection, checks: Checks) -> None:
        self._db, self._checks = db, checks

    def register(self, digest: str, toml: str, checkpoint_ids: Sequence[int], log: Path | None) -> int:
        """Adds a job, or the existing one with the same digest again; returns its row id.

        Its items become `checkpoint_ids`, in this order; those that are not done are queued.
        """
        now = time.time()
        self._db.execute(
            "INSERT INTO job (digest, toml, status, created) VALUES (?, ?, 'queued', ?)"
            " ON CONFLICT (digest) DO UPDATE SET toml = excluded.toml",
            (digest, toml, now),
        )
        (job_id,) = self._db.execute("SELECT id FROM job WHERE digest = ?", (digest,)).fetchone()
        if log is not None:
            self._db.execute("UPDATE job SET log = ? WHERE id = ?", (str(log), job_id))
        self._db.execute(
            "DELETE FROM job_item WHERE job_id = ? AND checkpoint_id NOT IN (SELECT value FROM json_each(?))",
            (job_id, json.dumps(list(checkpoint_ids))),
        )
        self._db.executemany(
            "INSERT INTO job_item (job_id, checkpoint_id, ordinal, status) VALUES (?, ?, ?, 'queued')"
            " ON CONFLICT (job_id, checkpoint_id) DO UPDATE SET ordinal = excluded.ordinal,"
            " status = CASE WHEN status = 'done' THEN 'done' ELSE 'queued' END, stage = '', error = '', hint = '',"
            " texts_done = CASE WHEN status = 'done' THEN texts_done ELSE 0 END,"
            " tokens_done = CASE WHEN status = 'done' THEN tokens_done ELSE 0 END",
            ((job_id, cid, ordinal) for ordinal, cid in enumerate(checkpoint_ids)),
        )
        return int(job_id)

    def start(self, job_id: int) -> None:
        """Marks the job as running in this process."""
        self._db.execute(
            "UPDATE job SET status = 'running', started = ?, ended = NULL, pid = ?, host = ?, message = '' WHERE id = ?",
            (time.time(), os.getpid(), socket.gethostname(), job_id),
        )

    def say(self, job_id: int, message: str) -> None:
        """Stores a message about a running job."""
        self._db.execute("UPDATE job SET message = ? WHERE id = ?", (message, job_id))

    def finish(self, job_id: int, status: str, message: str = "") -> None:
        """Marks the job's end; items still running go back to the queue."""
        self._db.execute(
            "UPDATE job SET status = ?, ended = ?, message = ? WHERE id = ?",
            (status, time.time(), message, job_id),
        )
        self._db.execute(
            "UPDATE job_item SET status = 'queued', stage = '' WHERE job_id = ? AND status = 'running'",
            (job_id,),
        )

    def item_started(self, job_id: int, checkpoint_id: int) -> None:
        """Marks one checkpoint as running and counts the attempt."""
        self._db.execute(
            "UPDATE job_item SET status = 'running', started = ?, ended = NULL, attempts = attempts + 1,"
            " texts_done = 0, tokens_done = 0, error = '', hint = '' WHERE job_id = ? AND checkpoint_id = ?",
            (time.time(), job_id, checkpoint_id),
        )

    def item_progress(self, job_id: int, checkpoint_id: int, progress: Progress) -> None:
        """Records the progress of a running checkpoint."""
        self._db.execute(
            "UPDATE job_item SET stage = ?, texts_done = ?, texts_total = ?, tokens_done = ?, tokens_total = ?"
            " WHERE job_id = ? AND checkpoint_id = ? AND status = 'running'",
            (
                progress.stage,
                progress.texts_done,
                progress.texts_total,
                progress.tokens_done,
                progress.tokens_total,
                job_id,
                checkpoint_id,
            ),
        )

    def item_done(self, job_id: int, checkpoint_id: int, stats: dict[str, float], n_texts: int) -> None:
        """Marks one checkpoint as done, with its statistics; `n_texts` is the number of its texts."""
        tokens = int(stats.get("tokens", 0))
        self._db.execute(
            "UPDATE job_item SET status = 'done', stage = '', ended = ?, texts_done = ?, texts_total = ?,"
            " tokens_done = ?, tokens_total = ?, stats = ? WHERE job_id = ? AND checkpoint_id = ?",
            (time.time(), n_texts, n_texts, tokens, tokens, json.dumps(stats), job_id, checkpoint_id),
        )

    def items_kept(self, job_id: int, checkpoint_ids: Sequence[int], n_texts: int) -> None:
        """Marks queued checkpoints as done, because their vectors are stored already; statistics of earlier ones are kept."""
        self._db.execute(
            "UPDATE job_item SET status = 'done', stage = '', ended = ?, texts_done = ?, texts_total = ?, stats = '{}'"
            " WHERE job_id = ? AND status = 'queued' AND checkpoint_id IN (SELECT value FROM json_each(?))",
            (time.time(), n_texts, n_texts, job_id, json.dumps(list(checkpoint_ids))),
        )

    def item_moved(self, job_id: int, before: int, now: int) -> None:
        """Assigns an item to another checkpoint."""
        self._db.execute(
            "UPDATE job_item SET checkpoint_id = ?, status = 'queued' WHERE job_id = ? AND checkpoint_id = ?",
            (now, job_id, before),
        )

    def item_failed(self, job_id: int, checkpoint_id: int, error: str, hint: str) -> None:
        """Marks one checkpoint as failed, with the reason and what to do."""
        self._db.execute(
            "UPDATE job_item SET status = 'failed', stage = '', ended = ?, error = ?, hint = ?"
            " WHERE job_id = ? AND checkpoint_id = ?",
            (time.time(), error, hint, job_id, checkpoint_id),
        )

    @decoded
    def all(self) -> list[JobRow]:
        """Every job, newest first; a running job whose process has ended has the status "lost"."""
        self._checks.require("job", "job_item")
        writer = current_writer(self._db)
        rows = self._db.execute(
            "SELECT j.id, j.status, j.created, j.started, j.ended, j.pid, j.host, j.log, j.message,"
            " COALESCE(i.done, 0), COALESCE(i.failed, 0), COALESCE(i.total, 0), j.toml"
            " FROM job j LEFT JOIN (SELECT job_id, SUM(status = 'done') AS done, SUM(status = 'failed') AS failed,"
            " COUNT(*) AS total FROM job_item NOT INDEXED GROUP BY job_id) i ON i.job_id = j.id ORDER BY j.id DESC"
        )
        (_, _, path), *_ = self._db.execute("PRAGMA database_list")
        return [_job_row(row, writer, Path(path).parent) for row in rows]

    def waiting(self) -> list[int]:
        """Ids of the jobs that are queued, paused, or running in a process that still exists."""
        writer = current_writer(self._db)
        rows = self._db.execute(
            "SELECT id, status, host, pid FROM job WHERE status IN ('queued', 'running', 'paused')"
        )
        return [i for i, status, *process in rows if status != "running" or _is_running(writer, *process)]

    def remove_empty(self, job_id: int) -> None:
        """Removes a job that has no checkpoint."""
        self._db.execute(
            "DELETE FROM job WHERE id = ? AND NOT EXISTS (SELECT 1 FROM job_item WHERE job_id = job.id)",
            (job_id,),
        )

    @decoded
    def items(self, job_id: int) -> list[JobItemRow]:
        """The checkpoints of one job in order."""
        self._checks.require("job", "job_item", "checkpoint")
        rows = self._db.execute(
            "SELECT c.name, i.status, i.stage, i.texts_done, i.texts_total, i.tokens_done, i.tokens_total, i.started,"
            " i.ended, i.attempts, i.error, i.hint, i.stats FROM job_item i NOT INDEXED JOIN checkpoint c ON c.id = i.checkpoint_id"
            " WHERE i.job_id = ? ORDER BY i.ordinal",
            (job_id,),
        )
        now = time.time()
        return [_item_row(row, now) for row in rows]


def _job_row(row: tuple[Any, ...], writer: Writer | None, workspace: Path) -> JobRow:
    job_id, status, created, started, ended, pid, host, log, *rest = row
    process = writer.boot if writer is not None and _is_running(writer, host, pid) else ""
    lost = status == "running" and not process
    shown: JobStatus = "lost" if lost else cast(JobStatus, status)
    values: list[Any] = [created, started, ended, pid, host, Path(log), *rest, process, workspace]
    return JobRow(job_id, shown, *values)


def _is_running(writer: Writer | None, host: str, pid: int | None) -> bool:
    """Whether the process that runs a job still exists and is the store's writer."""
    return writer is not None and (writer.host, writer.pid) == (host, pid) and writer.alive


def _item_row(row: tuple[Any, ...], now: float) -> JobItemRow:
    columns: list[Any] = [*row[:-1], json.loads(row[-1]), now]
    return JobItemRow(*columns)
