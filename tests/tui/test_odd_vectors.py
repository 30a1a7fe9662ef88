"""Every screen on maps without spread, of few models or texts, with repeated points: a picture or a sentence."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
from fake_workspace import FakeWorkspace
from odd_workspace import OddWorkspace, as_is, in_pairs, same, with_gaps
from screen_text import text_of

from kltui.analysis.embed import Picture
from kltui.analysis.map import Map
from kltui.analysis.point import Point
from kltui.tui.app import KltuiApp

MakeApp = Callable[..., KltuiApp]


@pytest.mark.parametrize(
    ("K", "N", "odd"),
    [(2, 2, as_is), (31, 60, same), (31, 2, in_pairs), (12, 30, with_gaps)],
)
async def test_every_screen_has_a_picture_or_a_sentence(
    K: int, N: int, odd: Callable[[np.ndarray], None], make_app: MakeApp, until, monkeypatch
) -> None:
    bugs: list[str] = []
    app = make_app(OddWorkspace(K, N, odd))
    monkeypatch.setattr(app.memory, "keep_traceback", lambda text: bugs.append(text))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        async with app.run_test(size=(160, 45)) as pilot:
            await until(pilot, lambda: app.snapshot.loaded)
            monkeypatch.setattr(app.map_cache, "embedded", in_process)
            await pilot.press("a", "j", "b")
            for screen, more in (
                ("3", "vvv"),
                ("4", "uw"),
                ("5", "oo"),
                ("6", ""),
                ("7", "v"),
                ("8", "jj"),
                ("1", ""),
            ):
                for key in (screen, *more):
                    await pilot.press(key)
                    await app.workers.wait_for_complete()
                    await pilot.pause()
                assert not bugs, bugs[0]


async def in_process(
    found: Map, method: str, dims: int, *, first: bool
) -> AsyncIterator[tuple[Picture, bool]]:
    """Pictures as the screen's own process computes them, without one."""
    yield found.picture(method, dims, reduce_perplexity=True), True


async def test_a_map_that_cannot_be_drawn_says_why_and_not_that_it_is_computed(
    make_app: MakeApp, until
) -> None:
    app = make_app(OddWorkspace(10, 1, as_is))
    async with app.run_test(size=(160, 45)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("3")
        await app.workers.wait_for_complete()
        await until(pilot, lambda: "scored for every checkpoint" in text_of(app))
        assert "comput" not in text_of(app).partition("Runs")[0]


class Repeating(FakeWorkspace):
    """A run whose first two checkpoints hold the weights of the last."""

    def same_weights(self) -> list[tuple[Point, ...]]:
        return [tuple(Point(f"tiny@{s}", "tiny", s) for s in (0, 1, 1400))]


async def test_the_registry_names_checkpoints_with_the_same_weights(make_app: MakeApp, until) -> None:
    app = make_app(Repeating())
    async with app.run_test(size=(160, 45)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.set_cursor("tiny@1")
        await until(
            pilot, lambda: "the same weights as" in text_of(app) and "tiny@0, tiny@1400" in text_of(app)
        )


class Retokenised(FakeWorkspace):
    """A run with another tokenizer from its second checkpoint on."""

    def changed_tokenizers(self) -> dict[str, str]:
        return {"tiny@1": "tiny@0"}


async def test_the_registry_names_a_checkpoint_with_another_tokenizer(make_app: MakeApp, until) -> None:
    app = make_app(Retokenised())
    async with app.run_test(size=(160, 45)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.set_cursor("tiny@1")
        await until(pilot, lambda: "its tokenizer is not that of tiny@0" in text_of(app))
        app.set_cursor("tiny@2")
        await until(pilot, lambda: "its tokenizer" not in text_of(app))
