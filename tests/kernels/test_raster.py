"""The raster against literal pictures and against its twin."""

from __future__ import annotations

import math
import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kltui.kernels import native, reference

NOTHING = np.nan


def picture(kind: native.Kind, width: int, height: int, *segments: tuple[float, ...]) -> list[str]:
    raster = native.Raster(width, height, kind)
    raster.segments(np.array(segments, np.float64))
    return raster.rows()


def test_a_diagonal_in_every_kind() -> None:
    assert picture("ascii", 4, 4, (0, 0, 3.5, 3.5)) == ["*   ", " *  ", "  * ", "   *"]
    assert picture("dots", 4, 2, (0, 0, 3.5, 0.5)) == ["····", "    "]
    assert picture("half", 4, 2, (0, 0, 3.5, 3.5)) == ["▀▄  ", "  ▀▄"]
    assert picture("braille", 2, 1, (0, 0, 3.5, 3.5)) == ["⠑⢄"]


def test_each_dot_of_a_braille_cell() -> None:
    seen = []
    for y in range(4):
        for x in range(2):
            raster = native.Raster(1, 1)
            raster.points([[x + 0.5, y + 0.5]])
            seen.append(raster.rows()[0])
    assert "".join(seen) == "⠁⠈⠂⠐⠄⠠⡀⢀"


def test_a_line_far_beyond_the_canvas_is_clipped_before_it_is_drawn() -> None:
    assert picture("ascii", 5, 3, (-1e9, 1.5, 1e9, 1.5)) == ["     ", "*****", "     "]
    assert picture("ascii", 4, 4, (-1e12, -1e12, 1e12, 1e12)) == ["*   ", " *  ", "  * ", "   *"]
    assert picture("ascii", 3, 2, (-1e300, 0.5, 1e300, 0.5)) == ["***", "   "]
    assert picture("ascii", 3, 2, (5, 0, 9, 1), (0, -3, 3, -1), (3, 0, 3, 2)) == ["   ", "   "]


def test_a_line_that_leaves_by_next_to_nothing_is_still_cut_where_it_leaves() -> None:
    assert picture("ascii", 3, 3, (0, 0, -1e-291, 1e18)) == ["*  ", "   ", "   "]
    assert picture("ascii", 3, 3, (-1e-291, 1e18, 0, 0)) == ["*  ", "   ", "   "]
    assert picture("ascii", 3, 3, (1, 2, 1e18, 2 + 1e-291)) == ["   ", "   ", " **"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_a_gap(bad: float) -> None:
    raster = native.Raster(6, 1, "ascii")
    raster.polyline([[0.5, 0.5], [1.5, 0.5], [bad, 0.5], [4.5, 0.5], [5.5, 0.5]])
    assert raster.rows() == ["**  **"]
    raster.points([[bad, 0], [2.5, bad]])
    assert raster.rows() == ["**  **"]


def test_the_last_series_owns_a_cell_and_its_dots_stay() -> None:
    raster = native.Raster(2, 1)
    raster.segments([[0, 0, 3.5, 0]], series=3)
    raster.points([[0.5, 3.5]], series=7)
    codepoints, series = raster.planes()
    assert "".join(map(chr, codepoints[0])) == "⡉⠉"
    assert series.tolist() == [[7, 3]]
    raster.clear()
    assert raster.rows() == ["  "]
    assert raster.planes()[1].tolist() == [[-1, -1]]


def test_markers_and_series_per_point() -> None:
    raster = native.Raster(4, 1, "ascii")
    raster.points([[0, 0], [2, 0]], series=[1, 2], marker="o")
    raster.points([[3, 0]])
    assert raster.rows() == ["o o*"]
    assert raster.planes()[1].tolist() == [[1, -1, 2, 0]]


def test_an_empty_canvas_and_no_points() -> None:
    raster = native.Raster(0, 0)
    raster.points(np.zeros((0, 2)))
    raster.segments([[0, 0, 1, 1]])
    assert raster.rows() == []


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: native.Raster(2, 2, "sixel"), "kind"),  # type: ignore[arg-type]
        (lambda: native.Raster(-1, 2), "width_cells"),
        (lambda: native.Raster(2, 2).points([[1, 2, 3]]), "xy"),
        (lambda: native.Raster(2, 2).points([["a", "b"]]), "xy"),
        (lambda: native.Raster(2, 2).points([[1, 1]], series=-1), "series"),
        (lambda: native.Raster(2, 2).points([[1, 1]], series=[1, 2]), "series"),
        (lambda: native.nearest([[1, 1]], 0, 0, "north"), "direction"),  # type: ignore[arg-type]
        (lambda: native.heat_map(np.zeros((0, 3)), 2, 2, 0, 1), "values"),
        (lambda: native.heat_map(np.zeros((1, 3)), 2, 2, 0, np.nan), "low and high"),
    ],
)
def test_mistakes_name_the_argument(call: object, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        call()  # type: ignore[operator]


coordinates = st.one_of(
    st.floats(-40, 40, allow_nan=False),
    st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 8.0, 16.0, 1e18, -1e200]),
)


