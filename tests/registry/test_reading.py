"""Whatever happens to a model's files between the hash and the last forward pass is seen, and named."""

from __future__ import annotations

import mmap
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from model_folders import make_model, make_sharded

from kltui.registry import digest, reading
from kltui.registry.digest import fingerprint, sha256_file
from kltui.registry.reading import ChangedError, Hashed, Reading, are_settled, hash_files, stamps, still_holds


def overwrite(path: Path, data: bytes) -> None:
    """In place, with the size and the modification time that it had."""
    before = path.stat()
    assert len(data) == before.st_size
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path, data: bytes) -> None:
    """By a file of the same size and modification time, renamed into place."""
    before, aside = path.stat(), path.with_name("aside")
    aside.write_bytes(data)
    os.utime(aside, ns=(before.st_atime_ns, before.st_mtime_ns))
    aside.replace(path)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "overwritten": (lambda f: overwrite(f / "model.safetensors", b"WEIGHTS"), "model.safetensors"),
    "replaced": (lambda f: replace(f / "model.safetensors", b"WEIGHTS"), "model.safetensors"),
    "grown": (lambda f: (f / "model.safetensors").write_bytes(b"weights and more"), "model.safetensors"),
    "config": (lambda f: overwrite(f / "config.json", b'{"model_type": "gpt_NeoX"}'), "config.json"),
    "tokenizer": (lambda f: overwrite(f / "tokenizer.json", b"[]"), "tokenizer.json"),
    "new tokenizer file": (lambda f: (f / "added_tokens.json").write_text("{}"), "added_tokens.json"),
    "tokenizer file removed": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
}


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a test count as old, so that the stamps decide; the last tests undo it."""
    monkeypatch.setattr(digest, "SETTLED_AFTER_NS", -60_000_000_000)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_hash_and_reading_is_seen(tmp_path: Path, change: str) -> None:
    hashed = hash_files(make_model(tmp_path / "m"))
    do, name = CHANGES[change]
    do(hashed.folder)
    with pytest.raises(ChangedError, match=f"changed after they were hashed: {name}") as caught:
        Reading(hashed)
    assert "run the job again" in caught.value.hint


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_while_loading_is_seen(tmp_path: Path, change: str) -> None:
    do, name = CHANGES[change]
    with Reading(hash_files(make_model(tmp_path / "m"))) as files:
        files.check()
        do(tmp_path / "m")
        with pytest.raises(ChangedError, match=f"changed while they were loaded: {name}"):
            files.check()


def test_what_does_not_matter_to_a_score_may_change(tmp_path: Path) -> None:
    with Reading(hash_files(make_model(tmp_path / "m"))) as files:
        (tmp_path / "m" / "optimizer.pt").write_bytes(b"x")
        (tmp_path / "m" / "trainer_state.json").write_text("{}")
        files.check()
        shutil.rmtree(tmp_path / "m")  # a trainer that keeps only its last checkpoints
        files.check_used()


def test_a_mapped_file_that_is_written_to_is_seen_after_the_last_pass(tmp_path: Path) -> None:
    path = make_model(tmp_path / "m") / "model.safetensors"
    with (
        Reading(hash_files(tmp_path / "m")) as files,
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ),
    ):
        replace(path, b"WEIGHTS")
        files.check_used()
        with pytest.raises(ChangedError, match="in use"):
            files.check_used(by_name=True)
    with Reading(hash_files(tmp_path / "m")) as files, path.open("rb") as file:
        overwrite(path, b"weights")
        files.check_used()  # mapped nowhere: it was read before
        with (
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ),
            pytest.raises(ChangedError, match="in use"),
        ):
            files.check_used()


def test_a_change_while_hashing_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_model(tmp_path / "m")

    def slow(folder: Path, tokenizer: Path | None = None) -> str:
        (folder / "model.safetensors").write_bytes(b"another")
        return fingerprint(folder, tokenizer)

    monkeypatch.setattr(reading, "fingerprint", slow)
    with pytest.raises(ChangedError, match="while they were hashed"):
        hash_files(folder)


def test_the_same_bytes_under_other_stamps_are_read(tmp_path: Path) -> None:
    """Another machine's copy, or its view of a shared disk, has inodes and times of its own."""
    hashed = hash_files(make_model(tmp_path / "here"))
    there = make_model(tmp_path / "there")
    with Reading(Hashed(there, hashed.weights, hashed.stamps, True)) as files:
        files.check()
    (there / "model.safetensors").write_bytes(b"strange")
    with pytest.raises(ChangedError):
        Reading(Hashed(there, hashed.weights, hashed.stamps, True))


