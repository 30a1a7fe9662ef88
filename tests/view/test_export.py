"""Exported files: names, columns to the letter, values, empty fields, and all or nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from small_workspace import STEPS, Builder

from kltui.errors import KltuiError, UsageError
from kltui.sanitize import safe_text
from kltui.view.export import export
from kltui.workspace import Workspace

COLUMNS = {
    "kl.csv": "a,b,kl_bits_per_byte,se",
    "consecutive.csv": "run,step_from,step_to,kl_bits_per_byte,se",
    "diffusion.csv": "run,start,c_q,r2_q,c_w,r2_w",
    "weights.csv": "run,step_from,step_to,sqdist",
    "coordinates.csv": "name,method,x,y,z",
}


@pytest.fixture(scope="module")
def folder(suite: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    export(suite, out)
    return out


@pytest.fixture
def without_tsne(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its seconds are spent once, in `folder`."""
    monkeypatch.setattr("kltui.view.sections.context.PERPLEXITY", 10_000)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_exactly_the_files_of_the_contract(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["loglik.npz", "layers.npz", "checkpoints.csv", "report.json", "tree.nwk", *COLUMNS]
    )
    for name, header in COLUMNS.items():
        assert (folder / name).read_text().split("\n")[0] == header


def test_lens_vectors_are_exported_as_they_were_scored(suite: Workspace, folder: Path) -> None:
    layered = suite.map(layers=True)
    rows = [k for k, point in enumerate(layered.points) if point.layer is not None]
    with np.load(folder / "layers.npz", allow_pickle=False) as npz:
        assert npz["names"].tolist() == [layered.names[k] for k in rows]
        assert f"tiny@{STEPS[-1]}#0" in npz["names"]
        np.testing.assert_array_equal(npz["loglik"], layered.loglik_KN[rows])
        assert npz["loglik"].dtype == np.float64


def test_without_lens_vectors_there_is_no_file_of_them(tmp_path: Path, without_tsne: None) -> None:
    builder = Builder(tmp_path / "ws", 40)
    builder.run("plain", STEPS[:3])
    with builder.open() as ws:
        names = [path.name for path in export(ws, tmp_path / "out")]
    assert "loglik.npz" in names and "layers.npz" not in names


def test_the_npz_holds_the_vectors_without_pickles(suite: Workspace, folder: Path) -> None:
    shown = suite.map()
    with np.load(folder / "loglik.npz", allow_pickle=False) as npz:
        assert set(npz.files) == {
            *("loglik", "names", "text_bytes", "text_sha256", "n_scored", "preprocess", "keys", "settings")
        }
        np.testing.assert_array_equal(npz["loglik"], shown.loglik_KN)
        assert npz["names"].tolist() == shown.names and npz["loglik"].dtype == np.float64
        np.testing.assert_array_equal(npz["text_bytes"], shown.text_bytes_N)
        np.testing.assert_array_equal(npz["n_scored"], shown.n_scored_KN)


