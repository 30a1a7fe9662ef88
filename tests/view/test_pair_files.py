"""Exports of many pairs are one file that is read in seconds; an export that is ended leaves nothing behind."""

from __future__ import annotations

import csv
import signal
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import squareform

from kltui import cli
from kltui.analysis import products
from kltui.analysis.map import Map
from kltui.view import export as exports
from kltui.view import pair_files
from kltui.view.export import export
from kltui.view.sections.context import Context, finals
from kltui.view.sections.neighbours import neighbours
from kltui.workspace import Workspace
from tests.tui.big_workspace import write_workspace


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workspace(tmp_path_factory.mktemp("pairs") / "ws", 24, 40)


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report of an export has tests of its own."""
    monkeypatch.setattr(exports, "_write_json", lambda ctx, path: path.write_text("{}"))
    monkeypatch.setattr(Context, "pictures", {})


def exported(folder: Path, out: Path) -> list[str]:
    """What is said by an export; its files lie in `out`."""
    said: list[str] = []
    with Workspace.open(folder) as ws:
        export(ws, out, notify=said.append)
    return said


def table(path: Path) -> list[tuple[str, str, float, float]]:
    rows = csv.reader(path.read_text().splitlines()[1:])
    return [(a, b, float(kl), float(se)) for a, b, kl, se in rows]


@pytest.mark.parametrize("tile", [5, 1024])
def test_parquet_and_npz_hold_what_the_csv_holds(
    tile: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(folder, tmp_path / "csv")
    truth = table(tmp_path / "csv" / "kl.csv")
    values = np.array([row[2:] for row in truth])
    monkeypatch.setattr(pair_files, "MAX_IN_CSV", 100)
    monkeypatch.setattr(pair_files, "blocks", lambda K, size=tile: products.blocks(K, size))
    monkeypatch.setattr(pair_files, "_ROWS_AT_ONCE", 3)

    said = exported(folder, tmp_path / "parquet")
    assert any("276 pairs" in line and "pandas.read_parquet" in line for line in said)
    read = pd.read_parquet(tmp_path / "parquet" / "kl.parquet")
    assert list(read.columns) == ["a", "b", "kl_bits_per_byte", "se"]
    assert list(zip(read["a"].astype(str), read["b"].astype(str), strict=True)) == [row[:2] for row in truth]
    np.testing.assert_allclose(read[["kl_bits_per_byte", "se"]].to_numpy(float), values, rtol=1e-7)

    monkeypatch.setattr(pair_files, "form", lambda: pair_files.NPZ)
    said = exported(folder, tmp_path / "npz")
    assert any("numpy.load" in line for line in said)
    with np.load(tmp_path / "npz" / "kl.npz") as held:
        pairs = np.column_stack([held["kl_bits_per_byte"], held["se"]])
        np.testing.assert_allclose(pairs, values, rtol=1e-7)
        assert squareform(held["kl_bits_per_byte"]).shape == (24, 24)
        assert held["names"].tolist()[0] == truth[0][0]
    for kind in ("parquet", "npz"):
        assert not (tmp_path / kind / "kl.csv").exists()


def test_pairs_in_another_form_take_the_place_of_those_before(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(folder, tmp_path)
    assert (tmp_path / "kl.csv").exists()
    monkeypatch.setattr(pair_files, "MAX_IN_CSV", 100)
    exported(folder, tmp_path)
    assert not (tmp_path / "kl.csv").exists()
    assert (tmp_path / "kl.parquet").exists()


def test_more_pairs_than_a_file_should_hold_are_left_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(folder, tmp_path)
    monkeypatch.setattr(pair_files, "MAX_IN_CSV", 100)
    monkeypatch.setattr(pair_files, "MAX_PAIRS", 275)
    said = exported(folder, tmp_path)
    assert any("276 pairs" in line and "none is written" in line for line in said)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("kl.")]
    assert (tmp_path / "consecutive.csv").exists()


def test_progress_of_pairs_rises_to_all(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(pair_files, "blocks", lambda K, size=5: products.blocks(K, size))
    told: list[float] = []
    with Workspace.open(folder) as ws:
        pair_files.write(ws.map(), tmp_path / "kl.npz", told.append)
    assert told == sorted(told) and told[0] == 0.0 and told[-1] == 1.0 and len(told) == 6


def test_undefined_pairs_are_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    L = np.full((3, 4), np.nan)
    L[:2] = [[-1.0, -2.0, -4.0, -7.0], [-1.5, -2.0, -3.0, -9.0]]
    from kltui.analysis.point import Point

    shown = Map(tuple(Point(n, n) for n in "xyz"), L, np.full(4, 300))
    pair_files.write(shown, tmp_path / "kl.parquet")
    assert pd.read_parquet(tmp_path / "kl.parquet")["kl_bits_per_byte"].isna().tolist() == [False, True, True]
    pair_files.write(shown, tmp_path / "kl.npz")
    with np.load(tmp_path / "kl.npz") as held:
        assert np.isnan(held["kl_bits_per_byte"]).tolist() == [False, True, True]


def test_an_export_that_is_ended_leaves_an_older_one_as_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(folder, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    notify = cli._notify
    moments = (("loglik.npz", "out", signal.SIGTERM), ("kl.csv", "fresh", signal.SIGINT))
    for name, out, number in (*moments, ("report.json", "out", signal.SIGHUP)):

        def say(line: str, name: str = name, number: int = number) -> None:
            notify(line)
            if line == f"writing {name}":
                signal.raise_signal(number)

        monkeypatch.setattr(cli, "_notify", say)
        assert cli.main(["--export", str(tmp_path / out), str(folder)]) == 128 + number
        assert not (tmp_path / "fresh").exists()
        assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_neighbours_of_many_models_are_found_by_a_sketch_and_compared_in_full(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Workspace.open(folder) as ws:
        whole = neighbours(Context(ws))
        monkeypatch.setattr("kltui.view.sections.neighbours.MAX_PAIRS", 10)
        monkeypatch.setattr("kltui.view.sections.neighbours.MAX_LEAVES", 3)
        found = neighbours(Context(ws))
    assert found.data["nearest"] == whole.data["nearest"]
    assert "tree" not in found.data
    assert any("256 random projections" in note for note in found.notes)
    assert any("no tree" in note for note in found.notes)


@pytest.mark.parametrize("tile", [2, 1024])
def test_the_pair_looked_at_is_the_farthest_of_all_final_ones(
    tile: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kltui.view.sections.context.blocks", lambda K: products.blocks(K, tile))
    with Workspace.open(folder) as ws:
        ctx = Context(ws)
        ends = finals(ctx.map)
        truth = max(
            (ctx.map.pair_rows(i, j).value, ctx.map.names[i], ctx.map.names[j])
            for i, j in combinations(ends, 2)
        )
        assert ctx.pair == truth[1:]
