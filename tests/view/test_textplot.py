"""The plotext adapter: every input that breaks plotext, and literal pictures of the ones that do not."""

from __future__ import annotations

import ast
import math
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rich.cells import cell_len

from kltui.view import textplot
from kltui.view.axis import Axis, fit_axis
from kltui.view.textplot import PlotFrame, Scale, Series, Style, clip_segments, draw, rasterise, scatter
from kltui.view.ticks import axis_name


def line_plot(
    series: Sequence[Series],
    xlabel: str = "",
    ylabel: str = "",
    logx: bool | Literal["log1p"] = False,
    logy: bool = False,
    width: int = 80,
    height: int = 18,
    title: str = "",
    colour: bool = False,
    ascii_only: bool = False,
) -> str:
    """Lines through each series' points in order, as `height` or more rows of at most `width` cells.

    `logx="log1p"` puts x on log10(1 + x), which keeps step 0.
    """
    xscale: Scale = "log1p" if logx == "log1p" else "log" if logx else "linear"
    frame = PlotFrame(title, xlabel, ylabel, xscale, "log" if logy else "linear")
    return draw(series, frame, Style(width, height, colour, ascii_only))


nan, inf = np.nan, np.inf


def rows_of(text: str) -> list[str]:
    return text.split("\n")


def test_a_diagonal_is_drawn_dot_for_dot() -> None:
    text = draw([Series("", [0.5, 1.5], [0.5, 1.5], markers=False)], PlotFrame(), Style(width=24, height=6))
    assert rows_of(text) == [
        "1.5┤               ⣀⡠⠤⠒⠉",
        "1.0┤          ⣀⡠⠔⠒⠉",
        "   │     ⣀⠤⠔⠊⠉",
        "0.5┤⣀⠤⠒⠊⠉",
        "   └┬─────────┬────────┬",
        "   0.5       1.0    1.5",
    ]


def test_whole_numbers_have_whole_ticks() -> None:
    text = line_plot([Series("", [1, 2, 3], [0.5, 1, 2])], width=60)
    assert rows_of(text)[-1].split() == ["1", "2", "3"]


def test_a_gap_is_where_a_value_is_not_finite() -> None:
    whole = line_plot([Series("a", [0, 1, 2, 3, 4], [0, 0, 0, 0, 0], markers=False)], height=8)
    broken = line_plot([Series("a", [0, 1, nan, 3, 4], [0, 0, 0, 0, 0], markers=False)], height=8)
    assert broken.count("⠤") + broken.count("⣀") + broken.count("⠒") < 0.6 * (
        whole.count("⠤") + whole.count("⣀") + whole.count("⠒")
    )


@pytest.mark.parametrize("logx", [False, True, "log1p"])
@pytest.mark.parametrize("logy", [False, True])
@pytest.mark.parametrize(
    "y",
    [
        [1, nan, 3],
        [1, inf, 3],
        [-inf, 2, inf],
        [5, 5, 5],
        [0, 0, 0],
        [-1, -2, -3],
        [1e308, -1e308, 0],
        [1e-320, 1e-321, 0],
        [1, 1 + 1e-15, 1],
        [1e9, 1e9 + 1e-3, 1e9],
    ],
)
def test_awkward_values_draw(y: list[float], logx: bool, logy: bool) -> None:
    text = line_plot([Series("a", [1, 2, 3], y)], "x", "y", logx=logx, logy=logy, width=60, height=10)  # type: ignore[arg-type]
    assert all(cell_len(row) <= 60 for row in rows_of(text))


def test_nothing_to_draw_is_said() -> None:
    for series in ([], [Series("a", [], [])], [Series("a", [1.0], [nan])]):
        assert line_plot(series, title="loss") == "loss: no finite values to draw"
    for y in (-1, 0):
        assert line_plot([Series("a", [1], [y])], logy=True) == "plot: no positive values to draw"


def test_a_single_point_and_an_isolated_point_are_seen() -> None:
    assert "a" in line_plot([Series("", [3], [4])])
    lonely = line_plot([Series("", [0, nan, 2, nan, 4], [0, nan, 1, nan, 0], markers=False)], height=8)
    assert sum("\u2801" <= c <= "\u28ff" for c in lonely) == 3


