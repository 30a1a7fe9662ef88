"""The table of a run on a GPU: every figure beside its target, and what did not come to an end is left out."""

import importlib.util
import json
from pathlib import Path

_spec = importlib.util.spec_from_file_location("gpu_table", Path(__file__).parent / "table.py")
table = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(table)


def test_figures_stand_beside_their_targets(tmp_path, capsys):
    (tmp_path / "card.txt").write_text("NVIDIA H100 80GB HBM3, 580.65\n")
    (tmp_path / "parts.txt").write_text("tests 0 120\nmemcheck 9 3\n")
    gather = {"operation": "gather bfloat16", "over_floor": 1.25, "times_faster": 9.0, "floor": "copy"}
    head = {"operation": "head bfloat16, D = 1024", "over_floor": 1.1, "times_faster": 3.0, "floor": "mm"}
    (tmp_path / "native.json").write_text(json.dumps({"ratios": [gather, head]}))
    case = {
        "model": "70m", "what": "final", "dtype": "float16", "ratio": 31.0, "over_careful": 1.9, "over_floor": 1.7,
        "largest_difference_nat": 0.2,
    }  # fmt: skip
    sweeps = [{"model": "70m", "over_scoring": 1.05}]
    large = case | {"model": "6.9b", "largest_difference_nat": None}
    (tmp_path / "endtoend.json").write_text(
        json.dumps({"cases": [case, large], "sweeps": sweeps, "skipped": {"410m": "it is too large"}})
    )
    table.main(tmp_path)
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "table.md").read_text()
    for row in (
        "| memcheck | exit 9 after 3 s | exit 0 | missed |",
        "| gather bfloat16 | 0.80 of the copy's bandwidth | >= 0.90 | missed |",
        "| head bfloat16, D = 1024 | 1.10 x mm | <= 1.15 | met |",
        "| 70m final float16, papers' loop | 31.00 x faster | >= 25 | met |",
        "| 70m final float16, careful loop | 1.90 x faster | >= 2 | missed |",
        "| 70m final float16, largest difference | 0.200 nat a text | <= 0.15 | missed |",
        "| 6.9b final float16, papers' loop | 31.00 x faster | >= 1.2 | met |",
        "| 410m | left out: it is too large |  |  |",
        "| sweep 70m | 1.05 x scoring | <= 1.1 | met |",
    ):
        assert row in printed
    assert "6.9b final float16, largest" not in printed


def test_a_part_that_broke_off_has_no_figures(tmp_path):
    (tmp_path / "endtoend.json").write_text('{"cases": [')
    assert list(table.rows(tmp_path)) == []
