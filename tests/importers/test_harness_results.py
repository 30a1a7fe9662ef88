"""An output folder of lm-evaluation-harness: scores and vectors of every model at once, under one name each."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from kltui.errors import KltuiError
from kltui.importers.read import read

RESULTS = {
    "results": {
        "arc_easy": {"alias": "arc_easy", "acc,none": 0.5, "acc_stderr,none": 0.01, "acc_norm,none": 0.25},
        "gsm8k": {"exact_match,strict-match": 0.125, "exact_match_stderr,strict-match": 0.1, "exact_match,flexible-extract": 0.75},
        "boolq": {"acc,none": 0.625, "acc_stderr,none": "N/A"},
        "wikitext": {"word_perplexity,none": 20.5, "bits_per_byte,none": 0.9},
    },
    "config": {"model": "hf"},
    "model_name": "org/model",
}  # fmt: skip


@pytest.fixture
def output(tmp_path: Path) -> Path:
    for model, shift in (("org__model", 0.0), ("org__other", 0.125)):
        folder = tmp_path / "out" / model
        folder.mkdir(parents=True)
        rows = [
            {
                "doc_id": k,
                "arguments": [[text]],
                "filtered_resps": [-10.0 * (k + 1) - shift],
                "filter": "none",
            }
            for k, text in enumerate(("one", "two", "three"))
        ]
        (folder / "samples_wikitext_2026-01-02.jsonl").write_text("\n".join(map(json.dumps, rows)))
        picked = [{"doc_id": 0, "filtered_resps": [[-1.0, False], [-2.0, True]]}]
        (folder / "samples_boolq_2026-01-02.jsonl").write_text("\n".join(map(json.dumps, picked)))
        (folder / "results_2026-01-02.json").write_text(json.dumps(RESULTS))
        before = {"results": {"boolq": {"acc,none": 0.0}, "piqa": {"acc,none": 1.0}}}
        (folder / "results_2026-01-01.json").write_text(json.dumps(before))
    return tmp_path / "out"


EXPECTED = {
    "arc_easy acc": 50.0, "arc_easy acc_norm": 25.0, "gsm8k exact_match strict-match": 12.5,
    "gsm8k exact_match flexible-extract": 75.0, "boolq": 62.5, "piqa": 100.0,
}  # fmt: skip


def test_a_whole_output_folder(output: Path) -> None:
    found = read(output)
    assert [v.point.name for v in found.vectors] == ["org/model", "org/other"]
    assert found.vectors[1].loglik.tolist() == [-10.125, -20.125, -30.125]
    assert {name: dict(tasks) for name, tasks in found.scores.items()} == {
        "org/model": EXPECTED, "org/other": EXPECTED,
    }  # fmt: skip
    assert any("1 tasks are not between" in note or "2 tasks are not between" in note for note in found.notes)
    assert all(math.isfinite(v) for tasks in found.scores.values() for v in tasks.values())


def test_one_model_or_one_file_of_it(output: Path) -> None:
    assert read(output / "org__model").scores["org/model"] == EXPECTED
    one = read(output / "org__model" / "results_2026-01-01.json")
    assert one.scores == {"org/model": {"boolq": 0.0, "piqa": 100.0}} and not one.vectors


def test_results_that_are_none(tmp_path: Path) -> None:
    for data in ("{}", '{"results": 3}', '{"results": {"a": 1}}', "[", '{"results": {"a": {"x": 1}}}'):
        (tmp_path / "results_x.json").write_text(data)
        with pytest.raises(KltuiError):
            read(tmp_path)


def write_run(folder: Path, date: str, value: float, config: dict[str, object], acc: float) -> None:
    """A file of samples and one of results, as one call of lm_eval writes them into the model's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"doc_id": k, "arguments": [[text]], "filtered_resps": [value - k]}
        for k, text in enumerate(("one", "two"))
    ]
    (folder / f"samples_wikitext_{date}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    results = {"results": {"arc": {"acc,none": acc}}, "config": config}
    (folder / f"results_{date}.json").write_text(json.dumps(results))


def test_revisions_and_variants_in_the_folder_of_one_model_are_apart(tmp_path: Path) -> None:
    pretrained = "pretrained=org/m"
    runs: list[tuple[dict[str, object], str]] = [
        ({"model_args": f"{pretrained},revision=step1000,dtype=float32"}, "org/m@1000"),
        ({"model_args": {"pretrained": "org/m", "revision": "step2000"}}, "org/m@2000"),
        ({"model_args": pretrained, "model_revision": "step3000"}, "org/m@3000"),
        ({"model_args": f"{pretrained},revision=main", "model_revision": "main"}, "org/m"),
        ({"model_args": f"{pretrained},load_in_8bit=True"}, "org/m+bnb-8bit"),
        ({"model_args": f"{pretrained},load_in_4bit=True,bnb_4bit_quant_type=nf4"}, "org/m+bnb-nf4"),
        ({"model_args": f"{pretrained},revision=dev/two"}, "org/m-dev-two"),
    ]
    for k, (config, _) in enumerate(runs):
        write_run(tmp_path / "org__m", f"2026-01-0{k + 1}T10-00-00.123456", -10.0 * (k + 1), config, k / 10)
    found = read(tmp_path)
    assert {v.point.name: v.loglik.tolist() for v in found.vectors} == {
        name: [-10.0 * (k + 1), -10.0 * (k + 1) - 1] for k, (_, name) in enumerate(runs)
    }
    assert {name: round(tasks["arc"]) for name, tasks in found.scores.items()} == {
        name: 10 * k for k, (_, name) in enumerate(runs)
    }
    assert not any("skipped" in note for note in found.notes)


def test_of_several_runs_of_a_task_the_newest_counts(tmp_path: Path) -> None:
    for day, value in ((1, -10.0), (2, -20.0)):
        write_run(tmp_path / "m", f"2026-01-0{day}", value, {}, day / 10)
    found = read(tmp_path)
    assert [v.loglik.tolist() for v in found.vectors] == [[-20.0, -21.0]]
    assert "1 vectors have the name of another but other values, and were skipped, such as m" in found.notes
    assert found.scores == {"m": {"arc": 20.0}}


def test_metrics_that_are_no_shares_of_right_answers_are_no_scores(tmp_path: Path) -> None:
    data = {
        "results": {
            "truthfulqa_gen": {"rouge1_diff,none": 0.7, "rouge1_acc,none": 0.25, "rouge1_max,none": 0.9},
            "mc": {"brier_score,none": 0.8},
            "toxic": {"score,none": 0.9, "acc,none": 0.5},
        },
        "higher_is_better": {"toxic": {"score": False, "acc": True}, "mc": {}},
    }
    (tmp_path / "results_x.json").write_text(json.dumps(data))
    (scores,) = read(tmp_path / "results_x.json").scores.values()
    assert scores == {"truthfulqa_gen": 25.0, "toxic": 50.0}
