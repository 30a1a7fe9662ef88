"""What the map draws independent of coordinates: which rows are joined, in which series; and the box around them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from kltui.tui.views.map_colours import BOX, PARENT, VARIANT, PointLabels, labels_of
from kltui.view.palette import SHADES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kltui.analysis.embed import Picture
    from kltui.analysis.map import Map
    from kltui.view.plot_data import Floats
    from kltui.view.space import Outline, Turn

    Rows = NDArray[np.intp]


ELLIPSE_CORNERS = 25


@dataclass(frozen=True)
class Threads:
    """The lines of a picture: each place's code in series 0 (its shade by step), segments, and each place's own series.

    `related` are broken lines (code, number of strokes, row, row).
    """

    code_n: NDArray[np.int16]
    segments_m2: NDArray[np.int64]
    series_n: NDArray[np.int16]
    related: list[tuple[int, int, int, int]]


@dataclass(frozen=True, eq=False)
class MapLines:
    """The relations between a map's n rows, computed once for each map, whatever filter and rotation.

    `lines` are (label, rows by rising step) of every trajectory; `line_n` is each row's index in it and `before_n` the
    row before it there, -1 for none. `group_n` is the index in `groups` of each row's run or grid; `labels` are those of the rows'
    curves; `models` each row's checkpoint. `loose` rows have no step; `layers` are (rows of lens
    vectors by depth, the model's own row or -1).
    """

    lines: list[tuple[str, Rows]]
    line_n: Rows
    before_n: Rows
    groups: list[str]
    group_n: Rows
    labels: PointLabels
    models: list[str]
    loose: Rows
    layers: list[tuple[Rows, int]]
    parents: Sequence[tuple[int, int]]
    variants: Sequence[tuple[int, int]]

    @property
    def n_layers(self) -> int:
        """The number of rows that are layer vectors."""
        return sum(len(rows) for rows, _ in self.layers)

    @cached_property
    def n_of_label(self) -> dict[str, int]:
        """{label: number of rows, without layer vectors}."""
        import numpy as np

        labels, label_n = self.labels.labels, self.labels.label_n
        counts = np.bincount(label_n, minlength=len(labels))
        for rows, _ in self.layers:
            counts -= np.bincount(label_n[rows], minlength=len(labels))
        return dict(zip(labels, counts.tolist(), strict=True))

    def hidden_n(self, hidden: Collection[str]) -> NDArray[np.bool_]:
        """Whether each row belongs to one of the runs or grids `hidden`, (n,)."""
        import numpy as np

        return np.array([group in hidden for group in self.groups], dtype=bool)[self.group_n]

    def label_of(self, row: int) -> str:
        """The label of a row's trajectory; "" if it has none."""
        line = self.line_n[row] if 0 <= row < len(self.line_n) else -1
        return self.lines[line][0] if line >= 0 else ""


_LINES: WeakKeyDictionary[Map, MapLines] = WeakKeyDictionary()


def lines_of(found: Map) -> MapLines:
    """The relations between the rows of a map, computed once."""
    made = _LINES.get(found)
    # Keys may replace a picture before it is shown; its map is that of the next one.
    if made is None:
        made = _LINES[found] = _made_lines(found)
    return made


def _made_lines(found: Map) -> MapLines:
    import numpy as np

    from kltui.analysis.lineage import parent_pairs, variant_pairs
    from kltui.analysis.point import trajectory_of

    points, n = found.points, len(found)
    lines = [(t.label, np.array(t.rows, dtype=np.intp)) for t in found.trajectories()]
    line_n, before_n = np.full(n, -1, dtype=np.intp), np.full(n, -1, dtype=np.intp)
    for k, (_, rows) in enumerate(lines):
        line_n[rows] = k
        before_n[rows[1:]] = rows[:-1]
    groups: dict[str, int] = {}
    group_n = [groups.setdefault(trajectory_of(p.run, p.tags), len(groups)) for p in points]
    loose = [k for k, p in enumerate(points) if p.step is None and p.layer is None]
    return MapLines(
        lines,
        line_n,
        before_n,
        list(groups),
        np.array(group_n, dtype=np.intp),
        labels_of(points),
        [model_of(name) for name in found.names],
        np.array(loose, dtype=np.intp),
        _layers_of(found),
        parent_pairs(points).pairs,
        variant_pairs(points),
    )


