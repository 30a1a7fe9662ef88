"""modelmap's layouts, written as released and read back."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from kltui.analysis.map import Map
from kltui.errors import KltuiError, UsageError
from kltui.importers.harness import read_samples
from kltui.importers.imported import Imported, ImportFormatError, lineage
from kltui.importers.modelmap import (
    PYTHIA_STEPS,
    read_model_jsonl,
    read_release,
    read_vectors_pickle,
    read_weight_distances,
)
from kltui.importers.read import read, read_paths

N = 12
RNG = np.random.default_rng(0)


def vector() -> np.ndarray:
    return RNG.normal(-600, 50, N).astype(np.float32)


def dump(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value))
    return path


def names(found: Imported) -> list[str]:
    return [v.point.name for v in found.vectors]


def test_names_of_pythia_are_read() -> None:
    p = lineage("410m-seed3", 1000)
    assert (p.name, p.run, p.size, p.seed, p.type) == (
        "pythia-410m-seed3@1000",
        "pythia-410m-seed3",
        "410m",
        3,
        "gpt_neox",
    )
    assert lineage("1.4b").size == "1.4b"
    p = lineage("meta-llama/Llama-2-7b-hf", quantization="bnb-8bit")
    assert (p.name, p.size, p.type) == ("meta-llama/Llama-2-7b-hf+bnb-8bit", "", "")


def test_vectors_by_name(tmp_path: Path) -> None:
    data = {
        "meta-llama/Llama-2-7b-hf": vector(),
        "gone": None,
        "EleutherAI/gpt-j-6b": vector().astype(np.float64),
    }
    found = read_vectors_pickle(dump(tmp_path / "log-likelihood_1018.pkl", data))
    assert names(found) == ["meta-llama/Llama-2-7b-hf", "EleutherAI/gpt-j-6b"]
    assert found.vectors[0].loglik.dtype == np.float64
    np.testing.assert_array_equal(found.vectors[0].loglik, data["meta-llama/Llama-2-7b-hf"])
    assert "1 without a vector, such as gone" in found.notes[0]


@pytest.mark.parametrize(
    ("file", "kind"), [("8bit_quantization_logp.pkl", "bnb-8bit"), ("4bit_quantization_logp.pkl", "bnb-fp4")]
)
def test_quantised_vectors(tmp_path: Path, file: str, kind: str) -> None:
    found = read_vectors_pickle(dump(tmp_path / file, {"a/b": vector()}))
    assert found.vectors[0].point.quantization == kind
    assert names(found) == [f"a/b+{kind}"] and not found.notes
    own = read_vectors_pickle(dump(tmp_path / f"gptq-{file[:4]}.pkl", {"a/b": vector()}))
    assert names(own) == names(found)
    assert own.notes == (
        f"gptq-{file[:4]}.pkl: by its name, its vectors are of the variant {kind} (bitsandbytes)",
    )


def test_runs_by_step(tmp_path: Path) -> None:
    data = {"410m": {0: vector(), 1: vector(), 1000: None}, "410m-seed1": {0: vector(), 512: vector()}}
    found = read_vectors_pickle(dump(tmp_path / "pretraining_logp.pkl", data))
    assert names(found) == ["pythia-410m@0", "pythia-410m@1", "pythia-410m-seed1@0", "pythia-410m-seed1@512"]
    assert found.vectors[3].point.seed == 1


def test_models_by_layer(tmp_path: Path) -> None:
    data = {"a": {k: vector() for k in range(3)}, "b": None}
    found = read_vectors_pickle(dump(tmp_path / "layer_logp.pkl", data))
    assert names(found) == ["a#0", "a#1", "a#2"]
    unnamed = dump(tmp_path / "x.pkl", {"a": {k: vector() for k in range(5)}})
    with pytest.raises(UsageError, match="could be steps or layers") as caught:
        read_vectors_pickle(unnamed)
    assert "--as steps or --as layers" in caught.value.hint
    assert read_vectors_pickle(unnamed, numbered="layers").vectors[4].point.layer == 4
    assert read_vectors_pickle(unnamed, numbered="steps").vectors[4].point.step == 4


def test_matrix_with_model_list(tmp_path: Path) -> None:
    matrix = np.stack([vector(), vector()])
    path = dump(tmp_path / "logp" / "oyama2025_logp.pkl", matrix)
    with pytest.raises(ImportFormatError, match=r"shape \(2, 12\) with 0 names"):
        read(path)
    (tmp_path / "model_info").mkdir()
    (tmp_path / "model_info" / "model_list.json").write_text('["x/y", "z"]')
    found = read(path)
    assert names(found) == ["x/y", "z"]
    np.testing.assert_array_equal(found.vectors[1].loglik, matrix[1])


def test_records_with_scores_and_base_models(tmp_path: Path) -> None:
    rows = [
        {
            "model_name": "a/ft",
            "model_type": "llama-3",
            "model_size": 8,
            "tags": ["en", "base_model:a/base", "base_model:finetune:a/base"],
            "log-likelihood-10k": vector(),
            "mean_logp": -590.1,
            "score_v1_ARC": 58.6,
            "score_v1_6-taskmean": 54.06,
            "score_v1_GSM8K": None,
        },
        {"model_name": "a/base", "model_type": "llama-3", "log-likelihood-10k": vector()},
    ]
    found = read_vectors_pickle(dump(tmp_path / "model-data-1018.pkl", rows))
    assert found.vectors[0].point.parent == "a/base"
    assert found.vectors[0].point.type == "llama-3"
    assert found.scores == {"a/ft": {"ARC": 58.6, "6-taskmean": 54.06}}


def test_one_list_of_numbers(tmp_path: Path) -> None:
    found = read(dump(tmp_path / "interp_0.2_0.4.pkl", [float(x) for x in vector()]))
    assert names(found) == ["interp_0.2_0.4"]


def test_infinite_values_are_unscored(tmp_path: Path) -> None:
    v = vector()
    v[3] = -np.inf
    found = read(dump(tmp_path / "x.pkl", {"a": v}))
    assert np.isnan(found.vectors[0].loglik[3])


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ({"a": vector(), "b": vector()[:5]}, "b has 5 values, a has 12"),
        ({"a": "text"}, "a is not a vector"),
        ({"a": np.ones((2, 2))}, "a is not a vector"),
        ({"a": {"x": vector()}}, "not a step or layer"),
        ({}, "contains no vectors"),
        ([{"x": 1}], "record 0 has no model_name"),
        (7, "contains no vectors"),
    ],
)
def test_other_contents_are_named(tmp_path: Path, data: object, what: str) -> None:
    with pytest.raises(ImportFormatError, match=what):
        read_vectors_pickle(dump(tmp_path / "x.pkl", data))


def test_weight_distances(tmp_path: Path) -> None:
    S = len(PYTHIA_STEPS)
    assert S == 154
    m = np.zeros((S, S))
    for i in range(S - 10):
        m[i, i + 1 : i + 11] = 1 + i + np.arange(10)
    m[0, 1] = 0.0  # steps 0 and 1 are one model
    found = read_weight_distances(dump(tmp_path / "weight_distance.pkl", {"410m": m})).weight_sqdist
    assert found["pythia-410m", 0, 1] == 0.0
    assert found["pythia-410m", 1000, 11_000] == 1 + 11 + 9
    assert ("pythia-410m", 1000, 12_000) not in found
    assert ("pythia-410m", 134_000, 135_000) not in found
    assert len(found) == (S - 10) * 10
    m[20, 22:25] = (np.nan, -1.0, np.inf)
    odd = read_weight_distances(dump(tmp_path / "odd" / "weight_distance.pkl", {"410m": m}))
    assert len(odd.weight_sqdist) == (S - 10) * 10 - 3 and "3 distances are negative" in odd.notes[0]
    with pytest.raises(ImportFormatError, match="not a matrix of 154 x 154"):
        read_weight_distances(dump(tmp_path / "w.pkl", {"410m": m[:5]}))


def jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(r) for r in rows) + "\n")
    return path


def test_per_model_jsonl(tmp_path: Path) -> None:
    rows = [
        {"index": i, "num-tokens": 200 + i, "log-likelihood": -600.0 - i, "token-log-probs": []}
        for i in (2, 0)
    ]
    path = jsonl(tmp_path / "EleutherAI--pythia-1b_float16.jsonl", rows)
    found = read_model_jsonl(path, 4)
    v = found.vectors[0]
    assert v.point.name == "EleutherAI/pythia-1b"
    np.testing.assert_array_equal(v.loglik, [-600, np.nan, -602, np.nan])
    assert v.n_scored is not None
    assert v.n_scored.tolist() == [199, 0, 201, 0]
    assert "2 of 4 texts are unscored" in found.notes[0]
    with pytest.raises(ImportFormatError, match="line 1"):
        read_model_jsonl(path, 2)
    with pytest.raises(ImportFormatError, match="line 2"):
        read_model_jsonl(jsonl(tmp_path / "d.jsonl", rows[:1] * 2))


def test_a_folder_of_per_model_jsonl_over_its_corpus(tmp_path: Path) -> None:
    jsonl(
        tmp_path / "texts.jsonl", [{"index": i, "text": f"t{i}", "pile_set_name": "Github"} for i in range(3)]
    )
    for name in ("a", "b"):
        jsonl(tmp_path / f"{name}.jsonl", [{"index": 1, "num-tokens": 5, "log-likelihood": -3}])
    found = read(tmp_path)
    assert names(found) == ["a", "b"]
    assert all(len(v.loglik) == 3 for v in found.vectors)
    assert found.corpus is not None
    assert found.corpus.domains == ("Github",) * 3


def release(folder: Path) -> Path:
    """A small release in the layout of kl-scale/data."""
    folder.mkdir()
    (folder / "texts.json").write_text(json.dumps([f"text number {i} " * 20 for i in range(N)]))
    runs = {
        size: {t: vector() for t in (0, 1, 1000, 2000, 3000)}
        for size in ("410m", "1b", "410m-seed1", "410m-seed2")
    }
    dump(folder / "logp" / "pretraining_logp.pkl", runs)
    models = ["a/base", "a/ft", "b/base", "b/ft", "a/merge"]
    dump(folder / "logp" / "oyama2025_logp.pkl", np.stack([vector() for _ in models]))
    dump(folder / "logp" / "8bit_quantization_logp.pkl", {"a/base": vector(), "b/base": None})
    dump(folder / "logp" / "layer_logp.pkl", {"a/base": {k: vector() for k in range(4)}})
    m = np.zeros((154, 154))
    m[0, 1:11] = 2.0
    dump(folder / "weight_distance" / "weight_distance.pkl", {"410m": m})
    dump(folder / "tsne" / "ft_tsne.pkl", {"a": [1.0, 2.0]})
    info = folder / "model_info"
    info.mkdir()
    (info / "model_list.json").write_text(json.dumps(models))
    (info / "modelname2type.json").write_text(json.dumps({m: m[0] for m in models}))
    parents = {"a/ft": "a/base", "b/ft": ["b/base"], "a/merge": ["a/ft", "b/ft"], "a/base": None}
    (info / "sibling_info.json").write_text(json.dumps(parents))
    return folder


def test_a_release_becomes_a_map_with_its_scale(tmp_path: Path) -> None:
    found = read(release(tmp_path / "data"))
    assert len(found.vectors) == 20 + 5 + 1 + 4
    assert found.corpus is not None
    m = Map(
        tuple(v.point for v in found.vectors),
        np.stack([v.loglik for v in found.vectors]),
        found.corpus.text_bytes,
    )
    rows = {r.setting: r for r in m.scale()}
    assert rows["8-bit"].pairs == (("a/base", "a/base+bnb-8bit"),)
    assert set(rows["fine-tuning"].pairs) == {("a/base", "a/ft"), ("b/base", "b/ft")}
    assert "1 merges left out" in rows["fine-tuning"].note
    assert rows["random"].n == 9 * 8 // 2  # five models and the last checkpoints of four runs
    assert rows["adjacent layers"].n == 3
    assert rows["seed"].pairs == (("pythia-410m-seed1@3000", "pythia-410m-seed2@3000"),)
    assert rows["size"].pairs == (("pythia-410m@3000", "pythia-1b@3000"),)
    assert found.weight_sqdist["pythia-410m", 0, 1] == 2.0
    variant = next(v.point for v in found.vectors if v.point.quantization == "bnb-8bit")
    assert (variant.name, variant.type) == ("a/base+bnb-8bit", "a")
    assert {v.point.type for v in found.vectors if v.point.layer is not None} == {"a"}


def test_a_release_whose_vectors_do_not_fit_its_texts(tmp_path: Path) -> None:
    folder = release(tmp_path / "data")
    (folder / "texts.json").write_text('["one", "two"]')
    with pytest.raises(KltuiError, match="has 12 values, the corpus has 2"):
        read_release(folder)


def sample(doc: int, value: object, **more: object) -> dict[str, object]:
    return {
        "doc_id": doc,
        "doc": {"page": f"page {doc}"},
        "target": "",
        "arguments": {"gen_args_0": {"arg_0": f"page {doc}"}},
        "resps": [[str(value)]],
        "filtered_resps": [str(value)],
        "filter": "none",
        **more,
    }


def test_harness_samples(tmp_path: Path) -> None:
    rows = [sample(1, -20.5), sample(0, -10.25), sample(0, -99, filter="other"), sample(2, "(-30.0,)")]
    path = jsonl(tmp_path / "EleutherAI__pythia-70m" / "samples_wikitext_2026-01-01.jsonl", rows)
    for found in (read(path), read(tmp_path)):
        assert names(found) == ["EleutherAI/pythia-70m"]
        assert found.vectors[0].loglik.tolist() == [-10.25, -20.5, -30.0]
        assert found.corpus is not None
        assert found.corpus.texts == ("page 0", "page 1", "page 2")
    raw = {k: v for k, v in sample(0, 0).items() if k != "filtered_resps"} | {
        "resps": [[-5.5]],
        "arguments": [["t"]],
    }
    one = read_samples(jsonl(tmp_path / "raw.jsonl", [raw]), "me")
    assert (names(one), one.vectors[0].loglik.tolist()) == (["me"], [-5.5])


@pytest.mark.parametrize(
    "row",
    [
        {"doc": 1},
        sample(0, "(-5.0, False)"),
        sample(0, "__import__('os')"),
        {**sample(0, 0), "filtered_resps": [["-1"], ["-2"]]},
        {"doc_id": True, "resps": []},
    ],
)
def test_other_samples_are_refused(tmp_path: Path, row: dict[str, object]) -> None:
    with pytest.raises(ImportFormatError):
        read_samples(jsonl(tmp_path / "s.jsonl", [row]))


def test_unknown_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b")
    for path in (tmp_path / "x.csv", tmp_path / "none", tmp_path):
        with pytest.raises(KltuiError):
            read(path)
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(ImportFormatError, match="line 1 is not a JSON object"):
        read(tmp_path / "bad.jsonl")


def test_values_that_are_none_are_counted(tmp_path: Path) -> None:
    rows = np.full((3, 5), -9.0)
    np.savez(tmp_path / "whole.npz", loglik=rows, names=["a", "b", "c"])
    assert read_paths([tmp_path / "whole.npz"]).notes == ()
    rows[0, 1], rows[0, 2], rows[1, 3] = np.nan, -np.inf, np.inf
    np.savez(tmp_path / "gaps.npz", loglik=rows, names=["a", "b", "c"])
    (note,) = read_paths([tmp_path / "gaps.npz"]).notes
    assert note == "3 values of 2 vectors, such as a: infinite, NaN or missing, treated as unscored"


def test_a_sum_over_no_token_is_unscored_and_not_zero(tmp_path: Path) -> None:
    rows = np.full((3, 5), -9.0)
    rows[0, 1], rows[1, 2], rows[2] = 0.0, -0.0, 0.0
    np.savez(tmp_path / "x.npz", loglik=rows, names=["a", "b", "failed"])
    found = read_paths([tmp_path / "x.npz"])
    assert names(found) == ["a", "b"] and found.left == ("1 vectors contain no number, such as failed",)
    assert np.isnan(found.vectors[0].loglik).tolist() == [False, True, False, False, False]
    assert any(
        note.startswith("7 values of exactly 0 without a count of scored tokens") for note in found.notes
    )
    np.savez(tmp_path / "q.npz", loglik=rows[:2], names=["a", "b"], preprocess="clip")
    assert (read_paths([tmp_path / "q.npz"]).vectors[0].loglik == 0).sum() == 1


def test_a_zero_over_counted_tokens_is_a_value(tmp_path: Path) -> None:
    """The likelihood of a certain token rounds to 1, as in responses of one token; an export of kltui's keeps it."""
    rows, counts = np.full((2, 4), -9.0), np.full((2, 4), 3)
    rows[0, 1], rows[0, 2], counts[0, 2], rows[1, 3] = 0.0, 0.0, 0, -0.0
    np.savez(tmp_path / "x.npz", loglik=rows, names=["a", "b"], n_scored=counts)
    found = read_paths([tmp_path / "x.npz"])
    assert found.vectors[0].loglik[1] == 0 and np.isnan(found.vectors[0].loglik[2])
    assert found.vectors[1].loglik[3] == 0
    assert "2 values of exactly 0 over counted tokens, of a probability that rounds to 1, kept" in found.notes

    def line(index: int, value: float, **more: int) -> dict[str, object]:
        return {"index": index, "log-likelihood": value, **more}

    jsonl(
        tmp_path / "m_float32.jsonl", [line(0, -3.0, **{"num-tokens": 4}), line(1, 0.0, **{"num-tokens": 2})]
    )
    (vector,) = read_paths([tmp_path / "m_float32.jsonl"]).vectors
    assert vector.loglik.tolist() == [-3.0, 0.0]
    jsonl(tmp_path / "n_float32.jsonl", [line(0, -3.0), line(1, 0.0)])
    (vector,) = read_paths([tmp_path / "n_float32.jsonl"]).vectors
    assert vector.n_scored is None and np.isnan(vector.loglik[1])
