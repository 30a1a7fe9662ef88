"""Bits flipped, sectors zeroed, files cut: --check finds it or no figure has changed, and no figure is ever wrong."""

from __future__ import annotations

import contextlib
import io
import random
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from fault_kit import Lives, check_stored, vectors, write_job
from full_store import fill

import kltui
from kltui.cli import main
from kltui.corpus import Corpus
from kltui.errors import StoreError
from kltui.registry import Checkpoint, LocalSource
from kltui.store import Store

Files = dict[str, bytes]


def figures(folder: Path) -> list[object]:
    """Everything that a report could be made of. Raises StoreError where something is damaged."""
    with kltui.open(folder) as ws:
        m = ws.map(layers=True)
        rows = [(r.name, r.status, r.mean_loglik, r.layers, r.error, r.weights) for r in ws.checkpoints()]
        kept = [
            ws._store.weight_distances.all(),
            ws.benchmark_scores(),
            ws.records("draw"),
            ws.records("map"),
        ]
        jobs = [(j.status, j.done, j.failed, j.total, ws.job_items(j.id)[0].stats) for j in ws.jobs()]
        numbers = [m.loglik_KN.tobytes(), m.n_scored_KN.tobytes(), m.text_bytes_N.tolist()]
        return [*map(repr, rows), m.names, m.record, *numbers, ws.texts(), ws.domains(), *kept, *jobs]


def files(folder: Path) -> Files:
    """The files of a store; what SQLite makes anew by itself aside."""
    found = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and not p.name.endswith("-shm")}
    return {name: data for name, data in found.items() if data}


def put(folder: Path, state: Files) -> None:
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    for name, data in state.items():
        (folder / name).write_bytes(data)


def damaged(state: Files, chance: random.Random, number: int) -> Files:
    """The files with one damage, of a kind that goes by its number."""
    name = chance.choice([*state, "kltui.sqlite"])
    data = bytearray(state[name])
    at = chance.randrange(len(data))
    match number % 5:
        case 0:
            data[at] ^= 1 << chance.randrange(8)
        case 1:
            at -= at % 512
            data[at : at + 512] = bytes(len(data[at : at + 512]))
        case 2:
            del data[at:]
        case 3:
            data[at : at + 64] = chance.randbytes(len(data[at : at + 64]))
        case _:
            at -= at % 4096
            other = chance.randrange(len(data)) // 4096 * 4096
            data[at : at + 4096] = data[other : other + len(data[at : at + 4096])]
    return {**state, name: bytes(data)}


