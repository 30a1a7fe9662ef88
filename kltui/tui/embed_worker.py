"""t-SNE in a process of its own: principal scores as .npy on stdin, K x 2 coordinates as .npy on stdout.

The interface stays quick while it computes, and ends it when the map has changed meanwhile.
"""

from __future__ import annotations

import io
import os
import sys

import numpy as np


def main() -> int:
    """Exit code 0 with coordinates on stdout, 1 with a message on stderr."""
    from kltui.analysis.embed import tsne
    from kltui.errors import KltuiError

    os.nice(5)
    scores = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    try:
        found = tsne(scores, reduce_perplexity=True)
    except KltuiError as error:
        sys.stderr.write(f"{error.message}: {error.hint}")
        return 1
    np.save(sys.stdout.buffer, found)
    return 0
