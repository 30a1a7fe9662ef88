"""Workspaces of every released schema open, read and written, with what they held."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from kltui.errors import StoreError
from kltui.store import Store
from kltui.store.schema import MIGRATIONS

RELEASED = sorted((Path(__file__).parent / "released").glob("schema*.sql"))
ROW = [-1.5, np.nan, -1e-300, -7.25e10]


@pytest.fixture(params=RELEASED, ids=lambda path: path.stem)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A workspace folder whose database is the released one."""
    db = sqlite3.connect(tmp_path / "kltui.sqlite")
    db.executescript(request.param.read_text())
    db.close()
    return tmp_path


def check(store: Store) -> None:
    """Raises AssertionError unless the store holds what every released file holds."""
    assert [r.name for r in store.checkpoints.all()] == ["tiny@3", "tiny@5"]
    rows = store.vectors.rows()
    assert [r.layer for r in rows] == [None, 0, None]
    loglik_KN, n_scored_KN = store.vectors.load([r.id for r in rows], 4)
    for loglik_N in loglik_KN:
        np.testing.assert_array_equal(loglik_N, ROW)
    np.testing.assert_array_equal(n_scored_KN[0], [0, 1, 2, 3])
    assert store.weight_distances.all()["w2", "w1"] == 1.25
    assert store.corpora.texts(1) == ["one", "zwei\0", "três é", ""]
    assert [j.status for j in store.jobs.all()] == ["queued"]


def test_every_schema_before_this_one_has_a_file() -> None:
    assert [p.stem for p in RELEASED] == [f"schema{n}" for n in range(1, len(MIGRATIONS))]


def test_an_older_workspace_is_read_as_it_is(folder: Path) -> None:
    before = (folder / "kltui.sqlite").read_bytes()
    version = sqlite3.connect(folder / "kltui.sqlite").execute("PRAGMA user_version").fetchone()[0]
    store = Store.read(folder)
    check(store)
    scores, maps = store.benchmark_scores.all(), store.records.all("map")
    assert (scores, maps) == (({}, {}) if version == 1 else ({"tiny": {"arc": 12.5}}, {"before": {"a": "y"}}))
    assert [r[0] for r in store.db.execute("SELECT tokenizer FROM checkpoint")] == ["", ""]
    store.close()
    assert (folder / "kltui.sqlite").read_bytes() == before


def test_an_older_workspace_with_damaged_texts_is_neither_used_nor_brought_up_to_date(folder: Path) -> None:
    """It has no checksums yet; what can be computed of its texts is."""
    path = folder / "kltui.sqlite"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("UPDATE corpus SET text_bytes = zeroblob(32)")
    store = Store.read(folder)
    with pytest.raises(StoreError, match="the stored lengths do not match its texts"):
        store.corpora.text_bytes(1)
    store.close()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    with pytest.raises(StoreError, match="texts do not match their corpus"):
        Store.write(folder)
    assert db.execute("PRAGMA user_version").fetchone() == (max(version, 2),)
    db.close()


def test_an_older_workspace_is_brought_up_to_date_by_its_next_writer(folder: Path) -> None:
    store = Store.write(folder)
    assert store.db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    check(store)
    with store.atomic():
        store.benchmark_scores.put({"tiny": {"arc": 25.5, "mmlu": 0.0}})
        store.benchmark_scores.put({"tiny": {"arc": 26.0}})
        store.records.put("map", "main", {"b": [1, 2.5], "a": "x"})
        store.records.put("draw", "main", {})
    store.close()
    reader = Store.read(folder)
    check(reader)
    assert reader.benchmark_scores.all() == {"tiny": {"arc": 26.0, "mmlu": 0.0}}
    assert reader.records.all("map")["main"] == {"b": [1, 2.5], "a": "x"}
    reader.close()


def test_old_and_new_workspaces_have_one_schema(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fresh = tmp_path_factory.mktemp("fresh")
    for where in (folder, fresh):
        Store.write(where).close()
    query = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
    old, new = (sqlite3.connect(where / "kltui.sqlite") for where in (folder, fresh))
    assert old.execute(query).fetchall() == new.execute(query).fetchall()
    old.close()
    new.close()
