"""Every row is verified before it is used: what was changed, lost, doubled or added by another hand is found."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from full_store import TEXTS

from kltui.check import check
from kltui.cli import main
from kltui.errors import StoreError
from kltui.store import Store
from kltui.store.check import Counts, check_store
from kltui.store.checksums import TABLES
from kltui.workspace import Workspace

# Signs of life and of progress change all the time; the ledger and the vectors' checksums are what others are held to.
UNCOVERED = {"writer", "ledger", "vector_checksum"}


@pytest.fixture
def folder(filled: Path, tmp_path: Path) -> Path:
    """A copy of a workspace with rows in every table."""
    shutil.copytree(filled, tmp_path / "ws")
    return tmp_path / "ws"


def by_hand(folder: Path, *statements: str) -> None:
    """What a program that keeps no checksums does to the database."""
    with closing(sqlite3.connect(folder / "kltui.sqlite")) as db, db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        for statement in statements:
            db.execute(statement)


def found(folder: Path) -> set[tuple[str, str]]:
    """(where, name) of all that --check finds."""
    return {(damage.where, damage.name) for damage in check_store(folder, Counts())}


def read_all(folder: Path) -> None:
    """Uses everything in a store. Raises StoreError where something is damaged."""
    with closing(Store.read(folder)) as store:
        store.jobs.all(), store.jobs.items(1), store.weight_distances.all(), store.fingerprints.all()
        store.benchmark_scores.all(), store.records.all("draw"), store.side_files.intact(folder, "tokens/a")
        store.checkpoints.all(), store.vectors.load([v.id for v in store.vectors.rows()], 4)
        for corpus in store.corpora.all():
            (
                store.corpora.texts(corpus.id),
                store.corpora.domains(corpus.id),
                store.corpora.text_bytes(corpus.id),
            )


def columns() -> Iterator[tuple[str, str, str]]:
    """(table, column, type) of the newest schema."""
    from kltui.store.schema import MIGRATIONS

    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript("".join(MIGRATIONS))
        for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for name, kind in db.execute("SELECT name, type FROM pragma_table_info(?)", (table,)):
                yield table, name, kind


OTHER = {
    "INTEGER": "{0} + 1000",
    "REAL": "COALESCE({0}, 0) + 0.5",
    "TEXT": "'other' || {0}",
    "BLOB": "CAST({0} || x'00' AS BLOB)",
}


def test_every_table_is_covered() -> None:
    assert {table for table, _, _ in columns()} == {*TABLES, *UNCOVERED}


def test_a_sound_workspace_is_sound(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read_all(folder)
    assert check(folder) == 0
    assert capsys.readouterr().out.startswith("sound: read ")


@pytest.mark.parametrize(("table", "column", "kind"), [c for c in columns() if c[0] not in UNCOVERED])
def test_a_changed_value_is_found_and_not_used(folder: Path, table: str, column: str, kind: str) -> None:
    """One value of one row, wherever it stands."""
    other = OTHER[kind].format(f"COALESCE({column}, 0)" if kind == "INTEGER" else column)
    by_hand(folder, f"UPDATE {table} SET {column} = {other} WHERE rowid = (SELECT MIN(rowid) FROM {table})")
    assert table in {where for where, _ in found(folder)}
    with pytest.raises(StoreError, match="damaged"):
        read_all(folder)


@pytest.mark.parametrize("table", TABLES)
def test_a_lost_row_is_found(folder: Path, table: str) -> None:
    by_hand(folder, f"DELETE FROM {table} WHERE rowid = (SELECT MAX(rowid) FROM {table})")
    assert table in {where for where, _ in found(folder)}
    with pytest.raises(StoreError, match="damaged"):
        read_all(folder)


@pytest.mark.parametrize("table", ["ledger", "vector_checksum"])
def test_what_rows_are_held_to_is_held_to_them(folder: Path, table: str) -> None:
    for change in (
        f"DELETE FROM {table} WHERE rowid = 1",
        f"UPDATE {table} SET {'n' if table == 'ledger' else 'checksum'} = 7",
    ):
        by_hand(folder, change)
        assert found(folder)
        with pytest.raises(StoreError, match="damaged"):
            read_all(folder)


def test_a_row_of_before_in_the_place_of_the_present_one_is_found(folder: Path) -> None:
    """As a disk leaves it that lost a write: the row is sound in itself."""
    with closing(sqlite3.connect(folder / "kltui.sqlite")) as db:
        (before,) = db.execute("SELECT checksum FROM benchmark_score WHERE task = 'arc'").fetchone()
    store = Store.write(folder)
    with store.atomic():
        store.benchmark_scores.put({"run@0": {"arc": 99.0}})
    store.close()
    read_all(folder)
    by_hand(folder, f"UPDATE benchmark_score SET score = 25.5, checksum = {before} WHERE task = 'arc'")
    assert {where for where, _ in found(folder)} == {"benchmark_score"}
    with pytest.raises(StoreError, match="not those written last"):
        read_all(folder)


def test_a_damaged_vector_is_named_and_scored_again_by_its_job(folder: Path) -> None:
    by_hand(folder, "UPDATE vector SET loglik = zeroblob(32) WHERE checkpoint_id = 2 AND layer = -1")
    assert found(folder) == {("vector", "run@1")}
    with closing(Store.read(folder)) as store:
        with pytest.raises(StoreError, match="the vector of run@1 was altered"):
            store.vectors.load([v.id for v in store.vectors.rows()], 4)
        assert store.vectors.stored_layers(2, 1, "bos=auto", "w1") == {0: "all"}
        assert set(store.vectors.stored_layers(1, 1, "bos=auto", "w0")) == {None, 0}
    writer = Store.write(folder)
    with writer.atomic():
        numbers, counts = np.array([-1.0, -2.0, -3.0, -4.0]), np.arange(4, dtype=np.int32)
        key = {"weights": "w1", "bos": "auto", "layers": "all"}
        writer.vectors.put(2, 1, None, key, "bos=auto", numbers, counts, None)
    writer.close()
    assert found(folder) == set()


def test_damaged_texts_are_written_again_by_a_job_over_them(folder: Path) -> None:
    by_hand(folder, "UPDATE text SET body = x'00' WHERE idx = 1", "DELETE FROM text WHERE idx = 2")
    assert ("text", "1 text 1") in found(folder)
    writer = Store.write(folder)
    with writer.atomic():
        assert writer.corpora.add(TEXTS, "again") == 1
    writer.close()
    assert found(folder) == set()
    read_all(folder)


@pytest.mark.parametrize("way", ["index", "table"])
def test_tables_and_indexes_that_part_ways_are_found_whichever_is_damaged(folder: Path, way: str) -> None:
    """Bytes of one are changed where they stand, so that the other tells something else."""
    path = folder / "kltui.sqlite"
    data = path.read_bytes()
    with closing(sqlite3.connect(path)) as db:
        (table,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'vector'").fetchone()
        (index,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'vector_facts'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    page = (index if way == "index" else table) - 1
    for word, other in ((b"w1", b"w9"), (b"bos=auto", b"bos=none")):
        at = data.index(word, page * size, (page + 1) * size)
        path.write_bytes(data[:at] + other + data[at + len(word) :])
        assert found(folder)
        try:
            read_all(folder)
        except StoreError as error:
            assert "damaged" in error.message
        else:
            raise AssertionError(f"{word!r} was changed in the {way} and used")


def test_files_beside_the_store_are_checked(folder: Path) -> None:
    kept, inbox = folder / "tokens" / "a", folder / "inbox"
    kept.write_bytes(b"other")
    assert found(folder) == {("side_file", "tokens/a")}
    kept.unlink()
    assert found(folder) == {("side_file", "tokens/a")}
    kept.write_bytes(b"")
    inbox.mkdir()
    (inbox / "x.safetensors").write_bytes(b"half")
    assert found(folder) == set()
    assert check(folder) == 3


def test_a_check_says_all_of_it_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_hand(folder, "UPDATE vector SET loglik = zeroblob(32) WHERE id = 1")
    assert main(["--check", "--json", str(folder)]) == 3
    reported = json.loads(capsys.readouterr().out)
    assert not reported["sound"] and reported["read"]["vectors"] == 6
    (damage,) = reported["damaged"]
    assert (damage["where"], damage["name"]) == ("vector", "run@0") and "run its job again" in damage[
        "advice"
    ]
    assert main(["--check", str(folder / "none")]) == 3
    assert "no kltui workspace" in capsys.readouterr().err
    assert main(["--report", "--mend", str(folder)]) == 2


def test_a_job_that_writes_meanwhile_is_no_damage(folder: Path) -> None:
    store = Store.write(folder)
    looking = check_store(folder, Counts())
    for n in range(5):
        with store.atomic():
            key = {"weights": "w1", "bos": "auto", "layers": "all"}
            store.vectors.put(2, 1, None, key, "bos=auto", np.zeros(4) - n, np.ones(4, np.int32), None)
            store.benchmark_scores.put({"run@0": {"arc": float(n)}})
        assert next(looking, None) is None
        looking = check_store(folder, Counts())
    store.close()


def test_what_a_reader_has_verified_it_verifies_again_when_it_changes(folder: Path) -> None:
    with closing(Store.read(folder)) as store:
        assert store.benchmark_scores.all()["run@0"]["arc"] == 25.5
        writer = Store.write(folder)
        with writer.atomic():
            writer.benchmark_scores.put({"run@0": {"arc": 1.0}})
        writer.close()
        assert store.benchmark_scores.all()["run@0"]["arc"] == 1.0
        by_hand(folder, "UPDATE ledger SET n = n + 1 WHERE name = 'benchmark_score'")
        with pytest.raises(StoreError, match="has 2 rows instead of 3"):
            store.benchmark_scores.all()


# ---- the log


def test_transactions_that_were_lost_are_noticed(folder: Path) -> None:
    """A log that is gone, cut or damaged leaves an older store, sound in itself."""
    path, wal = folder / "kltui.sqlite", folder / "kltui.sqlite-wal"
    store = Store.write(folder)
    for n in range(3):
        with store.atomic():
            store.benchmark_scores.put({"run@0": {"arc": float(n)}})
    killed = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    store.close()
    log = killed[wal.name]
    flipped = log[: len(log) // 2] + bytes([log[len(log) // 2] ^ 4]) + log[len(log) // 2 + 1 :]
    for left in (b"", log[: len(log) // 2], flipped):
        for name, data in killed.items():
            (folder / name).write_bytes(left if name == wal.name else data)
        (folder / "kltui.sqlite-shm").unlink(missing_ok=True)
        assert ("log", "kltui.sqlite-wal") in found(folder)
        for opened in (Store.read, Store.write):
            with pytest.raises(StoreError, match=r"the last [123] of \d+ transactions are missing"):
                opened(folder)
    check(folder, mending=True)
    assert found(folder) == set()
    read_all(folder)
    assert path.exists()


def test_a_change_of_one_column_does_not_make_a_damaged_row_sound(folder: Path) -> None:
    by_hand(folder, "UPDATE benchmark_score SET score = 99 WHERE task = 'arc'")
    store = Store.write(folder)
    with store.atomic():
        store.benchmark_scores.follow("run@0", "run")
    store.close()
    assert found(folder) == {("benchmark_score", "run arc")}
    store = Store.write(folder)
    with store.atomic():
        store.benchmark_scores.put({"run": {"arc": 25.5}})
    store.close()
    assert found(folder) == set()


# ---- mending


def test_mending_takes_out_what_is_damaged_and_nothing_else(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_hand(
        folder,
        "UPDATE checkpoint SET seed = 9 WHERE id = 1",
        "UPDATE vector SET n_scored = zeroblob(16) WHERE checkpoint_id = 3 AND layer = 0",
        "UPDATE benchmark_score SET score = 1 WHERE task = 'arc'",
        "UPDATE text SET domain = 'z' WHERE idx = 0",
        "UPDATE corpus SET text_bytes = zeroblob(32)",
        "DELETE FROM weight_distance WHERE a_weights = 'w0'",
    )
    before = (folder / "kltui.sqlite").read_bytes()
    assert main(["--check", str(folder)]) == 3
    assert "damaged: vector: run@2#0: its numbers" in capsys.readouterr().out
    assert main(["--check", "--mend", str(folder)]) == 0
    reported = capsys.readouterr().out
    for line in (
        "checkpoint: run@0",
        "vector: run@2#0",
        "benchmark_score: run@0 arc",
        "its byte lengths were restored",
    ):
        assert line in reported
    (kept,) = (path for path in folder.glob("*.damaged-*") if "-wal" not in path.name)
    assert kept.read_bytes() == before
    read_all(folder)
    with closing(Store.read(folder)) as store:
        assert [row.name for row in store.checkpoints.all()] == ["run@1", "run@2"]
        assert [(v.checkpoint_id, v.layer) for v in store.vectors.rows()] == [(2, None), (2, 0), (3, None)]
        assert store.benchmark_scores.all() == {"run@0": {"mmlu": 30.0}}
        assert store.corpora.text_bytes(1).tolist() == TEXTS.text_bytes.tolist()
        assert store.corpora.domains(1) == ["", "b", "a", ""]
        assert list(store.weight_distances.all()) == [("w1", "w2"), ("w2", "w1")]


def test_what_cannot_be_mended_is_left_and_told(folder: Path) -> None:
    path = folder / "kltui.sqlite"
    sound = path.read_bytes()
    path.write_bytes(sound[:16384] + bytes(len(sound) - 16384))
    with pytest.raises(StoreError, match=r"copy|recover"):
        check(folder, mending=True)


# ---- odd schemas


@pytest.mark.parametrize(
    "odd",
    [
        "CREATE VIEW v AS SELECT 1",
        "CREATE TRIGGER t AFTER INSERT ON job BEGIN DELETE FROM vector; END",
        "CREATE TABLE other (x)",
        "CREATE INDEX i ON vector (created) WHERE abs(created) > 1",
        "CREATE TABLE g (a, b AS (a + 1))",
        "CREATE VIRTUAL TABLE f USING fts5(x)",
        "ALTER TABLE vector ADD COLUMN more BLOB AS (zeroblob(1000))",
        "DROP INDEX vector_facts",
        "ALTER TABLE record RENAME COLUMN value TO val",
    ],
)
def test_odd_schemas_are_refused(folder: Path, odd: str) -> None:
    by_hand(folder, odd)
    before = (folder / "kltui.sqlite").read_bytes()
    for opened in (Store.read, Store.write, Workspace.open):
        with pytest.raises(StoreError, match=r"the workspace's database (contains|does not contain)"):
            opened(folder)
    assert {where for where, _ in found(folder)} == {"database"}
    assert (folder / "kltui.sqlite").read_bytes() == before


def test_a_view_in_the_place_of_a_table_is_refused(folder: Path) -> None:
    by_hand(
        folder,
        "ALTER TABLE benchmark_score RENAME TO hidden",
        "CREATE VIEW benchmark_score AS SELECT name, task, 99.0 AS score, checksum FROM hidden",
    )
    with pytest.raises(StoreError, match="view benchmark_score"):
        Store.read(folder)


def test_statistics_that_sqlite_itself_adds_are_no_oddity(folder: Path) -> None:
    by_hand(folder, "ANALYZE")
    read_all(folder)
    with closing(sqlite3.connect(folder / "kltui.sqlite", isolation_level=None)) as db:
        db.execute("VACUUM")
    read_all(folder)
    assert check(folder) == 0


def test_a_foreign_database_is_left_as_it_was(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "kltui.sqlite")) as db, db:
        db.execute("CREATE TABLE diary (day, words)")
    before = (tmp_path / "kltui.sqlite").read_bytes()
    with pytest.raises(StoreError, match="table diary"):
        Store.write(tmp_path)
    assert (tmp_path / "kltui.sqlite").read_bytes() == before


def test_other_files_cannot_be_attached(folder: Path) -> None:
    with closing(Store.read(folder)) as store, pytest.raises(StoreError):
        store.db.execute(f"ATTACH '{folder / 'other.sqlite'}' AS other")


def test_a_name_that_no_folder_can_have_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="File name too long"):
        check(tmp_path / ("a" * 300))