def test_a_tokenizer_elsewhere_counts(tmp_path: Path) -> None:
    folder, other = make_model(tmp_path / "m"), tmp_path / "t"
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    other.mkdir()
    (tmp_path / "tokenizer.json").rename(other / "tokenizer.json")
    hashed = hash_files(folder, other)
    assert hashed.weights not in (fingerprint(folder), fingerprint(other.parent / "m"))
    with Reading(hashed) as files:
        overwrite(other / "tokenizer.json", b"[]")
        with pytest.raises(ChangedError, match=r"tokenizer/tokenizer\.json"):
            files.check()


def test_a_file_of_the_hub_is_held_against_the_hash_its_link_names(tmp_path: Path) -> None:
    import hashlib

    folder = make_sharded(tmp_path / "snapshots" / "c", {"a.safetensors": b"one"})
    (tmp_path / "blobs").mkdir()
    for path in folder.iterdir():
        blob = tmp_path / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(blob)
        path.symlink_to(blob)
    assert still_holds(folder, "o/n@" + "0" * 40)
    overwrite(tmp_path / "blobs" / hashlib.sha256(b"one").hexdigest(), b"two")
    assert not still_holds(folder, "o/n@" + "0" * 40)


@pytest.fixture
def young(monkeypatch: pytest.MonkeyPatch, settled: None) -> None:
    """A file system whose clock does not tick between two writes."""
    monkeypatch.setattr(digest, "SETTLED_AFTER_NS", 2_000_000_000)
    now = time.time_ns()
    monkeypatch.setattr(reading, "stamp", lambda status: (status.st_size, 0, now, 0))


def test_within_one_tick_of_the_clock_the_bytes_decide(tmp_path: Path, young: None) -> None:
    hashed = hash_files(make_model(tmp_path / "m"))
    assert not hashed.settled
    with Reading(hashed) as files:
        files.check()
        overwrite(tmp_path / "m" / "model.safetensors", b"WEIGHTS")
        assert stamps(tmp_path / "m") == hashed.stamps
        with pytest.raises(ChangedError, match="while they were loaded"):
            files.check()
    with pytest.raises(ChangedError, match="after they were hashed"):
        Reading(hashed)


def test_a_young_file_is_hashed_each_time_and_an_old_one_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one")
    changed_ns = path.stat().st_ctime_ns
    monkeypatch.setattr(digest, "SETTLED_AFTER_NS", 2 * 10**9)
    assert not are_settled(f'[["f", 3, 0, {changed_ns}, 0]]', changed_ns + 10**9)
    assert are_settled(f'[["f", 3, 0, {changed_ns}, 0]]', changed_ns + 3 * 10**9)
    read: list[int] = []
    real = digest.hashlib.file_digest
    monkeypatch.setattr(digest.hashlib, "file_digest", lambda f, k: (read.append(1), real(f, k))[1])
    for seconds, times in ((-60, 1), (2, 2)):
        monkeypatch.setattr(digest, "SETTLED_AFTER_NS", seconds * 10**9)
        digest._known.clear()
        read.clear()
        assert sha256_file(path) == sha256_file(path)
        assert len(read) == times
