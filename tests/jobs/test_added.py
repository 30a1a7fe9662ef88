"""A new model on the old map by way of the command line: draw texts, score it on those alone, find it in the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Cli

import kltui

ALONE = """\
workspace = "ws"
[corpus]
source = "{texts}"
[[models]]
path = "{suite}/beta/step4"
run = "late"
[[models]]
path = "{suite}/alpha/step4"
run = "twin"
"""


def test_a_model_scored_on_drawn_texts_stands_where_the_whole_corpus_puts_it(
    cli: Cli, job: Path, suite: Path
) -> None:
    ws = str(job.parent / "ws")
    assert cli("--batch", str(job), "--json").returncode == 0
    drawn = cli("--draw", "40", ws, "--preprocess", "clip")
    assert drawn.returncode == 0, drawn.stderr
    assert "Score a new model on them" in drawn.stderr
    missing = cli("--report", ws, "--section", "added")
    said = "".join(missing.stdout.split())  # a long path is broken at the width
    assert "nonewmodelisscoredonthem" in said and f'source="{drawn.stdout.strip()}"' in said

    more = job.parent / "more.toml"
    more.write_text(ALONE.format(texts=drawn.stdout.strip(), suite=suite))
    assert cli("--batch", str(more), "--json").returncode == 0
    done = cli("--report", ws, "--section", "added", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["sections"]["added"]["draws"]
    assert found["drawn"] == 40 > found["different"]
    kl = {m["name"]: {k["name"]: k["kl_bits_per_byte"] for k in m["kl"]} for m in found["models"]}
    se = {k["name"]: k["se_of_draw"] for m in found["models"] if m["name"] == "late@4" for k in m["kl"]}
    assert set(kl) == {"late@4", "twin@4"} and found["clip_threshold"] is not None
    assert kl["late@4"]["beta@4"] == pytest.approx(0.0, abs=1e-6)
    assert kl["twin@4"]["alpha@4"] == pytest.approx(0.0, abs=1e-6)
    with kltui.open(ws) as opened:
        truth = opened.map(preprocess="clip")
        for other in ("alpha@0", "alpha@4", "beta@0"):
            assert abs(kl["late@4"][other] - truth.pair("beta@4", other).value) < 5 * se[other]
        assert "late@4" not in opened.map().names
