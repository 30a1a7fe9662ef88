"""Screens of workspaces in which something is missing or all the same: each says why it is blank, and what helps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fake_workspace import FakeWorkspace, checkpoints
from odd_workspace import OddWorkspace, long_names, same
from rich.cells import cell_len
from screen_text import lines_of, text_of

from kltui.analysis.curves import seed_family
from kltui.analysis.embed import METHODS, Picture, picture
from kltui.analysis.map import Map
from kltui.analysis.number_text import with_error
from kltui.analysis.point import Point
from kltui.sanitize import safe_text, short_name
from kltui.tui.app import KltuiApp
from kltui.tui.views import map_text
from kltui.tui.views.matrix import NUMBERED
from kltui.view import curve_panels
from kltui.view.axis import Axis

MakeApp = Callable[..., KltuiApp]
COMBINING = "co\u0301mbining-e\u0302\u0301\u0323"


def map_of(points: list[Point], n_texts: int = 40, values: np.ndarray | None = None) -> Map:
    """A map of noise, or of the given values."""
    shape = (len(points), n_texts)
    loglik = np.random.default_rng(0).normal(-400, 30, shape) if values is None else values
    return Map(tuple(points), loglik, np.full(n_texts, 300), np.full(shape, 60, np.int32), {})


def run_of(*steps: int, run: str = "r", **fields: object) -> list[Point]:
    return [replace(Point(f"{run}@{s}", run, s), **fields) for s in steps]


def equal(K: int, N: int = 200) -> np.ndarray:
    return np.tile(np.random.default_rng(1).normal(-400, 60, N), (K, 1))


# -- names ----------------------------------------------------------------------------------------


def test_a_name_with_combining_marks_is_cut_only_where_its_cells_do_not_fit() -> None:
    name = f"{COMBINING}@1000"
    assert cell_len(name) == 16 < len(name)
    assert short_name(name, 16) == short_name(name, 18) == name
    for limit in range(3, 16):
        said = short_name(name, limit)
        assert cell_len(said) <= limit and "…\u0301" not in said and said.endswith("0")
    assert len(short_name("z" + "\u0301\u0302" * 5000, 20)) <= 80


# -- curves and exponents -------------------------------------------------------------------------


def test_a_run_of_equal_vectors_is_not_called_unscored() -> None:
    shown = map_of(run_of(0, 1, 10), 40, equal(3, 40))
    for content in (curve_panels.consecutive(shown), curve_panels.to_last(shown)):
        assert content.missing == curve_panels.EQUAL
    assert curve_panels.consecutive(map_of(run_of(7))).missing == curve_panels.NO_RUN


@pytest.mark.parametrize(
    ("n_steps", "window", "said"),
    [
        (2, 10, "or 6 with the shortest window (w); the longest here has 2"),
        (2, 5, "6 or more scored steps; the longest here has 2"),
        (8, 10, "press w until the window is 5"),
        (12, 20, "press w until the window is 10"),
        (0, 10, "no scored checkpoint has a step"),
    ],
)
def test_a_shorter_window_is_recommended_only_where_it_helps(n_steps: int, window: int, said: str) -> None:
    points = run_of(*range(0, 10 * n_steps, 10)) or [Point("alone", "alone", None)]
    shown = map_of(points)
    assert not shown.diffusion(window=window, from_step="auto")
    why = curve_panels.exponents(shown, [], window).missing
    assert said in why and why == curve_panels.no_window(shown, window)
    if "until the window is" in said:
        assert shown.diffusion(window=int(said.split()[-1]), from_step="auto")


def test_seeds_of_one_step_each_are_seeds_as_on_the_scale() -> None:
    ends = [p for k in (1, 2) for p in run_of(1000, run=f"end-{k}", seed=k, size="70m", type="t")]
    long = [p for k in (1, 2) for p in run_of(0, 1, run=f"long-{k}", seed=k, size="1b", type="t")]
    assert seed_family(map_of(ends)) == ["end-1", "end-2"]
    assert seed_family(map_of(ends + long)) == ["long-1", "long-2"]
    assert seed_family(map_of(ends + long), "end-2") == ["end-1", "end-2"]
    assert len(curve_panels.between_seeds(map_of(ends), ["end-1", "end-2"]).curves[0]) == 1
    apart = [*run_of(1, run="a", seed=1, size="70m"), *run_of(2, run="b", seed=2, size="70m")]
    content = curve_panels.between_seeds(map_of(apart), seed_family(map_of(apart)))
    assert not content.curves and "a has no step in common" in content.missing


# -- map ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("K", [2, 3, 31, 600])
def test_equal_vectors_are_one_point_and_not_a_picture_of_rounding(K: int) -> None:
    text_bytes = np.full(200, 330)
    for method in METHODS[1:]:
        made = picture(equal(K), text_bytes, method, 2)
        assert not made.xyz_Kd.any() and not any(made.axis_share)
        assert "all vectors are equal" in made.words()
    barely = equal(K)
    barely[0, 0] += 1e-6  # as small a difference as float32 has
    made = picture(barely, text_bytes, "pca", 2)
    assert made.xyz_Kd.any() and made.axis_share[0] > 0.99


async def test_checkpoints_with_the_weights_of_another_step_are_counted_beside_the_map(
    make_app: MakeApp, until
) -> None:
    app = make_app(OddWorkspace(5, 60, same))
    async with app.run_test(size=(160, 50)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("3")
        await until(pilot, lambda: app.view.plot.picture is not None)
        said = " ".join(text for line in map_text.facts(app.view.plot, 60, None) for text, _ in line)
        assert "with the weights of another step not drawn" in said


def test_axes_that_another_sample_of_texts_would_turn_are_named() -> None:
    xyz = np.array([[2.0, 1.0, 0.1], [-2.0, -1.0, -0.1], [0.0, 0.0, 0.0]])
    covariances = np.zeros((3, 3, 3))
    covariances[:, 1, 1], covariances[:, 2, 2] = 0.05, 0.002
    plot = SimpleNamespace(covariances=covariances, picture=Picture("pca", xyz))
    # sqrt(3 * 0.05 / 2) = 0.27 and sqrt(3 * 0.002 / 0.02) = 0.55
    (said,) = map_text._uncertain_axes(plot)
    assert said.startswith("axis 3 is uncertain (errors are 55% of its spread)")
    plot.picture = Picture("pca", np.zeros((3, 3)))
    assert map_text._uncertain_axes(plot) == []


@pytest.mark.parametrize(
    ("n", "words"), [(200, ["perplexity 30"]), (31, ["perplexity 30, high for 31 points: far ones"])]
)
def test_the_perplexity_is_said_and_whether_it_is_high_for_so_few_points(n: int, words: list[str]) -> None:
    made = Picture("tsne", np.zeros((n, 2)), perplexity=30.0, perplexity_asked=30.0)
    assert [
        said[: len(word)] for said, word in zip(map_text._perplexity_said(made), words, strict=True)
    ] == words
    assert made.words() == []
    lowered = replace(made, perplexity=10.0)
    assert map_text._perplexity_said(lowered) == [] and lowered.words() == ["perplexity 10 of 30"]
    assert map_text._perplexity_said(Picture("pca", np.zeros((n, 2)))) == []


# -- matrix ---------------------------------------------------------------------------------------


async def test_kls_of_0_are_values_and_their_matrix_has_no_scale_of_colours(make_app: MakeApp, until) -> None:
    app = make_app(OddWorkspace(5, 60, same))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("6")
        await until(pilot, lambda: "every KL is 0" in text_of(app))
        assert " log 0.01" not in text_of(app)
        cell, style = app.view.heat.cells(1, 0, NUMBERED)[2]
        assert cell.strip() == "0" and style != app.look("bad")
        await pilot.press("l")
        await until(pilot, lambda: "0 bits/byte" in lines_of(app)[-3])
        assert "±" not in lines_of(app)[-3]
    assert with_error(0.0, math.nan) == "0" and with_error(0.5, math.nan) == "0.500 ± -"


async def test_columns_whose_names_would_look_the_same_have_numbers(make_app: MakeApp, until) -> None:
    last = checkpoints()[-1]
    variants = [replace(last, quantization=q) for q in ("bnb-4bit", "gptq-4bit", "none")]
    for names, numbered in ((variants, True), (checkpoints()[:3], False)):
        app = make_app(FakeWorkspace(names=names))
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda app=app: app.snapshot.loaded)
            await pilot.press("6")
            await until(pilot, lambda app=app: app.view.heat.order)
            heading = lines_of(app)[3]
            assert app.view.heat.names_columns != numbered and ("no." in heading) == numbered


async def test_the_hint_of_a_read_out_is_whole_or_not_there(make_app: MakeApp, until) -> None:
    app = make_app(FakeWorkspace(names=long_names()))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("6")
        await until(pilot, lambda: app.view.heat.order)
        for key in ("l", "-"):
            await pilot.press(key)
            await until(pilot, lambda: "→" in lines_of(app)[-3])
            said = lines_of(app)[-3].rstrip()
            assert said.endswith(("enter compares", "enter goes there", "bits/byte")), said


# -- what is cut has a sign, and what is longer goes on below --------------------------------------


def test_what_terminals_count_differently_is_not_shown() -> None:
    assert safe_text("a\u2764\ufe0f \U0001f44d\U0001f3fd 1\ufe0f\u20e3") == "a\u2764 \U0001f44d 1\u20e3"


async def test_long_names_are_whole_in_the_details_and_marks_stay_on_the_status_line(
    make_app: MakeApp, until
) -> None:
    app = make_app(FakeWorkspace(names=long_names()))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("j")
        await until(pilot, lambda: "name " in text_of(app))
        details = "".join(line.partition("│")[2].strip() for line in lines_of(app)[3:])
        name = app.selection.cursor
        assert len(name) > 100 and name in details.removeprefix("name").replace(" ", "")
        await pilot.press("a", "j", "b")
        for width in (120, 80):
            await pilot.resize_terminal(width, 24)
            await until(pilot, lambda: " A x" in lines_of(app)[-2] and " B x" in lines_of(app)[-2])
            said = lines_of(app)[-2]
            assert len(said) == app.size.width and all(
                f"@{name.partition('@')[2]}" in said
                for name in (app.selection.cursor, app.selection.a, app.selection.b)
            )


def test_ticks_of_steps_are_whole_numbers() -> None:
    for high in (1, 2, 3, 7):
        for maximum in range(2, 12):
            labels = [label for _, label in Axis("log1p", 0.0, math.log10(1 + high) * 1.02).ticks(maximum)]
            assert labels[0] == "0" and all(label.isdigit() for label in labels) and len(labels) > 1
    assert [label for _, label in Axis("log1p", 0.0, 5.01).ticks(4)][-1] == "10k"
