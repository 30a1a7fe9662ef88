"""Neighbours: the checkpoints nearest to each run's last one, and a tree of all last ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import RenderableType

from kltui.analysis.map import Map
from kltui.analysis.neighbours import Clustering
from kltui.analysis.point import Point, label_of, trajectory_of
from kltui.view.sections.context import Context, below, finals, runs_first
from kltui.view.sections.section import MissingError, Section
from kltui.view.tables import count, figure, table, with_error, words

NEAREST = 3
MODELS_SHOWN = 20
LEAVES_SHOWN = 60
GROUPS, MEMBERS = 10, 6
MAX_PAIRS = 20_000_000  # up to so many pairs of a last model and a vector, all are compared
CANDIDATES = 64  # beyond that, candidates from other runs for each model
MAX_LEAVES = 5000  # of a tree, whose distances then take 200 MB
Near = tuple[str, int, int]  # "same run", "its variant" or "other runs"; rank; row


def neighbours(ctx: Context) -> Section:
    """The nearest checkpoint of the same run and of the nearest other runs, and a tree of the runs' last checkpoints."""
    shown = ctx.map
    rows = runs_first(shown, finals(shown))
    if len(shown) < 2:
        raise MissingError(f"only {count(len(shown), 'vector')} on the map", "score more checkpoints")
    found, how = _nearest(shown, rows)
    blocks: list[RenderableType] = [_table(ctx, {r: found[r] for r in rows[:MODELS_SHOWN]})]
    if len(rows) > MODELS_SHOWN:
        blocks.append(words(f"{MODELS_SHOWN} of {len(rows)} models; --json has them all"))
    notes = [f"bits/byte ± standard error over texts; {ctx.basis}", ctx.floor_words, *how]
    data: dict[str, object] = {"unit": "bits/byte", "nearest": _near_data(shown, found)}
    ends = shown.select(rows[:MAX_LEAVES])
    if len(rows) > MAX_LEAVES:
        notes.append(f"no tree: it can have at most {MAX_LEAVES:,} models, and there are {len(rows):,}")
    elif len(rows) > 2 and np.isfinite(ends.kl()).all():
        made = ends.clustering()
        data["tree"] = {"names": ends.names, "merges": made.merges.tolist(), "order": made.order.tolist()}
        if len(rows) <= LEAVES_SHOWN:
            blocks += [words(line) for line in tree_lines(made, ends.names)]
        else:
            blocks += _groups(made, ends.names)
        notes.append(
            "tree: average linkage of sqrt(KL); the number at a fork is its height as a KL, bits/byte"
        )
    elif len(rows) > 2:
        notes.append("no tree: some KL between the last checkpoints are undefined")
    return Section("neighbours", "Neighbours and clusters", tuple(blocks), tuple(notes), data)


def _nearest(shown: Map, rows: list[int]) -> tuple[dict[int, list[Near]], list[str]]:
    """({row: its nearest vectors}, notes on how these were found if not all were compared)."""
    points, variants = shown.points, Counter((p.base, p.layer) for p in shown.points)

    def near(row: int, order: NDArray[np.intp]) -> list[Near]:
        return _near(points, row, order, variants[points[row].base, points[row].layer] > 1)

    if len(rows) * len(shown) <= MAX_PAIRS:
        every = zip(rows, shown.kl_rows(rows), strict=True)
        return {row: near(row, _defined(kl_K)) for row, kl_K in every}, []
    runs = [_run_of(point) for point in shown.points]
    own = Counter(runs)
    found = shown.candidates(rows, CANDIDATES + max(own[runs[row]] for row in rows))
    return {row: near(row, order) for row, order in zip(rows, found.nearest_Mn, strict=True)}, [
        f"{found.nearest_Mn.shape[1]} candidates for each model were found with {found.dims} random projections, whose squared"
        f" distances have a relative standard error of {found.relative_se:.0%}, and compared by their full vectors"
    ]


def _defined(kl_K: NDArray[np.float64]) -> NDArray[np.intp]:
    """The rows with a defined KL, nearest first."""
    order = np.argsort(kl_K, kind="stable")
    return order[np.isfinite(kl_K[order])]


