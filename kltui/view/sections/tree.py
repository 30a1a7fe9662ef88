"""Trees of the runs' last models, by neighbour joining and average linkage, with the support of forks; probable parents."""

from __future__ import annotations

import math

from rich.console import RenderableType

from kltui.analysis.map import Map
from kltui.analysis.tree import Forest, ParentCandidate, TreeFork, candidates, newick
from kltui.view.sections.context import Context
from kltui.view.sections.section import Section
from kltui.view.tables import figure, table, with_error, words

CANDIDATES_SHOWN = 2
MODELS_SHOWN = 20
LINES_SHOWN = 38
BRANCHES = (
    "branches in bits/byte, and along them the KL of two models: by average linkage, which joins by the mean of sqrt(KL),"
    " half of that mean squared on either side of a fork"
)
MINIMUM = 0.01  # probability of a candidate that is listed


def tree(ctx: Context) -> Section:
    """Both trees with the support of every fork, and the probable parents of each model."""
    found = ctx.forest
    names = found.leaves.names
    floor = 0.0 if math.isnan(ctx.floor) else ctx.floor
    descents = {
        u: candidates(found.kl, u, _candidates_of(found.leaves, u), floor) for u in _asked(ctx, found)
    }
    blocks: list[RenderableType] = [words("neighbour joining: branch in bits/byte, support of the fork")]
    blocks += map(words, _first(fork_lines(found.trees.joined, names)))
    blocks.append(words("average linkage: branch in bits/byte, support of the fork"))
    blocks += map(words, _first(fork_lines(found.trees.linked, names)))
    shown = dict(list(descents.items())[:MODELS_SHOWN])
    if any(shown.values()):
        blocks.append(_descents(found.leaves, shown))
    notes = (
        BRANCHES,
        "KL adds up along branches that move independently; where it does not, a branch of neighbour joining (Saitou and"
        " Nei 1987) can be below 0; it is unrooted: its top"
        f" is not an ancestor. Support: share of {found.trees.n_draws} draws of the texts, with replacement, that have the"
        " fork too",
        "P(u descends from p) = share of draws in which KL(u, p) is the smallest among the candidates (the models of other"
        " runs), given that one of them is the parent; those within the noise floor of the smallest share the draw",
        "parted: g = mean over other candidates q of (KL(u, p) + KL(p, q) - KL(u, q)) / 2: 0 if u descends from p"
        " itself, half of KL(u, p) if both are equally far from a common ancestor",
        ctx.basis,
        *([ctx.tree_without] if ctx.tree_without else []),
    )
    return Section(
        "tree", "A tree of models, with errors", tuple(blocks), notes, _data(found, descents), headline=""
    )


def _first(lines: list[str]) -> list[str]:
    """The first lines of a large tree, and the number of further ones."""
    more = len(lines) - LINES_SHOWN
    if more <= 0:
        return lines
    return [*lines[:LINES_SHOWN], f"… {more} more lines: --json and tree.nwk of --export have the whole tree"]


def _asked(ctx: Context, found: Forest) -> list[int]:
    """The models whose parents are shown: the first of the requested pair, otherwise all."""
    if ctx.choice.pair:
        return [found.leaves.row(ctx.pair[0])]
    return list(range(len(found.leaves)))


def _candidates_of(leaves: Map, u: int) -> list[int]:
    """The models of other runs; how a run's own checkpoints descend from each other is known."""
    return [k for k, p in enumerate(leaves.points) if p.run != leaves.points[u].run]


def fork_lines(node: TreeFork, names: list[str]) -> list[str]:
    """A tree as lines: branch lengths (bits/byte), the support of forks in %, names of leaves."""
    length = figure(node.length, 2)
    if not node.children:
        return [f"{length}  {names[node.row]}"]
    head = "." if node.support is None else f"{length}  [{100 * node.support:.0f} %]"
    out = [head]
    for at, child in enumerate(node.children):
        last = at == len(node.children) - 1
        inner = fork_lines(child, names)
        out.append(f"{'└─' if last else '├─'} {inner[0]}")
        out += [f"{'  ' if last else '│ '} {line}" for line in inner[1:]]
    return out


def _descents(leaves: Map, found: dict[int, list[ParentCandidate]]) -> RenderableType:
    rows = []
    for u, every in found.items():
        point = leaves.points[u]
        listed = [c for c in every if c.probability >= MINIMUM][:CANDIDATES_SHOWN]
        for place, c in enumerate(listed):
            rows.append(
                [
                    point.name if place == 0 else "",
                    (point.parent or "-") if place == 0 else "",
                    leaves.names[c.row],
                    f"{100 * c.probability:.1f} %",
                    with_error(c.kl, c.kl_se),
                    with_error(c.parted, c.parted_se),
                ]
            )
    return table(
        ["model", "named parent", "descends from", "P", "KL ± se", "parted ± se"], rows, left=(0, 1, 2)
    )


def _data(found: Forest, descents: dict[int, list[ParentCandidate]]) -> dict[str, object]:
    names = found.leaves.names
    return {
        "unit": "bits/byte",
        "models": names,
        "draws": found.trees.n_draws,
        "neighbour_joining": _node(found.trees.joined, names),
        "average_linkage": _node(found.trees.linked, names),
        "newick": newick(found.trees.joined, names).strip(),
        "descents": [
            {
                "name": names[u],
                "parent": found.leaves.points[u].parent,
                "candidates": [
                    {
                        "name": names[c.row],
                        "probability": c.probability,
                        "kl_bits_per_byte": c.kl,
                        "se": c.kl_se,
                        "parted_bits_per_byte": c.parted,
                        "parted_se": c.parted_se,
                    }
                    for c in every
                ],
            }
            for u, every in descents.items()
        ],
    }


def _node(node: TreeFork, names: list[str]) -> dict[str, object]:
    """A node as plain data; a leaf has a name and no children."""
    if not node.children:
        return {"name": names[node.row], "length": node.length}
    return {
        "length": node.length,
        "support": node.support,
        "children": [_node(child, names) for child in node.children],
    }
