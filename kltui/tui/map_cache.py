"""The map that all screens show: read when vectors have changed, and analysed in a background thread."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from kltui.errors import KltuiError
from kltui.tui.actions import SCREENS
from kltui.tui.data import Result, Snapshot, SnapshotReader
from kltui.tui.keymap import Keymap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kltui.analysis.embed import Method, Picture
    from kltui.analysis.map import Map
    from kltui.registry.checkpoint import Checkpoint
    from kltui.tui.basis import Basis
    from kltui.tui.embedding import Helper, Job, Progress, Task
    from kltui.workspace import Workspace

    Array = NDArray[np.float64]

LARGE = (
    1 << 24
)  # K x N above which vectors stay in a file and pictures are computed in another process: 128 MB
_LOOK_SECONDS = 0.25  # between two updates of the progress of reading
DRAWN = 400  # number of checkpoints in the first picture of a large map


@dataclass(frozen=True, eq=False)
class ShownMap:
    """An embedding and its map: row k of `picture.xyz_Kd` is `map.points[k]`; further rows belong to a random walk.

    `final`: no better embedding follows. `n_total` checkpoints are scored; the first embedding of a large map has only a
    sample of them.
    """

    map: Map
    picture: Picture
    final: bool
    n_total: int


class MapCache:
    """The final-layer map of the workspace, its embeddings, and other results, cached until its vectors change.

    `version` increases whenever the scored vectors have changed; a view compares it with the one it shows.
    """

    def __init__(self, reader: SnapshotReader, key_of: Callable[[str], str] | None = None) -> None:
        self._reader = reader
        self._key_of = key_of or partial(Keymap().spelled, SCREENS[0])  # the key of an action, for messages
        self._key: tuple[tuple[Checkpoint, float, int], ...] = ()
        self.version = 0
        self._map: Map | None = None
        self._map_version = -1
        self._rows: BinaryIO | None = None  # the vectors of a large map, in the map's order
        self._drawn: Map | None = None
        self._drawn_version = -1
        self._n_texts = (-1, 0)  # (version of the map, number of texts in the corpus)
        self._kept: dict[str, Any] = {}
        self._lock = asyncio.Lock()
        self._helpers: dict[str, Helper] = {}
        self._is_closed = False
        #: called from another thread with (share that is done, name of the step)
        self.progress: Progress = lambda share, of: None

    def scored(self, snapshot: Snapshot) -> None:
        """Compares the snapshot's vectors with those of the map, and increases `version` if they differ."""
        if snapshot.scored != self._key:
            self._key = snapshot.scored
            self.version += 1

    def forget(self) -> None:
        """Increases `version`, because the map has other settings now."""
        self.version += 1

    @property
    def is_empty(self) -> bool:
        """Whether nothing is scored."""
        return not self._key

    @property
    def n_total(self) -> int:
        """The number of scored checkpoints."""
        return len(self._key)

    async def map(self) -> Map:
        """The map of all final vectors; those of a large map stay in a file. Raises KltuiError if nothing is scored."""
        async with self._lock:
            version = self.version
            if self._map is not None and self._map_version == version:
                return self._map
            made, rows = await self._made_map()
            self._close_rows()
            self._map, self._rows, self._map_version, self._kept = made, rows, version, {}
            return made

    async def _read_large(self) -> tuple[Map, BinaryIO | None]:
        """(a large map, the file with its vectors in its order or None if they are in memory); reports progress."""
        file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - kept with the map
        watch = asyncio.create_task(self._watch(file.fileno(), 8 * self.n_total * self._n_texts[1]))
        try:
            found, in_file = await self._reader.read(lambda ws: _large_map(ws, file))
        except BaseException:
            file.close()
            raise
        finally:
            watch.cancel()
        if in_file:
            return found, file
        file.close()
        return found, None

    async def _watch(self, descriptor: int, expected: int) -> None:
        """Reports the share of the `expected` bytes that is written to a file, until it is cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._tell(min(1.0, os.fstat(descriptor).st_size / expected), f"reading {self.n_total:,} vectors")

    async def _made_map(self) -> tuple[Map, BinaryIO | None]:
        """(the map of the reader's basis, the file with its vectors or None if they are in memory)."""
        basis = self._reader.basis
        if basis.is_whole and await self._is_large():
            return await self._read_large()
        return await self._reader.read(lambda ws: _small_map(ws, basis))

    def _close_rows(self) -> None:
        if self._rows is not None:
            self._rows.close()  # a process that still reads the file has a descriptor of its own
            self._rows = None

    async def _is_large(self) -> bool:
        """Whether the vectors have more than LARGE values."""
        version, n_texts = self._n_texts
        if version != self.version:
            version, n_texts = self.version, await self._reader.read(lambda ws: ws.corpus().n)
            self._n_texts = version, n_texts
        return self.n_total * n_texts > LARGE

    async def _drawn_map(self) -> Map | None:
        """A sample of a large map that is not read yet: the ends of runs and checkpoints between them. Otherwise None."""
        version = self.version
        if self._map_version == version or not self._reader.basis.is_whole or not await self._is_large():
            return None
        if self._drawn is None or self._drawn_version != version:
            scored = self._key
            names = await self._reader.compute(
                lambda: _drawn_names([checkpoint for checkpoint, _, _ in scored])
            )
            self._drawn = await self._reader.read(lambda ws: _map_of(ws, names))
            self._drawn_version = version
        return self._drawn

    async def layers(self, names: tuple[str, ...]) -> Map:
        """The map of the final and layer vectors of some checkpoints, as scored. Raises KltuiError if they have none."""
        if not self._reader.basis.is_whole:
            await self.map()
            names = tuple(name for name in names if name not in self.excluded)
            if not names:
                raise KltuiError(
                    "every checkpoint with layer vectors is excluded",
                    f"press {self._key_of('basis')} for the map settings",
                )
        found: Map = await self._read_once(
            f"layers {names}", lambda ws: ws.map(names=list(names), layers=True)
        )
        return found

    async def as_scored(self) -> Map:
        """The final vectors of the map as they were scored, over all texts, from which losses are computed."""
        found = await self.map()
        if not self.is_prepared:
            return found
        basis = self._reader.basis
        raw: Map = await self._read_once("as scored", basis.raw_of)
        return raw

    @property
    def excluded(self) -> frozenset[str]:
        """Names of the vectors that the user excluded from the present map."""
        record = self._map.record.get("preprocess") if self._map is not None else None
        names = record.get("excluded", ()) if isinstance(record, Mapping) else ()
        return frozenset(map(str, cast("Sequence[object]", names)))

    async def _once(self, key: str, work: Callable[[], Result]) -> Result:
        return await self._kept_as(key, lambda: self._reader.compute(work))

    async def _read_once(self, key: str, question: Callable[[Workspace], Result]) -> Result:
        return await self._kept_as(key, lambda: self._reader.read(question))

    async def _kept_as(self, key: str, found_by: Callable[[], Awaitable[Result]]) -> Result:
        """The cached result for the key; computed if there is none for the present vectors."""
        version = self.version
        if key in self._kept and version == self._map_version:
            kept: Result = self._kept[key]
            return kept
        found = await found_by()
        if version == self._map_version:
            self._kept[key] = found
        return found

    async def pictures(
        self, method: str, dims: int = 2, *, null_run: str = "", layers: tuple[str, ...] = ()
    ) -> AsyncIterator[ShownMap]:
        """Embeddings of the map by "pca", "tsne", "mds" or a release, of increasing quality; the last one is `final`.

        A random walk with the step lengths of `null_run` may be added; the layer vectors of the checkpoints `layers` join
        as points. Raises KltuiError if the method is not possible, or if the computing process has died.
        """
        drawn = await self._drawn_map()
        if drawn is not None:
            picture = await self._reader.compute(lambda: drawn.picture("pca", dims))
            yield ShownMap(drawn, picture, False, self.n_total)
        found = await self.map()
        if method in await self.released():
            yield ShownMap(found, await self._released_picture(method, dims), True, self.n_total)
            return
        shown = await self._with_layers(found, layers)
        key = _key(method, dims, null_run, layers)
        if key in self._kept:
            yield ShownMap(shown, self._kept[key], True, self.n_total)
            return
        walked = await self._walked(shown, null_run) if null_run else shown
        async for picture, final in self._made(walked, cast("Method", method), dims, null_run, layers):
            if final and self._map is found:
                self._kept[key] = picture
            yield ShownMap(shown, picture, final, self.n_total)

    async def _made(
        self, found: Map, method: Method, dims: int, null_run: str, layers: tuple[str, ...]
    ) -> AsyncIterator[tuple[Picture, bool]]:
        """(picture, whether it is the last) pairs, PCA first; that of a small map is computed in the analysis thread."""
        from kltui.analysis.embed import checked

        checked(method, dims)
        small = found.loglik_KN.size <= LARGE
        if small:
            key = _key("pca", dims, null_run, layers)
            yield await self._once(key, lambda: found.picture("pca", dims)), method == "pca"
        if not small or method != "pca":
            async for made in self.embedded(found, method, dims, first=not small):
                yield made

    async def embedded(
        self, found: Map, method: Method, dims: int, *, first: bool
    ) -> AsyncIterator[tuple[Picture, bool]]:
        """(picture, whether it is the last) pairs of increasing quality, computed in another process; PCA `first`."""
        from kltui.tui.embedding import picture_of

        job = await self._job(found, method, dims, first=first)
        with job.rows:
            async for event, xyz_Kd in self._helper("embedder").run(job, self._tell):
                yield picture_of(event, xyz_Kd), event["last"]

    async def covariances(
        self, dims: int = 2, *, null_run: str = "", layers: tuple[str, ...] = ()
    ) -> tuple[Map, Array]:
        """The map and the K x dims x dims covariances of its places in the PCA picture (`Map.place_covariances`).

        `null_run` and `layers` are those of the picture: what they add turns its axes.
        """
        found = await self.map()
        shown = await self._with_layers(found, layers)
        key = f"covariances {_key('pca', dims, null_run, layers)}"
        if key not in self._kept or self._map is not found:
            drawn = await self._walked(shown, null_run) if null_run else shown
            if drawn.loglik_KN.size <= LARGE:
                made = await self._reader.compute(lambda: drawn.place_covariances(dims))
            else:
                job = await self._job(drawn, "pca", dims, task="covariances")
                with job.rows:
                    made = [array async for _, array in self._helper("surveyor").run(job, self._tell)][-1]
            if self._map is not found:
                return shown, made[: len(shown)]
            self._kept[key] = made[: len(shown)]
        return shown, self._kept[key]

    def _helper(self, name: str) -> Helper:
        """The computing process called `name`; it is started by the first request."""
        from kltui.tui.embedding import Helper

        if name not in self._helpers:
            self._helpers[name] = Helper(name)
            if self._is_closed:
                self._helpers[name].close()
        return self._helpers[name]

    def _tell(self, share: float, of: str) -> None:
        self.progress(share, of)

    async def _job(
        self, found: Map, method: Method, dims: int, *, task: Task = "picture", first: bool = False
    ) -> Job:
        """The request to another process; the vectors are in the file of a large map, or written to a new file."""
        from kltui.tui.embedding import Job, rows_file

        runs = await self._reader.compute(lambda: [t.rows for t in found.trajectories(layers=True)])
        rows: BinaryIO
        if self._rows is not None and found is self._map:
            # the map's descriptor is closed when the map changes
            rows = os.fdopen(os.dup(self._rows.fileno()), "rb")
        else:
            rows = await self._reader.compute(lambda: rows_file(found.loglik_KN))
        return Job(
            rows,
            found.loglik_KN.shape,
            found.text_bytes_N,
            found.text_ids_N,
            task,
            method,
            dims,
            runs,
            first,
        )

    async def _with_layers(self, found: Map, names: tuple[str, ...]) -> Map:
        """The map with the layer vectors of the checkpoints `names` added as points."""
        if not names:
            return found
        if self.is_prepared:
            raise KltuiError(
                "layer vectors are never clipped, so they cannot join a preprocessed map",
                f"press {self._key_of('basis')} and set preprocessing to none",
            )
        layered = await self.layers(names)
        rows = [k for k, p in enumerate(layered.points) if p.layer is not None]
        joined: Map = await self._once(f"joined {names}", lambda: _joined(found, layered.select(rows)))
        return joined

    @property
    def is_prepared(self) -> bool:
        """Whether the present map is preprocessed."""
        record = self._map.record.get("preprocess") if self._map is not None else None
        return isinstance(record, Mapping) and record.get("mode", "none") != "none"

    async def _walked(self, found: Map, run: str) -> Map:
        """The map with a random walk, which has the step lengths of `run`, added after its own points."""
        return await self._reader.compute(lambda: _joined(found, found.null_walk(run)))

    async def _released_picture(self, name: str, dims: int) -> Picture:
        """The picture called `name` of an imported release."""
        from kltui.analysis.embed import Picture

        return Picture(name, (await self.released())[name][:, :dims])

    async def released(self) -> dict[str, Array]:
        """{name: coordinates} of pictures from imported releases, K x 2 or K x 3; NaN for vectors without a place."""
        found = await self.map()
        key = f"released {self._map_version}"
        if key not in self._kept:
            self._kept[key] = await self._reader.read(lambda ws: ws.released_pictures(found.names))
        pictures: dict[str, Array] = self._kept[key]
        return pictures

    async def ask(self, key: str, work: Callable[[], Result]) -> Result:
        """The result of `work`, computed in the analysis thread and cached under `key` until vectors change."""
        return await self._once(key, work)

    def close(self) -> None:
        """Ends the computing processes and waits for them."""
        self._is_closed = True
        for helper in self._helpers.values():
            helper.close()
        self._close_rows()


def _key(method: str, dims: int, null_run: str, layers: tuple[str, ...]) -> str:
    """The cache key of a picture."""
    return f"picture {method} {dims} {null_run!r} {layers}"


def _joined(found: Map, other: Map) -> Map:
    """A map with the vectors of another one added; those of a large map are written to a new file."""
    import numpy as np

    from kltui.tui.embedding import rows_file

    if found.loglik_KN.size <= LARGE:
        return found.joined(other)
    shape = (len(found) + len(other), found.loglik_KN.shape[1])
    with rows_file(found.loglik_KN, other.loglik_KN) as file:
        return found.joined(other, np.memmap(file, "<f8", "r", shape=shape))


def _small_map(ws: Workspace, basis: Basis) -> tuple[Map, BinaryIO | None]:
    found = basis.map_of(ws)
    _ = found.repeats  # a cached property, computed in this thread so that no screen waits for it
    return found, None


def _large_map(ws: Workspace, rows_in: BinaryIO) -> tuple[Map, bool]:
    """(the map, whether its vectors are in the file)."""
    import numpy as np

    try:
        found = ws.map_in_file(rows_in)
    except OSError as error:
        from kltui.tui.embedding import no_room

        raise no_room(error) from error
    _ = found.repeats
    return found, isinstance(found.loglik_KN, np.memmap)


def _drawn_names(scored: list[Checkpoint]) -> list[str]:
    """Names of at most DRAWN checkpoints: the ends of every run, and others evenly between them."""
    from kltui.analysis.placing import drawn_rows

    runs: dict[tuple[str, str], list[int]] = {}
    for k, c in enumerate(scored):
        if c.step is not None:
            runs.setdefault((c.run, c.quantization), []).append(k)
    lines = [sorted(rows, key=lambda k: scored[k].step or 0) for rows in runs.values()]
    return [scored[k].name for k in drawn_rows(len(scored), lines, DRAWN)]


def _map_of(ws: Workspace, names: list[str]) -> Map:
    """The map of the checkpoints `names` over the corpus and settings of the workspace's map."""
    groups = ws.vector_groups()
    corpus = next((c for c in ws.corpora() if groups and not ws.over and c.id == groups[0].corpus_id), None)
    corpus = corpus or ws.corpus()
    settings = ws.settings or next((g.settings for g in groups if g.corpus_id == corpus.id), None)
    return ws.map(names=names, corpus=corpus.sha256, settings=settings)