def test_log_axes_drawn_twice_are_the_same() -> None:
    args = ([Series("a", [1, 10, 100, 1000], [1e-3, 1e-2, 1e-1, 1])], "step", "KL")
    first = line_plot(*args, logx=True, logy=True)
    assert first == line_plot(*args, logx=True, logy=True)
    marks = [(r, row.index("a")) for r, row in enumerate(rows_of(first)) if "a" in row][:4]
    slopes = np.diff(np.array(marks), axis=0)
    assert len(marks) == 4 and np.ptp(slopes[:, 0]) <= 1 and np.ptp(slopes[:, 1]) <= 1


def test_decades_are_ticked_on_log_axes_and_zero_on_log1p() -> None:
    text = line_plot([Series("a", [0, 10, 100, 1000, 1e4], [1, 2, 3, 4, 5])], logx="log1p")
    labels = rows_of(text)[-2].split()
    assert labels[0] == "0" and "100" in labels and "10k" in labels


def test_many_long_runs_zoomed_a_hundred_times_take_no_time() -> None:
    rng = np.random.default_rng(0)
    series = [Series(f"r{k}", *np.cumsum(rng.standard_normal((2, 154)), axis=1)) for k in range(12)]
    whole = scatter(series, width=120, height=40)
    zoomed = draw(series, PlotFrame(xlim=(0.0, 0.1), ylim=(0.0, 0.1)), Style(120, 40))
    assert all(mark in whole for mark in "abcdefghijkl")
    assert len(rows_of(zoomed)) >= 40


def test_a_hundred_thousand_points_are_bounded() -> None:
    rng = np.random.default_rng(1)
    line = draw(
        [Series("a", np.arange(100_000.0), rng.standard_normal(100_000))], PlotFrame(), Style(200, 50)
    )
    cloud = scatter([Series("a", *rng.standard_normal((2, 100_000)), line=False)], width=200, height=50)
    for drawn in (line, cloud):
        assert len(drawn.splitlines()) <= 52 and max(map(len, drawn.splitlines())) <= 200


def test_plain_output_has_no_escape_and_ascii_output_only_ascii() -> None:
    series = [Series("näme", [1, 2], [3, 4]), Series("b", [1, 2], [4, 3], line=False)]
    assert "\x1b" not in line_plot(series, "x", "y", title="título")
    plain = line_plot(series, "σ", "y", title="título", ascii_only=True)
    assert plain.isascii() and "\x1b" not in plain
    assert "\x1b[38;5;" in line_plot(series, colour=True)


def test_hostile_labels_cannot_reach_the_terminal() -> None:
    evil = "a\x1b]0;title\x07\u202eb\nc"
    text = line_plot([Series(evil, [1, 2], [3, 4])], evil, evil, title=evil, width=60)
    assert not any(c in text for c in "\x1b\x07\u202e") and len(rows_of(text)) == 18 + 4


@pytest.mark.parametrize("width", [10, 24, 40, 80, 120, 200])
@pytest.mark.parametrize("colour", [False, True])
def test_no_row_is_wider_than_asked(width: int, colour: bool) -> None:
    from rich.text import Text

    series = [Series("模型" * 9 + str(k), [1e-9, 2e5], [3e-7, 4e12]) for k in range(14)]
    text = line_plot(series, "步" * 70, "y" * 300, title="t" * 300, width=width, colour=colour)
    assert max(Text.from_ansi(row).cell_len for row in rows_of(text)) <= max(width, 24)


def test_equal_units_keep_a_circle_round() -> None:
    angle = np.linspace(0, 2 * np.pi, 200)
    text = scatter([Series("", np.cos(angle), np.sin(angle), markers=False)], width=80, height=24)
    body = rows_of(text)[:22]
    drawn = [[i for i, c in enumerate(row) if "\u2801" <= c <= "\u28ff"] for row in body]
    across = max(max(d) for d in drawn if d) - min(min(d) for d in drawn if d) + 1
    down = sum(bool(d) for d in drawn)
    assert abs(across - 2 * down) <= 3


unit_floats = st.floats(-3, 3, allow_nan=False).map(lambda v: round(v, 3))


