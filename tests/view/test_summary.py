"""What a job and the demo end with: figures of the report in a few lines, failures with their way out, the next command."""

from __future__ import annotations

import io
import re
import textwrap
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from small_workspace import Builder

from kltui.analysis.map import Map
from kltui.analysis.number_text import with_error
from kltui.registry.checkpoint import Checkpoint, LocalSource
from kltui.view.report import report
from kltui.view.sections.context import Context, ReportChoice
from kltui.view.sections.section import Plot
from kltui.view.summary import WIDTH, _failures, print_summary, summary
from kltui.workspace import Workspace


def written(ws: Workspace, **options: object) -> str:
    out = io.StringIO()
    print_summary(ws, stream=out, notices=io.StringIO(), **options)
    return out.getvalue()


def test_every_figure_is_the_reports(suite: Workspace) -> None:
    text = re.sub(r"\s+", " ", written(suite))
    data = {s.name: s.data for s in report(suite, ["loss", "kl", "stabilisation", "diffusion"]).sections}
    best = min(data["loss"]["runs"], key=lambda run: run["last"])
    assert f"loss {with_error(best['last'], best['last_se'])} bits/byte at best" in text
    maximum = max(data["kl"]["pairs"], key=lambda pair: pair["kl_bits_per_byte"])
    value = with_error(maximum["kl_bits_per_byte"], maximum["se"])
    assert f"largest KL {value} bits/byte, {maximum['a']} to {maximum['b']}" in text
    levels = sorted({run["level"] for run in data["stabilisation"]["runs"]})
    for run in [r for r in data["stabilisation"]["runs"] if r["level"] == levels[1]][:2]:
        assert run["step"] is None or f"{run['run']} @{run['step']}" in text
    first = data["diffusion"]["runs"][0]
    assert f"exponent c {first['run']} {first['c_q']['median']:.2f}" in text
    assert f"kltui --report {suite.path}" in text


def test_a_log_has_no_plot_and_no_long_lines(suite: Workspace) -> None:
    whole, logged = written(suite).splitlines(), written(suite, to_log=True).splitlines()
    assert any("┤" in line for line in whole) and not any("┤" in line for line in logged)
    assert max(map(len, logged)) <= 80
    start = next(i for i, line in enumerate(logged) if line.startswith("scored"))
    assert logged[start] in whole and logged[-1] == whole[-1]


def test_what_was_found_needs_no_clustering(suite: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("its library takes a third of the time that a finished job takes to say so")

    monkeypatch.setattr(Map, "clustering", refused)
    assert len({row.checkpoint.run for row in suite.checkpoints()}) >= 3
    assert "largest KL" in written(suite)


def test_at_most_ten_findings_and_one_picture(suite: Workspace) -> None:
    section = summary(Context(suite, ReportChoice()))
    lines, *others = section.blocks
    assert lines.row_count <= 10 and [type(block) for block in others] == [Plot]


def test_nothing_scored_is_no_error(builder: Builder) -> None:
    builder.add(Checkpoint("run", LocalSource(Path("/m")), 1), None)
    with builder.open() as ws:
        text = written(ws)
    assert "kltui --report" in text and "nan" not in text


def test_failures_stand_with_their_way_out(builder: Builder) -> None:
    names = [Checkpoint("run", LocalSource(Path(f"/m{i}")), i) for i in range(6)]
    builder.add(names[0], builder.base_N)
    for checkpoint in names[1:]:
        builder.add(checkpoint, None)
    with builder.store.atomic():
        ids = [builder.store.checkpoints.id_of(c.name) for c in names]
        job = builder.store.jobs.register("digest", "workspace = 'x'", ids, None)
        builder.store.jobs.start(job)
        for id_ in ids[1:]:
            builder.store.jobs.item_failed(job, id_, "missing tensors\x1b[2J", "Download it again.")
    with builder.open() as ws:
        text = written(ws, ascii_only=True)
    assert "run@1 and 4 more: missing tensors" in text and "Download it again." in text
    assert "\x1b" not in text and text.isascii()


def test_failures_of_many_reasons_leave_ten_lines_on_80_columns(builder: Builder) -> None:
    names = [Checkpoint(f"run{i}", LocalSource(Path(f"/m{i}")), i) for i in range(9)]
    for checkpoint in names:
        builder.add(checkpoint, builder.base_N * 1.1 if checkpoint.step < 2 else None)
    with builder.store.atomic():
        ids = [builder.store.checkpoints.id_of(c.name) for c in names]
        job = builder.store.jobs.register("digest", "workspace = 'x'", ids, None)
        builder.store.jobs.start(job)
        for k, id_ in enumerate(ids[2:]):
            builder.store.jobs.item_failed(job, id_, f"no. {k} " + "is damaged " * 20, f"way out {k} " * 30)
    with builder.open() as ws:
        text = written(ws)
    found = text.splitlines()[1:]
    found = found[: found.index("")]
    assert len(found) <= 10 and max(map(len, found)) <= 80
    assert "run2@2: no. 0 is damaged" in text and "way out 0" in text and "more: --report" in found[-1]


def test_failures_fit_the_lines_that_are_left() -> None:
    for reasons, room in product(range(1, 9), range(1, 10)):
        rows = [
            SimpleNamespace(status="failed", error=f"{k} {'is bad ' * 40}", hint="do " * 90, name=f"run@{k}")
            for k in range(reasons)
        ]
        found = _failures(cast("Context", SimpleNamespace(rows=rows)), room)
        lines = [line for _, text in found for line in textwrap.wrap(text, WIDTH)]
        assert len(lines) <= room and found[0][1].startswith("run@0: 0 is bad")


def test_a_reason_of_two_lines_is_whole_where_there_is_room() -> None:
    error = f"a weight file in {'/models' * 8} is damaged: the header has no end"
    rows = [SimpleNamespace(status="failed", error=error, hint="fetch or copy it again", name="run@3")]
    found = _failures(cast("Context", SimpleNamespace(rows=rows)), 5)
    assert found == [("failed", f"run@3: {error}"), ("", "fetch or copy it again")]
    narrow = _failures(cast("Context", SimpleNamespace(rows=rows)), 2)
    assert narrow[0][1].endswith("…") and narrow[1] == ("", "fetch or copy it again")


def test_variants_are_no_runs_and_runs_that_have_not_settled_are_counted(builder: Builder) -> None:
    rng = np.random.default_rng(5)
    for run in ("one", "two"):
        for step in (1, 2, 3):
            values = builder.base_N * (1 + 1 / step) + rng.normal(0, 40, len(builder.base_N))
            builder.add(Checkpoint(run, LocalSource(Path(f"/m/{run}{step}")), step), values)
    variant = Checkpoint("two", LocalSource(Path("/m/two3")), 3, quantization="bnb-8bit")
    builder.add(variant, builder.base_N * 1.5)
    with builder.open() as ws:
        text = " ".join(written(ws).split())
    assert "; 2 runs and 1 variant end at or below" in text
    assert "settled none of 2 runs yet (below" in text


@pytest.mark.parametrize("unscored", [0, 3])
def test_one_model_without_steps(builder: Builder, unscored: int) -> None:
    values = builder.base_N.copy()
    values[:unscored] = np.nan
    builder.add(replace(Checkpoint("model", LocalSource(Path("/m"))), size="1b"), values)
    with builder.open() as ws:
        text = written(ws)
    assert "scored      1 of 1 checkpoint" in text and "nan" not in text
