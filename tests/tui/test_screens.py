"""Every screen, driven by keys, read as a person would."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fake_workspace import FakeWorkspace, checkpoints, fake_embedded
from screen_text import lines_of, opened, text_of

from kltui.errors import NoWorkspaceError
from kltui.tui.actions import ACTIONS, SCREENS
from kltui.tui.app import KltuiApp
from kltui.tui.export import rows_of, write_csv
from kltui.tui.ui_state import Memory
from kltui.tui.widgets.plot import PlotPane

MakeApp = Callable[..., KltuiApp]


async def test_diffusion_shows_exponents_and_the_window_of_a_start(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "5")
        await until(pilot, lambda: "likelihood c =" in text_of(app))
        assert "weights c = 1.10" in text_of(app)  # the fake's squared weight distances grow as tau ** 1.1
        await pilot.press("l", "w", "w", "u", "L")
        await until(pilot, lambda: "window 5, noise subtracted" in text_of(app))


async def test_the_filter_chooses_the_starts_of_the_exponents(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "5")
        await until(pilot, lambda: "likelihood c =" in text_of(app))
        plot, every = app.view.exponent_plot, list(app.view.exponents)
        assert len({e.run for e in every}) > 1 and len(plot.names) == len(every)
        app.set_filter("run:small step>=10")
        await until(pilot, lambda: len(app.view.exponents) < len(every))
        assert app.view.exponents == [e for e in every if e.run == "small" and e.start >= 10]
        assert plot.names == [f"small@{e.start}" for e in app.view.exponents]
        await until(pilot, lambda: "small from @" in text_of(app))
        app.set_filter("run:none")
        await until(pilot, lambda: "no start passes the filter: press esc to clear it" in text_of(app))
        app.set_filter("")
        await until(pilot, lambda: app.view.exponents == every and "likelihood c =" in text_of(app))


async def test_matrix_reads_out_a_pair_and_compares_it(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "6")
        await until(pilot, lambda: "83 checkpoints" in text_of(app))
        await pilot.press("l")
        assert "tiny@0 → tiny@1" in text_of(app)
        await pilot.press("o", "o")
        await until(pilot, lambda: "clustered" in text_of(app))
        await pilot.press("enter")
        await until(pilot, lambda: app.screen_name == "compare" and "KL " in text_of(app))
        assert app.selection.a and app.selection.b


async def test_the_pair_of_a_matrix_is_in_view_after_a_filter_that_nothing_passed(
    make_app: MakeApp, until
) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "6")
        heat = app.view.heat
        await until(pilot, lambda: heat.order)
        app.set_filter("run:none")
        await until(pilot, lambda: not heat.order)
        app.set_filter("")
        await until(pilot, lambda: heat.order)
        assert (heat.row, heat.column) == (0, 0) and "[]" in text_of(app)


async def test_compare_lists_the_texts_that_drive_the_kl(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(140, 40)) as pilot:
        await opened(app, pilot, until, "a", "j", "j", "b", "c")
        await until(pilot, lambda: "half of it lies in" in text_of(app))
        text = text_of(app)
        assert "A tiny@0   B tiny@2" in text and "def heap_push" in text and "domains" in text
        first = app.view.text_index
        await pilot.press("n")
        assert app.view.text_index != first
        await pilot.press("o")
        assert "where A is better" in text_of(app)


async def test_compare_needs_two(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await opened(app, pilot, until, "a", "c")
        shown = text_of(app)
        assert "Compare which pair?" in shown
        first = next(line for line in lines_of(app) if "tiny@1400 " in line)
        assert app.selection.a in first  # the pairs of the mark come first
        await pilot.press("escape", "7")
        assert "c suggests pairs to compare" in text_of(app)
    lone = make_app(FakeWorkspace(names=checkpoints()[:1]))
    async with lone.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: lone.snapshot.loaded)
        await pilot.press("c")
        assert "two scored checkpoints are needed" in text_of(lone)


async def test_layers_show_kl_between_neighbours_and_threads(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "8")
        await until(pilot, lambda: "KL to the previous layer" in text_of(app))
        await pilot.press("l")
        await until(pilot, lambda: "small@1400#" in text_of(app))
        await pilot.press("v")
        await until(pilot, lambda: "threads (PCA)" in text_of(app))


async def test_scale_leads_to_its_pairs(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "9")
        await until(pilot, lambda: "later pretraining" in text_of(app))
        await pilot.press("j", "j", "enter", "enter")
        await until(pilot, lambda: app.screen_name == "compare")
        assert {app.selection.a, app.selection.b} <= {"tiny@1400", "tiny-seed2@1400", "tiny-seed3@1400"}


def nothing() -> FakeWorkspace:
    raise NoWorkspaceError("there is no workspace at /nowhere", "Make one by scoring a job.")


async def test_an_empty_workspace_says_what_to_do_next(until) -> None:
    app = KltuiApp(Path("/nowhere"), opener=lambda _: nothing())
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for number, screen in enumerate(SCREENS, start=1):
            await pilot.press(str(number % 10))
            await until(pilot, lambda screen=screen: f"{screen.capitalize()}: " in text_of(app))
            text = text_of(app)
            assert "kltui --demo" in text and "A   add checkpoints" in text, screen


async def test_the_welcome_leads_from_every_screen(make_app: MakeApp, until) -> None:
    def nothing(_: Path) -> FakeWorkspace:
        raise NoWorkspaceError("there is no workspace here", "")

    app = KltuiApp(Path("/workspaces/new"), opener=nothing)
    async with app.run_test(size=(100, 30)) as pilot:
        await opened(app, pilot, until, "9")
        assert "A   add checkpoints" in text_of(app)
        await pilot.press("A")
        await until(pilot, lambda: "Add checkpoints from" in text_of(app))
        assert app.screen_name == "registry"
        await pilot.press("escape")
        app.watch_closely()
        await until(pilot, lambda: "The job is starting." in text_of(app))


async def test_where_all_have_failed_the_empty_screens_say_so_and_where_it_says_why(
    make_app: MakeApp, until
) -> None:
    workspace = FakeWorkspace(scored=0)
    workspace.job_rows = [replace(workspace.job_rows[0], id=7, status="failed", done=0, failed=84, total=84)]
    app = make_app(workspace)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for key in "34567890":
            await pilot.press(key)
            await until(pilot, lambda: "84 failed in job 7: see why; R there runs them again" in text_of(app))


@pytest.mark.parametrize(
    ("status", "words"),
    [("lost", "job 7 did not finish, because its process ended"), ("stopped", "job 7 was stopped")],
)
async def test_where_nothing_is_scored_yet_the_empty_screens_name_the_key_that_runs_the_rest(
    make_app: MakeApp, until, status: str, words: str
) -> None:
    workspace = FakeWorkspace(scored=0)
    workspace.job_rows = [replace(workspace.job_rows[0], id=7, status=status, done=0, failed=0, total=84)]
    app = make_app(workspace)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for key in "34":
            await pilot.press(key)
            await until(pilot, lambda: f"2   {words}: R there runs the rest" in text_of(app))


async def test_no_room_is_said_politely_and_room_brings_everything_back(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(50, 12)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        assert "kltui needs 60 x 15 cells" in text_of(app)
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "84 checkpoints" in text_of(app))


async def test_a_storm_of_sizes(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for screen in range(1, 11):
            await pilot.press(str(screen % 10))
            for size in ((1, 1), (60, 15), (200, 60), (3, 80), (300, 5), (119, 30), (160, 24)):
                await pilot.resize_terminal(*size)
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "9Scale" in text_of(app))


async def test_tab_reaches_every_pane_in_one_column(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until, "tab")
        await until(pilot, lambda: "Details" in text_of(app))
        await pilot.press("tab")
        await until(pilot, lambda: "▾ ● tiny" in text_of(app))


async def test_help_and_palette(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(100, 40)) as pilot:
        await opened(app, pilot, until, "?")
        assert "Keys on the Registry screen" in text_of(app)
        await pilot.press("escape", ":", *"qqqq")
        assert "nothing matches" in text_of(app)
        await pilot.press("enter", "backspace", "backspace", "backspace", "backspace")
        assert "nothing matches" not in text_of(app)
        await pilot.press(*"screen matrix", "enter")
        await until(pilot, lambda: app.screen_name == "matrix")


@pytest.mark.parametrize("ascii_only", [False, True])
async def test_the_palette_s_keys_and_help_are_columns(make_app: MakeApp, until, ascii_only: bool) -> None:
    app = make_app(ascii_only=ascii_only)
    async with app.run_test(size=(100, 40)) as pilot:
        await opened(app, pilot, until, ":")
        words = dict(app.screen.list.options)
        helps = {
            a.name.replace("_", " "): a.help for a in ACTIONS if a.on("registry") and a.name != "palette"
        }
        assert len({len(words[name].removesuffix(text)) for name, text in helps.items()}) == 1
        line = next(line for line in lines_of(app) if "suspend to the shell" in line)
        next_line = next(line for line in lines_of(app) if "quit; jobs continue" in line)
        assert line.index("suspend to the shell") == next_line.index("quit; jobs continue")


async def test_ascii_has_nothing_but_ascii(make_app: MakeApp, until, monkeypatch) -> None:
    app = make_app(ascii_only=True)
    monkeypatch.setattr(app.map_cache, "embedded", fake_embedded)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.selection.a, app.selection.b = "tiny@100", "tiny@200"
        for screen in (*"12345678", "?"):
            await pilot.press(screen)
            await pilot.pause(0.3)
            odd = {c for c in text_of(app) if not c.isascii()}
            assert not odd, (screen, odd)


async def test_the_light_palette_and_the_mono_one(make_app: MakeApp, until) -> None:
    app = make_app(color=False)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await until(pilot, lambda: app.focused is not None)
        await pilot.press("j")
        row = app.screen._compositor.render_strips()[6]
        assert any(s.style and s.style.reverse for s in row)
        await pilot.press("C")
        assert app.look.palette.name == "light"


# By screen: what is shown once everything that it computes has arrived.
ARRIVED = {"1": "84 checkpoints", "2": "43%", "3": "nearest to", "4": "settled at step", "5": "likelihood c =", "6": "enter compares",
           "7": "no token log-probabilities", "8": "KL to the previous layer", "9": "as large as"}  # fmt: skip


def cells_of(app: KltuiApp) -> list[list[tuple[str, object]]]:
    """Every cell of the screen with its style, but for the status line and its messages."""
    rows = [[(c, s.style) for s in strip for c in s.text] for strip in app.screen._compositor.render_strips()]
    return rows[:-2] + rows[-1:]


def all_drawn(app: KltuiApp) -> bool:
    """Whether every plot of the screen has something to show."""
    return all(plot.scene is not None for plot in app.view.query(PlotPane))


async def pictures(app: KltuiApp, until, prelude: str) -> dict[str, list[list[list[tuple[str, object]]]]]:
    """By screen: its cells, after `C`, and after `C` once more; before that the keys `prelude` on screen 1."""
    found = {}
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.selection.a, app.selection.b = "tiny@100", "tiny@200"
        await pilot.press(*prelude)
        for screen, shown in ARRIVED.items():
            await pilot.press(screen)
            await until(pilot, lambda shown=shown: shown in text_of(app) and all_drawn(app))
            await pilot.pause(0.1)
            found[screen] = [cells_of(app)]
            for _ in range(2):
                await pilot.press("C")
                await until(pilot, lambda: f"palette: {app.look.palette.name}" in text_of(app))
                found[screen].append(cells_of(app))
    return found


async def test_one_key_draws_every_pane_in_the_other_palette(make_app: MakeApp, until, monkeypatch) -> None:
    """Held against a session that began in that palette: nothing of the old one may stay on the screen."""
    dark, light = make_app(), make_app()
    for app in (dark, light):
        monkeypatch.setattr(app.map_cache, "embedded", fake_embedded)
    seen = await pictures(dark, until, "")
    truth = await pictures(light, until, "C")
    for screen in ARRIVED:
        before, once, twice = seen[screen]
        begun_light, then_dark, _ = truth[screen]
        assert not stale(once, begun_light), f"dark to light on screen {screen}"
        assert not stale(then_dark, before), f"light to dark on screen {screen}"
        assert not stale(twice, before) and stale(once, before), f"there and back on screen {screen}"


def stale(got: list[list[tuple[str, object]]], wanted: list[list[tuple[str, object]]]) -> list[str]:
    """The pieces of rows that are not as wanted."""
    return [
        "".join(c for (c, s), w in zip(row, wish, strict=True) if (c, s) != w)
        for row, wish in zip(got, wanted, strict=True)
        if row != wish
    ]


async def test_view_state_is_kept(make_app: MakeApp, until, tmp_path) -> None:
    memory = Memory(tmp_path / "view.json")
    app = make_app(memory=memory)
    async with app.run_test(size=(100, 30)) as pilot:
        await opened(app, pilot, until, "j", "a", "6", "q")
    again = make_app(memory=memory)
    async with again.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: again.snapshot.loaded and again.selection.a)
        assert (again.screen_name, again.selection.cursor, again.selection.a) == (
            "matrix",
            "tiny@1",
            "tiny@1",
        )


def test_no_text_of_a_view_is_a_formula_in_its_csv(tmp_path) -> None:
    rows = [["name", "kl"], ["=1+1", -0.5], ["-x", float("nan")], ["@a", 3], ["a\x1b\n", None], ["+", -2]]
    write_csv(tmp_path / "x.csv", rows)
    with (tmp_path / "x.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["name", "kl"], ["'=1+1", "-0.5"], ["'-x", "nan"], ["'@a", "3"], ["a\ufffd⏎", ""], ["'+", "-2"]
        ]  # fmt: skip


async def test_export_writes_csv_svg_and_job_file(make_app: MakeApp, until, tmp_path) -> None:
    app = make_app(path=tmp_path)
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "9")
        await until(pilot, lambda: "later pretraining" in text_of(app))
        for kind, tail in (("screenshot", "svg"), ("rows", "csv"), ("job", "toml")):
            await pilot.press("e", *kind, "enter")
            await until(pilot, lambda tail=tail: list((tmp_path / "exports").glob(f"*.{tail}")))
        assert "setting,published,median" in next((tmp_path / "exports").glob("*.csv")).read_text()


async def test_every_view_exports_its_rows(make_app: MakeApp, until, monkeypatch) -> None:
    titles = {"1": "name", "2": "checkpoint", "3": "name", "4": "quantity", "5": "run", "6": "a", "7": "text", "8": "model",
              "9": "setting"}  # fmt: skip
    app = make_app()
    monkeypatch.setattr(app.map_cache, "embedded", fake_embedded)
    async with app.run_test(size=(130, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.selection.a, app.selection.b = "tiny@100", "tiny@200"
        for screen, title in titles.items():
            await pilot.press(screen)
            await until(pilot, lambda: len(list(rows_of(app))) > 1)
            rows = list(rows_of(app))
            assert rows[0][0] == title and {len(r) for r in rows} == {len(rows[0])}, screen


async def test_copy_goes_through_osc_52(make_app: MakeApp, until, monkeypatch) -> None:
    app = make_app()
    copied = []
    monkeypatch.setattr(app, "copy_to_clipboard", copied.append)
    async with app.run_test(size=(100, 30)) as pilot:
        await opened(app, pilot, until, "y")
        assert copied == ["tiny@0"]


async def test_leaving_says_that_jobs_go_on(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await opened(app, pilot, until, "q")
    assert app.left_running == 1 and app.return_value == 0


def test_no_terminal_points_to_batch(cli) -> None:
    done = cli("some-workspace")
    assert done.returncode == 2 and "--batch" in done.stderr
    assert done.stdout == ""


async def test_compare_never_shows_the_last_pair_under_other_marks(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "space", "j", "a", "j", "b", "c")
        await until(pilot, lambda: app.screen_name == "compare" and app.view.texts.drivers is not None)
        assert "KL " in text_of(app)
        await pilot.press("1")
        app.selection.a, app.selection.b = "", ""  # as esc drops them
        app.view.update_data()
        await pilot.press("7")
        await until(pilot, lambda: "A not marked" in text_of(app))
        assert app.view.texts.drivers is None
        app.selection.a, app.selection.b = "tiny@1", "tiny@8"
        app.view.update_data()  # before anything of them is known
        assert app.view.texts.drivers is None and app.view.texts.order == [] and app.view.text_index == -1
        await until(pilot, lambda: app.view.texts.drivers is not None)
        assert "A tiny@1" in text_of(app) and "B tiny@8" in text_of(app)
