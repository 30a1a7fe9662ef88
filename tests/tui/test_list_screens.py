"""Registry and Jobs, driven by keys, read as a person would."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from fake_workspace import FakeWorkspace, checkpoints
from screen_text import lines_of, opened, text_of

from kltui.tui.app import KltuiApp
from kltui.tui.widgets.run_tree import RunTree

MakeApp = Callable[..., KltuiApp]


async def test_registry_shows_runs_and_their_checkpoints(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for size in ((80, 24), (120, 40), (200, 60)):
            await pilot.resize_terminal(*size)
            await until(pilot, lambda size=size: ("Details" in text_of(app)) == (size[0] >= 120))
            text = text_of(app)
            assert "5 runs  84 checkpoints  83 scored" in text, size
            assert "▾ ● tiny" in text and "@100" in text, size
        await pilot.press("j", "j")
        assert app.selection.cursor == "tiny@2"


async def test_folding_selecting_and_marking(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await opened(app, pilot, until, "space", "space", "a", "j", "b")
        assert list(app.selection.selected) == ["tiny@0", "tiny@1"]
        assert (app.selection.a, app.selection.b) == ("tiny@2", "tiny@4")
        assert "A tiny@2  B tiny@4  2 selected" in text_of(app)
        await pilot.press("x", "h", "enter")
        assert app.selection.a == "tiny@4"
        assert "@100" not in lines_of(app)[5]
        await pilot.press("escape")
        assert not app.selection.selected
        await pilot.press("escape")
        assert app.selection.a == "tiny@4"


async def test_filter_narrows_while_it_is_written(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await opened(app, pilot, until, "/", *"run:small")
        assert app.filter.text == "run:small"
        await pilot.press("enter")
        assert "tiny-seed2" not in text_of(app) and "◆ small" in text_of(app)
        await pilot.press("escape")
        assert "tiny-seed2" in text_of(app)


async def test_a_wrong_filter_is_told_and_not_taken(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await opened(app, pilot, until, "/", *"colour:x", "enter")
        assert "unknown field 'colour'" in text_of(app)
        await pilot.press("escape")
        assert app.filter.text == ""


async def test_jobs_show_progress_failures_and_hints(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(150, 40)) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: "tiny@4" in text_of(app))
        text = text_of(app)
        assert "43%" in text and "42%" in text and "left" in text
        assert "missing tensors: embed_out.weight" in text
        assert "The download may be incomplete" in text


async def test_a_failure_is_read_in_its_row_and_whole_by_enter(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until, "2", "t", "tab", "G")
        await until(pilot, lambda: any(i.status == "failed" for i in app.view.items.rows))
        failed = next(k for k, i in enumerate(app.view.items.rows) if i.status == "failed")
        item = app.view.items.rows[failed]
        app.view.items.go(failed)
        await until(pilot, lambda: re.search(rf"{item.name} +failed +{item.error[:20]}", text_of(app)))
        await pilot.press("enter")
        words = [item.name, *item.error.split(), *item.hint.split()]
        await until(pilot, lambda: " ".join(words) in " ".join(" ".join(lines_of(app)).split()))


async def test_the_way_out_of_a_failure_stands_below_the_checkpoints_where_no_log_does(
    make_app: MakeApp, until
) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until, "2")
        hint = "The download may be incomplete: fetch it again."
        await until(pilot, lambda: hint in text_of(app))
        assert "tiny@8: missing tensors: embed_out.weight" in text_of(app)
        assert not app.view.log_pane.size
        await pilot.resize_terminal(150, 40)
        await until(pilot, lambda: "Log" in text_of(app))
        said = " ".join(" ".join(line.split("│")[-1] for line in lines_of(app)).split())
        assert hint in said and text_of(app).count("embed_out.weight") == 2  # in the row, and in the log


async def test_a_job_that_has_ended_has_no_progress_bar(make_app: MakeApp, until) -> None:
    workspace = FakeWorkspace()
    ended = workspace.job_rows[1]
    workspace.job_rows[1] = replace(ended, done=ended.total - 1, failed=1)
    app = make_app(workspace)
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until, "2")
        await until(pilot, lambda: app.view.items.header_right())
        await pilot.press("j")
        assert app.view.list.job.status == "failed" and app.view.list.job.failed
        assert [text for text, _ in app.view.items.header_right()] == ["R runs the rest: 1 of 84"]
        await pilot.resize_terminal(140, 40)
        await until(pilot, lambda: not app.view.items.header_right())


async def test_stop_asks_first(make_app: MakeApp, until, monkeypatch) -> None:
    stopped = []
    monkeypatch.setattr("kltui.jobs.launch.stop", lambda job: stopped.append(job.id))
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await opened(app, pilot, until, "2", "K")
        assert "Stop job 2?" in text_of(app)
        await pilot.press("escape")
        assert not stopped
        await pilot.press("K", "y")
        await until(pilot, lambda: stopped == [2])


async def test_read_only_starts_nothing(make_app: MakeApp, until) -> None:
    app = make_app(read_only=True)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for key in ("A", "s"):
            await pilot.press(key)
            assert "--read-only" in text_of(app)
        await pilot.press("2", "K")
        assert "Stop job" not in text_of(app)


@pytest.mark.parametrize("key", ["s", "t"])
async def test_a_job_for_the_selection_is_shown_before_it_starts(
    make_app: MakeApp, until, tmp_path, monkeypatch, key
) -> None:
    started = []
    monkeypatch.setattr(
        "kltui.jobs.launch.start_detached", lambda path, *, watch: started.append((path, watch)) or 4321
    )
    app = make_app(path=tmp_path)
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "space", "space", "s")
        await until(pilot, lambda: "This job" in text_of(app))
        assert "models" in text_of(app) and "/models/tiny/step0" in text_of(app)
        await pilot.press(key)
        await until(pilot, lambda: started)
        await until(pilot, lambda: "started as process 4321" in text_of(app))
        assert started[0][0].parent == tmp_path / "jobs" and started[0][1] == (key == "t")
        assert app.screen_name == "jobs"


async def test_an_alert_of_a_watch_stands_in_the_status_line(make_app: MakeApp, until) -> None:
    workspace = FakeWorkspace()
    reported = {"rule": "loss", "message": "the loss rose at \x1b[31mtiny@4", "at": time.time()}
    workspace.kept_records["alert"] = {"old": reported | {"message": "before"}, "new": reported}
    app = make_app(workspace)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        assert "alert: the loss rose at" in text_of(app) and "\x1b" not in text_of(app)
        reported["at"] = time.time() - 25 * 3600
        workspace.change += 1
        await pilot.press("r")
        await until(pilot, lambda: "alert:" not in text_of(app))


async def test_a_job_from_a_run_s_heading_is_for_the_whole_run(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 100)) as pilot:
        await opened(app, pilot, until, "G", "[", "h", "s")
        await until(pilot, lambda: "This job" in text_of(app))
        revisions = {row.checkpoint.source.revision for row in app.snapshot.runs["tuned"]}
        assert len(revisions) == 3 and all(f'"{name}"' in text_of(app) for name in revisions)


async def test_unscored_checkpoints_lead_to_a_job(make_app: MakeApp, until) -> None:
    app = make_app(FakeWorkspace(scored=0))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for screen in (3, 4, 5, 6, 7, 8, 9, 10):
            await pilot.press("1")
            await until(pilot, lambda: "watch it" not in text_of(app))
            await pilot.press(str(screen % 10))
            await until(pilot, lambda: "watch it" in text_of(app))
            assert "84 checkpoints, none scored yet." in text_of(app), screen


async def test_of_ten_thousand_rows_those_in_view_are_drawn(make_app: MakeApp, until, monkeypatch) -> None:
    drawn: list[int] = []
    real = RunTree._row
    monkeypatch.setattr(RunTree, "_row", lambda tree, index: (drawn.append(index), real(tree, index))[1])
    app = make_app(FakeWorkspace(n_texts=8, names=checkpoints(tuple(range(0, 25000, 10)))))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for _ in range(20):
            await pilot.press("pagedown")
        await pilot.press("G")
        assert app.snapshot.by_name[app.selection.cursor].checkpoint.run == "tuned"
        assert len(drawn) <= 25 * app.size.height