def test_tables_hold_every_value_in_full(suite: Workspace, folder: Path) -> None:
    shown, kl = suite.map(), suite.map().kl()
    pairs = rows(folder / "kl.csv")
    assert len(pairs) == len(shown) * (len(shown) - 1) // 2
    for r in pairs[:: len(pairs) // 50]:
        assert float(r["kl_bits_per_byte"]) == pytest.approx(
            kl[shown.row(r["a"]), shown.row(r["b"])], rel=1e-12
        )
    first = shown.consecutive()[0]
    row = rows(folder / "consecutive.csv")[0]
    assert (row["run"], int(row["step_from"]), float(row["kl_bits_per_byte"]), float(row["se"])) == (
        first.run,
        first.step_from,
        first.kl,
        first.se,
    )
    weights = rows(folder / "weights.csv")
    assert all(float(r["sqdist"]) == int(r["step_to"]) - int(r["step_from"]) for r in weights)
    assert len(weights) == 4 * sum(min(10, len(STEPS) - 1 - i) for i in range(len(STEPS)))
    assert all(float(r["c_w"]) == pytest.approx(1) for r in rows(folder / "diffusion.csv"))
    places = rows(folder / "coordinates.csv")
    assert {r["method"] for r in places} == {"tsne", "pca", "mds", "tsne-3d"}
    assert all((r["z"] == "") == (r["method"] == "tsne") for r in places)
    deep = [[float(r[axis]) for axis in "xyz"] for r in places if r["method"] == "tsne-3d"]
    np.testing.assert_array_equal(deep, shown.coordinates("tsne", 3))
    assert len(rows(folder / "checkpoints.csv")) == len(suite.checkpoints())
    assert json.loads((folder / "report.json").read_text())["preprocess"] == "none"


def test_undefined_and_absent_values_are_empty_fields(builder: Builder, tmp_path: Path) -> None:
    half = np.arange(builder.n_texts) % 2 == 0
    builder.add(builder.checkpoint("even"), np.where(half, builder.base_N, np.nan))
    builder.add(builder.checkpoint("odd"), np.where(half, np.nan, builder.base_N))
    builder.add(builder.checkpoint("later", 3), builder.base_N * 1.1)
    builder.add(builder.checkpoint("later", 5), None)
    with builder.open() as ws:
        with pytest.raises(KltuiError, match="no text is scored for every"):
            ws.map().coordinates("pca")
        export(ws, tmp_path / "out")
    pairs = {(r["a"], r["b"]): r for r in rows(tmp_path / "out" / "kl.csv")}
    assert pairs["even", "odd"]["kl_bits_per_byte"] == "" == pairs["even", "odd"]["se"]
    checkpoints = {r["name"]: r for r in rows(tmp_path / "out" / "checkpoints.csv")}
    assert checkpoints["even"]["step"] == "" and checkpoints["later@5"]["mean_loglik_nats"] == ""
    assert (tmp_path / "out" / "coordinates.csv").read_text() == "name,method,x,y,z\n"
    assert (tmp_path / "out" / "weights.csv").read_text() == "run,step_from,step_to,sqdist\n"


@pytest.mark.usefixtures("without_tsne")
def test_preprocessed_vectors_are_what_is_exported(suite: Workspace, tmp_path: Path) -> None:
    export(suite, tmp_path, preprocess="clip")
    clipped = suite.map(preprocess="clip")
    with np.load(tmp_path / "loglik.npz") as npz:
        np.testing.assert_array_equal(npz["loglik"], clipped.loglik_KN)
    row = rows(tmp_path / "kl.csv")[0]
    assert float(row["kl_bits_per_byte"]) == pytest.approx(clipped.kl()[0, 1])
    assert json.loads((tmp_path / "report.json").read_text())["preprocessing"]["mode"] == "clip"


@pytest.mark.usefixtures("without_tsne")
def test_nothing_is_touched_when_it_fails(
    suite: Workspace, tmp_path: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kl.csv").write_text("mine")
    with builder.open() as empty, pytest.raises(KltuiError, match="nothing is scored"):
        export(empty, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError):
        export(suite, tmp_path, preprocess="wash")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kltui.view.export._write_json", full)
    with pytest.raises(KltuiError, match="No space left"):
        export(suite, tmp_path)
    assert (tmp_path / "kl.csv").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kl.csv", "work"]


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_computed(
    suite: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def computed(*_: object, **__: object) -> None:
        raise AssertionError("computed in vain")

    for name in ("check_choice", "_newick", "_write_npz"):
        monkeypatch.setattr(f"kltui.view.export.{name}", computed)
    (tmp_path / "file").write_text("mine")
    said = []
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/kltui")):
        with pytest.raises(KltuiError, match="cannot write to") as caught:
            export(suite, folder, notify=said.append)
        assert str(folder) in caught.value.message
    assert not said and (tmp_path / "file").read_text() == "mine"


@pytest.mark.usefixtures("without_tsne")
def test_a_folder_in_the_place_of_a_file_is_said_before_the_files_are_written(
    suite: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "kl.csv").mkdir()
    said: list[str] = []
    with pytest.raises(KltuiError, match=r"kl\.csv is a folder"):
        export(suite, tmp_path, notify=said.append)
    assert not [line for line in said if line.startswith("writing")]


def test_names_are_printable_in_every_file(builder: Builder, tmp_path: Path) -> None:
    evil = 'a,"b\x1b[2J\nc'
    builder.run(evil, STEPS[:4])
    with builder.open() as ws:
        paths = export(ws, tmp_path / "out")
    for path in paths:
        if path.suffix == ".csv":
            text = path.read_text(encoding="utf-8")
            assert "\x1b" not in text
            assert len(rows(path)) == text.count("\n") - 1
    names = {r["name"] for r in rows(tmp_path / "out" / "checkpoints.csv")}
    with np.load(tmp_path / "out" / "loglik.npz") as npz:
        assert set(npz["names"].tolist()) == names


FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r@x", "＝1", "'=x", "''-x")


@pytest.mark.usefixtures("without_tsne")
def test_no_cell_of_text_is_a_formula(builder: Builder, tmp_path: Path) -> None:
    for k, name in enumerate(FORMULAS):
        builder.add(builder.checkpoint(name), builder.base_N * (1 + k / 50) - k)
    builder.add(builder.checkpoint("a-b=c"), builder.base_N + np.arange(builder.n_texts) % 3)
    with builder.open() as ws:
        shown = ws.map().names
        paths = export(ws, tmp_path / "out")
    tables = [p.read_text(encoding="utf-8").splitlines() for p in paths if p.suffix == ".csv"]
    cells = [cell for table in tables for row in csv.reader(table) for cell in row]
    for cell in cells:
        assert not cell.startswith(("+", "@", "=", "＝", "\t", "\r"))
        assert not cell.startswith("-") or float(cell) < 0  # a number
    names = [r["name"] for r in rows(tmp_path / "out" / "checkpoints.csv")]
    assert {n.removeprefix("'") for n in names} == {safe_text(n) for n in (*FORMULAS, "a-b=c")}
    assert "a-b=c" in names and "'=1+1" in names
    assert any(c.startswith("-") for c in cells), "numbers keep their sign"
    with np.load(tmp_path / "out" / "loglik.npz") as npz:
        assert npz["names"].tolist() == [safe_text(n) for n in shown]
