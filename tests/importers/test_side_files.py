"""A release's side files: its pictures, draws, types with colours and parents, imported with the vectors and used."""

from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

import kltui
from kltui.analysis.embed import double_centre
from kltui.analysis.resample import draw, sampling_probabilities
from kltui.cli import main
from kltui.importers.imported import ImportFormatError
from kltui.importers.modelmap import read_side_file, read_side_json
from kltui.view.export import export
from kltui.workspace.subsample import text_draws

N = 40
TEXTS = [f"text number {i} " * (i % 3 + 1) for i in range(N)]
NAMES = ("lab/a", "lab/b", "lab/c")
VALUES = np.random.default_rng(5).normal(-60, 9, (3, N))
STEPS = (0, 8, 1000)


def pickled(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value))
    return path


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Three models and a run of three checkpoints, with everything that comes beside them."""
    folder = tmp_path / "release"
    xy = {name: np.array([i, i + 0.5], np.float32) for i, name in enumerate(NAMES)}
    run = VALUES + np.random.default_rng(6).normal(0, 3, (3, N))
    pickled(folder / "logp" / "models_logp.pkl", dict(zip(NAMES, VALUES, strict=True)))
    pickled(folder / "logp" / "pretraining_logp.pkl", {"410m": dict(zip(STEPS, run, strict=True))})
    pickled(folder / "tsne" / "ft_tsne.pkl", xy)
    pairs = {"lab/a": {"original": np.zeros(2), "quantized": np.ones(2)}}
    pickled(folder / "tsne" / "8bit_quantization_tsne.pkl", pairs)
    metadata = {"model_names": ["410m"], "model_lengths": {"410m": 3}, "init": "pca"}
    whole = {"embedding": np.arange(6.0).reshape(3, 2), "metadata": metadata}
    pickled(folder / "tsne" / "pretraining_tsne_2d.pkl", whole)
    p = sampling_probabilities(double_centre(np.vstack([run, VALUES])), "ls")
    sets = {str(s): {str(n): {"unique_index": d.index[::-1], "weights": d.weight[::-1]} for n in (10, 30) for d in [draw(p, n, s)]} for s in (42, 43)}  # fmt: skip
    pickled(folder / "lss-uniq-idx-weight.pkl", sets)
    info = folder / "model_info"
    info.mkdir()
    (info / "modelname2type.json").write_text(json.dumps({"lab/a": "llama-2", "lab/b": "opt"}))
    (info / "sibling_info.json").write_text(
        json.dumps({"lab/b": "lab/a", "lab/c": ["lab/a", "lab/b"], "lab/a": None})
    )
    (info / "type2color.json").write_text(json.dumps({"llama-2": [1.0, 0.5, 0.0, 1.0], "opt": "grey"}))
    (folder / "texts.json").write_text(json.dumps(TEXTS))
    return folder


def test_side_files_come_with_the_release_and_are_used(release: Path, tmp_path: Path, capsys) -> None:
    ws = tmp_path / "ws"
    assert main(["--import", str(release), str(ws)]) == 0
    said = capsys.readouterr().err
    assert "released picture pretraining_tsne_2d: 3 points, 3 of checkpoints here" in said
    assert "released draws lss-uniq-idx-weight: 4 sets of texts" in said and "colours of 2 types" in said
    with kltui.open(ws) as opened:
        rows = {r.name: r.checkpoint for r in opened.checkpoints()}
        assert (
            rows["lab/b"].parent == "lab/a"
            and rows["lab/c"].parent == "lab/a,lab/b"
            and rows["lab/a"].type == "llama-2"
        )
        names = opened.map().names
        pictures = opened.released_pictures(names)
        np.testing.assert_array_equal(pictures["released ft_tsne"][names.index("lab/c")], [2.0, 2.5])
        np.testing.assert_array_equal(
            pictures["released pretraining_tsne_2d"][names.index("pythia-410m@1000")], [4.0, 5.0]
        )
        assert np.isnan(pictures["released ft_tsne"][names.index("pythia-410m@8")]).all()
        export(opened, tmp_path / "out")
    coordinates = list(csv.DictReader((tmp_path / "out" / "coordinates.csv").read_text().splitlines()))
    placed = [(r["name"], r["x"], r["y"]) for r in coordinates if r["method"] == "released ft_tsne"]
    assert placed == [("lab/a", "0.0", "0.5"), ("lab/b", "1.0", "1.5"), ("lab/c", "2.0", "2.5")]
    checkpoints = {
        r["name"]: r for r in csv.DictReader((tmp_path / "out" / "checkpoints.csv").read_text().splitlines())
    }
    assert checkpoints["lab/a"]["colour"] == "#ff8000" and checkpoints["lab/b"]["colour"] == "grey"
    capsys.readouterr()
    assert main(["--draw", "30", "--draw-by", "lss-uniq-idx-weight", str(ws)]) == 0
    with kltui.open(ws) as opened:
        (made,) = text_draws(opened)
        released = pickle.loads((release / "lss-uniq-idx-weight.pkl").read_bytes())["42"]["30"]
    assert list(made.index) == sorted(released["unique_index"].tolist()) and sum(made.count) == 30
    assert main(["--draw", "11", "--draw-by", "lss-uniq-idx-weight", str(ws)]) == 2
    assert "It has, for that seed: 10, 30." in capsys.readouterr().err
    assert main(["--draw", "11", "--draw-by", "luck", str(ws)]) == 2
    assert "Known: uniform, ls, kl, lss-uniq-idx-weight." in capsys.readouterr().err


def test_side_files_are_imported_by_themselves_too(release: Path, tmp_path: Path, capsys) -> None:
    ws, info = tmp_path / "ws", release / "model_info"
    vectors = ["--import", str(release / "logp" / "models_logp.pkl"), "--import", str(release / "texts.json")]
    assert main([*vectors, str(ws)]) == 0
    for path in (
        info / "sibling_info.json",
        info / "type2color.json",
        info / "modelname2type.json",
        release / "tsne" / "ft_tsne.pkl",
    ):
        assert main(["--import", str(path), str(ws)]) == 0
    assert "parents of 2 models: 2 checkpoints changed" in capsys.readouterr().err
    with kltui.open(ws) as opened:
        assert {r.name: r.checkpoint.parent for r in opened.checkpoints()}["lab/b"] == "lab/a"
        assert opened.type_colours() == {"llama-2": "#ff8000", "opt": "grey"}
        assert list(opened.released_pictures(["lab/a"])) == ["released ft_tsne"]


@pytest.mark.parametrize(
    "data",
    [
        {"lab/a": ("opt", "#112233")},
        [("lab/a", "opt", "#112233")],
        [{"model_name": "lab/a", "model_type": "opt", "color": "#112233"}],
        {"name": ["lab/a"], "type": ["opt"], "color": ["#112233"]},
        {"lab/a": {"type": "opt", "color": "#112233"}},
    ],
)
def test_types_and_colours_are_read_in_any_arrangement(tmp_path: Path, data: object) -> None:
    side = read_side_file(pickled(tmp_path / "name_type_color_1018.pkl", data)).side
    assert side.types == {"lab/a": "opt"} and side.colours == {"opt": "#112233"}


def test_layers_and_drawn_pictures_have_names(tmp_path: Path) -> None:
    side = read_side_file(pickled(tmp_path / "layer_tsne.pkl", {"lab/a": np.zeros((3, 2))})).side
    assert list(side.pictures["layer_tsne"].points) == ["lab/a#0", "lab/a#1", "lab/a#2"]
    added = {
        "name": {"new_models": ["lab/b"]},
        "tsne": {"100": {"lab/b": np.ones(2)}, "2900": {"lab/b": np.full(2, 7.0)}},
    }
    side = read_side_file(pickled(tmp_path / "tsne_addnew.pkl", added)).side
    assert side.pictures["tsne_addnew"].points == {"lab/b": (7.0, 7.0)}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("ft_tsne.pkl", {"lab/a": [1.0]}),
        ("ft_tsne.pkl", {"lab/a": [np.nan, 1.0]}),
        ("ft_tsne.pkl", [1, 2]),
        (
            "tsne_2d.pkl",
            {"embedding": np.zeros((3, 2)), "metadata": {"model_names": ["a"], "model_lengths": {"a": 2}}},
        ),
        ("ls-uniq-idx-weight.pkl", {"42": {"2": {"unique_index": [1, 1], "weights": [1.0, 1.0]}}}),
        ("ls-uniq-idx-weight.pkl", {"42": {"2": {"unique_index": [1, 2], "weights": [1.0]}}}),
        ("name_type_color.pkl", {"lab/a": ("opt", [2.0, 0.0, 0.0])}),
        ("name_type_color.pkl", 7),
    ],
)
def test_what_is_in_no_layout_is_named(tmp_path: Path, name: str, data: object) -> None:
    with pytest.raises(ImportFormatError, match=name):
        read_side_file(pickled(tmp_path / name, data))
    (tmp_path / "sibling_info.json").write_text('{"a": 3}')
    with pytest.raises(ImportFormatError, match="sibling_info"):
        read_side_json(tmp_path / "sibling_info.json")
