"""The next checkpoint read ahead, with a stand-in for the GPU: the same vectors, and whatever goes wrong costs no more than time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import FakeGpu
from safetensors.torch import load_file, save_file
from tiny_models import TEXTS, write_run

from kltui.errors import KltuiError
from kltui.registry.reading import Hashed, Reading, hash_files
from kltui.scoring import engine, prefetch, weight_reload
from kltui.scoring.prefetch import Prefetch
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoringSettings
from kltui.scoring.transfer import DirectTransfers


def scorer_with(gpu: FakeGpu | None, **settings: Any) -> Scorer:
    scorer = Scorer(TEXTS, "c", ScoringSettings(device="cpu", **settings))
    scorer._prefetch = Prefetch(gpu) if gpu is not None else None
    return scorer


def score(scorer: Scorer, hashed: Hashed, at: Callable[[], None] = lambda: None) -> np.ndarray:
    """The final vector; `at` is called when the first number of it is made."""
    called: list[int] = []

    def progress(p: Any) -> None:
        if p.stage == "score" and not called:
            called.append(1)
            at()

    with Reading(hashed) as reading:
        return scorer.score(hashed.folder, "none", hashed.weights, progress, reading).vectors[0].loglik_N


def finished(scorer: Scorer) -> None:
    """Waits until what is read ahead is there."""
    pending = scorer._prefetch._pending
    if pending is not None:
        pending.thread.join()


@pytest.fixture
def from_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes the checkpoints that are filled from their files."""
    seen: list[str] = []
    real = weight_reload.ModelTemplate._fill_from_files

    def noting(self: Any, folder: Path) -> Any:
        seen.append(folder.name)
        return real(self, folder)

    monkeypatch.setattr(weight_reload.ModelTemplate, "_fill_from_files", noting)
    return seen


@pytest.mark.parametrize("spare", [1 << 40, 0])
@pytest.mark.parametrize(
    ("family", "dtype"), [("gpt_neox", "float32"), ("llama_tied", "bfloat16"), ("gpt2", "float32")]
)
def test_a_run_read_ahead_has_the_same_bits(
    family: str, dtype: str, spare: int, tmp_path: Path, from_files: list[str]
) -> None:
    run = [hash_files(folder) for folder in write_run(tmp_path, family, steps=(0, 1, 2, 3))]
    expected = [score(scorer_with(None, dtype=dtype), hashed) for hashed in run]
    from_files.clear()
    gpu = FakeGpu(spare)
    scorer = scorer_with(gpu, dtype=dtype)
    for at, hashed in enumerate(run):
        follows = run[at + 1 :][:1]
        found = score(scorer, hashed, lambda f=follows: [scorer.expect(h, "none") for h in f])
        assert np.array_equal(found, expected[at], equal_nan=True)
    assert from_files == []
    sent = ["sends", "uses"] if spare else []
    first, later = ["locks", *sent, "marks"], ["waits for the copies", *sent, "marks"]
    assert gpu.log == first + later * 2
    scorer.close()


