"""t-SNE in a process of its own: principal scores as .npy on stdin; on stdout lines "progress SHARE", "done", and .npy.

The interface stays quick while it computes, and ends it when the map has changed meanwhile.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from typing import BinaryIO

import numpy as np

ITERATIONS = 1000  # scikit-learn's default
DONE = b"done\n"
_ITERATION = re.compile(r"Iteration (\d+)")


class ProgressLines(io.TextIOBase):
    """Takes what scikit-learn says of its iterations and passes them on as shares of the whole."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        """Passes an iteration on; everything else is dropped."""
        found = _ITERATION.search(text)
        if found:
            self._out.write(b"progress %.2f\n" % min(1.0, int(found[1]) / ITERATIONS))
            self._out.flush()
        return len(text)


def main() -> int:
    """Exit code 0 with coordinates on stdout, 1 with a message on stderr."""
    from kltui.analysis.embed import tsne
    from kltui.errors import KltuiError

    os.nice(5)
    scores = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    out = sys.stdout.buffer
    try:
        with contextlib.redirect_stdout(ProgressLines(out)):
            found = tsne(scores, reduce_perplexity=True, verbose=2)
    except KltuiError as error:
        sys.stderr.write(f"{error.message}: {error.hint}")
        return 1
    out.write(DONE)
    np.save(out, found)
    return 0
