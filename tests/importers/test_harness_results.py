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
