"""Three dimensions on a screen, against what a rotation must do."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kltui.analysis.embed import Picture
from kltui.tui.views.map_scene import cloud_of
from kltui.view.plot_data import threads
from kltui.view.space import Turn, dashes, finite_rows, in_three, middle_and_reach, with_outlines


@pytest.mark.parametrize("azimuth", [0.0, 30.0, 190.0, 350.0])
@pytest.mark.parametrize("elevation", [-90.0, -20.0, 0.0, 65.0])
def test_a_turn_is_a_rotation(azimuth: float, elevation: float) -> None:
    R = Turn(azimuth, elevation).rotation_33
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(R) == pytest.approx(1.0)
    cloud = np.random.default_rng(0).normal(size=(20, 3))
    turned = Turn(azimuth, elevation).turned(cloud)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(cloud, axis=1))


def test_from_above_three_dimensions_are_the_picture_in_two() -> None:
    cloud = np.random.default_rng(1).normal(size=(20, 3))
    np.testing.assert_allclose(Turn(0.0, 90.0).turned(cloud), cloud, atol=1e-12)


def test_from_the_side_the_third_axis_points_up_and_the_second_away() -> None:
    right, up, near = Turn(0.0, 0.0).turned(np.array([[0.0, 2.0, 1.0]]))[0]
    assert (right, up, near) == (pytest.approx(0.0), pytest.approx(1.0), pytest.approx(-2.0))


def test_turning_goes_round_and_stops_at_the_poles() -> None:
    turn = Turn(0.0, 0.0)
    for _ in range(36):
        turn = turn.by(-10.0, 10.0)
    assert turn == Turn(0.0, 90.0)


def test_any_turn_stays_within_reach_of_the_middle() -> None:
    cloud = np.random.default_rng(2).normal(size=(50, 3)) * (5.0, 1.0, 0.2)
    cloud[7] = math.nan
    middle, reach = middle_and_reach(cloud)
    for azimuth in range(0, 360, 17):
        seen = Turn(azimuth, azimuth / 4 - 40).turned(cloud - middle)
        assert np.nanmax(np.abs(seen)) <= reach * (1 + 1e-12)
    assert middle_and_reach(np.full((2, 3), math.nan))[1] == 1.0


def test_outlines_follow_the_points_and_are_drawn_first() -> None:
    xyz = in_three(np.array([[0.0, 0.0], [1.0, 1.0]]))
    code_n, segments = threads([(0, [0, 1])], 2)
    strokes = dashes(xyz[0], xyz[1], 3)
    assert [len(s) for s in strokes] == [2, 2, 2]
    assert (strokes[0][0] == xyz[0]).all() and (strokes[-1][-1] == xyz[1]).all()
    corner = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    places, codes, all_segments = with_outlines(
        xyz, code_n, segments, [*((40, s) for s in strokes), (44, corner)]
    )
    assert len(places) == len(codes) == 2 + 6 + 3
    assert all_segments.tolist() == [[2, 3], [4, 5], [6, 7], [8, 9], [9, 10], [0, 1]]
    assert codes[all_segments[:, 1]].tolist() == [40, 40, 40, 44, 44, code_n[1]]
    assert with_outlines(xyz, code_n, segments, [])[0] is xyz


@pytest.mark.parametrize("dims", [2, 3])
def test_a_cloud_is_centred_once_for_all_rotations(dims: int) -> None:
    rng = np.random.default_rng(2)
    xyz = rng.normal(5.0, 2.0, (20, dims))
    xyz[3] = math.nan
    picture = Picture("pca", xyz)
    cloud, turn = cloud_of(picture), Turn(40.0, 10.0)
    places, box = cloud.turned(turn)
    if dims == 2:
        np.testing.assert_array_equal(cloud.places, in_three(xyz))
        assert not box
        return
    middle, reach = middle_and_reach(xyz)
    np.testing.assert_allclose(places, turn.turned(xyz - middle), atol=1e-12)
    assert cloud.reach == reach and len(box) == 12
    corners = np.concatenate([own for _, own in cloud.box])
    np.testing.assert_allclose(corners.min(axis=0), np.nanmin(xyz, axis=0) - middle, atol=1e-12)
    np.testing.assert_allclose(corners.max(axis=0), np.nanmax(xyz, axis=0) - middle, atol=1e-12)
    assert finite_rows(xyz).shape == (19, 3) and finite_rows(xyz[:3]).base is xyz
