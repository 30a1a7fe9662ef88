"""`kltui --bench analysis`: each section at three sizes, with exponents that are those of its times."""

from __future__ import annotations

import json
import math

import pytest

from kltui.bench.analysis import READING, Cost, growths, run
from kltui.cli import main


def test_exponents_are_those_of_the_times() -> None:
    def cost(name: str, K: int, N: int, seconds: float) -> Cost:
        return Cost(name, K, N, seconds, seconds, 1e6)

    at = ((10, 10), (40, 10), (10, 40))
    known = [cost("cubic", K, N, 1e-4 * K**3 * N**0.5) for K, N in at]
    tiny = [cost("tiny", K, N, 1e-6 * K) for K, N in at]
    absent = [cost("absent", 10, 10, 1.0)]
    cubic, small, none = growths([*known, *tiny, *absent])
    assert cubic.exponent_checkpoints == pytest.approx(3.0)
    assert cubic.exponent_texts == pytest.approx(0.5)
    assert math.isnan(small.exponent_texts)
    assert math.isnan(none.exponent_checkpoints)


def test_every_section_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ("overview", "loss", "neighbours", "uncertainty", "resampling", "exact")
    monkeypatch.setattr("kltui.bench.analysis.SECTIONS", quick)
    assert run(as_json=True, checkpoints=12, texts=30) == 0
    found = json.loads(capsys.readouterr().out)["sections"]
    names = [growth["section"] for growth in found]
    assert names == [READING, *quick[:-1]]  # no exact KL has been worked out there
    assert [(c["checkpoints"], c["texts"]) for c in found[0]["costs"]] == [(12, 30), (48, 30), (12, 120)]
    assert all(c["cpu_seconds"] > 0 and c["peak_bytes"] >= 0 for growth in found for c in growth["costs"])


def test_a_benchmark_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bench", "naive"]) == 2
    assert "--bench analysis" in capsys.readouterr().err
