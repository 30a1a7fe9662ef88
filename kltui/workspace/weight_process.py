"""Weight distances in a separate process, because truncating a memory-mapped file kills the process that reads it.

The kernel kills a process that reads a mapped page beyond the end of its file (SIGBUS). Reading the files into memory
instead takes 75 % more time (measured), so the computation runs in a process whose end does no harm.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from kltui.errors import KltuiError
from kltui.jobs.process import python_command

Progress = Callable[[int, int], None]  # (bytes read, bytes in all)

REPORT_EVERY_S = 0.1


class BadFolderError(KltuiError):
    """A folder whose weights cannot be read; `place` is its index among the requested folders."""

    def __init__(self, message: str, hint: str, place: int) -> None:
        super().__init__(message, hint)
        self.place = place


class WeightProcess:
    """A process that computes weight distances; started at the first request, and again if it has ended. A context manager."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> WeightProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._end(self._process)

    def banded_distances(
        self, folders: Sequence[Path], band: int, labels: Sequence[str], progress: Progress | None = None
    ) -> tuple[NDArray[np.float64], int]:
        """((K, band) squared distances as `analysis.weights.banded_distances`, parameters of the first model).

        `labels` name the models in messages. Raises BadFolderError for a folder that cannot be read, and KltuiError if the
        models have different parameters or the process ends.
        """
        process = self._process = self._process or _started()
        asked = {"folders": [str(folder) for folder in folders], "band": band, "labels": list(labels)}
        reported = self._reported(process, json.dumps(asked), progress)
        if reported is None:
            raise self._error_at_end(process, folders)
        if "error" not in reported:
            return np.array(reported["band"], dtype=np.float64).reshape(len(folders), band), int(
                reported["n_params"]
            )
        if reported["place"] is None:
            raise KltuiError(reported["error"], reported["hint"])
        raise BadFolderError(reported["error"], reported["hint"], reported["place"])

    def _reported(
        self, process: subprocess.Popen[str], asked: str, progress: Progress | None
    ) -> dict[str, Any] | None:
        """Sends a request; passes progress on and returns the result, or None if the process ended before."""
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(asked + "\n")
            process.stdin.flush()
            for line in process.stdout:
                reported: dict[str, Any] = json.loads(line)
                if "done" not in reported:
                    return reported
                if progress:
                    progress(reported["done"], reported["total"])
        except (BrokenPipeError, ValueError):  # ValueError: the last line is incomplete
            pass
        return None

    def _error_at_end(self, process: subprocess.Popen[str], folders: Sequence[Path]) -> KltuiError:
        self._process = None
        status = self._end(process)
        for place, folder in enumerate(folders):
            try:
                _opened(folder)
            except KltuiError as error:
                hint = "It was truncated while it was read: copy it again, then compare the weights again."
                return BadFolderError(error.message, hint, place)
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
        return KltuiError(
            f"the process that compares weights ended {how}",
            "The cause may be a file changed in the meantime, a failing disk or too little memory: try again.",
        )

    def _end(self, process: subprocess.Popen[str]) -> int:
        """Waits for the end of a process; returns its exit status, negative for a signal."""
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        return process.wait()


def _started() -> subprocess.Popen[str]:
    return subprocess.Popen(
        python_command("kltui.workspace.weight_process", "main"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the interface may be using the terminal
        text=True,
    )


def _opened(folder: Path, names: Collection[str] = ()) -> Any:
    """{name: tensor} of a model folder, or those tensors of a GGUF file that correspond to `names` of the original model.

    Raises KltuiError, also for errors of the file system.
    """
    from kltui.registry.gguf_file import is_gguf
    from kltui.registry.gguf_tensors import open_gguf
    from kltui.registry.tensors import open_tensors

    try:
        return open_gguf(folder, names) if is_gguf(folder) else open_tensors(folder)
    except OSError as error:
        raise KltuiError(
            f"{error.filename or folder}: {error.strerror}", "Check that it still exists."
        ) from error


def main() -> int:
    """Reads requests from standard input, one JSON object per line, until it is closed, and answers them on standard output."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # ctrl-C reaches the whole process group; the parent handles it
    # Output that libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        for line in sys.stdin:
            _send(answers, _answered(json.loads(line), answers))
    except BrokenPipeError:
        os._exit(0)  # the parent has ended; flushing at exit would fail again
    return 0


def _send(answers: TextIO, reported: dict[str, object]) -> None:
    answers.write(json.dumps(reported) + "\n")
    answers.flush()


def _answered(asked: dict[str, Any], answers: TextIO) -> dict[str, object]:
    from kltui.analysis.weights import banded_distances
    from kltui.registry.parameters import model_parameters

    place: int | None = None
    try:
        opened: list[Any] = []
        for place, folder in enumerate(asked["folders"]):  # noqa: B007 - used below if opening fails
            opened.append(_opened(Path(folder), opened[0] if opened else ()))
        place = None
        progress = _DistanceReporter(answers)
        band_Kb = banded_distances(opened, asked["band"], labels=asked["labels"], progress=progress)
    except KltuiError as error:
        return {"error": error.message, "hint": error.hint, "place": place}
    except BrokenPipeError:
        raise
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "hint": "This is unexpected.", "place": place}
    return {"band": band_Kb.tolist(), "n_params": model_parameters(opened[0]).n_elements()}


class _DistanceReporter:
    """Sends progress to the parent, at most once in REPORT_EVERY_S seconds."""

    def __init__(self, answers: TextIO) -> None:
        self._answers, self._next = answers, 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + REPORT_EVERY_S
            _send(self._answers, {"done": done, "total": total})
