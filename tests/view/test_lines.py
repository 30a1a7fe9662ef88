"""Lines that the sections and screens are made of: those of a tree, of a place on the scale, and of a plot's threads."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from kltui.analysis.scale import PUBLISHED, locate
from kltui.analysis.tree import TreeFork
from kltui.view.placed import _on_scale
from kltui.view.plot_data import SHADES, threads
from kltui.view.sections.tree import fork_lines


def test_a_tree_is_drawn_by_its_forks() -> None:
    pair = TreeFork(0.25, (TreeFork(0.5, row=0), TreeFork(1.0, row=2)), support=0.876)
    root = TreeFork(0.0, (TreeFork(2.0, row=1), pair, TreeFork(0.125, row=3)))
    assert fork_lines(root, ["a", "b", "c", "d"]) == [
        ".",
        "├─ 2.0  b",
        "├─ 0.25  [88 %]",
        "│  ├─ 0.50  a",
        "│  └─ 1.0  c",
        "└─ 0.12  d",
    ]


def test_a_place_on_the_scale_is_between_its_published_neighbours() -> None:
    ordered = sorted(PUBLISHED, key=lambda s: s.median)

    def said(kl: float) -> str:
        return _on_scale(SimpleNamespace(scale=locate(kl), scale_to="other@1"))  # type: ignore[arg-type]

    for below, above in pairwise(ordered):
        kl = below.median * (above.median / below.median) ** 0.25  # nearer to the lower one in ratio
        words = f"lies above {below.name} and below {above.name}; nearest in ratio: {below.name}"
        assert "its KL to other@1, " in said(kl) and said(kl).endswith(words)
    least, greatest = ordered[0], ordered[-1]
    assert said(least.median / 2).endswith(f"lies below {least.name}; nearest in ratio: {least.name}")
    assert said(2 * greatest.median).endswith(
        f"lies above {greatest.name}; nearest in ratio: {greatest.name}"
    )
    for nothing in (0.0, -1e-9, math.nan):
        assert "not applicable" in said(nothing)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9])
def test_threads_have_the_code_of_their_series_and_shades_from_first_to_last(n: int) -> None:
    members = list(range(20, 20 - n, -1))
    code_n, segments = threads([(0, [0]), (3, members), (7, [])], 25)
    shades = [3 * SHADES + (k * SHADES // n if n > 1 else SHADES - 1) for k in range(n)]
    wanted = np.full(25, -1)
    wanted[members], wanted[0] = shades, SHADES - 1
    assert code_n.tolist() == wanted.tolist() and set(code_n[members] // SHADES) == {3}
    assert segments.tolist() == [[a, b] for a, b in pairwise(members)]
