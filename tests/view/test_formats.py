"""Further forms of an export: Parquet and modelmap's layout hold what the tables and the .npz hold, and read back."""

from __future__ import annotations

import builtins
import csv
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_workspace import STEPS

from kltui.analysis.map import Map
from kltui.errors import KltuiError
from kltui.importers.imported import ImportFormatError
from kltui.importers.read import read
from kltui.view.export import export
from kltui.view.formats import modelmap_arrays
from kltui.workspace import Workspace


@pytest.fixture(autouse=True)
def without_tsne(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds that have nothing to say of a format."""
    monkeypatch.setattr("kltui.view.sections.context.PERPLEXITY", 10_000)


def test_parquet_tables_are_the_csv_tables(suite: Workspace, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")
    paths = {p.name: p for p in export(suite, tmp_path, also=["parquet"])}
    tables = [n for n in paths if n.endswith(".csv")]
    assert len(tables) == 6
    for name in tables:
        with paths[name].open() as file:
            header, *rows = csv.reader(file)
        table = parquet.read_table(paths[name.replace(".csv", ".parquet")])
        assert table.column_names == header and table.num_rows == len(rows)
        columns = [table.column(c).to_pylist() for c in header]
        for k, row in enumerate(rows):
            got = ["" if column[k] is None else column[k] for column in columns]
            assert [str(v) for v in got] == row
    m = suite.map()
    vectors = parquet.read_table(paths["loglik.parquet"])
    assert vectors.column("name").to_pylist() == m.names
    assert vectors.column("step").to_pylist() == [p.step for p in m.points]
    np.testing.assert_array_equal(np.array(vectors.column("loglik").to_pylist()), m.loglik_KN)


def test_without_pyarrow_parquet_is_refused_before_anything_is_written(
    suite: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("pyarrow"):
            raise ImportError("No module named 'pyarrow'")
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(KltuiError) as caught:
        export(suite, tmp_path / "out", also=["parquet"])
    assert "pip install '.[parquet]'" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_modelmap_layout_holds_every_vector_and_reads_back(suite: Workspace, tmp_path: Path) -> None:
    paths = {p.name: p for p in export(suite, tmp_path, also=["modelmap"])}
    m = suite.map()
    with np.load(paths["logp.npz"], allow_pickle=False) as file:
        assert len(file.files) == len(m)
        np.testing.assert_array_equal(file[f"tiny/{STEPS[-1]}"], m.loglik_KN[m.row(f"tiny@{STEPS[-1]}")])
        np.testing.assert_array_equal(file["other"], m.loglik_KN[m.row("other")])
        assert f"small+bnb-8bit/{STEPS[-1]}" in file.files
    for name in ("logp.npz", "loglik.npz"):
        back = read(paths[name])
        assert [v.point.name for v in back.vectors] == m.names
        assert [v.point.quantization for v in back.vectors] == [p.quantization for p in m.points]
        for vector, loglik_N in zip(back.vectors, m.loglik_KN, strict=True):
            np.testing.assert_array_equal(vector.loglik, loglik_N)
    assert read(paths["loglik.npz"]).vectors[0].n_scored is not None


def test_names_in_the_archive_stay_within_it(suite: Workspace) -> None:
    m = suite.map().select([0, 1])
    points = tuple(
        replace(p, name=n, run=n, step=None) for p, n in zip(m.points, ("../../x", "/etc/y"), strict=True)
    )
    assert list(modelmap_arrays(Map(points, m.loglik_KN, m.text_bytes_N))) == ["__/__/x", "etc/y"]


@pytest.mark.parametrize("damage", ["no zip", "pickled", "text", "shape"])
def test_other_archives_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.npz"
    if damage == "no zip":
        path.write_bytes(b"nothing of the kind")
    elif damage == "pickled":
        np.savez(path, m=np.array([{"a": 1}], dtype=object))
    elif damage == "text":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("m.npy", "text")
    else:
        np.savez(path, loglik=np.zeros((2, 3)), names=np.array(["a"]))
    with pytest.raises(ImportFormatError):
        read(path)