def test_a_sharded_checkpoint_is_read_ahead(tmp_path: Path, from_files: list[str]) -> None:
    a, b = write_run(tmp_path, "gpt_neox", steps=(0, 1))
    for folder in (a, b):
        tensors = load_file(folder / "model.safetensors")
        names = sorted(tensors)
        shards = {f"model-{i}.safetensors": names[i::2] for i in range(2)}
        for shard, held in shards.items():
            save_file({n: tensors[n] for n in held}, folder / shard, metadata={"format": "pt"})
        (folder / "model.safetensors").unlink()
        index = {"metadata": {}, "weight_map": {n: shard for shard, held in shards.items() for n in held}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    expected = score(scorer_with(None), hash_files(b))
    scorer = scorer_with(FakeGpu())
    score(scorer, hash_files(a), lambda: scorer.expect(hash_files(b), "none"))
    assert np.array_equal(score(scorer, hash_files(b)), expected, equal_nan=True)
    assert from_files == []


def test_files_that_change_after_they_were_hashed_fail_where_they_are_scored(tmp_path: Path) -> None:
    a, b = (hash_files(f) for f in write_run(tmp_path, "gpt_neox", steps=(0, 1)))
    scorer = scorer_with(FakeGpu())
    path = b.folder / "model.safetensors"
    tensors = load_file(path)
    tensors["embed_out.weight"] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    score(scorer, a, lambda: scorer.expect(b, "none"))
    finished(scorer)
    assert not scorer._prefetch._pending.whole
    with pytest.raises(KltuiError, match="changed after they were hashed"):
        score(scorer, b)


def test_files_that_change_while_they_are_read_ahead_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (hash_files(f) for f in write_run(tmp_path, "gpt_neox", steps=(0, 1)))
    path, real = b.folder / "model.safetensors", prefetch._read_files
    whole = path.read_bytes()

    def written_to(pending: Any, host: torch.Tensor) -> bool:
        path.write_bytes(whole[:-4] + b"\0\0\0\0")
        done = real(pending, host)
        assert done
        return done

    monkeypatch.setattr(prefetch, "_read_files", written_to)
    scorer = scorer_with(FakeGpu())
    score(scorer, a, lambda: scorer.expect(b, "none"))
    finished(scorer)
    assert not scorer._prefetch._pending.whole
    path.write_bytes(whole)  # what was hashed is back: what was read in between must not be
    assert np.array_equal(score(scorer, b), score(scorer_with(None), b), equal_nan=True)


def test_files_that_change_after_they_were_read_ahead_fail_too(tmp_path: Path) -> None:
    a, b = (hash_files(f) for f in write_run(tmp_path, "gpt_neox", steps=(0, 1)))
    scorer = scorer_with(FakeGpu())

    def ahead() -> None:
        scorer.expect(b, "none")
        finished(scorer)
        assert scorer._prefetch._pending.whole
        path = b.folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")

    score(scorer, a, ahead)
    with pytest.raises(KltuiError, match="changed after they were hashed"):
        score(scorer, b)


def test_a_file_cut_short_costs_its_own_checkpoint_alone(tmp_path: Path) -> None:
    a, b, c = write_run(tmp_path, "gpt_neox", steps=(0, 1, 2))
    path = b / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    run = [hash_files(f) for f in (a, b, c)]
    expected = score(scorer_with(None), run[2])
    scorer = scorer_with(FakeGpu())
    score(scorer, run[0], lambda: scorer.expect(run[1], "none"))
    with pytest.raises(KltuiError, match="damaged"):
        score(scorer, run[1])
    assert np.array_equal(score(scorer, run[2]), expected, equal_nan=True)


def test_another_checkpoint_than_the_one_expected_is_read_from_its_files(
    tmp_path: Path, from_files: list[str]
) -> None:
    a, b, c = (hash_files(f) for f in write_run(tmp_path, "gpt_neox", steps=(0, 1, 2)))
    expected = score(scorer_with(None), c)
    scorer = scorer_with(FakeGpu())
    score(scorer, a, lambda: scorer.expect(b, "none"))
    assert np.array_equal(score(scorer, c), expected, equal_nan=True)
    assert from_files == [c.folder.name]


def test_another_make_frees_what_was_read(tmp_path: Path) -> None:
    a, b = (hash_files(f) for f in write_run(tmp_path / "run", "gpt_neox", steps=(0, 1)))
    (other,) = (hash_files(f) for f in write_run(tmp_path / "other", "llama", steps=(0,)))
    scorer = scorer_with(FakeGpu())
    score(scorer, a, lambda: scorer.expect(other, "none"))
    finished(scorer)
    assert not scorer._prefetch._pending.whole
    expected = score(scorer_with(None), other)
    assert np.array_equal(score(scorer, other), expected, equal_nan=True)
    assert scorer._prefetch._host is None and scorer._prefetch._pending is None
    assert np.array_equal(score(scorer, b), score(scorer_with(None), b), equal_nan=True)


def test_memory_that_runs_short_takes_the_second_set_back(tmp_path: Path, from_files: list[str]) -> None:
    a, b, c = (hash_files(f) for f in write_run(tmp_path, "gpt_neox", steps=(0, 1, 2)))
    expected = [score(scorer_with(None), h) for h in (b, c)]
    gpu = FakeGpu()
    scorer = scorer_with(gpu)

    def ahead() -> None:
        scorer.expect(b, "none")
        finished(scorer)
        scorer._free_memory(scorer._engine)

    score(scorer, a, ahead)
    assert np.array_equal(score(scorer, b, lambda: scorer.expect(c, "none")), expected[0], equal_nan=True)
    assert np.array_equal(score(scorer, c), expected[1], equal_nan=True)
    assert gpu.log.count("sends") == 1 and "uses" not in gpu.log and from_files == []


def test_without_memory_for_it_nothing_is_read_ahead(
    tmp_path: Path, from_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (hash_files(f) for f in write_run(tmp_path, "gpt_neox", steps=(0, 1)))
    size = prefetch._layout(weight_reload.read_header(b.folder), weight_reload.read_header(b.folder).keys())[
        1
    ]
    monkeypatch.setattr(
        prefetch, "available_bytes", lambda: 2 * size
    )  # taken in powers of two, it is more than half
    gpu = FakeGpu()
    scorer = scorer_with(gpu)
    score(scorer, a, lambda: scorer.expect(b, "none"))
    score(scorer, b)
    assert "locks" not in gpu.log and from_files == [b.folder.name]


def test_all_gpus_share_the_hosts_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu()
    ahead = Prefetch(gpu)
    monkeypatch.setattr(prefetch, "available_bytes", lambda: 4096)
    assert ahead._host_memory(2048) is not None
    gpu.peers = 2
    assert ahead._host_memory(2047) is None and ahead._host_memory(1024) is not None


def test_what_is_under_way_ends_when_it_is_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (hash_files(f) for f in write_run(tmp_path, "gpt_neox", steps=(0, 1)))
    monkeypatch.setattr(prefetch, "PIECE_BYTES", 8)
    begun, real = threading.Event(), prefetch._is_filled

    def slow(part: memoryview, file: Any, cancelled: threading.Event) -> bool:
        begun.set()
        cancelled.wait(60)
        return real(part, file, cancelled)

    monkeypatch.setattr(prefetch, "_is_filled", slow)
    scorer = scorer_with(FakeGpu())
    score(scorer, a, lambda: scorer.expect(b, "none"))
    assert begun.wait(60)
    thread = scorer._prefetch._pending.thread
    before = time.monotonic()
    scorer.close()
    assert not thread.is_alive() and time.monotonic() - before < 30
    monkeypatch.setattr(prefetch, "_is_filled", real)
    assert np.array_equal(score(scorer, b), score(scorer_with(None), b), equal_nan=True)


def test_quantised_variants_and_models_without_a_mould_are_not_read_ahead(tmp_path: Path) -> None:
    (a,) = (hash_files(f) for f in write_run(tmp_path, "gpt_neox", steps=(0,)))
    scorer = scorer_with(FakeGpu())
    scorer.expect(a, "none")
    score(scorer, a)
    scorer.expect(a, "bnb-8bit")
    assert scorer._prefetch._pending is None


class Queue(DirectTransfers):
    """Transfers of a device that works through what it is asked, by a clock of its own."""

    waits = True
    clock = 0.0

    def mark(self) -> float:
        Queue.clock += 0.001
        return Queue.clock


def test_the_devices_idle_seconds_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (hash_files(f) for f in write_run(tmp_path, "gpt_neox", steps=(0, 1)))
    plain = scorer_with(None)
    with Reading(a) as reading:
        stats = plain.score(a.folder, "none", a.weights, lambda _: None, reading).stats
    assert stats["device_idle_seconds"] >= stats["seconds_load"] and stats["weights_read_ahead"] == 0.0
    monkeypatch.setattr(engine, "transfers", Queue)
    scorer = scorer_with(FakeGpu())
    found, begun = [], time.perf_counter()
    for hashed, follows in ((a, b), (b, None)):
        with Reading(hashed) as reading:
            result = scorer.score(
                hashed.folder,
                "none",
                hashed.weights,
                lambda p, f=follows: f and p.stage == "score" and scorer.expect(f, "none"),
                reading,
            )
        found.append(result.stats)
    took = time.perf_counter() - begun
    assert [stats["weights_read_ahead"] for stats in found] == [0.0, 1.0]
    assert sum(stats["device_idle_seconds"] for stats in found) <= took
    for stats in found:
        assert stats["device_idle_seconds"] >= stats["seconds_load"] - 0.1  # its clock had but a few ticks


def test_a_cpu_reads_nothing_ahead() -> None:
    assert prefetch.prefetch_for(torch.device("cpu")) is None
    assert Scorer(TEXTS, "c", ScoringSettings(device="cpu"))._prefetch is None


def test_available_memory_is_a_part_of_the_machines() -> None:
    import os

    assert 0 < prefetch.available_bytes() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class Stream:
    """A stream of CUDA, by what is asked of it."""

    def __init__(self, name: str, log: list[Any]) -> None:
        self._name, self._log = name, log

    def record_event(self) -> str:
        self._log.append(f"event on {self._name}")
        return f"event of {self._name}"

    def wait_event(self, event: str) -> None:
        self._log.append(f"{self._name} waits for {event}")

    def __str__(self) -> str:
        return self._name


class Memory:
    """A tensor, by what is asked of it."""

    def __init__(self, log: list[Any]) -> None:
        self._log = log

    def to(self, device: torch.device, *, non_blocking: bool) -> Memory:
        self._log.append(f"copy to {device}{' without blocking' * non_blocking}")
        return self

    def record_stream(self, stream: Stream) -> None:
        self._log.append(f"kept for {stream}")


def test_what_is_asked_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy is on a stream of its own, and the current one waits for it; no other GPU than the one meant is touched."""
    log: list[Any] = []
    stack: list[Stream] = []

    @contextmanager
    def within(stream: Stream) -> Iterator[None]:
        stack.append(stream)
        yield
        stack.pop()

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(f"side of {device}", log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(f"current of {device}", log))
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: log.append(f"sets {device}"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    gpu = prefetch.CudaGpu(torch.device("cuda", 1))
    gpu.enter_thread()
    there, sent = gpu.send(Memory(log))
    gpu.use(there, sent)
    gpu.mark()
    assert log == [
        "sets cuda:1",
        "copy to cuda:1 without blocking",
        "event on side of cuda:1",
        "current of cuda:1 waits for event of side of cuda:1",
        "kept for current of cuda:1",
        "event on current of cuda:1",
    ]
    assert gpu.peers == 2 and gpu.spare_bytes() == 50 and stack == []
