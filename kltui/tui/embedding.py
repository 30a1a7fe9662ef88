"""Starts the process that computes embeddings (`embed_worker`), sends it requests and reads its results.

The vectors are in a file that the process inherits and maps into memory.
"""

from __future__ import annotations

import asyncio
import io
import json
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from subprocess import PIPE, Popen
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from kltui.errors import KltuiError
from kltui.tui.child_output import output_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kltui.analysis.embed import Picture

    Array = NDArray[np.float64]

Task = Literal["picture", "covariances"]
Progress = Callable[[float, str], None]

_BLOCK_ROWS = 256
AGAIN = "select the plot again or reload (by default v, or r) to start a new process"


@dataclass(frozen=True, eq=False)
class Job:
    """A request: K x N vectors in `rows` (a file of float64, in nats), bytes per text, ids of equal texts, the method.

    `runs` has each run's rows by rising step; `first`: send a PCA picture before the requested one.
    """

    rows: BinaryIO
    shape: tuple[int, int]
    text_bytes_N: NDArray[np.int64]
    text_ids_N: NDArray[np.intp] | None
    task: Task = "picture"
    method: str = "tsne"
    dims: int = 2
    runs: Sequence[Sequence[int]] = field(default_factory=tuple)
    first: bool = False

    def request(self) -> bytes:
        """The bytes that the process reads: a line of JSON, then as .npy the rows of all runs and the arrays over texts."""
        import numpy as np

        asked = {
            "rows": self.rows.fileno(),
            "shape": self.shape,
            "task": self.task,
            "method": self.method,
            "dims": self.dims,
            "runs": list(map(len, self.runs)),
            "first": self.first,
            "ids": self.text_ids_N is not None,
        }
        data = io.BytesIO()
        data.write(json.dumps(asked).encode() + b"\n")
        np.save(data, np.fromiter(chain.from_iterable(self.runs), np.int64))
        np.save(data, self.text_bytes_N)
        if self.text_ids_N is not None:
            np.save(data, self.text_ids_N)
        return data.getvalue()


def rows_file(*parts_KN: Array) -> BinaryIO:
    """An unnamed temporary file with the rows of all parts as float64."""
    import numpy as np

    file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        for part in parts_KN:
            for start in range(0, len(part), _BLOCK_ROWS):
                file.write(np.ascontiguousarray(part[start : start + _BLOCK_ROWS], "<f8").data)
        file.flush()
    except OSError as error:
        file.close()
        raise no_room(error) from error
    return file


def no_room(error: OSError) -> KltuiError:
    """The error if the vectors cannot be written to the temporary file."""
    return KltuiError(
        f"the vectors could not be written to {tempfile.gettempdir()}: {error.strerror}",
        "free some space there, or set TMPDIR to another folder",
    )


class Helper:
    """Runs one computing process at a time; a new request ends the one before."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"kltui-{name}")
        self._child: Popen[bytes] | None = None
        self._closed = False
        #: peak memory of the last process in kilobytes
        self.peak_kilobytes = 0

    async def run(self, job: Job, progress: Progress) -> AsyncIterator[tuple[dict[str, Any], Array]]:
        """(event, array) of every result as it arrives; `progress(share, step)` is called from another thread.

        Raises KltuiError if the process reports an error, or ends before its last result.
        """
        loop = asyncio.get_running_loop()
        results: asyncio.Queue[tuple[dict[str, Any], Array] | None] = asyncio.Queue()

        def said(event: dict[str, Any], array: Array) -> None:
            with suppress(RuntimeError):  # the event loop has ended
                loop.call_soon_threadsafe(results.put_nowait, (event, array))

        def reported(share: float, step: str) -> None:
            if not unwanted.is_set():  # what the process had sent before it was ended
                progress(share, step)

        self.end()
        unwanted = threading.Event()
        running = loop.run_in_executor(self._thread, self._run, job, said, reported, unwanted)
        running.add_done_callback(lambda _: results.put_nowait(None))
        try:
            while (found := await results.get()) is not None:
                yield found
            await running
        finally:
            if not running.done():
                unwanted.set()
                self.end()
                with suppress(KltuiError, asyncio.CancelledError):
                    await running

    def _run(
        self,
        job: Job,
        said: Callable[[dict[str, Any], Array], None],
        progress: Progress,
        unwanted: threading.Event,
    ) -> None:
        from kltui.jobs.process import python_command

        command = python_command("kltui.tui.embed_worker", "main")
        inherited = (job.rows.fileno(),)
        with Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, pass_fds=inherited) as child:
            self._child = child
            if self._closed or unwanted.is_set():  # cancelled before the process was started
                child.kill()
            assert child.stdin is not None
            with suppress(BrokenPipeError):
                child.stdin.write(job.request())
                child.stdin.close()
            finished = self._listen(output_of(child, child.stdout), said, progress)
            complaint = output_of(child, child.stderr).read().decode(errors="replace")
        if not finished or child.returncode:
            raise _ended(child.returncode, complaint)

    def _listen(
        self, out: io.BufferedReader, said: Callable[[dict[str, Any], Array], None], progress: Progress
    ) -> bool:
        """Passes on events until the process closes its output; whether it sent "done"."""
        import numpy as np

        for line in out:
            event = json.loads(line)
            if event["event"] == "progress":
                progress(event["share"], event["of"])
            elif event["event"] == "done":
                self.peak_kilobytes = event["peak_kilobytes"]
                return True
            else:
                data = out.read(event["bytes"])
                if len(data) < event["bytes"]:
                    return False
                said(event, np.load(io.BytesIO(data), allow_pickle=False))
        return False

    def end(self) -> None:
        """Kills the process if it is running."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()

    def close(self) -> None:
        """Kills the process if it is running, and waits for it."""
        self._closed = True
        self.end()
        self._thread.shutdown(wait=True, cancel_futures=True)


def _ended(returncode: int, complaint: str) -> KltuiError:
    """The error for a process without a result: its own message, or the signal that ended it."""
    message, _, hint = complaint.strip().rpartition("\n")[2].partition("\t")
    if returncode == 1 and hint:
        return KltuiError(message, hint)
    if returncode < 0:
        name = signal.Signals(-returncode).name if -returncode in set(signal.Signals) else str(-returncode)
        why = "; the system may be short of memory" if name == "SIGKILL" else ""
        return KltuiError(f"the process that computes the embedding was ended by {name}{why}", AGAIN)
    said = f": {message}" if message else ""
    return KltuiError(f"the process that computes the embedding ended early{said}", AGAIN)


def picture_of(event: dict[str, Any], xyz_Kd: Array) -> Picture:
    """The picture in a "result" event and its array."""
    import math

    from kltui.analysis.embed import Picture

    facts = event["facts"]
    numbers = {
        name: facts.get(name, math.nan) for name in ("stress", "perplexity", "perplexity_asked", "divergence")
    }
    return Picture(
        facts["method"],
        xyz_Kd,
        tuple(facts.get("axis_share", ())),
        n_axes=facts["n_axes"],
        kept=facts["kept"],
        n_placed=facts["n_placed"],
        residual=facts["residual"],
        **numbers,
    )
