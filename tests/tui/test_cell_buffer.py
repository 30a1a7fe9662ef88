"""Scenes drawn into cells, read as a person would."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kltui.tui.widgets.axis_line import beside_name
from kltui.view.cell_buffer import KINDS, STROKES, Kind, cells_of, clipped, dashed, dots_of, draw, eye_ratio
from kltui.view.palette import SHADES
from kltui.view.plot_data import Scene, Window, fit_window, threads


def diagonal(kind: str = "linear") -> Scene:
    xy = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    code_n, segments = threads([(0, [0, 1, 2])], 3)
    return Scene(xy, code_n, segments)


def test_ascii_shows_markers_on_a_dotted_line() -> None:
    planes = draw(diagonal(), fit_window(diagonal(), 0.0), 9, 5, "ascii", lambda series: "ox#"[series])
    assert planes.lines() == [
        "        o",
        "      ..",
        "    o",
        "  ..",
        "o.",
    ] or planes.lines()[0].endswith("o")
    assert [line.count("o") for line in planes.lines()] == [1, 0, 1, 0, 1]


def test_braille_line() -> None:
    scene = Scene(
        np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([3, 3], dtype=np.int16), np.array([[0, 1]]), n_points=0
    )
    window = fit_window(Scene(np.array([[0.0, 0.0], [1.0, 1.0]]), scene.code_n, scene.segments_m2), 0.0)
    planes = draw(scene, window, 4, 1, "braille")
    assert planes.lines() == ["⣀⣀⣀⣀"]
    assert planes.runs(0) == [("⣀⣀⣀⣀", 3)]


def test_codes_say_series_and_shade() -> None:
    code_n, segments = threads([(0, [0, 1, 2, 3]), (2, [5])], 6)
    assert code_n.tolist() == [0, 1, 2, 3, -1, 2 * SHADES + SHADES - 1]
    assert segments.tolist() == [[0, 1], [1, 2], [2, 3]]


@pytest.mark.parametrize("kind", KINDS)
def test_gaps_and_hidden_points_are_not_drawn(kind: Kind) -> None:
    xy = np.array([[0.0, 0.0], [math.nan, 1.0], [2.0, math.inf], [3.0, 3.0]])
    code_n, segments = threads([(0, [0, 1, 2])], 4)
    planes = draw(Scene(xy, code_n, segments), fit_window(Scene(xy, code_n, segments)), 20, 8, kind)
    assert sum(c != " " for line in planes.lines() for c in line) <= 4  # the one point, four dots at most
    assert set(np.unique(planes.codes)) <= {-1, 0}


@pytest.mark.parametrize("kind", KINDS)
def test_spots_are_the_cells_that_are_drawn(kind: Kind) -> None:
    rng = np.random.default_rng(0)
    xy = rng.normal(size=(40, 2))
    for k in range(40):
        one = Scene(
            xy, np.where(np.arange(40) == k, 0, -1).astype(np.int16), np.empty((0, 2), dtype=np.int64)
        )
        window = fit_window(one).zoomed(1.3, (0.5, 0.5))
        planes = draw(one, window, 30, 12, kind)
        column, row = np.floor(cells_of(dots_of(one, window, 30, 12, kind), kind)[k])
        if 0 <= column < 30 and 0 <= row < 12:
            assert planes.codes[int(row), int(column)] == 0


def test_zoom_keeps_its_fixed_place_and_pan_moves_by_shares() -> None:
    window = fit_window(diagonal(), 0.0)
    closer = window.zoomed(4, (0.25, 0.75))
    at = np.array([[0.5, 1.5]])
    assert closer.place(at) == pytest.approx(np.array([[0.25, 0.75]]))
    assert closer.x.span == pytest.approx(window.x.span / 4)
    moved = window.panned(0.5, -0.5)
    assert (moved.x.low, moved.y.low) == (pytest.approx(1.0), pytest.approx(-1.0))


def test_deep_zoom_stops_before_numbers_end() -> None:
    window: Window = fit_window(diagonal())
    for _ in range(500):
        window = window.zoomed(1.5, (0.5, 0.5))
    assert window.x.high > window.x.low
    assert len(draw(diagonal(), window, 80, 24, "braille").lines()) == 24


def test_empty_and_flat_scenes_have_a_window() -> None:
    empty = Scene(np.empty((0, 2)), np.empty(0, dtype=np.int16), np.empty((0, 2), dtype=np.int64))
    assert fit_window(empty).x.span > 0
    flat = Scene(np.ones((3, 2)), np.zeros(3, dtype=np.int16), np.array([[0, 1], [1, 2]]))
    assert sum(c != " " for line in draw(flat, fit_window(flat), 10, 4, "dots").lines() for c in line) == 1


@pytest.mark.parametrize("far", [1e-6, 0.3, 50.0])
def test_two_points_are_apart_in_equal_units_however_near_they_are(far: float) -> None:
    for xy in ([[-far, 0.0], [far, 0.0]], [[0.0, far], [0.0, -far]]):
        scene = Scene(np.array(xy), np.zeros(2, dtype=np.int16), np.empty((0, 2), dtype=np.int64), equal=True)
        window = fit_window(scene)
        spans = sorted((window.x.span, window.y.span))
        assert spans[0] < 0.1 * far and spans[1] == pytest.approx(2.16 * far)
        assert window.x.low + window.x.high == window.y.low + window.y.high == 0.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(72, 19), (111, 8), (20, 50), (3, 2)])
def test_equal_units_are_equally_long_to_the_eye_however_zoomed(kind: Kind, size: tuple[int, int]) -> None:
    width, height = size
    xy = np.array([[0.0, 0.0], [12.0, 0.0], [0.0, 1.0], [5.0, 5.0], [6.0, 5.0], [5.0, 6.0]])
    scene = Scene(xy, np.zeros(6, dtype=np.int16), np.empty((0, 2), dtype=np.int64), equal=True)
    window = fit_window(scene).with_room_above(0.1)
    for _ in range(3):
        window = window.equalised(eye_ratio(width, height, kind))
        eyes = cells_of(dots_of(scene, window, width, height, kind), kind, 2.0)
        assert eyes[4, 0] - eyes[3, 0] == pytest.approx(eyes[3, 1] - eyes[5, 1])
        assert (window.x.low, window.y.low) <= (0.0, 0.0) or window.x.span < 12.6
        window = window.zoomed(2.5, (0.3, 0.8)).panned(0.1, -0.2)
        width += 7  # another size


def test_what_is_near_is_drawn_over_what_is_far() -> None:
    xy = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    code_n = np.array([7, 3, 3], dtype=np.int16)
    for depth, owner in (((1.0, 0.0, 0.0), 7), ((0.0, 1.0, 0.0), 3)):
        scene = Scene(xy, code_n, np.empty((0, 2), dtype=np.int64), depth_n=np.array(depth))
        planes = draw(scene, fit_window(scene), 9, 5, "dots")
        assert planes.codes[4, 0] == owner


def test_points_show_their_marker_in_every_kind_where_colour_does_not_tell() -> None:
    xy = np.array([[0.0, 0.0], [1.0, 1.0], [math.nan, 0.0], [1e300, 5.0]])
    scene = Scene(xy, np.array([0, 4, 0, 4], dtype=np.int16), np.array([[0, 1]]))
    window = fit_window(Scene(xy[:2], scene.code_n[:2], scene.segments_m2))
    planes = draw(scene, window, 9, 5, "braille", lambda series: "ab"[series], marked=True)
    lines = planes.lines()
    assert lines[0][8] == "b" and lines[4][0] == "a"
    assert any("⠀" < c <= "⣿" for line in lines for c in line)


def test_without_colour_lines_are_dotted_and_dashed_by_their_run() -> None:
    xy = np.array([[x, y] for y in range(4) for x in (0.0, 50.0, 100.0)])
    code_n, segments = threads([(y, [3 * y, 3 * y + 1, 3 * y + 2]) for y in range(4)], 12)
    scene = Scene(xy, code_n, segments)
    for kind in KINDS:
        planes = draw(scene, fit_window(scene, 0.0), 60, 12, kind, "abcd".__getitem__, marked=True)
        lines = {letter: line for line in planes.lines() for letter in "abcd" if letter in line}
        assert sorted(lines) == list("abcd"), kind
        inner = {letter: line.strip("abcd").replace(letter, "") for letter, line in lines.items()}
        assert len(set(inner.values())) == 4, kind
        assert " " not in inner["a"], kind


def test_strokes_go_on_from_segment_to_segment_and_cover_what_they_should() -> None:
    ends = np.array([[x, 0.0, x + 2.5, 0.0] for x in np.arange(0.0, 100.0, 2.5)])
    codes = np.zeros(len(ends), np.int16)
    for stroke in STROKES[1:]:
        strokes, of = dashed(ends, codes, stroke)
        assert len(of) == len(strokes) and (strokes[:, 1::2] == 0).all()
        wanted = np.zeros(100, bool)
        for begin in range(0, 100, sum(stroke)):
            for place in range(0, len(stroke), 2):
                at = begin + sum(stroke[:place])
                wanted[at : at + stroke[place]] = True
        drawn = np.zeros(100, bool)
        for a, _, b, _ in strokes:
            drawn[int(a + 1e-6) : int(b + 1e-6) + 1] = True
        assert (drawn == wanted).all(), stroke


def test_segments_are_cut_to_what_is_seen_before_they_are_dashed() -> None:
    far = np.array(
        [[-1e9, 5.0, 1e9, 5.0], [20.0, -3.0, 20.0, -2.0], [math.nan, 0, 1, 1], [2, 2, 2, 2], [-5, 8, 8, -5]]
    )
    seen, codes = clipped(far, np.arange(5, dtype=np.int16), 10, 10)
    assert codes.tolist() == [0, 3, 4]
    np.testing.assert_allclose(seen[0], [-1, 5, 11, 5], atol=1e-6)
    np.testing.assert_allclose(seen[2], [-1, 4, 4, -1], atol=1e-9)
    assert len(dashed(seen, codes, STROKES[2])[0]) < 20


@pytest.mark.parametrize(
    ("ticks", "line"),
    [
        (["0  1   10   100                  "], "0  1   10   100  step, log(1 + x)"),
        (["0  1   10   100           "], "0  1   10   100  step, log"),
        (["0  1   10   100          "], "0  1   10   100  step log"),
        (["0      1                  10  "], "0      1      step, log(1 + x)"),
        (["0  1       10           1k"], "0  1       10    step, log"),
        (["0  1                100  ", "0  1      10        100  "], "0  1      10    step, log"),
        (["                  50      100"], "step, log(1 + x)  50      100"),
        (["             50      100"], "step, log    50      100"),
        (["         1       10        100  "], "step log 1       10        100  "),
        (["0 1     100      10k      1M     100M   "], "0 1     100      10k      1M   step, log"),
        (["0 1     100    10k    1M   100M          "], "0 1     100    10k    1M   100M  step log"),
        (["         1                100", "         1       10       100"], "step log 1       10       100"),
        (
            ["         1                100", "         1         30       100"],
            "step log 1         30       100",
        ),
        (["         1                100"], "step log 1                100"),
        (["       10                        20"], "       10    step, log(1 + x)    20"),
        (["       10             20"], "       10  step, log  20"),
        (["0                   1  ", "0        0.5        1  "], "0        0.5  step, log"),
    ],
)
def test_the_name_of_an_axis_stands_apart_at_an_end(ticks: list[str], line: str) -> None:
    assert "".join(beside_name(ticks, "step, log(1 + x)")) == line
