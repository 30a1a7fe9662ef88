"""What the map draws before it has places: its threads with their colours, lines of descent, and a box around it all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kltui.tui.views.map_colours import BOX, PARENT, VARIANT
from kltui.view.palette import SHADES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kltui.analysis.map import Map
    from kltui.view.plot_data import Floats
    from kltui.view.space import Outline


@dataclass(frozen=True)
class Threads:
    """What a picture joins and how it is coloured: codes by step in series 0, segments, and each place's own series.

    `related` are (code, strokes, row, row) of broken lines.
    """

    code_n: NDArray[np.int16]
    segments_m2: NDArray[np.int64]
    series_n: NDArray[np.int16]
    related: list[tuple[int, int, int, int]]


def related(found: Map, code_n: NDArray[np.int16]) -> list[tuple[int, int, int, int]]:
    """(code, strokes, row, row) of broken lines from parents to children, dotted ones from originals to variants."""
    from kltui.analysis.lineage import parent_pairs, variant_pairs

    kinds = ((PARENT, 8, parent_pairs(found.points).pairs), (VARIANT, 16, variant_pairs(found.points)))
    return [
        (series * SHADES, strokes, a, b)
        for series, strokes, pairs in kinds
        for a, b in pairs
        if code_n[a] >= 0 and code_n[b] >= 0
    ]


def box_around(places: Floats) -> list[Outline]:
    """The edges of the box around the finite points, of each direction the one in the lowest corner first."""
    import numpy as np

    finite = places[np.isfinite(places).all(axis=1)]
    low, high = (finite.min(axis=0), finite.max(axis=0)) if len(finite) else (np.zeros(3), np.ones(3))
    made = []
    for axis in range(3):
        for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
            a = np.where(np.insert(np.array(corner), axis, 0) == 1, high, low)
            b = a.copy()
            b[axis] = high[axis]
            made.append((BOX * SHADES, np.array([a, (a + b) / 2, b])))
    return made


def layer_threads(found: Map, keep: Sequence[bool]) -> list[Sequence[int]]:
    """Rows of each model's lens vectors by depth, the model itself last."""
    threads: dict[str, list[int]] = {}
    for k, p in enumerate(found.points):
        if p.layer is not None and keep[k]:
            threads.setdefault(model_of(p.name), []).append(k)
    at = {p.name: k for k, p in enumerate(found.points)}
    made: list[Sequence[int]] = []
    for model, rows in threads.items():
        rows.sort(key=lambda k: found.points[k].layer or 0)
        made.append([*rows, at[model]] if model in at and keep[at[model]] else rows)
    return made


def model_of(name: str) -> str:
    """The checkpoint of a vector's name: without its layer.

    >>> model_of("tiny@4#2"), model_of("tiny@4")
    ('tiny@4', 'tiny@4')
    """
    return name.rpartition("#")[0] or name
