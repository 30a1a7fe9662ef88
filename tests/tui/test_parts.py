"""The small parts: filter, selection, memory, columns, texts, times, job files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_workspace import FakeWorkspace
from rich.style import Style

from kltui.errors import UsageError
from kltui.jobs.jobfile import load_job
from kltui.registry.checkpoint import Checkpoint, HubSource, LocalSource
from kltui.store.rows import CheckpointRow
from kltui.tui.data import Snapshot
from kltui.tui.dialogs.jobs_start import entries_of, job_of, usual_tables, write_job
from kltui.tui.filter import Columns, parse_filter
from kltui.tui.selection import Selection
from kltui.tui.theme import Theme
from kltui.tui.ui_state import Memory
from kltui.tui.views.jobs import duration, rate, time_left
from kltui.tui.widgets.canvas import fitted, shortened, strip_of, width_of, wrapped
from kltui.tui.widgets.table import Column, column_widths
from kltui.tui.widgets.token_lines import TokenLine, colored_runs
from kltui.workspace.losses import StoredLoss

ROWS = tuple(FakeWorkspace().checkpoints())


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 84),
        ("run:tiny-seed", 40),
        ("run:small step>=1000", 5),
        ("step=1.4k", 5),
        ("-quant:none", 1),
        ("quant:8bit", 1),
        ("status:failed", 1),
        ("seed=2 step<2", 2),
        ("tuned -step>10", 1),
        ("TINY-SEED3@100", 2),
        ("parent:tiny", 3),
        ("source:/models/small", 20),
        ("run:tiny-seed2|small", 40),
        ("run:tiny-seed2|run:small step:100", 2),
        ("run:tiny-seed2 | run:small step=100", 21),
        ("run:tiny-*", 40),
        ("run:tiny", 84 - 20 - 3),
        ("run:t?ny", 21),
        ("name:*seed[23]*", 0),
        ("seed:2", 20),
        ("seed:2|3", 40),
        ("-seed:2|3", 44),
        ("-run:small|tuned -quant:bnb*", 60),
        ("tuned|small@1", 11),
        ("seed=2|3", 40),
        ("run=tiny", 21),
        ("run=TINY|small", 41),
        ("run==tiny", 21),
        ("run!=tiny", 84 - 21),
        ("parent=", 84 - 3),
        ("step!=0 run=tiny", 20),
        ("step:100..1k run=tiny", 10),
        ("step=..100 run=tiny", 7),
        ("step:1_000.. run=tiny", 6),
        ("step>=1,000 run=tiny", 6),
        ("step>=1e3 run=tiny", 6),
        ("step>=1G", 0),
        ("RUN:tiny-* Seed:2", 20),
        ('"tiny"', 84 - 20 - 3),
        ('run:"tiny" -step>0', 3),
        ('-run:"tiny"|"small"', 3),
        ('name="tiny@100"', 1),
        ('run:"t*"', 0),
        ('"run:tiny"', 0),
    ],
)
def test_filter(text: str, count: int) -> None:
    keep, rows = parse_filter(text), FakeWorkspace().checkpoints()
    assert sum(keep(r) for r in rows) == count
    assert keep.passing(Columns(rows)) == [keep(r) for r in rows]


@pytest.mark.parametrize(
    "text",
    [
        "colour:red",
        "step>=many",
        "-colour:red",
        "stpe>=1",
        "run>=a",
        "seed:two",
        "seed:2,3",
        "step:..",
        "step:1..x",
        "loss<low",
        "a |",
        "| a",
        "run:a|",
        "|",
    ],
)
def test_a_filter_that_cannot_be_meant_names_its_term(text: str) -> None:
    with pytest.raises(UsageError) as wrong:
        parse_filter(text)
    assert text.lstrip("-").split(":")[0].split(">")[0].strip(" |") in str(wrong.value)
    assert wrong.value.hint


def test_quotes_make_blanks_and_signs_text() -> None:
    odd = ("a name", "x|y", "star*", '5"x', "b|a name", "step>=5")
    rows = [replace(r, checkpoint=replace(r.checkpoint, run=run)) for r, run in zip(ROWS, odd, strict=False)]
    for text, runs in (
        ('run:"a name"', ["a name", "b|a name"]),
        ('run="a name"', ["a name"]),
        ('run:"x|y"|"star*"', ["x|y", "star*"]),
        ('-"x|y" -"a name" -run="star*"', ['5"x', "step>=5"]),
        ('run:5"', ['5"x']),
        ('"step>=5" | run=x|y', ["step>=5"]),
        ('run:"x', ['5"x']),
    ):
        assert [r.checkpoint.run for r in rows if parse_filter(text)(r)] == runs, text


def test_losses_are_compared_in_bits_per_byte() -> None:
    losses = {row.id: StoredLoss(2.0 + k / 4, True, k) for k, row in enumerate(ROWS[:9])}
    columns = Columns(ROWS, losses)
    assert sum(parse_filter("loss<=3").passing(columns)) == 5
    assert sum(parse_filter("loss:2.5..3").passing(columns)) == 3
    assert sum(parse_filter("-loss<9").passing(columns)) == len(ROWS) - 9
    snapshot = Snapshot(rows=ROWS, losses=losses)
    assert len(snapshot.passing_rows(parse_filter("loss<=3"))) == 5
    higher = {k: replace(v, bits_per_byte=v.bits_per_byte + 0.5) for k, v in losses.items()}
    assert (
        len(replace(snapshot, losses=higher).worked_out(snapshot).passing_rows(parse_filter("loss<=3"))) == 3
    )


def test_terms_that_nothing_passes_are_named() -> None:
    columns = Columns(FakeWorkspace().checkpoints())
    assert parse_filter("run:tiny tinny -run:huge | size:smal step>9k").unmatched(columns) == [
        "tinny",
        "step>9k",
    ]
    assert parse_filter("run:x").unmatched(Columns([])) == []


def test_selection() -> None:
    chosen = Selection(cursor="a")
    chosen.toggle(["a", "b"])
    chosen.toggle(["b", "c"])
    assert list(chosen.selected) == ["a", "b", "c"]
    chosen.toggle(["a", "c"])
    assert list(chosen.selected) == ["b"]
    chosen.a, chosen.b = "a", "b"
    chosen.swap()
    chosen.keep(["b"])
    assert (chosen.a, chosen.b, chosen.cursor) == ("b", "", "")


@pytest.mark.parametrize(
    "content", [None, "", "[]", '{"version": 99}', '{"version": 1, "workspaces": []}', "\x00"]
)
def test_memory_survives_what_it_finds(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "state" / "view.json"
    if content is not None:
        path.parent.mkdir()
        path.write_text(content)
    memory = Memory(path)
    assert memory.load(tmp_path) == {}
    memory.save(tmp_path, {"screen": "map"})
    assert memory.load(tmp_path) == {"screen": "map"}
    assert json.loads(path.read_text())["version"] == 1


def test_memory_on_a_full_disk_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memory = Memory(tmp_path / "file" / "view.json")
    memory.save(tmp_path, {"screen": "map"})
    assert memory.load(tmp_path) == {}


def test_columns_give_way_by_rank() -> None:
    columns = [Column("a", 10), Column("b", 10, rank=2), Column("c", 10, rank=1), Column("d", 5, share=1)]
    assert column_widths(columns, 60) == [10, 10, 10, 24]
    assert column_widths(columns, 32) == [10, 0, 10, 8]
    assert column_widths(columns, 1) == [10, 0, 0, 0]


def test_fitted_and_wrapped() -> None:
    assert fitted("abcdef", 4) == "abc…" and fitted("ab", 4, right=True) == "  ab"
    assert fitted("日本語", 4) == "日… "
    assert wrapped("one two three", 7) == ["one two", "three"]
    assert wrapped("abcdefgh", 3) == ["abc", "def", "gh"]
    assert wrapped("", 5) == [""]
    assert wrapped("  one two", 6) == ["  one", "  two"]


@pytest.mark.parametrize("width", range(1, 14))
def test_spans_are_shortened_to_a_width_and_say_so(width: int) -> None:
    spans = [("ab", Style()), ("世界", Style(bold=True)), ("cdef", Style())]
    made = shortened(spans, width)
    text = "".join(part for part, _ in made)
    assert width_of(made) <= width
    assert text == "ab世界cdef" if width >= 10 else text.endswith("…") and "ab世界cdef".startswith(text[:-1])
    assert width_of(made) >= min(width, 10) - 1, "a wide character may leave one cell free"


def test_strips_have_their_width_and_nothing_unprintable() -> None:
    look = Theme()
    strip = strip_of([("a\x1b[31mb", look()), ("日本", look("accent"))], 8, look())
    assert strip.cell_length == 8 and strip.text.isprintable()


def test_times_and_rates() -> None:
    assert [duration(s) for s in (0, 59.6, 3600, 86400)] == ["0s", "1m00s", "1h00m", "1d00h"]
    assert [rate(r) for r in (0, 3.21, 812.3, 215000)] == ["", "3.2", "812", "215k"]


def test_a_job_for_gguf_files_and_adapters_of_the_hub_names_just_those(tmp_path: Path) -> None:
    places = [
        ("m", LocalSource(tmp_path / "m-Q8_0.gguf"), None, "gguf-q8_0", ""),
        ("h", HubSource("a/gguf", "main", file="m-Q4_0.gguf"), None, "gguf-q4_0", ""),
        ("lora", HubSource("a/lora", "main", file="checkpoint-10"), 10, "none", "a/base@v1"),
    ]
    rows = [
        CheckpointRow(0, Checkpoint(run, source, step, variant, base=base), False, 0, 0.0, "new")
        for run, source, step, variant, base in places
    ]
    job = job_of(tmp_path, entries_of(rows), {"source": "demo"})
    assert [(m.path or m.repo, m.files, m.quantization, m.base) for m in job.models] == [
        (str(tmp_path / "m-Q8_0.gguf"), (), ("none",), ""),
        ("a/gguf", ("m-Q4_0.gguf",), ("none",), ""),
        ("a/lora", ("checkpoint-10",), ("none",), "a/base@v1"),
    ]
    assert job.folder == str(Path.cwd())


def test_a_job_for_chosen_checkpoints_is_a_job_file(tmp_path: Path) -> None:
    rows = FakeWorkspace().checkpoints()
    hub = [
        CheckpointRow(0, Checkpoint("p", HubSource("a/b", f"step{s}"), s), False, 0, 0.0, "new")
        for s in (1, 2)
    ]
    job = job_of(tmp_path, entries_of([rows[0], rows[-1], *hub]), {"source": "demo"}, {"layers": "all"})
    again = load_job(write_job(tmp_path, job.to_toml()))
    assert again == job.resolved(tmp_path)
    assert again.models[-1].revisions == ("step1", "step2")
    assert again.models[1].quantization == ("bnb-8bit",)


def test_a_job_for_chosen_checkpoints_keeps_their_tokenizer(tmp_path: Path) -> None:
    made = [
        Checkpoint("p", HubSource("a/b", "step1"), 1, tokenizer="org/tok"),
        Checkpoint("p", HubSource("a/b", "step2"), 2, tokenizer="org/tok"),
        Checkpoint("q", LocalSource(tmp_path / "q"), tokenizer=str(tmp_path)),
    ]
    rows = [CheckpointRow(0, c, False, 0, 0.0, "new") for c in made]
    job = job_of(tmp_path, entries_of(rows), {"source": "demo"})
    again = load_job(write_job(tmp_path, job.to_toml()))
    assert [m.tokenizer for m in again.models] == ["org/tok", str(tmp_path)]


def test_the_last_job_says_how_to_go_on() -> None:
    assert usual_tables(FakeWorkspace().jobs()) == ({"source": "demo"}, {})
    assert usual_tables([]) == ({}, {})


def test_a_small_job_does_not_change_how_to_go_on() -> None:
    newest, fullest = FakeWorkspace().jobs()
    aside = replace(newest, job_toml='[corpus]\nsource = "demo"\n[scoring]\ndtype = "bfloat16"\n')
    assert usual_tables([aside, fullest]) == ({"source": "demo"}, {})


def test_tokens_are_laid_over_the_text() -> None:
    import numpy as np

    line = TokenLine(((2, 4), (4, 6), (7, 9)), np.zeros(3, dtype=np.float32))
    runs = colored_runs("abcdefghij", line, np.array([1.0, 2.0, 3.0]))
    assert runs == [("ab", None), ("cd", 1.0), ("ef", 2.0), ("g", None), ("hi", 3.0), ("j", None)]


def test_time_left_leaves_out_what_was_stored_already() -> None:
    job, _ = FakeWorkspace().jobs()
    items = FakeWorkspace().job_items(2)
    assert [i.status for i in items] == ["done"] * 3 + ["running", "failed"] + ["queued"] * 3
    assert time_left(job, items) == pytest.approx(12 * (3 + 1 - 210 / 500))
    kept = [replace(i, stats={}, started=1.0) if i.status == "done" else i for i in items]
    assert time_left(job, kept) == pytest.approx(12 * 500 / 210 * (3 + 1 - 210 / 500))
    two = [replace(i, status="running") if i.status == "failed" else i for i in items]
    assert time_left(job, two) == pytest.approx(12 * (3 + 2 - 210 / 500) / 2)
