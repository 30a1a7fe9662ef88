"""Neighbours: the checkpoints nearest to each final one, and all final ones as a tree."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from rich.console import RenderableType

from kltui.analysis.map import Map
from kltui.analysis.neighbours import Clustering
from kltui.analysis.point import label_of
from kltui.view.sections.context import Context, below, finals, runs_first
from kltui.view.sections.section import MissingError, Section
from kltui.view.tables import count, figure, table, with_error, words

NEAREST = 3
MODELS_SHOWN = 20
LEAVES_SHOWN = 60
GROUPS, MEMBERS = 10, 6
Near = tuple[str, int, int]  # "same run" or "other run", rank, row


def neighbours(ctx: Context) -> Section:
    """The nearest checkpoint of the own run and of the nearest few others, and a tree of the runs' last ones."""
    shown = ctx.map
    rows = runs_first(shown, finals(shown))
    if len(shown) < 2:
        raise MissingError(f"only {count(len(shown), 'vector')} on the map", "score more checkpoints")
    kl_MK = shown.kl_rows(rows)
    found = {row: _near(shown, row, kl_MK[at]) for at, row in enumerate(rows)}
    blocks: list[RenderableType] = [_table(ctx, {r: found[r] for r in rows[:MODELS_SHOWN]})]
    if len(rows) > MODELS_SHOWN:
        blocks.append(words(f"{MODELS_SHOWN} of {len(rows)} models; --json has them all"))
    notes = [f"bits/byte ± standard error over texts; {ctx.basis}", ctx.floor_words]
    data: dict[str, object] = {"unit": "bits/byte", "nearest": _near_data(shown, found)}
    ends = shown.select(rows)
    if len(rows) > 2 and np.isfinite(ends.kl()).all():
        made = ends.clustering()
        data["tree"] = {"names": ends.names, "merges": made.merges.tolist(), "order": made.order.tolist()}
        if len(rows) <= LEAVES_SHOWN:
            blocks += [words(line) for line in tree_lines(made, ends.names)]
        else:
            blocks += _groups(made, ends.names)
        notes.append(
            "tree: average linkage of sqrt(KL); the figure at a fork is its height as a KL, bits/byte"
        )
    elif len(rows) > 2:
        notes.append("no tree: some KL between the last checkpoints are undefined")
    return Section("neighbours", "Neighbours and clusters", tuple(blocks), tuple(notes), data)


def _near(shown: Map, row: int, kl_K: NDArray[np.float64]) -> list[Near]:
    """The nearest vector of the same run, and the nearest few runs, each by its nearest vector; KL to all are given."""
    kl = kl_K.copy()
    kl[row] = np.nan
    label = label_of(shown.points[row])
    order = [int(k) for k in np.argsort(kl, kind="stable") if np.isfinite(kl[k])]
    same = [k for k in order if label_of(shown.points[k]) == label][:1]
    nearest_of: dict[str, int] = {}
    for k in order:
        nearest_of.setdefault(label_of(shown.points[k]), k)
    others = [k for other, k in nearest_of.items() if other != label][:NEAREST]
    return [("same run", 1, k) for k in same] + [("other runs", i + 1, k) for i, k in enumerate(others)]


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
    """The tree cut into a few groups, the largest first, each with some of its members."""
    number = made.groups(GROUPS)
    members = [[names[k] for k in np.flatnonzero(number == g)] for g in range(number.max() + 1)]
    rows = [
        [str(len(m)), ", ".join(m[:MEMBERS]) + (f" and {len(m) - MEMBERS} more" if len(m) > MEMBERS else "")]
        for m in sorted(members, key=len, reverse=True)
    ]
    return [
        table(["models", "of one cluster"], rows, left=(), wrap=(1,)),
        words(f"the tree of {len(names)} models cut into {len(rows)} clusters; --json has it whole"),
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
    """Place in the leaf order of a node's first leaf."""
    while node >= K:
        a, b = (int(v) for v in made.merges[node - K][:2])
        node = a if _leaf(made, a, K) <= _leaf(made, b, K) else b
    return int(np.flatnonzero(made.order == node)[0])


def _leaf(made: Clustering, node: int, K: int) -> int:
    if node < K:
        return int(np.flatnonzero(made.order == node)[0])
    a, b = (int(v) for v in made.merges[node - K][:2])
    return min(_leaf(made, a, K), _leaf(made, b, K))
