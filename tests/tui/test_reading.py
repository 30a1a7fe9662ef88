"""What can be read off the screens: errors beside every KL, nothing cut at 80 columns, figures where they fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_workspace import FakeWorkspace, checkpoints
from safetensors.numpy import save_file
from screen_text import lines_of, text_of

from kltui.errors import StoreError
from kltui.tui.canvas import wrapped
from kltui.tui.interface import KltuiApp

MakeApp = Callable[..., KltuiApp]


async def flat(scores: np.ndarray) -> np.ndarray:
    """Stands in for the process that computes t-SNE."""
    return np.ascontiguousarray(scores[:, :2])


@pytest.mark.parametrize(
    ("screen", "shown"),
    [("3", "nearest by KL"), ("5", "Nearest to the row"), ("8", "Pairs: later pretraining")],
)
async def test_every_kl_of_a_list_stands_beside_its_error(
    make_app: MakeApp, until, monkeypatch, screen: str, shown: str
) -> None:
    app = make_app()
    monkeypatch.setattr(app.atlas, "tsne", flat)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.selection.a, app.selection.b = "tiny@100", "tiny@200"
        await pilot.press(screen)
        await until(pilot, lambda: shown in text_of(app) and "±" in text_of(app))
        await until(pilot, lambda: len(re.findall(r"\d ± \d", text_of(app))) >= 5)
        if screen == "8":
            assert re.search(r"\d ± [\d.]+ bits/byte", text_of(app)), "A and B on the scale"


def nothing(_: Path) -> FakeWorkspace:
    raise StoreError("there is no workspace here", "")


@pytest.mark.parametrize("size", [(60, 15), (80, 24)])
@pytest.mark.parametrize("screen", range(1, 9))
async def test_the_welcome_is_whole_at_every_width(until, screen: int, size: tuple[int, int]) -> None:
    app = KltuiApp(Path("/workspaces/new"), opener=nothing)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press(str(screen))
        await pilot.pause()
        words = " ".join(" ".join(lines_of(app)).split())
        assert "folder, hub repository, preset, released vectors" in words


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
        await pilot.press("5")
        await until(pilot, lambda: "enter compares" in text_of(app))
        heat = app.view.heat
        found, (a, b) = heat.map, (heat.order[0], heat.order[1])
        assert f" {found.pair_rows(a, b).value:.2g} " in lines_of(app)[2]
        await pilot.press("l")
        assert f"[{found.pair_rows(a, b).value:.2g}]" in lines_of(app)[2]


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
        await pilot.press("4")
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
        await pilot.press("a", "b", "6")
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

    def token_logprobs(self, name: str) -> Path | None:
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
        await until(pilot, lambda: "the tokens could not be laid over this text" in text_of(app))


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
