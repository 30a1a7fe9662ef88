"""The map behind the plots: read when vectors have changed, analysed off the interface's thread."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from subprocess import PIPE, Popen
from typing import TYPE_CHECKING, Any

from kltui.errors import KltuiError
from kltui.tui.data import Reader, Snapshot

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kltui.analysis.map import Map
    from kltui.registry.checkpoint import Checkpoint

    Array = NDArray[np.float64]


# One thread: t-SNE's threads spin while they wait, and beside a scoring job that costs more than it brings.
QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Atlas:
    """The final-layer map of the workspace, its pictures, and answers kept until its vectors change.

    `version` rises whenever the scored vectors have changed; a view compares it with the one it shows.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._key: tuple[tuple[Checkpoint, float, int], ...] = ()
        self.version = 0
        self._map: Map | None = None
        self._map_version = -1
        self._kept: dict[str, Any] = {}
        self._lock = asyncio.Lock()
        self._embedder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kltui-embedder")
        self._child: Popen[bytes] | None = None
        #: called from another thread with the share of t-SNE that is done
        self.progress: Callable[[float], None] = lambda share: None
        self._closed = False

    def scored(self, snapshot: Snapshot) -> None:
        """Takes note of what is scored now."""
        key = tuple((r.checkpoint, r.mean_loglik, r.layers) for r in snapshot.rows if r.scored)
        if key != self._key:
            self._key = key
            self.version += 1

    def forget(self) -> None:
        """Takes note that other vectors are meant now: those of another corpus."""
        self.version += 1

    @property
    def is_empty(self) -> bool:
        """Whether nothing is scored."""
        return not self._key

    async def map(self) -> Map:
        """The map of all final vectors. Raises KltuiError when nothing is scored."""
        async with self._lock:
            version = self.version
            found = self._map
            if found is None or self._map_version != version:
                found = self._map = await self._reader.read(lambda ws: ws.map())
                self._map_version, self._kept = version, {}
            return found

    async def layers(self, names: tuple[str, ...]) -> Map:
        """The map of the lens vectors of some checkpoints. Raises KltuiError where they have none."""
        found: Map = await self._once(f"layers {names}", lambda: None, names=names)
        return found

    async def _once(self, key: str, work: Any, names: tuple[str, ...] | None = None) -> Any:
        version = self.version
        if key not in self._kept or version != self._map_version:
            if names is not None:
                found = await self._reader.read(lambda ws: ws.map(names=list(names), layers=True))
            else:
                found = await self._reader.compute(work)
            if version == self._map_version:
                self._kept[key] = found
            return found
        return self._kept[key]

    async def kl(self) -> tuple[Map, Array]:
        """The map and its K x K KL matrix in bits/byte."""
        found = await self.map()
        return found, await self._once("kl", found.kl)

    async def scores(self) -> tuple[Map, Array]:
        """The map and its principal scores, K x min(K, N): distances kept."""
        found = await self.map()
        return found, await self._once("scores", lambda: _scores(found))

    async def walk(self, run: str) -> tuple[Map, Map]:
        """The map, and the same with a random walk of the step lengths of `run` after its own points."""
        found = await self.map()
        return found, await self._once(f"walk {run}", lambda: found.with_null(run))

    async def walk_picture(self, run: str, method: str) -> tuple[Map, Array]:
        """The map and the (K + T) x 2 coordinates of its K points and of a random walk of T points beside `run`."""
        found, walked = await self.walk(run)
        if method != "tsne":
            return found, await self._once(f"walk {run} {method}", lambda: _picture(walked, method))
        key = f"walk {run} tsne {self._map_version}"
        if key not in self._kept:
            scores = await self._reader.compute(lambda: _scores(walked))
            coordinates = await self.tsne(scores)
            if self._map is not found:
                return found, coordinates
            self._kept[key] = coordinates
        return found, self._kept[key]

    async def picture(self, method: str) -> tuple[Map, Array]:
        """The map and its K x 2 coordinates by "tsne" (in a process of its own), "pca", "mds" or a released picture."""
        found = await self.map()
        if method in await self.released():
            return found, (await self.released())[method][:, :2]
        if method == "mds":
            return found, await self._once("mds", lambda: found.coordinates("mds"))
        found, scores = await self.scores()
        if method == "pca":
            return found, _two(scores)
        key = f"tsne {self._map_version}"
        if key not in self._kept:
            coordinates = await self.tsne(scores)
            if self._map is found:
                self._kept[key] = coordinates
            return found, coordinates
        return found, self._kept[key]

    async def released(self) -> dict[str, Array]:
        """Pictures that came with a release by name, K x 2 or K x 3; NaN for vectors that one has not."""
        found = await self.map()
        key = f"released {self._map_version}"
        if key not in self._kept:
            self._kept[key] = await self._reader.read(lambda ws: ws.released_pictures(found.names))
        pictures: dict[str, Array] = self._kept[key]
        return pictures

    def has_picture(self, method: str) -> bool:
        """Whether the picture of the present vectors is there already."""
        key = f"tsne {self._map_version}" if method == "tsne" else "scores" if method == "pca" else method
        return self._map_version == self.version and key in self._kept

    async def tsne(self, scores: Array) -> Array:
        """K x 2 t-SNE coordinates of principal scores, computed in another process."""
        self._end_child()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._embedder, self._run_child, scores)
        except asyncio.CancelledError:
            self._end_child()
            raise

    def _run_child(self, scores: Array) -> Array:
        import numpy as np

        from kltui.jobs.process import python_command

        data = io.BytesIO()
        np.save(data, scores)
        command = python_command("kltui.tui.embed_worker", "main")
        with Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=os.environ | QUIET) as child:
            self._child = child
            if self._closed:
                child.kill()
            out = self._listen(child, data.getvalue())
            complaint = child.stderr.read() if child.stderr else b""
        if child.returncode != 0:
            raise KltuiError(complaint.decode(errors="replace") or "the t-SNE process ended early")
        coordinates: Array = np.load(io.BytesIO(out), allow_pickle=False)
        return coordinates

    def _listen(self, child: Popen[bytes], data: bytes) -> bytes:
        """Hands `data` over, tells of progress, and returns what follows the word that it is done."""
        from kltui.tui.embed_worker import DONE

        assert child.stdin is not None and child.stdout is not None
        with suppress(BrokenPipeError):
            child.stdin.write(data)
            child.stdin.close()
        for line in child.stdout:
            if line == DONE:
                break
            word, _, share = line.partition(b" ")
            if word == b"progress":
                self.progress(float(share))
        return child.stdout.read()

    def _end_child(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.kill()

    async def ask(self, key: str, work: Any) -> Any:
        """The answer of `work`, computed on the analyst's thread and kept until vectors change."""
        return await self._once(key, work)

    def close(self) -> None:
        """Ends the process that still computes, and waits for its end."""
        self._closed = True
        self._end_child()
        self._embedder.shutdown(wait=True, cancel_futures=True)


def _scores(found: Map) -> Array:
    from kltui.analysis.embed import rotate

    return rotate(found.scaled_coordinates())


def _picture(found: Map, method: str) -> Array:
    return found.coordinates("mds") if method == "mds" else found.coordinates("pca")


def _two(scores: Array) -> Array:
    import numpy as np

    if scores.shape[1] >= 2:
        return scores[:, :2]
    return np.column_stack([scores, np.zeros((len(scores), 2 - scores.shape[1]))])
