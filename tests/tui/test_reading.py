"""What can be read off the screens: errors beside every KL, nothing cut at 80 columns, figures where they fit."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
from fake_workspace import FakeWorkspace, checkpoints
from safetensors.numpy import save_file
from screen_text import lines_of, text_of

from kltui.analysis.embed import Picture
from kltui.analysis.map import Map
from kltui.errors import KltuiError, NoWorkspaceError, StoreError
from kltui.sanitize import in_ascii
from kltui.tui.actions import ACTIONS, SCREENS
from kltui.tui.app import KltuiApp
from kltui.tui.filter import parse_filter
from kltui.tui.ui_state import Memory
from kltui.tui.widgets.canvas import wrapped
from kltui.tui.widgets.window_plot import WEIGHTS
from kltui.view.palette import SHADES

MakeApp = Callable[..., KltuiApp]


def in_the_box(app: KltuiApp) -> list[str]:
    """The lines of what lies over the view, without its border."""
    box = app.screen.query_one(".sheet").content_region
    return [line[box.x : box.right] for line in lines_of(app)[box.y : box.bottom]]


async def flat(found: Map, method: str, dims: int, *, first: bool) -> AsyncIterator[tuple[Picture, bool]]:
    """Stands in for the process that computes t-SNE."""
    yield Picture(method, found.coordinates("pca", dims)), True


def few() -> FakeWorkspace:
    """A workspace whose screens are soon computed, where what they show is not the subject."""
    return FakeWorkspace(8, names=checkpoints((0, 100)))


async def test_every_kl_of_a_list_stands_beside_its_error(make_app: MakeApp, until, monkeypatch) -> None:
    app = make_app()
    monkeypatch.setattr(app.map_cache, "embedded", flat)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.selection.a, app.selection.b = "tiny@100", "tiny@200"
        for screen, shown in (
            ("3", "nearest to"),
            ("6", "Nearest to the row"),
            ("9", "Pairs: later pretraining"),
        ):
            await pilot.press(screen)
            await until(pilot, lambda shown=shown: shown in text_of(app) and "±" in text_of(app))
            await until(pilot, lambda: len(re.findall(r"\d +± +\d", text_of(app))) >= 5)
        assert re.search(r"\d ± [\d.]+ bits/byte", text_of(app)), "A and B on the scale"


def nothing(_: Path) -> FakeWorkspace:
    raise NoWorkspaceError("there is no workspace here", "")


async def test_the_welcome_is_whole_at_every_width(until) -> None:
    app = KltuiApp(Path("/workspaces/new"), opener=nothing)
    async with app.run_test(size=(60, 15)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for number, screen in enumerate(SCREENS, start=1):
            await pilot.press(str(number % 10))
            for size in ((60, 15), (80, 24)):
                await pilot.resize_terminal(*size)
                await until(pilot, lambda screen=screen: f"{screen.capitalize()}: " in text_of(app))
                words = " ".join(" ".join(lines_of(app)).split())
                assert "folder, hub repository, preset, released vectors" in words, (screen, size)


async def test_where_to_add_from_is_whole_at_80_columns(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("A")
        await until(pilot, lambda: "Add checkpoints from" in text_of(app))
        for end in ("step1000 ... inside", "revision patterns", "SmolLM ...", "harness samples"):
            assert end in text_of(app)


async def test_a_small_matrix_shows_its_figures(make_app: MakeApp, until) -> None:
    app = make_app(FakeWorkspace(names=checkpoints((0, 100))))
    async with app.run_test(size=(200, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("6")
        await until(pilot, lambda: "enter compares" in text_of(app))
        heat = app.view.heat
        found, (a, b) = heat.map, (heat.order[0], heat.order[1])
        assert f" {found.pair_rows(a, b).value:.2g} " in lines_of(app)[5]
        await pilot.press("l")
        assert f"[{found.pair_rows(a, b).value:.2g}]" in lines_of(app)[5]


async def test_texts_without_domains_have_no_column_for_them(make_app: MakeApp, until) -> None:
    class Plain(FakeWorkspace):
        def domains(self, sha256: str | None = None) -> list[str]:
            return [""] * self.n_texts

    app = make_app(Plain())
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("a", "j", "b", "c")
        await until(pilot, lambda: "half of it lies in" in text_of(app))
        assert "domain" not in text_of(app) and "def heap_push" in text_of(app)


async def test_runs_are_named_on_the_exponents(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("5")
        await until(pilot, lambda: "likelihood c =" in text_of(app))
        plot = "\n".join(lines_of(app)[2:11])
        assert sum(name in plot for name in ("tiny", "tiny-seed2", "tiny-seed3", "small")) >= 3, plot


async def test_one_of_a_kind_is_counted_as_one(make_app: MakeApp, until) -> None:
    app = make_app(FakeWorkspace(names=checkpoints((0,))[:1]))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        assert "1 run  1 checkpoint  1 scored" in text_of(app)


def test_long_words_break_after_slashes_and_wide_ones_lose_nothing() -> None:
    assert wrapped("/models/small/step1000", 14) == ["/models/small/", "step1000"]
    assert wrapped("模型" * 6, 8) == ["模型模型"] * 3
    assert wrapped("x" * 10, 4) == ["xxxx", "xxxx", "xx"]


async def test_a_checkpoint_compared_with_itself_is_said_to_be_the_same(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("a", "b", "7")
        await until(pilot, lambda: "A and B are the same checkpoint." in text_of(app))
        assert "nan" not in text_of(app)


async def test_a_filter_says_how_many_it_lets_through(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.set_filter("run:small step>=1000")
        await until(pilot, lambda: "5 of 84 checkpoints by the filter" in text_of(app))


async def test_read_only_exports_leave_the_workspace_alone(
    make_app: MakeApp, until, tmp_path: Path, monkeypatch
) -> None:
    workspace, here = tmp_path / "ws", tmp_path / "here"
    workspace.mkdir(), here.mkdir()
    monkeypatch.chdir(here)
    app = make_app(path=workspace, read_only=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("e", *"csv", "enter")
        await until(pilot, lambda: list((here / "exports").glob("registry-*.csv")))
    assert not list(workspace.iterdir())


class Scored(FakeWorkspace):
    """Tokens that a job has stored by the second look; `damaged` ones cannot be read."""

    damaged = False

    def token_logprobs(self, name: str, alone: bool = False) -> Path | None:
        if self.damaged:
            raise StoreError("tokens-1.safetensors is damaged: its hash has changed", "Run the job again.")
        return self.stored if self.change > 1 else None


async def test_tokens_appear_as_soon_as_a_job_has_stored_them(make_app: MakeApp, until, tmp_path) -> None:
    workspace = Scored()
    workspace.stored = tmp_path / "tokens.safetensors"
    lengths = np.full(200, 2, np.int64)
    save_file({"lengths": lengths, "logprobs": np.zeros(400, np.float32)}, workspace.stored)
    app = make_app(workspace)
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("a", "j", "b", "c")
        await until(pilot, lambda: "no token log-probabilities stored" in text_of(app))
        workspace.change = 2
        await pilot.press("r")
        await until(pilot, lambda: "the tokens could not be aligned with this text" in text_of(app))


async def test_damaged_tokens_are_told_and_nothing_ends(make_app: MakeApp, until) -> None:
    workspace = Scored()
    workspace.damaged = True
    app = make_app(workspace)
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("a", "j", "b", "c")
        await until(pilot, lambda: "its hash has changed" in text_of(app))
        assert "half of it lies in" in text_of(app) and not app.failure


async def test_domains_that_do_not_fit_are_left_out_whole(make_app: MakeApp, until) -> None:
    class Many(FakeWorkspace):
        def domains(self, sha256: str | None = None) -> list[str]:
            return [f"a-long-domain-{i % 5}" for i in range(self.n_texts)]

    app = make_app(Many())
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("a", "j", "b", "c")
        await until(pilot, lambda: "domains" in text_of(app))
        line = next(x for x in lines_of(app) if x.startswith("domains"))
        assert line.rstrip().endswith("%"), line


async def test_complaints_hints_and_keys_are_whole_on_narrow_screens(
    make_app: MakeApp, until, monkeypatch
) -> None:
    def words() -> str:
        return " ".join(" ".join(in_the_box(app)).split())

    app = make_app()
    monkeypatch.setattr("kltui.tui.dialogs.jobs_start.start_file", lambda app: None)
    async with app.run_test(size=(60, 15)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for size in ((60, 15), (80, 24)):
            await pilot.resize_terminal(*size)
            await pilot.press("/")
            await until(pilot, lambda: "words of the name" in words() and "parent:" in words())
            await pilot.press(*"step>=1x", "enter")
            with pytest.raises(KltuiError) as wrong:
                parse_filter("step>=1x")
            said = f"{wrong.value.message} {wrong.value.hint}"
            await until(pilot, lambda said=said: said in words())
            await pilot.press("escape", "j", "s")
            await until(
                pilot,
                lambda: (
                    "s write and start t write and watch: also score new checkpoints e change its settings w write only"
                    in words()
                ),
            )
            assert "jk scroll esc close" in words()
            await pilot.press("escape")


@pytest.mark.parametrize("ascii_only", [False, True])
async def test_help_is_whole_in_60_columns(make_app: MakeApp, until, ascii_only: bool) -> None:
    app = make_app(ascii_only=ascii_only)
    async with app.run_test(size=(60, 200)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for screen in SCREENS[::4] if ascii_only else SCREENS:  # the same texts in other characters
            app.screen_name = screen  # of which the help is; what the screen itself shows is not looked at
            await pilot.press("?")
            await until(pilot, lambda screen=screen: f"Keys on the {screen.capitalize()}" in text_of(app))
            inside = in_the_box(app)
            words = " ".join(" ".join(inside).split())
            for _, entries in app.keymap.help(screen):
                for _, said in entries:
                    assert said in words, screen
            heads = [(in_ascii(keys) if ascii_only else keys, said[:5]) for keys, said in entries]
            column = {
                line.index(said, 3 + len(keys))
                for line in inside
                for keys, said in heads
                if line.startswith(f"  {keys} ") and said in line[3 + len(keys) :]
            }
            assert len(column) == 1, f"the texts of {screen} begin in one column"
            await pilot.press("escape")


async def test_the_line_to_narrow_a_list_is_in_sight_on_the_smallest_screen(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(60, 15)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press(":")
        await until(pilot, lambda: "Run which action?" in text_of(app) and "type to narrow" in text_of(app))
        await pilot.resize_terminal(100, 40)
        await until(pilot, lambda: sum("screen " in line for line in lines_of(app)) >= 8)


async def test_read_only_offers_nothing_that_writes(make_app: MakeApp, until) -> None:
    app = make_app(few(), read_only=True)
    async with app.run_test(size=(200, 60)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for number, screen in enumerate(SCREENS, start=1):
            await pilot.press(str(number))
            bad = [a for a in ACTIONS if a.writes and a.on(screen)]
            keys = lines_of(app)[-1]
            assert [a.label for a in bad if f" {a.keys[0]} {a.label} " in keys] == []
            await pilot.press("?")
            await until(pilot, lambda: "Keys on" in text_of(app))
            assert [a.help for a in bad if a.help in text_of(app)] == []
            await pilot.press("escape", ":")
            await until(pilot, lambda: "Run which action?" in text_of(app))
            listed = {name for name, _ in app.screen.list.options}
            assert listed & {a.name for a in bad} == set() and "quit" in listed
            await pilot.press("escape")


async def test_the_status_line_drops_marks_whole(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(60, 20)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.selection.a, app.selection.b = "tiny-seed2@100", "tiny-seed2@200"
        for length in range(1, 58):
            app.say("x" * length)
            await pilot.pause(0.001)
            left = app.main.status.spans()
            text = "".join(t for t, _ in left).rstrip("x ")
            assert not text.endswith(("  A", "  B")), text


async def test_a_copied_text_keeps_its_lines_and_nothing_that_a_terminal_obeys(
    make_app: MakeApp, until, monkeypatch
) -> None:
    app = make_app()
    copied: list[str] = []
    monkeypatch.setattr(app, "copy_to_clipboard", copied.append)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        monkeypatch.setattr(
            app.view, "copied", lambda: "one\ttwo\r\nthree\x1b[31m\u202efour\n", raising=False
        )
        await pilot.press("y")
        assert copied == ["one\ttwo\nthree\ufffd[31m\ufffdfour\n"]


async def test_the_interface_outlives_a_bug_in_what_runs_beside_it(
    make_app: MakeApp, until, monkeypatch, tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a \x1b[31m bug")

    app = make_app(memory=Memory(tmp_path / "view.json"))
    async with app.run_test(size=(160, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        monkeypatch.setattr("kltui.analysis.map.Map.diffusion", broken)
        await pilot.press("5")
        await until(pilot, lambda: "a bug in kltui: ZeroDivisionError" in lines_of(app)[-2])
        assert "interface.log" in lines_of(app)[-2]
        assert sum("ZeroDivisionError" in line for line in lines_of(app)) == 2, "also where the plot would be"
        log = (tmp_path / "interface.log").read_text(encoding="utf-8")
        assert "in broken" in log and "ZeroDivisionError" in log and "\x1b" not in log
        monkeypatch.setattr(app.reader, "generation", broken)
        await pilot.press("1")
        await until(pilot, lambda: "84 checkpoints" in text_of(app))
        await until(pilot, lambda: "a bug in kltui" in lines_of(app)[-2])
        monkeypatch.undo()
        await pilot.press("6")
        await until(pilot, lambda: "enter compares" in text_of(app))
    assert app.return_code in (None, 0)


async def test_weights_have_no_run_s_colour(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(160, 50)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("5")
        await until(pilot, lambda: "weights c =" in text_of(app))
        window = app.view.window_plot
        number = app.snapshot.run_number[window.exponent.run]
        runs = {app.look(app.look.series(n)) for n in app.snapshot.run_number.values()}
        signs = {window.point_marker(number), window.point_marker(WEIGHTS)}
        likelihood, weights = (style for text, style in window.readout() if text.strip() in signs)
        assert likelihood == app.look(app.look.series(number)) and weights not in runs
        codes = sorted(set(window.scene.code_n.tolist()))
        assert {window.ink(c) for c in codes if c // SHADES != number} & runs == set()
        assert {c // SHADES for c in codes} == {number, WEIGHTS}


@pytest.mark.parametrize("screen", ["1", "2", "3"])
async def test_a_workspace_that_cannot_be_read_is_not_said_to_be_empty(
    tmp_path: Path, until, screen: str
) -> None:
    (tmp_path / "kltui.sqlite").write_text("junk")
    app = KltuiApp(tmp_path)
    async with app.run_test(size=(160, 40)) as pilot:
        await until(pilot, lambda: "This workspace cannot be read" in text_of(app))
        await pilot.press(screen)
        await until(pilot, lambda: {"damaged:", "file", "not", "database"} <= set(text_of(app).split()))
        assert "kltui --check WORKSPACE" in text_of(app) and "is empty" not in text_of(app)


async def test_a_message_longer_than_the_status_line_is_whole_until_the_next_key(make_app, until) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded and "q quit" in lines_of(app)[-1])
        hint = "Rename the new one, or keep it, and press U again."
        app.complain(KltuiError("tiny-seed3@416 is in the workspace again, so nothing was restored", hint))
        await until(pilot, lambda: hint in " ".join(" ".join(lines_of(app)[-2:]).split()))
        assert "nothing was restored." in lines_of(app)[-2]
        await pilot.press("j")
        await until(pilot, lambda: "q quit" in lines_of(app)[-1] and "restored" not in text_of(app))
        app.say("模型" * 30)  # a wide character takes two cells
        await until(pilot, lambda: sum(line.count("模") for line in lines_of(app)[-2:]) == 30)
        app.say("word " * 90)
        await until(pilot, lambda: lines_of(app)[-1].rstrip().endswith("…"))
