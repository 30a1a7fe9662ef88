"""Pictures from a process of their own: what they are, how far it is, what is said when it dies, and large maps in a file."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from big_workspace import write_workspace
from fake_workspace import FakeWorkspace

from kltui.errors import KltuiError
from kltui.tui import map_cache as map_cache_module
from kltui.tui.data import SnapshotReader
from kltui.tui.embed_worker import read_request
from kltui.tui.embedding import Job
from kltui.tui.map_cache import MapCache, ShownMap

Result = TypeVar("Result")


def answered(reader: SnapshotReader, question: Callable[[MapCache], Awaitable[Result]]) -> Result:
    """The answer of a question to an atlas over what the reader reads."""

    async def ask() -> Result:
        map_cache = MapCache(reader)
        map_cache.scored(await reader.snapshot())
        try:
            return await question(map_cache)
        finally:
            map_cache.close()
            reader.close()

    return asyncio.run(ask())


def fake(scored: int | None = None) -> SnapshotReader:
    return SnapshotReader(Path("/workspaces/demo"), opener=lambda _: FakeWorkspace(40, scored))  # type: ignore[arg-type,return-value]


async def every(map_cache: MapCache, method: str, dims: int = 2, **more: object) -> list[ShownMap]:
    return [shown async for shown in map_cache.pictures(method, dims, **more)]


def test_t_sne_in_its_own_process_is_that_of_the_map_and_tells_how_far_it_is() -> None:
    said: list[tuple[float, str]] = []

    async def question(map_cache: MapCache) -> list[ShownMap]:
        map_cache.progress = lambda share, of: said.append((share, of))
        made = await every(map_cache, "tsne")
        assert len(await every(map_cache, "tsne")) == 1  # it is kept
        assert map_cache._helper("embedder").peak_kilobytes > 10_000
        return made

    first, last = answered(fake(34), question)
    assert (first.picture.method, first.final, last.picture.method, last.final) == (
        "pca",
        False,
        "tsne",
        True,
    )
    whole = last.map.picture("tsne")
    np.testing.assert_array_equal(last.picture.xyz_Kd, whole.xyz_Kd)
    assert last.picture.facts() == whole.facts() and first.picture.axis_share
    assert said == sorted(said) and len(said) > 5 and said[-1][0] <= 1.0
    assert said[0][1] == f"t-SNE of {len(last.map)}"


@pytest.mark.parametrize("runs", [(), ((0, 3, 1),), ((2,), (), (5, 4))])
def test_a_request_arrives_as_it_was_made(tmp_path: Path, runs: tuple[tuple[int, ...], ...]) -> None:
    text_bytes_N, ids_N = np.array([7, 9, 7]), np.array([0, 1, 0])
    with (tmp_path / "rows").open("w+b") as rows:
        for ids in (None, ids_N):
            job = Job(rows, (6, 3), text_bytes_N, ids, "picture", "mds", 3, runs, True)
            asked, lengths, identity = read_request(io.BytesIO(job.request()))
            assert asked["runs"] == [list(run) for run in runs] and asked["shape"] == [6, 3]
            assert (asked["task"], asked["method"], asked["dims"], asked["first"]) == (
                "picture",
                "mds",
                3,
                True,
            )
            assert asked["rows"] == rows.fileno() and lengths.tolist() == text_bytes_N.tolist()
            assert (identity is None) if ids is None else (identity.tolist() == ids.tolist())


def test_a_process_that_dies_is_noticed_at_once_and_the_next_one_answers() -> None:
    async def question(map_cache: MapCache) -> list[ShownMap]:
        def kill(_share: float, _of: str) -> None:
            assert map_cache._helper("embedder")._child is not None
            os.kill(map_cache._helper("embedder")._child.pid, signal.SIGKILL)

        map_cache.progress = kill
        with pytest.raises(KltuiError, match="ended by SIGKILL") as died:
            await every(map_cache, "tsne")
        assert "again" in died.value.hint
        map_cache.progress = lambda share, of: None
        return await every(map_cache, "mds")

    assert answered(fake(40), question)[-1].picture.stress < 0.2


def test_what_a_process_refuses_is_said_in_its_words() -> None:
    with pytest.raises(KltuiError, match="needs more than 30 points, the map has 3") as refused:
        answered(fake(3), lambda map_cache: every(map_cache, "tsne"))
    assert "PCA" in refused.value.hint


def test_lens_vectors_and_a_random_walk_are_points_of_the_same_picture() -> None:
    async def question(map_cache: MapCache) -> tuple[ShownMap, ShownMap]:
        names = tuple(n for n in (await map_cache.map()).names if n.startswith("small@"))[-2:]
        return (await every(map_cache, "pca", layers=names))[-1], (
            await every(map_cache, "pca", null_run="tiny")
        )[-1]

    layered, walked = answered(fake(), question)
    assert sum(p.layer is not None for p in layered.map.points) == 8
    assert len(layered.picture.xyz_Kd) == len(layered.map) > layered.n_total
    np.testing.assert_allclose(layered.picture.xyz_Kd, layered.map.coordinates("pca"))
    assert len(walked.picture.xyz_Kd) > len(walked.map) == walked.n_total


def test_a_large_map_is_drawn_at_once_then_whole_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_workspace(tmp_path / "w", 120, 60)
    monkeypatch.setattr(map_cache_module, "LARGE", 1000)
    monkeypatch.setattr(map_cache_module, "DRAWN", 20)

    async def question(
        map_cache: MapCache,
    ) -> tuple[list[ShownMap], tuple[object, np.ndarray], list[ShownMap]]:
        made, errors = await every(map_cache, "tsne"), await map_cache.covariances(2)
        return made, errors, await every(map_cache, "pca", null_run="small")

    made, (_, covariance), walked = answered(SnapshotReader(folder), question)
    assert walked[-1].final and len(walked[-1].picture.xyz_Kd) == 120 + 30
    np.testing.assert_allclose(
        walked[-1].picture.xyz_Kd, made[-1].map.with_null("small").coordinates("pca"), atol=1e-12
    )
    drawn, whole, last = made
    assert len(drawn.map) == 20 and drawn.n_total == 120 and drawn.picture.method == "pca"
    assert {"tiny@0", "tiny@290", "base@290"} <= set(drawn.map.names)
    assert isinstance(whole.map.loglik_KN, np.memmap) and len(whole.map) == 120
    np.testing.assert_allclose(whole.picture.xyz_Kd, whole.map.coordinates("pca"), atol=1e-12)
    assert last.final and last.picture.method == "tsne"
    np.testing.assert_array_equal(last.picture.xyz_Kd, last.map.coordinates("tsne"))
    np.testing.assert_allclose(covariance, last.map.place_covariances(2), rtol=1e-9)
