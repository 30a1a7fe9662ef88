"""The store keeps exactly what it was given, for one writer and many readers."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kltui.corpus import Corpus
from kltui.errors import StoreError
from kltui.registry import Checkpoint, HubSource, LocalSource
from kltui.registry.checkpoint import ServedSource, Source
from kltui.store import Store
from kltui.store.filesystem import file_system, is_network
from kltui.store.schema import MIGRATIONS

CORPUS = Corpus(("one", "zwei\0", "três é", ""), domains=("a", "b", "a", ""), record={"seed": 42})


def put(
    store: Store, name: str = "tiny", step: int | None = 3, layer: int | None = None, weights: str = "w1"
) -> int:
    """Stores one vector for a checkpoint and returns the checkpoint's id."""
    checkpoint = Checkpoint(name, LocalSource(Path("/models/tiny")), step, seed=1, tags=("x", "y"))
    loglik = np.array([-1.5, np.nan, -1e-300, -7.25e10])
    with store.atomic():
        corpus = store.corpora.add(CORPUS, "texts.json")
        cid = store.checkpoints.upsert(checkpoint)
        store.checkpoints.set_weights(cid, weights)
        store.vectors.put(
            cid,
            corpus,
            layer,
            {"weights": weights, "bos": "auto"},
            "bos=auto",
            loglik,
            np.arange(4, dtype=np.int32),
            None,
        )
    return cid


def test_what_goes_in_comes_out_bit_for_bit(tmp_path: Path) -> None:
    writer = Store.write(tmp_path)
    cid = put(writer)
    writer.close()
    store = Store.read(tmp_path)
    (row,) = store.vectors.rows()
    loglik, n_scored = store.vectors.load([row.id], 4)
    np.testing.assert_array_equal(loglik[0], [-1.5, np.nan, -1e-300, -7.25e10])
    np.testing.assert_array_equal(n_scored[0], [0, 1, 2, 3])
    assert (row.checkpoint_id, row.layer, row.n_unscored) == (cid, None, 1)
    (checkpoint,) = store.checkpoints.all()
    assert checkpoint.checkpoint == Checkpoint(
        "tiny", LocalSource(Path("/models/tiny")), 3, seed=1, tags=("x", "y")
    )
    assert checkpoint.status == "scored"
    assert store.corpora.texts(1) == list(CORPUS.texts)
    assert store.corpora.domains(1) == ["a", "b", "a", ""]
    np.testing.assert_array_equal(store.corpora.text_bytes(1), CORPUS.text_bytes)
    store.close()


def test_new_weights_under_an_old_name_leave_the_old_vectors_out(tmp_path: Path) -> None:
    store = Store.write(tmp_path)
    put(store, weights="old")
    put(store, weights="new")
    assert [v.weights for v in store.vectors.rows()] == ["new"]
    assert {v.weights for v in store.vectors.rows(current_only=False)} == {"old", "new"}
    store.close()


def test_same_key_replaces_and_layers_stand_beside(tmp_path: Path) -> None:
    store = Store.write(tmp_path)
    cid = put(store)
    put(store)
    put(store, layer=0)
    assert sorted(v.layer is None for v in store.vectors.rows()) == [False, True]
    assert set(store.vectors.stored_layers(cid, 1, "bos=auto", "w1")) == {None, 0}
    assert store.checkpoints.all()[0].layers == 1
    store.close()


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    store = Store.write(tmp_path)
    with pytest.raises(RuntimeError, match="half way"), store.atomic():
        store.corpora.add(CORPUS, "x")
        raise RuntimeError("half way")
    assert store.corpora.all() == []
    store.close()


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    store = Store.write(tmp_path)
    put(store)
    store.db.execute("UPDATE vector SET loglik = zeroblob(32)")
    with pytest.raises(StoreError, match="damaged"):
        store.vectors.load([1], 4)
    store.close()


def test_second_writer_is_told_who_writes(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from kltui.store import Store;"
        f"s = Store.write(Path({str(tmp_path)!r})); print('ready', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline().strip() == "ready"
    with pytest.raises(StoreError, match=rf"process {process.pid} on {socket.gethostname()}"):
        Store.write(tmp_path)
    process.kill()
    process.wait()
    process.stdout.close()
    process.stdin.close()
    survivor = Store.write(tmp_path)
    assert survivor.previous_owner is not None and survivor.previous_owner.pid == process.pid
    survivor.close()


def test_reused_pid_does_not_look_alive(tmp_path: Path) -> None:
    store = Store.write(tmp_path)
    store.db.execute("UPDATE writer SET pid = ?, boot = 'another life'", (os.getppid(),))
    store.db.close()
    again = Store.write(tmp_path)
    assert again.previous_owner is not None
    again.close()


def test_other_host_counts_by_its_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kltui.store.writer_lock.WATCH_S", 0.01)
    store = Store.write(tmp_path)
    store.db.execute("UPDATE writer SET host = 'elsewhere'")
    with pytest.raises(StoreError, match="elsewhere"):
        Store.write(tmp_path)
    store.db.execute("UPDATE writer SET heartbeat = heartbeat - 1000")
    taken = Store.write(tmp_path)
    assert taken.previous_owner is not None and taken.previous_owner.host == "elsewhere"
    taken.close()
    store.close()


def test_reader_is_not_held_up_by_an_open_transaction(tmp_path: Path) -> None:
    store = Store.write(tmp_path)
    put(store)
    reader = Store.read(tmp_path)
    before = reader.generation()
    with store.atomic():
        store.checkpoints.set_weights(1, "w2")
        assert reader.checkpoints.all()[0].weights == "w1"
    assert reader.checkpoints.all()[0].weights == "w2"
    assert reader.generation() != before
    reader.close()
    store.close()


def test_reader_may_move_between_threads(tmp_path: Path) -> None:
    store = Store.write(tmp_path)
    put(store)
    reader = Store.read(tmp_path)
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(len(reader.vectors.rows())))
    thread.start()
    thread.join()
    assert seen == [1]
    reader.close()
    store.close()