def check_damages(folder: Path, state: Files, n: int, seed: int) -> tuple[int, int]:
    """(found, without harm) of n damages. Raises AssertionError where one gives other figures."""
    chance, found, harmless = random.Random(seed), 0, 0
    put(folder, state)
    right = figures(folder)
    for number in range(n):
        broken = damaged(state, chance, number)
        put(folder, broken)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = main(["--check", str(folder)])
        put(folder, broken)
        try:
            same = figures(folder) == right
        except StoreError:
            assert code == 3, f"damage {number} is refused, and --check finds nothing"
        else:
            assert same, f"damage {number} gives other figures"
        assert code in (0, 3)
        found, harmless = found + (code == 3), harmless + (code == 0)
    put(folder, state)
    return found, harmless


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with rows in every table."""
    folder = tmp_path_factory.mktemp("damage")
    fill(folder)
    return folder


def test_damage_is_found_or_changes_no_figure(filled: Path) -> None:
    found, _ = check_damages(filled, files(filled), 60, seed=1)
    assert found > 15


def test_damage_to_what_a_killed_writer_left_is_found_or_changes_no_figure(filled: Path) -> None:
    """With a log that is not yet in the database, and the count of what it holds beside it."""
    store = Store.write(filled)
    for n in range(4):
        with store.atomic():
            store.benchmark_scores.put({"run@0": {"arc": float(n)}})
    state = files(filled)
    store.close()
    assert set(state) == {"kltui.sqlite", "kltui.sqlite-wal", "kltui.lock"}
    found, _ = check_damages(filled, state, 60, seed=2)
    assert found > 15
    for gone in ("kltui.sqlite-wal", "kltui.sqlite"):
        put(filled, {name: data for name, data in state.items() if name != gone})
        with pytest.raises(StoreError):
            figures(filled)


@pytest.mark.parametrize("command", ["--report", "--export"])
def test_a_sector_of_the_lengths_of_texts_moves_no_figure(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """512 zeroed bytes there moved every KL by 14 %."""
    folder = tmp_path / "ws"
    corpus = Corpus(tuple(f"text {n} " * (1 + n % 7) for n in range(200)))
    store = Store.write(folder)
    with store.atomic():
        corpus_id = store.corpora.add(corpus, "texts.json")
        for step in range(3):
            cid = store.checkpoints.upsert(Checkpoint("run", LocalSource(Path("/m")), step))
            store.checkpoints.set_weights(cid, f"w{step}")
            loglik_N = -np.arange(200.0) * (1 + step)
            store.vectors.put(
                cid, corpus_id, None, {"weights": f"w{step}"}, "s", loglik_N, np.ones(200, np.int32), 1
            )
    store.close()
    path = folder / "kltui.sqlite"
    data = path.read_bytes()
    at = data.index(corpus.text_bytes.astype("<i8").tobytes()[:1600])
    path.write_bytes(data[: at + 600] + bytes(512) + data[at + 1112 :])
    asked = [command, str(tmp_path / "out")] if command == "--export" else [command]
    assert main([*asked, str(folder)]) == 3
    reported = capsys.readouterr()
    assert "1 of 1 rows of corpus were altered" in reported.err and not reported.out
    assert main(["--check", "--mend", str(folder)]) == 0
    with kltui.open(folder) as ws:
        assert ws.map().text_bytes_N.tolist() == corpus.text_bytes.tolist()


@pytest.mark.parametrize(
    ("change", "mending"),
    [
        ("UPDATE vector SET loglik = zeroblob(length(loglik)) WHERE id = 2", False),
        ("UPDATE text SET body = x'41' WHERE idx = 3", False),
        ("UPDATE checkpoint SET seed = 5 WHERE id = 2", True),
        ("DELETE FROM checkpoint WHERE id = 2", True),
        ("UPDATE vector SET settings = 'other' WHERE id = 2", True),
        ("UPDATE corpus SET source = 'other'", True),
        ("UPDATE job SET toml = ''", True),
        ("DELETE FROM job_item", True),
    ],
)
def test_what_is_damaged_is_scored_again_by_the_job(
    lives: Lives, tmp_path: Path, change: str, mending: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the job alone, or once what is damaged was taken out."""
    job, folder = write_job(tmp_path, checkpoints=3, texts=5), tmp_path / "ws"
    assert lives.run("--batch", str(job), "--json").code == 0
    right = vectors(folder)
    with contextlib.closing(sqlite3.connect(folder / "kltui.sqlite")) as db, db:
        db.execute(change)
    assert main(["--check", str(folder)]) == 3
    if mending:
        refused = lives.run("--batch", str(job))
        assert refused.code == 3 and "--check --mend" in refused.err
        assert main(["--check", "--mend", str(folder)]) == 0
    assert lives.run("--batch", str(job), "--json").code == 0
    assert main(["--check", str(folder)]) == 0, capsys.readouterr().out
    assert vectors(folder) == right and check_stored(job) == 3


@pytest.mark.parametrize("n", [40, pytest.param(200, marks=pytest.mark.full)])
def test_damages_to_what_a_batch_scored(lives: Lives, tmp_path: Path, n: int) -> None:
    """In every run eight damages of each kind, with --full forty."""
    job = write_job(tmp_path, checkpoints=40, texts=300)
    assert lives.run("--batch", str(job), "--json").code == 0
    found, harmless = check_damages(tmp_path / "ws", files(tmp_path / "ws"), n, seed=3)
    assert found + harmless == n and found > 0.3 * n
