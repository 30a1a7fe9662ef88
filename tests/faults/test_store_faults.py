"""A workspace that is read-only, remote, damaged, contested, or whose clock jumps."""

from __future__ import annotations

import json
import random
import socket
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from fault_kit import (
    Lives,
    check_stored,
    ends,
    run_cli,
    start,
    truths,
    vectors,
    write_job,
)

import kltui
from kltui.errors import StoreError
from kltui.jobs import launch
from kltui.jobs.progress_report import Tally
from kltui.store import JobItemRow, Store, writer_lock


@pytest.fixture
def scored(lives: Lives, tmp_path: Path) -> Path:
    """A job file whose workspace is complete."""
    job = write_job(tmp_path)
    assert lives.run("--batch", str(job), "--json").code == 0
    return job


# ---- read-only


def test_a_read_only_workspace_is_read_and_not_written(scored: Path, shim: None) -> None:
    ws = scored.parent / "ws"
    frozen = {"FAULT_FOLDER": str(ws), "FAULT_READ_ONLY": "1"}
    report = run_cli("--report", str(ws), "--section", "overview", cwd=scored.parent, **frozen)
    assert report.returncode == 0 and "run" in report.stdout, report.stderr
    extra = ("--set", "scoring.dtype=bfloat16")
    batch = run_cli("--batch", str(scored), *extra, cwd=scored.parent, **frozen)
    assert batch.returncode == 3 and "Traceback" not in batch.stderr
    assert "may write there" in batch.stderr or "check its permissions" in batch.stderr, batch.stderr
    fresh = {**frozen, "FAULT_FOLDER": str(scored.parent / "new")}
    new = run_cli("--batch", str(scored), "--set", "workspace=new", cwd=scored.parent, **fresh)
    assert new.returncode == 3 and "check its permissions" in new.stderr
    doctor = run_cli("--doctor", str(ws), "--json", cwd=scored.parent, HF_HUB_OFFLINE="1", **frozen)
    findings = json.loads(doctor.stdout)["findings"]
    assert any(f["topic"] == "workspace" and f["state"] == "note" for f in findings)


def test_a_job_started_from_the_interface_in_a_workspace_that_cannot_be_made(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    (tmp_path / "ws").write_text("a file")
    with pytest.raises(StoreError, match="ws"):
        launch.start_detached(job)


# ---- a network file system


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "fuse.sshfs"])
def test_on_a_network_file_system_the_journal_is_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"somewhere / {kind} rw 0 0\n")
    monkeypatch.setattr("kltui.store.filesystem.MOUNTS", mounts)
    store = Store.write(tmp_path / "ws")
    assert store.db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert store.db.execute("PRAGMA synchronous").fetchone() == (3,)
    store.close()
    assert [p.name for p in (tmp_path / "ws").iterdir()] == ["kltui.sqlite"]