def _layers_of(found: Map) -> list[tuple[Rows, int]]:
    """(rows of a model's layer vectors by depth, the model's own row or -1) for each model."""
    import numpy as np

    models: dict[str, list[int]] = {}
    for k, p in enumerate(found.points):
        if p.layer is not None:
            models.setdefault(model_of(p.name), []).append(k)
    made = []
    for model, rows in models.items():
        rows.sort(key=lambda k: found.points[k].layer or 0)
        made.append((np.array(rows, dtype=np.intp), next(iter(found.rows_of([model])), -1)))
    return made


def related(lines: MapLines, code_n: NDArray[np.int16]) -> list[tuple[int, int, int, int]]:
    """(code, number of strokes, row, row) of dashed lines from parents to children and dotted ones to variants."""
    kinds = ((PARENT, 8, lines.parents), (VARIANT, 16, lines.variants))
    return [
        (series * SHADES, strokes, a, b)
        for series, strokes, pairs in kinds
        for a, b in pairs
        if code_n[a] >= 0 and code_n[b] >= 0
    ]


@dataclass(frozen=True, eq=False)
class Cloud:
    """The points of a picture and the box around them, n x 3, centred for rotation in three dimensions.

    `reach` is the largest distance of a point from the origin.
    """

    picture: Picture
    places: Floats
    box: list[Outline]
    reach: float

    def turned(self, turn: Turn) -> tuple[Floats, list[Outline]]:
        """(points, box) as seen after a rotation."""
        return turn.turned(self.places), [(code, turn.turned(corners)) for code, corners in self.box]


def cloud_of(picture: Picture) -> Cloud:
    """The points of a picture; in two dimensions unmoved and without a box."""
    from kltui.view.space import in_three, middle_and_reach

    places = in_three(picture.xyz_Kd)
    if picture.dims < 3:
        return Cloud(picture, places, [], 1.0)
    middle, reach = middle_and_reach(places)
    box = [(code, corners - middle) for code, corners in box_around(places)]
    return Cloud(picture, places - middle, box, reach)


def box_around(places: Floats) -> list[Outline]:
    """The 12 edges of the box around the finite points, four for each axis, that at the lowest corner first."""
    import numpy as np

    from kltui.view.space import finite_rows

    finite = finite_rows(places)
    low, high = (finite.min(axis=0), finite.max(axis=0)) if len(finite) else (np.zeros(3), np.ones(3))
    made = []
    for axis in range(3):
        for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
            a = np.where(np.insert(np.array(corner), axis, 0) == 1, high, low)
            b = a.copy()
            b[axis] = high[axis]
            made.append((BOX * SHADES, np.array([a, (a + b) / 2, b])))
    return made


def ellipses(
    spreads: Mapping[int, Floats], places: Floats, code_n: NDArray[np.int16], level: float
) -> tuple[list[Outline], float]:
    """(Outlines of error ellipses, their largest half axis, NaN for none) by {row: 2 x 2 covariance}.

    The ellipses have the points' colours and contain a point with probability `level`; 0: one standard error.
    """
    import numpy as np

    from kltui.analysis.uncertainty import ellipse_of
    from kltui.view.sections.uncertainty import outline

    made, sizes = list[tuple[int, "Floats"]](), list[float]()
    for row, spread in spreads.items():
        if not np.isfinite(spread).all():
            continue
        ellipse = ellipse_of("", places[row, 0], places[row, 1], spread)
        ellipse = ellipse.scaled(level) if level else ellipse
        sizes.append(ellipse.major)
        x, y = outline(ellipse, ELLIPSE_CORNERS)
        corners = np.column_stack([x, y, np.full(len(x), places[row, 2])])
        made.append((int(code_n[row]) // SHADES * SHADES + 1, corners))
    return made, max(sizes, default=math.nan)


def layer_threads(lines: MapLines, keep_n: NDArray[np.bool_]) -> list[Rows]:
    """For each model, the rows of its layer vectors by depth and its own row, of those where `keep_n` is true."""
    import numpy as np

    made = []
    for rows, own in lines.layers:
        kept = rows[keep_n[rows]]
        if len(kept):
            made.append(np.append(kept, own) if own >= 0 and keep_n[own] else kept)
    return made


def model_of(name: str) -> str:
    """The checkpoint in a vector's name, which may end in a layer.

    >>> model_of("tiny@4#2"), model_of("tiny@4")
    ('tiny@4', 'tiny@4')
    """
    return name.rpartition("#")[0] or name
