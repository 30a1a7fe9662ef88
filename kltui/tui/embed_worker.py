"""Computes embeddings in a separate process: a request (see `kltui.tui.embedding`) on stdin, lines of JSON on stdout.

{"event": "progress", "share", "of"}; {"event": "result", "bytes", "facts", "last"}, followed by that number of bytes
of .npy; {"event": "done", "peak_kilobytes"}. An error is "message TAB hint" on stderr with exit code 1. The interface
kills the process if the map changes in the meantime.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import sys
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

ITERATIONS = 1000  # scikit-learn's default
_ITERATION = re.compile(r"Iteration (\d+)")
_POINTS = re.compile(r"Indexed (\d+) samples")


class EventWriter:
    """Writes events to a stream."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def say(self, event: str, data: bytes = b"", **more: object) -> None:
        """Writes one event, followed by its data."""
        self._out.write(json.dumps({"event": event, **more}).encode() + b"\n" + data)
        self._out.flush()

    def progress(self, share: float, of: str) -> None:
        """Writes that `share` (0 to 1) of the step called `of` is done."""
        self.say("progress", share=round(min(1.0, share), 3), of=of)

    def result(self, array: NDArray[np.float64], facts: dict[str, object], *, last: bool = True) -> None:
        """Writes an array with its facts; `last`: no better result follows."""
        data = io.BytesIO()
        np.save(data, array)
        self.say("result", data.getvalue(), bytes=len(data.getvalue()), facts=facts, last=last)


class ProgressLines(io.TextIOBase):
    """Parses scikit-learn's iteration messages and reports progress as a fraction."""

    def __init__(self, out: EventWriter) -> None:
        self._out = out
        self._of = "t-SNE"

    def write(self, text: str) -> int:
        """Reports the progress if the text is about an iteration, and drops the text."""
        if found := _POINTS.search(text):
            self._of = f"t-SNE of {int(found[1]):,}"
        if found := _ITERATION.search(text):
            self._out.progress(int(found[1]) / ITERATIONS, self._of)
        return len(text)


def main() -> int:
    """Computes what is requested; exit code 0, or 1 with a message and a hint on stderr."""
    from kltui.errors import KltuiError
    from kltui.threads import HELPER_NICENESS

    os.nice(HELPER_NICENESS)
    asked, text_bytes_N, ids_N = read_request(sys.stdin.buffer)
    with os.fdopen(asked["rows"], "rb") as rows:
        loglik_KN = np.memmap(rows, "<f8", "r", shape=tuple(asked["shape"]))
    out = EventWriter(sys.stdout.buffer)
    try:
        with contextlib.redirect_stdout(ProgressLines(out)):
            _compute(asked, loglik_KN, text_bytes_N, ids_N, out)
    except KltuiError as error:
        sys.stderr.write(f"{error.message}\t{error.hint}")
        return 1
    out.say("done", peak_kilobytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return 0


def read_request(
    request: BinaryIO,
) -> tuple[dict[str, Any], NDArray[np.int64], NDArray[np.intp] | None]:
    """(settings, bytes of the texts, identity of the texts or None) of the bytes that `Job.request` returns."""
    asked = json.loads(request.readline())
    arrays = io.BytesIO(request.read())
    rows = np.load(arrays, allow_pickle=False)
    asked["runs"] = [run.tolist() for run in np.split(rows, np.cumsum(asked["runs"]))[:-1]]
    text_bytes_N = np.load(arrays, allow_pickle=False)
    return asked, text_bytes_N, np.load(arrays, allow_pickle=False) if asked["ids"] else None


def _compute(
    asked: dict[str, Any],
    loglik_KN: NDArray[np.float64],
    text_bytes_N: NDArray[np.int64],
    ids_N: NDArray[np.intp] | None,
    out: EventWriter,
) -> None:
    from kltui.analysis.embed import TSNESettings, better_and_better
    from kltui.analysis.place_errors import place_covariances

    if asked["task"] == "covariances":
        out.result(place_covariances(loglik_KN, text_bytes_N, asked["dims"], ids_N)[1], {})
        return
    settings = TSNESettings(reduce_perplexity=True, verbose=2)
    for made, last in better_and_better(
        loglik_KN,
        text_bytes_N,
        asked["method"],
        asked["dims"],
        settings,
        asked["runs"],
        first=asked["first"],
        progress=lambda share: out.progress(share, "axes"),
    ):
        out.result(made.xyz_Kd, made.facts(), last=last)
