"""Weight distances from safetensors files compared with reading the files once, with and without the system's cache."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np

from kltui.analysis.weights import banded_distances
from kltui.bench.timing import Ratio, measure
from kltui.kernels import native
from kltui.registry.tensors import open_tensors

CHECKPOINTS, BAND = 24, 10
LAYERS, WIDTH = 6, 512  # 25 MB per checkpoint
PAIRS = sum(min(BAND, CHECKPOINTS - 1 - k) for k in range(CHECKPOINTS))
TIMED_PAIRS = 4


def weight_ratios() -> Iterator[Ratio]:
    """The ratio with the files in the system's cache, and from disk if the cache can be dropped."""
    with _run_on_disk() as folders:
        yield measure(
            f"weight distances from {CHECKPOINTS} files, warm",
            lambda: _distances(folders),
            ("read once", lambda: _read_mapped(folders)),
            (f"each pair loaded ({TIMED_PAIRS} of {PAIRS} timed)", lambda: _by_pairs(folders)),
            rounds=4,
            share=TIMED_PAIRS / PAIRS,
        )
        if hasattr(os, "posix_fadvise"):
            yield measure(
                "the same, cold",
                lambda: _distances(folders),
                ("read once", lambda: _read_whole(folders)),
                (f"each pair loaded ({TIMED_PAIRS} of {PAIRS} timed)", lambda: _by_pairs(folders)),
                rounds=4,
                share=TIMED_PAIRS / PAIRS,
                before=lambda: _forget(folders),
            )


@contextmanager
def _run_on_disk() -> Iterator[list[Path]]:
    """Context with folders of a run's checkpoints, whose weights are a random walk."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    shapes = {f"layers.{i}.{n}": (WIDTH, WIDTH * k) for i in range(LAYERS) for n, k in (("a", 1), ("b", 3))}
    weights = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    with tempfile.TemporaryDirectory(prefix="kltui-bench-") as top:
        folders = [Path(top) / f"step{k}" for k in range(CHECKPOINTS)]
        for folder in folders:
            folder.mkdir()
            save_file(weights, folder / "model.safetensors")
            weights = {
                n: w + np.float32(0.01) * rng.standard_normal(w.shape, dtype=np.float32)
                for n, w in weights.items()
            }
        os.sync()  # only files that are on the disk can be dropped from the cache
        yield folders


def _distances(folders: Sequence[Path]) -> object:
    return banded_distances([open_tensors(folder) for folder in folders], BAND)


def _read_mapped(folders: Sequence[Path]) -> list[int]:
    """Reads all tensors through memory maps, as the distances do."""
    return [native.read_once(np.asarray(t.data)) for folder in folders for t in open_tensors(folder).values()]


def _read_whole(folders: Sequence[Path]) -> None:
    """Reads every file sequentially in large pieces, at the speed of the disk."""
    piece = bytearray(8 << 20)
    for folder in folders:
        with (folder / "model.safetensors").open("rb", buffering=0) as file:
            while file.readinto(piece):
                pass


def _by_pairs(folders: Sequence[Path]) -> list[float]:
    """Squared distances of the first pairs; both models of each pair are loaded, as in a simple script."""
    from safetensors.torch import load_file

    found = []
    for first, second in pairwise(folders[: TIMED_PAIRS + 1]):
        a, b = (load_file(folder / "model.safetensors") for folder in (first, second))
        found.append(sum(float(((a[n].double() - b[n].double()) ** 2).sum()) for n in a))
    return found


def _forget(folders: Sequence[Path]) -> None:
    """Asks the system to drop the files from its cache."""
    for folder in folders:
        descriptor = os.open(folder / "model.safetensors", os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