def test_a_workspace_moved_to_a_network_file_system_changes_its_journal(
    scored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = scored.parent / "mounts"
    mounts.write_text("somewhere / nfs4 rw 0 0\n")
    monkeypatch.setattr("kltui.store.filesystem.MOUNTS", mounts)
    store = Store.write(scored.parent / "ws")
    assert store.db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    store.close()
    assert vectors(scored.parent / "ws") == truths(scored)


@pytest.mark.parametrize("kind", ["ext4", "nfs4"])
def test_what_a_killed_writer_left_half_done_is_undone_by_the_next_reader(
    scored: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A rollback journal with pages already overwritten: taken from under a writer's open transaction."""
    mounts, ws, left = scored.parent / "mounts", scored.parent / "ws", scored.parent / "left"
    mounts.write_text(f"somewhere / {kind} rw 0 0\n")
    db = sqlite3.connect(ws / "kltui.sqlite", isolation_level=None)
    db.execute("PRAGMA journal_mode = DELETE")
    db.execute("PRAGMA cache_size = 1")
    db.execute("BEGIN")
    db.execute("UPDATE vector SET loglik = zeroblob(160)")
    db.execute("UPDATE text SET body = zeroblob(9000)")
    left.mkdir()
    for path in ws.glob("kltui.sqlite*"):
        (left / path.name).write_bytes(path.read_bytes())
    db.execute("ROLLBACK")
    db.close()
    assert (left / "kltui.sqlite-journal").stat().st_size > 0
    assert (left / "kltui.sqlite").read_bytes() != (ws / "kltui.sqlite").read_bytes()
    monkeypatch.setattr("kltui.store.filesystem.MOUNTS", mounts)
    assert vectors(left) == truths(scored)
    with kltui.open(left) as reader, pytest.raises(StoreError, match="readonly"):
        reader._store.db.execute("DELETE FROM vector")


# ---- damage


def test_no_damage_gives_a_wrong_vector_or_a_traceback(scored: Path) -> None:
    """A stretch of the file overwritten, in 24 places: an answer is right, or it is a StoreError."""
    path, right = scored.parent / "ws" / "kltui.sqlite", truths(scored)
    sound, chance = path.read_bytes(), random.Random(1)
    reported = 0
    for size in [64, 2000, 20_000] * 8:
        at = chance.randrange(len(sound) - size)
        path.write_bytes(sound[:at] + chance.randbytes(size) + sound[at + size :])
        try:
            with kltui.open(path.parent) as ws:
                ws.texts(), ws.domains(), [ws.job_items(job.id) for job in ws.jobs()]
                m = ws.map()
                assert all(m.loglik_KN[k].tobytes() == right[name] for k, name in enumerate(m.names))
        except StoreError:
            reported += 1
    assert reported > 1  # the rest hit what nobody reads


def test_a_damaged_store_ends_a_command_with_three_and_advice(scored: Path) -> None:
    path = scored.parent / "ws" / "kltui.sqlite"
    sound = path.read_bytes()
    path.write_bytes(sound[:16384] + bytes(len(sound) - 16384))
    batch = run_cli("--batch", str(scored), cwd=scored.parent)
    assert batch.returncode == 3 and "is damaged" in batch.stderr and "Traceback" not in batch.stderr
    doctor = run_cli("--doctor", str(path.parent), "--json", cwd=scored.parent, HF_HUB_OFFLINE="1")
    assert doctor.returncode == 1
    wrong = [f for f in json.loads(doctor.stdout)["findings"] if f["state"] == "wrong"]
    assert {f["topic"] for f in wrong} & {"store", "workspace"}, wrong


@pytest.mark.parametrize("where", ["pages", "vector", "text"])
def test_what_reads_a_damaged_store_exits_three_and_prints_no_figures(scored: Path, where: str) -> None:
    folder = scored.parent / "ws"
    path = folder / "kltui.sqlite"
    sound = path.read_bytes()
    if where == "pages":
        path.write_bytes(sound[:16384] + bytes(len(sound) - 16384))
    elif where == "vector":
        at = sound.index(truths(scored)["run@3"][:32])
        path.write_bytes(sound[: at + 8] + b"\xff" + sound[at + 9 :])
    else:
        at = sound.index(b"bos=auto dtype")
        path.write_bytes(sound[:at] + b"\xff\xfe" + sound[at + 2 :])
    for asked in (["--report"], ["--report", "--json"], ["--export", "out"]):
        done = run_cli(*asked, str(folder), cwd=scored.parent)
        assert done.returncode == 3, (asked, done.stdout)
        assert "is damaged" in done.stderr and "copy" in done.stderr and "Traceback" not in done.stderr
        assert done.stdout == "" and not list(scored.parent.glob("out/*"))


def test_bit_rot_in_kept_tokens_is_told_to_readers_and_mended_by_the_job(
    lives: Lives, tmp_path: Path
) -> None:
    job = write_job(tmp_path, checkpoints=2, texts=3, extra="[scoring]\ntokens = true\n")
    assert lives.run("--batch", str(job), "--json").code == 0
    with kltui.open(tmp_path / "ws") as ws:
        kept = ws.token_logprobs("run@0")
        assert kept is not None
        sound = kept.read_bytes()
        kept.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
        with pytest.raises(StoreError, match=r"damaged.*hash"):
            ws.token_logprobs("run@0")
    again = lives.run("--batch", str(job), "--json")
    assert again.code == 0 and [n for n, e in ends(again.out).items() if not e.get("kept")] == ["run@0"]
    assert kept.read_bytes() == sound


def test_tokens_of_other_weights_or_settings_do_not_pass_for_ours(lives: Lives, tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=1, texts=3)
    tokens = ("--set", "scoring.tokens=true")
    assert lives.run("--batch", str(job), "--json", *tokens).code == 0
    assert lives.run("--batch", str(job), "--json", *tokens, "--set", "scoring.dtype=bfloat16").code == 0
    again = lives.run("--batch", str(job), *tokens, "--json")
    assert [e.get("kept") for e in ends(again.out).values()] == [True]
    weights = tmp_path / "run" / "step0" / "model.safetensors"
    weights.write_bytes(b"trained further")
    assert lives.run("--batch", str(job), "--json").code == 0
    with kltui.open(tmp_path / "ws") as ws:
        assert ws.token_logprobs("run@0") is None
    scored = lives.run("--batch", str(job), *tokens, "--json")
    assert [e.get("kept") for e in ends(scored.out).values()] == [None]


# ---- several at once


def test_of_many_that_start_at_once_one_runs_and_the_others_name_it(tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=2)
    runners = [
        start("--batch", str(job), "--json", cwd=tmp_path, stdout=subprocess.DEVNULL, KLTUI_LIGHT_SECONDS="1")
        for _ in range(4)
    ]
    said = [runner.communicate(timeout=60)[1] for runner in runners]
    (winner,) = [r for r in runners if r.returncode == 0]
    for runner, words in zip(runners, said, strict=True):
        if runner is not winner:
            assert runner.returncode == 3, words
            assert f"process {winner.pid} on {socket.gethostname()}" in words
    assert check_stored(job) == 2


def test_a_reader_is_not_held_up_by_a_transaction(tmp_path: Path) -> None:
    with closing(Store.write(tmp_path)) as store, store.atomic():
        store.benchmark_scores.put({"run@0": {"arc": 1.0}})
        with kltui.open(
            tmp_path
        ) as ws:  # in the same thread: it would wait for ever, or be told that it is locked
            assert ws.benchmark_scores() == {} and ws.checkpoints() == [] and ws.jobs() == []


def test_readers_see_no_error_beside_a_writer_at_full_speed(lives: Lives, tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=20, texts=50)
    nowhere = subprocess.DEVNULL
    writer = start("--batch", str(job), "--json", cwd=tmp_path, stdout=nowhere, stderr=nowhere)
    reads = 0
    while writer.poll() is None:
        try:
            with kltui.open(tmp_path / "ws") as ws:
                while writer.poll() is None:
                    ws.generation(), ws.checkpoints(), ws.jobs()
                    reads += 1
                    time.sleep(0.005)
        except StoreError:
            time.sleep(0.01)
    assert writer.returncode == 0 and reads


def test_a_writer_that_lost_its_lock_stops_writing(tmp_path: Path) -> None:
    store = Store.write(tmp_path)
    other = sqlite3.connect(tmp_path / "kltui.sqlite")
    other.execute("UPDATE writer SET host = 'elsewhere', pid = 4711")
    other.commit()
    with pytest.raises(StoreError, match="process 4711 on elsewhere has taken"), store.atomic():
        raise AssertionError("not reached")
    with pytest.raises(StoreError, match="process 4711 on elsewhere has taken"):
        store.note_progress(1, {})
    store.close()
    assert other.execute("SELECT pid FROM writer").fetchone() == (4711,)
    other.close()


# ---- clocks


@pytest.mark.parametrize("shift", [-1e6, 1e6])
def test_a_clock_that_was_set_neither_locks_out_nor_takes_from_the_living(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    monkeypatch.setattr(writer_lock, "WATCH_S", 0.3)
    store = Store.write(tmp_path)
    db = sqlite3.connect(tmp_path / "kltui.sqlite", isolation_level=None, check_same_thread=False)
    db.execute("UPDATE writer SET host = 'elsewhere', heartbeat = heartbeat + ?", (shift,))
    sign = threading.Timer(0.1, lambda: db.execute("UPDATE writer SET heartbeat = heartbeat + 1"))
    sign.start()
    with pytest.raises(StoreError, match="on elsewhere"):
        Store.write(tmp_path)
    sign.join()
    taken = Store.write(tmp_path)  # no sign of life while watched: gone
    assert taken.previous_owner is not None and taken.previous_owner.host == "elsewhere"
    taken.close()
    store.close()
    db.close()


def test_a_dead_writer_of_this_host_is_known_whatever_the_clock_says(lives: Lives, tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=60)
    for patience in (0.1, 0.2, 0.4, 0.8):
        if lives.run("--batch", str(job), "--json", kill_after=patience).acknowledged:
            break
    db = sqlite3.connect(tmp_path / "ws" / "kltui.sqlite")
    assert db.execute("UPDATE writer SET heartbeat = heartbeat + 1e6").rowcount == 1
    db.commit()
    db.close()
    again = lives.run("--batch", str(job))
    assert again.code == 0 and "which has ended" in again.err


def test_rates_and_remaining_time_survive_a_clock_set_back() -> None:
    row = JobItemRow("a", "running", "score", 5, 10, 5, 10, 2e9, None, 1, "", "", {}, now=1e9)
    assert row.seconds == 0 and row.tokens_per_s == 0
    tally = Tally(total=10)
    assert tally.eta_seconds(0.0) is None
    tally.done = 5
    eta = tally.eta_seconds(0.0)
    assert eta is not None and 0 <= eta < 60


def test_a_batch_whose_clock_runs_backwards_ends_as_any_other(lives: Lives, tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=3)
    done = lives.run("--batch", str(job), "--json", inline=False, backwards=True)
    assert done.code == 0, done.err
    assert vectors(tmp_path / "ws") == truths(job)
    report = lives.run("--report", str(tmp_path / "ws"))
    assert report.code == 0, report.err


# ---- secrets


def test_a_token_is_nowhere_in_logs_store_or_tracebacks(tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=2)
    for step, what in ((0, "raise"), (1, "segfault")):
        (tmp_path / "run" / f"step{step}" / "behaviour").write_text(what)
    with job.open("a") as file:
        file.write('[[models]]\nrepo = "org/private"\n')
    env = {
        "HF_TOKEN": "hf_SECRETsecret",
        "HUGGING_FACE_HUB_TOKEN": "hf_SECRETsecret",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
    }
    done = run_cli("--batch", str(job), "--json", "--set", "engine.workers=2", cwd=tmp_path, **env)
    assert "Traceback" in done.stderr and done.returncode == 1
    assert "SECRET" not in done.stdout + done.stderr
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"SECRET" not in path.read_bytes(), path
    doctor = run_cli("--doctor", str(tmp_path / "ws"), cwd=tmp_path, **env)
    assert "SECRET" not in doctor.stdout + doctor.stderr