@settings(deadline=None, max_examples=150)
@given(hnp.arrays(np.float64, st.tuples(st.integers(0, 12), st.just(4)), elements=coordinates))
def test_cells_equal_the_twin(xy: np.ndarray) -> None:
    for kind in native._KINDS:
        raster = native.Raster(8, 4, kind)
        expected = reference.ReferenceRaster(8, 4, kind)
        series = np.arange(len(xy), dtype=np.int16)
        raster.segments(xy, series, "x")
        expected.segments(xy, series, ord("x"))
        raster.points(xy[:, :2].copy(), series, "o")
        expected.points(xy[:, :2], series, ord("o"))
        for ours, theirs in zip(raster.planes(), expected.planes(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_nearest_point_and_directions() -> None:
    points = np.array([[0, 0], [10, 0], [10, 9], [NOTHING, 1], [-3, 1]])
    assert native.nearest(points, 9, 1) == 1
    assert native.nearest(points, 0, 0, "right") == 1
    assert native.nearest(points, 0, 0, "left") == 4
    assert native.nearest(points, 10, 0, "down") == 2
    assert native.nearest(points, 10, 9, "up") == 1
    assert native.nearest(points, 10, 0, "right") == -1
    assert native.nearest(np.zeros((0, 2)), 0, 0) == -1


@settings(deadline=None, max_examples=100)
@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(0, 20), st.just(2)),
        elements=st.one_of(st.integers(-5, 5), st.just(np.nan)),
    ),
    st.integers(0, 4),
)
def test_nearest_equals_the_twin(points: np.ndarray, direction: int) -> None:
    ours = native.nearest(points, 0.3, -0.2, native._DIRECTIONS[direction])
    assert ours == reference.nearest(points, 0.3, -0.2, direction)


def test_heat_map_levels() -> None:
    values = np.array([[0.0, 1.0], [NOTHING, 0.5]])
    assert native.heat_map(values, 2, 2, 0, 1, levels=4).tolist() == [[0, 3], [-1, 2]]
    assert native.heat_map(values, 1, 1, 0, 1, levels=4).tolist() == [[2]]
    assert native.heat_map(values, 2, 4, 0, 1, levels=4).tolist() == [[0, 0, 3, 3], [-1, -1, 2, 2]]
    assert native.heat_map(values, 1, 2, 5, 5, levels=4).tolist() == [[0, 0]]


@pytest.mark.parametrize("engine", [native, reference], ids=["native", "reference"])
def test_heat_map_of_a_scale_that_no_double_divides_by(engine: ModuleType) -> None:
    least, most = math.ulp(0.0), sys.float_info.max
    values = np.array([[0.0, least, most]])
    assert engine.heat_map(values, 1, 3, 0.0, least, 4).tolist() == [[0, 3, 3]]
    assert engine.heat_map(values, 1, 3, -most, most, 4).min() >= 0


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=coordinates),
    st.integers(0, 12),
    st.integers(0, 12),
)
def test_heat_map_equals_the_twin(values: np.ndarray, rows: int, columns: int) -> None:
    ours = native.heat_map(values, rows, columns, -40, 40, 16)
    np.testing.assert_array_equal(ours, reference.heat_map(values, rows, columns, -40, 40, 16))