def _near(points: Sequence[Point], row: int, order: NDArray[np.intp], has_variants: bool) -> list[Near]:
    """The nearest vector of the same run and variant, the nearest variant of the same checkpoint, and the nearest other runs.

    Another run, with its variants, is represented by its nearest vector.
    """
    own, label, run = points[row], label_of(points[row]), _run_of(points[row])
    same: list[int] = []
    variants: list[int] = []
    nearest_of: dict[str, int] = {}
    for k in map(int, order):
        if k == row:
            continue
        other = points[k]
        if label_of(other) == label:
            same = same or [k]
        elif (other.base, other.layer) == (own.base, own.layer):
            variants = variants or [k]
        elif _run_of(other) != run:
            nearest_of.setdefault(_run_of(other), k)
        if same and len(nearest_of) >= NEAREST and (variants or not has_variants):
            break
    ranked = enumerate(list(nearest_of.values())[:NEAREST], 1)
    return [
        *(("same run", 1, k) for k in same),
        *(("its variant", 1, k) for k in variants),
        *(("other runs", rank, k) for rank, k in ranked),
    ]


def _run_of(point: Point) -> str:
    return trajectory_of(point.run, point.tags)


def _table(ctx: Context, found: dict[int, list[Near]]) -> RenderableType:
    rows = []
    for row, near in found.items():
        for place, (kind, _, k) in enumerate(near):
            kl = ctx.map.pair_rows(row, k)
            shown_kl = with_error(kl.value, kl.se) + below(kl.value, ctx.floor)
            rows.append([ctx.map.names[row] if place == 0 else "", kind, ctx.map.names[k], shown_kl])
    return table(["model", "nearest of", "is", "KL ± se"], rows, left=(0, 1, 2))


def _near_data(shown: Map, found: dict[int, list[Near]]) -> list[dict[str, object]]:
    return [
        {
            "name": shown.names[row],
            "of": kind,
            "rank": rank,
            "nearest": shown.names[k],
            "kl_bits_per_byte": kl.value,
            "se": kl.se,
        }
        for row, near in found.items()
        for kind, rank, k in near
        for kl in [shown.pair_rows(row, k)]
    ]


def _groups(made: Clustering, names: list[str]) -> list[RenderableType]:
    """The tree cut into a few clusters, the largest first, each with some of its members."""
    number = made.groups(GROUPS)
    members = [[names[k] for k in np.flatnonzero(number == g)] for g in range(number.max() + 1)]
    rows = [
        [str(len(m)), ", ".join(m[:MEMBERS]) + (f" and {len(m) - MEMBERS} more" if len(m) > MEMBERS else "")]
        for m in sorted(members, key=len, reverse=True)
    ]
    return [
        table(["models", "of one cluster"], rows, left=(), wrap=(1,)),
        words(f"the tree of {len(names)} models cut into {len(rows)} clusters; --json has the whole tree"),
    ]


def tree_lines(made: Clustering, names: list[str]) -> list[str]:
    """A dendrogram as lines: forks with the KL (bits/byte) at which they join, leaves with names."""
    K = len(names)

    def lines(node: int) -> list[str]:
        if node < K:
            return [names[node]]
        left, right, height, _ = made.merges[node - K]
        parts = sorted((int(left), int(right)), key=lambda n: _first(made, n, K))
        upper, lower = lines(parts[0]), lines(parts[1])
        out = [figure(math.pow(height, 2), 2)]
        out += [("├─ " if i == 0 else "│  ") + line for i, line in enumerate(upper)]
        return out + [("└─ " if i == 0 else "   ") + line for i, line in enumerate(lower)]

    return lines(2 * K - 2)


def _first(made: Clustering, node: int, K: int) -> int:
    """Position of a node's first leaf in the leaf order."""
    while node >= K:
        a, b = (int(v) for v in made.merges[node - K][:2])
        node = a if _leaf(made, a, K) <= _leaf(made, b, K) else b
    return int(np.flatnonzero(made.order == node)[0])


def _leaf(made: Clustering, node: int, K: int) -> int:
    if node < K:
        return int(np.flatnonzero(made.order == node)[0])
    a, b = (int(v) for v in made.merges[node - K][:2])
    return min(_leaf(made, a, K), _leaf(made, b, K))