def test_missing_foreign_damaged_and_newer_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no kltui workspace"):
        Store.read(tmp_path)
    path = tmp_path / "kltui.sqlite"
    db = sqlite3.connect(path)
    db.execute("PRAGMA application_id = 7")
    db.execute("CREATE TABLE t (x)")
    db.commit()
    with pytest.raises(StoreError, match="not made by kltui"):
        Store.write(tmp_path)
    db.execute(f"PRAGMA application_id = {0x6B6C7475}")
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.commit()
    db.close()
    with pytest.raises(StoreError, match="newer kltui"):
        Store.read(tmp_path)
    path.write_bytes(b"not a database at all" * 1000)
    with pytest.raises(StoreError, match="damaged"):
        Store.read(tmp_path)


def test_hub_source_comes_back_with_its_commit(tmp_path: Path) -> None:
    store = Store.write(tmp_path)
    with store.atomic():
        cid = store.checkpoints.upsert(Checkpoint("p", HubSource("o/p", "step1"), 1))
        store.checkpoints.set_weights(cid, "o/p@abc", "abc")
        store.checkpoints.upsert(Checkpoint("p", HubSource("o/p", "step1"), 1))
    assert store.checkpoints.all()[0].checkpoint.source == HubSource("o/p", "step1", "abc")
    store.close()


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/me/x", "nfs4"),
        ("/home", "nfs4"),
        ("/scratch/a b/c", "lustre"),
        ("/tmp", "ext4"),
        ("/homework", "ext4"),
    ],
)
def test_mount_table_names_the_file_system(tmp_path: Path, folder: str, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/vda / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\nx /scratch/a\\040b lustre rw 0 0\n"
    )
    assert file_system(Path(folder), mounts) == kind
    assert is_network(kind) == (kind != "ext4")


def test_a_job_run_again_keeps_what_was_put_right_by_hand(tmp_path):
    from dataclasses import replace

    from kltui.jobs.lineage import edit_lineage
    from kltui.registry.checkpoint import Checkpoint, LocalSource
    from kltui.store import Store

    plain = Checkpoint(source=LocalSource(tmp_path / "m"), run="z", step=1)
    merged = Checkpoint(source=LocalSource(tmp_path / "c"), run="child", parent="z@1,other@2")
    store = Store.write(tmp_path)
    with store.atomic():
        store.checkpoints.upsert(plain)
        store.checkpoints.upsert(merged)
        store.benchmark_scores.put({"z@1": {"arc": 50.0}})
    store.close()
    edit_lineage(tmp_path, ["z@1"], {"seed": "7", "type": "llama"})
    store = Store.write(tmp_path)
    with store.atomic():
        store.checkpoints.upsert(plain)
        store.checkpoints.upsert(replace(plain, step=2, seed=3))
    found = {row.name: row.checkpoint for row in store.checkpoints.all()}
    store.close()
    assert (found["z@1"].seed, found["z@1"].type) == (7, "llama")
    assert found["z@2"].seed == 3
    edit_lineage(tmp_path, ["z@1"], {"run": "y"})
    store = Store.write(tmp_path)
    found = {row.name: row.checkpoint for row in store.checkpoints.all()}
    scores = store.benchmark_scores.all()
    store.close()
    assert found["child"].parent == "y@1,other@2"
    assert scores == {"y@1": {"arc": 50.0}}


@pytest.mark.parametrize("by_name", [False, True], ids=["as it is written", "as earlier releases wrote it"])
def test_a_file_beside_the_database_is_found_by_its_checkpoint(tmp_path: Path, by_name: bool) -> None:
    from hashlib import sha256

    from kltui.store.side_tables import side_paths

    store = Store.write(tmp_path)
    with store.atomic():
        corpus = store.corpora.add(Corpus(("a", "b")), "test")
        row = store.checkpoints.upsert(Checkpoint(source=LocalSource(tmp_path / "m"), run="z", step=1))
        store.checkpoints.set_weights(row, "w1")
        path = side_paths("tokens", row, "z@1", corpus, "dtype=float32", "w1")[by_name]
        (tmp_path / "tokens").mkdir()
        (tmp_path / path).write_bytes(b"logprobs")
        digest = sha256(b"logprobs").hexdigest()
        store.side_files.put(row, corpus, "tokens", "dtype=float32", path, digest)
    assert store.side_files.find(tmp_path, row, corpus, "tokens") == tmp_path / path
    with store.atomic():
        store.checkpoints.set_weights(row, "w2")
    assert store.side_files.find(tmp_path, row, corpus, "tokens") is None
    store.close()


