"""Three dimensions on a screen: rotation of points about two axes, and outlines drawn in a scene."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kltui.view.plot_data import Floats

Outline = tuple[int, Floats]  # a colour code, and the corners of an open line, c x 3


@dataclass(frozen=True, slots=True)
class Turn:
    """The viewing direction in degrees; at elevation 90 and azimuth 0, axis 1 points right and axis 2 up."""

    azimuth: float = 30.0
    elevation: float = 25.0

    def by(self, azimuth: float, elevation: float) -> Turn:
        """The direction rotated further; azimuth wraps around, elevation stops at the poles.

        >>> Turn(350, 85).by(20, 20)
        Turn(azimuth=10.0, elevation=90.0)
        """
        return Turn(
            float((self.azimuth + azimuth) % 360.0), float(min(90.0, max(-90.0, self.elevation + elevation)))
        )

    @property
    def rotation_33(self) -> Floats:
        """Rotation matrix; its rows are the directions that point to the right, upwards and towards the viewer."""
        a, e = math.radians(self.azimuth), math.radians(self.elevation)
        return np.array(
            [
                [math.cos(a), math.sin(a), 0.0],
                [-math.sin(a) * math.sin(e), math.cos(a) * math.sin(e), math.cos(e)],
                [math.sin(a) * math.cos(e), -math.cos(a) * math.cos(e), math.sin(e)],
            ]
        )

    def turned(self, xyz_n3: Floats) -> Floats:
        """n x 3 rotated coordinates: to the right, upwards and towards the viewer; lengths are unchanged."""
        return np.asarray(xyz_n3 @ self.rotation_33.T)


def in_three(xy_nd: Floats) -> Floats:
    """The first three columns of n x d coordinates, padded with zeros."""
    out = np.zeros((len(xy_nd), 3))
    out[:, : min(3, xy_nd.shape[1])] = xy_nd[:, :3]
    return out


def finite_rows(values_nd: Floats) -> Floats:
    """The rows without NaN and infinity; the array itself if those are all rows."""
    is_finite = np.isfinite(values_nd)
    return values_nd if is_finite.all() else values_nd[is_finite.all(axis=1)]


def middle_and_reach(xyz_n3: Floats) -> tuple[Floats, float]:
    """(centre of the box around the finite points, distance of the farthest point from it), which contain any rotation."""
    finite = finite_rows(xyz_n3)
    if not len(finite):
        return np.zeros(3), 1.0
    middle = finite.min(axis=0) / 2 + finite.max(axis=0) / 2
    return middle, float(np.sqrt(((finite - middle) ** 2).sum(axis=1)).max()) or 1.0


def dashes(a_3: Floats, b_3: Floats, count: int) -> list[Floats]:
    """`count` dashes from a to b, as long as the gaps between them."""
    at = np.linspace(0.0, 1.0, 2 * count)[:, None]
    places = a_3 + at * (b_3 - a_3)
    return [places[2 * k : 2 * k + 2] for k in range(count)]


def with_outlines(
    xyz_n3: Floats, code_n: NDArray[np.int16], segments_m2: NDArray[np.int64], under: Sequence[Outline]
) -> tuple[Floats, NDArray[np.int16], NDArray[np.int64]]:
    """Points, codes and segments of a scene with additional lines drawn below its own; their corners come after its points."""
    if not under:
        return xyz_n3, code_n, segments_m2
    sizes = np.array([len(corners) for _, corners in under])
    codes = np.repeat(np.array([code for code, _ in under], dtype=np.int16), sizes)
    first = len(xyz_n3) + np.arange(int(sizes.sum()))
    joined = np.ones(len(first), dtype=bool)
    joined[np.cumsum(sizes) - 1] = False  # no segment begins at the last corner of a line
    segments = np.column_stack([first[joined], first[joined] + 1])
    return (
        np.concatenate([xyz_n3, *(corners for _, corners in under)]),
        np.concatenate([code_n, codes]),
        np.concatenate([segments, segments_m2]),
    )