@settings(max_examples=100, deadline=None)
@given(arrays(np.float64, (5, 4), elements=unit_floats))
def test_clipping_agrees_with_dense_sampling(segments: np.ndarray) -> None:
    clipped = clip_segments(segments)
    assert ((clipped >= 0) & (clipped <= 1)).all()
    t = np.linspace(0, 1, 2001)[:, None, None]
    dense = segments[None, :, :2] * (1 - t) + segments[None, :, 2:] * t
    inside = ((dense > 1e-9) & (dense < 1 - 1e-9)).all(axis=2).any(axis=0)
    assert len(clipped) >= inside.sum()


def test_clipping_known_cases() -> None:
    given_ = np.array(
        [[-1, 0.5, 2, 0.5], [0.2, 0.2, 0.4, 0.4], [2, 2, 3, 3], [nan, 0, 1, 1], [0.5, -1, 0.5, 0.5]]
    )
    expected = [[0, 0.5, 1, 0.5], [0.2, 0.2, 0.4, 0.4], [0.5, 0, 0.5, 0.5]]
    np.testing.assert_allclose(clip_segments(given_), expected)


@pytest.mark.parametrize("seed", range(4))
def test_rasterising_is_a_walk_along_the_longer_side_of_each_segment(seed: int) -> None:
    across, up = 23, 17
    segments = np.random.default_rng(seed).random((12, 4))
    ends = np.floor(segments * [across - 1, up - 1, across - 1, up - 1] + 0.5)
    wanted = np.zeros((up, across), bool)
    for x0, y0, x1, y1 in ends.tolist():
        steps = int(max(abs(x1 - x0), abs(y1 - y0)))
        for k in range(steps + 1):
            t = k / max(steps, 1)
            wanted[math.floor(y0 * (1 - t) + y1 * t + 0.5), math.floor(x0 * (1 - t) + x1 * t + 0.5)] = True
    assert np.array_equal(rasterise(segments, across, up), wanted)


def test_rasterising_touches_every_column_of_a_slope_once() -> None:
    hit = rasterise(np.array([[0.0, 0.0, 1.0, 0.25]]), 41, 11)
    assert (hit.sum(axis=0) == 1).all() and hit[0, 0] and not hit[4:].any()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=8),
    st.sampled_from(["linear", "log", "log1p"]),
)
@example([1.0526315789473686e308], "linear")
@example([1.7976931348623157e308], "linear")
@example([-1.7976931348623157e308, 1.7976931348623157e308], "linear")
def test_any_floats_give_ticks_in_order_inside_the_axis(values: list[float], scale: str) -> None:
    scaled = Axis.forward(np.array(values, dtype=np.float64), scale)  # type: ignore[arg-type]
    scaled = scaled[np.isfinite(scaled)]
    if len(scaled) == 0:
        return
    axis = fit_axis(scaled, scale, None)  # type: ignore[arg-type]
    places = [place for place, _ in axis.ticks(6)]
    assert axis.low < axis.high and 1 <= len(places) <= 40
    assert places == sorted(places) and all(0 <= p <= 1 for p in places)


def test_plotext_is_imported_only_when_something_is_drawn() -> None:
    code = "import sys, kltui.view.textplot; print('plotext' in sys.modules, 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


def test_axes_are_named_as_on_screen() -> None:
    curve = [Series("a", [0, 10, 100], [1, 2, 3])]
    text = line_plot(curve, "step", "KL, bits/byte", logx="log1p", logy=True)
    assert text.splitlines()[0] == axis_name("KL, bits/byte", "log", 80) == "KL, bits/byte, log"
    assert axis_name("step", "log1p", 80) in text


def test_threads_do_not_draw_into_each_other() -> None:
    curves = [[Series("a", np.arange(50), np.arange(50) ** k)] for k in range(6)]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(line_plot, curves)) == list(map(line_plot, curves))


def test_nothing_private_of_plotext_is_used() -> None:
    tree = ast.parse(Path(textplot.__file__).read_text(encoding="utf-8"))
    imported = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    used = [
        n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "plotext"
    ]
    assert not [
        name for name in (*imported, *used) if name.startswith(("plotext._", "_")) and name != "__future__"
    ]