def test_files_beside_the_database_follow_a_new_name(tmp_path: Path) -> None:
    from hashlib import sha256

    from kltui.jobs.lineage import edit_lineage
    from kltui.store.side_tables import side_paths

    store = Store.write(tmp_path)
    (tmp_path / "tokens").mkdir()
    with store.atomic():
        corpus = store.corpora.add(Corpus(("a", "b")), "test")
        for step in (1, 2):
            row = store.checkpoints.upsert(Checkpoint(source=LocalSource(tmp_path / "m"), run="z", step=step))
            store.checkpoints.set_weights(row, "same")  # a copy of the other's weights
            path = side_paths("tokens", row, f"z@{step}", corpus, "dtype=float32", "same")[0]
            data = b"logprobs %d" % step
            (tmp_path / path).write_bytes(data)
            store.side_files.put(row, corpus, "tokens", "dtype=float32", path, sha256(data).hexdigest())
    store.close()
    edit_lineage(tmp_path, ["z@1"], {"run": "y"})
    edit_lineage(tmp_path, ["z@2"], {"step": "1"})  # the name that the other has left
    store = Store.read(tmp_path)
    ids = {r.name: r.id for r in store.checkpoints.all()}
    for name, data in (("y@1", b"logprobs 1"), ("z@1", b"logprobs 2")):
        found = store.side_files.find(tmp_path, ids[name], corpus, "tokens")
        assert found is not None and found.read_bytes() == data
    store.close()


SOURCES = [
    HubSource("o/n", "main", "", "q/x-Q8_0.gguf"),
    ServedSource("http://127.0.0.1:8000/v1", "m", 4, "KEY"),
    LocalSource(Path("/a")),
]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: type(source).__name__)
def test_a_checkpoint_comes_back_with_all_of_its_source(tmp_path: Path, source: Source) -> None:
    """Under its new name too, and no longer once it has another source."""
    before = Checkpoint("a", source, base="o/base")
    store = Store.write(tmp_path)
    with store.atomic():
        cid = store.checkpoints.upsert(before)
    assert [row.checkpoint for row in store.checkpoints.all()] == [before]
    renamed = replace(before, run="b")
    with store.atomic():
        store.checkpoints.relabel(cid, renamed)
    assert [row.checkpoint for row in store.checkpoints.all()] == [renamed]
    plain = Checkpoint("b", LocalSource(Path("/b")))
    with store.atomic():
        store.checkpoints.upsert(plain)
    assert [row.checkpoint for row in store.checkpoints.all()] == [plain]
    store.close()


@pytest.mark.parametrize("other", [None, 0, 1, 2])
def test_counts_are_those_of_each_vector_also_where_most_are_alike(tmp_path: Path, other: int | None) -> None:
    counts_KN = np.tile(np.arange(4, dtype=np.int32), (3, 1))
    if other is not None:
        counts_KN[other, 2] = 7
    store = Store.write(tmp_path)
    with store.atomic():
        corpus = store.corpora.add(CORPUS, "texts.json")
        for k, counts_N in enumerate(counts_KN):
            cid = store.checkpoints.upsert(Checkpoint("run", LocalSource(Path("/m")), k))
            key = {"weights": f"w{k}"}
            store.checkpoints.set_weights(cid, f"w{k}")
            store.vectors.put(cid, corpus, None, key, "bos=auto", np.full(4, -1.0 - k), counts_N, None)
    ids = [row.id for row in store.vectors.rows()]
    loglik_KN, n_scored_KN = store.vectors.load(ids, 4)
    none = store.vectors.load([], 4)
    store.close()
    np.testing.assert_array_equal(n_scored_KN, counts_KN)
    np.testing.assert_array_equal(loglik_KN[:, 0], [-1, -2, -3])
    assert [a.shape for a in none] == [(0, 4), (0, 4)]


@pytest.mark.parametrize(
    "kind", ["panfs", "wekafs", "gfs2", "ocfs2", "virtiofs", "vboxsf", "fuse.sshfs", "smb3"]
)
def test_file_systems_that_several_hosts_share_get_no_write_ahead_log(kind: str) -> None:
    assert is_network(kind)


def test_a_log_that_is_not_safe_here_and_is_still_in_use_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a workspace that was copied to a network file system, or written before it was known as one."""
    Store.write(tmp_path).close()
    reader = Store.read(tmp_path)
    reader.checkpoints.all()
    monkeypatch.setattr("kltui.store.connection.is_network", lambda kind: True)
    with pytest.raises(StoreError, match="not safe on this file system") as caught:
        Store.write(tmp_path)
    assert "Close the interfaces" in caught.value.hint
    del caught  # its traceback has the statement that failed, and with that the connection
    reader.close()
    store = Store.write(tmp_path)
    assert store.db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    store.close()
