"""A tree of models with errors: neighbour joining and average linkage of KL, each fork with its support over texts.

Models are assumed to move independently after they diverge: Var(l_i - l_j) then adds up
along the branches, and so does KL. Neighbour joining (Saitou and Nei 1987) finds exactly such a tree. Texts are resampled
(with replacement, duplicates together), and a fork's support is the share of draws whose tree contains it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis.embed import complete_texts
from kltui.analysis.kl import LN2, double_centre
from kltui.analysis.neighbours import cluster
from kltui.errors import KltuiError
from kltui.threads import one_blas_thread

if TYPE_CHECKING:
    from kltui.analysis.map import Map

Array = NDArray[np.float64]
DRAWS = 200
SEED = 42


@dataclass(frozen=True, eq=False)
class TreeFork:
    """A node of a tree: a leaf has a row and no children. `length` of the branch above it is in bits/byte.

    `support` is the share of draws whose tree separates the same leaves from the rest; None at leaves and at the root.
    """

    length: float
    children: tuple[TreeFork, ...] = ()
    row: int = -1
    support: float | None = None

    def leaves(self) -> frozenset[int]:
        """Rows below this node."""
        return frozenset(self._rows())

    def _rows(self) -> Iterator[int]:
        if not self.children:
            yield self.row
        for child in self.children:
            yield from child._rows()

    def nodes(self) -> Iterator[TreeFork]:
        """This node and all below it, a parent before its children."""
        yield self
        for child in self.children:
            yield from child.nodes()


@dataclass(frozen=True, eq=False)
class Trees:
    """The tree by neighbour joining (unrooted: three branches meet at its top) and by average linkage, K leaves each."""

    joined: TreeFork
    linked: TreeFork
    n_draws: int


@dataclass(frozen=True, slots=True)
class ParentCandidate:
    """A possible parent of another model.

    `probability`: share of draws in which its KL to that model is the smallest of all candidates'. `parted` is the distance,
    in bits/byte with its standard error, from the candidate to the point where the two lines diverge: 0 for a parent.
    """

    row: int
    probability: float
    kl: float
    kl_se: float
    parted: float = float("nan")
    parted_se: float = float("nan")


@dataclass(frozen=True, eq=False)
class Resampled:
    """K x K KL in bits/byte of some vectors over all texts, and of B draws of the texts (B x K x K)."""

    kl_KK: Array
    draws_BKK: Array = field(repr=False)


@dataclass(frozen=True, eq=False)
class Forest:
    """Models of a map, their KL over draws of texts, and both trees of them."""

    leaves: Map
    kl: Resampled
    trees: Trees


@one_blas_thread
def forest(leaves: Map) -> Forest:
    """Both trees of a map's vectors, over the texts that all of them have. Raises KltuiError for fewer than three."""
    used = complete_texts(leaves.loglik_KN)
    ids = None if leaves.text_ids_N is None else leaves.text_ids_N[used]
    kl = resampled_kl(leaves.loglik_KN[:, used], leaves.text_bytes_N[used], ids)
    return Forest(leaves, kl, trees(kl))


@one_blas_thread
def resampled_kl(
    L_KN: ArrayLike,
    text_bytes_N: ArrayLike,
    text_ids_N: NDArray[np.intp] | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Resampled:
    """KL of vectors without gaps over all texts, and over `draws` draws of as many texts with replacement."""
    L, size = np.asarray(L_KN, dtype=np.float64), np.asarray(text_bytes_N, dtype=np.float64)
    X = double_centre(L)
    ids = np.arange(L.shape[1]) if text_ids_N is None else np.unique(text_ids_N, return_inverse=True)[1]
    n_ids, rng = int(ids.max()) + 1, np.random.default_rng(seed)
    found = np.empty((draws, len(L), len(L)))
    for b in range(draws):
        times = np.bincount(rng.integers(0, n_ids, n_ids), minlength=n_ids)
        found[b] = _weighted_kl(X, size, times[ids].astype(np.float64))  # bootstrap over texts (Efron 1979)
    return Resampled(_weighted_kl(X, size, np.ones(L.shape[1])), found)


def _weighted_kl(X_KN: Array, size_N: Array, w_N: Array) -> Array:
    """K x K Var_w(x_i - x_j) / (2 B_w ln 2): variance and mean bytes over texts counted w times."""
    n = w_N.sum()
    used = w_N > 0
    X, w = X_KN[:, used], w_N[used]
    X = X - (X @ w / n)[:, None]
    gram = (X * w) @ X.T  # |x_i - x_j|^2 = |x_i|^2 + |x_j|^2 - 2 x_i x_j
    square = np.add.outer(gram.diagonal(), gram.diagonal()) - 2.0 * gram
    # n B_w is the sum of counted bytes
    kl: Array = np.maximum(square, 0.0) / (2.0 * LN2 * float(w_N @ size_N))
    np.fill_diagonal(kl, 0.0)
    return kl


def trees(found: Resampled) -> Trees:
    """Both trees of three or more vectors, with the support of every fork. Raises KltuiError for fewer."""
    K, B = len(found.kl_KK), len(found.draws_BKK)
    if K < 3:
        raise KltuiError(f"a tree needs three models, not {K}", "score more, or exclude fewer")
    joined, linked = neighbour_joining(found.kl_KK), average_linkage(found.kl_KK)
    splits: dict[frozenset[int], int] = {}
    clades: dict[frozenset[int], int] = {}
    for kl_KK in found.draws_BKK:
        for node in neighbour_joining(kl_KK).nodes():
            split = _split(node.leaves(), K)
            splits[split] = splits.get(split, 0) + 1
        for node in average_linkage(kl_KK).nodes():
            clades[node.leaves()] = clades.get(node.leaves(), 0) + 1
    return Trees(
        _supported(joined, {leaves: n / B for leaves, n in splits.items()}, K),
        _supported(linked, {leaves: n / B for leaves, n in clades.items()}, 0),
        B,
    )


def _split(leaves: frozenset[int], K: int) -> frozenset[int]:
    """The part without leaf 0 when a branch divides K leaves in two; `leaves` is either part."""
    return frozenset(range(K)) - leaves if 0 in leaves else leaves


def _supported(node: TreeFork, share: dict[frozenset[int], float], K: int, top: bool = True) -> TreeFork:
    """The tree with the share of draws at every inner fork; K: leaves of an unrooted tree, 0 for a rooted one."""
    if not node.children:
        return node
    children = tuple(_supported(child, share, K, top=False) for child in node.children)
    leaves = node.leaves()
    support = None if top else share.get(_split(leaves, K) if K else leaves, 0.0)
    return TreeFork(node.length, children, node.row, support)


def neighbour_joining(distance_KK: ArrayLike) -> TreeFork:
    """The tree of neighbour joining: exact for distances that add up along a tree. Branch lengths may be negative.

    Joins i, j of least (n - 2) d_ij - r_i - r_j, r_i = sum_j d_ij; new node at d_ij / 2 + (r_i - r_j) / (2 (n - 2)) from i.
    """
    D = np.array(distance_KK, dtype=np.float64)
    nodes = [TreeFork(0.0, row=k) for k in range(len(D))]
    while len(nodes) > 3:
        n, r = len(nodes), D.sum(axis=1)
        criterion = (n - 2) * D - r[:, None] - r[None, :]  # Q_ij in the form of Studier and Keppler (1988)
        np.fill_diagonal(criterion, np.inf)
        i, j = sorted(divmod(int(np.argmin(criterion)), n))
        first = D[i, j] / 2 + (r[i] - r[j]) / (2 * (n - 2))
        made = TreeFork(0.0, (_with_length(nodes[i], first), _with_length(nodes[j], D[i, j] - first)))
        to_new = (D[i] + D[j] - D[i, j]) / 2  # d(new, k) = (d_ik + d_jk - d_ij) / 2
        D[i], D[:, i] = to_new, to_new
        D[i, i] = 0.0
        D = np.delete(np.delete(D, j, axis=0), j, axis=1)
        nodes[i] = made
        del nodes[j]
    return TreeFork(
        0.0, tuple(_with_length(node, length) for node, length in zip(nodes, _ends(D), strict=True))
    )


def _ends(D: Array) -> tuple[float, ...]:
    """Lengths of the last three branches, which meet in one node."""
    a, b, c = D[0, 1], D[0, 2], D[1, 2]
    # the three-point formula: length to i = (d_ij + d_ik - d_jk) / 2
    return float(a + b - c) / 2, float(a + c - b) / 2, float(b + c - a) / 2


def _with_length(node: TreeFork, length: float) -> TreeFork:
    return TreeFork(float(length), node.children, node.row, node.support)


def average_linkage(kl_KK: ArrayLike) -> TreeFork:
    """The tree of average linkage of sqrt(KL), by `neighbours.cluster`; a fork at height h lies h^2 / 2 above its leaves.

    So the path length between two models is a KL in bits/byte, as in the tree of neighbour joining.
    """
    made = cluster(kl_KK)
    K = len(made.order)
    nodes, heights = [TreeFork(0.0, row=k) for k in range(K)], [0.0] * K
    for left, right, height, _ in made.merges:
        above = float(height) ** 2 / 2
        children = tuple(_with_length(nodes[int(k)], above - heights[int(k)]) for k in (left, right))
        nodes.append(TreeFork(0.0, children))
        heights.append(above)
    return nodes[-1]


def newick(tree: TreeFork, names: Sequence[str]) -> str:
    """The tree in Newick format: branch lengths in bits/byte, support in % as names of the inner nodes."""
    return f"{_newick(tree, names)};\n"


def _newick(node: TreeFork, names: Sequence[str]) -> str:
    if not node.children:
        return f"{_quoted(names[node.row])}:{node.length:.9g}"
    inside = ",".join(_newick(child, names) for child in node.children)
    if node.support is None:
        return f"({inside})"
    return f"({inside}){100 * node.support:.0f}:{node.length:.9g}"


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def candidates(found: Resampled, row: int, of: Sequence[int], floor: float = 0.0) -> list[ParentCandidate]:
    """The models `of` that the one at `row` may descend from, the most probable first; the probabilities add up to 1.

    P(u descends from p) = share of draws in which KL(u, p) is the least of all KL(u, q), given that one of them is the parent.
    A draw is shared equally among all candidates within `floor` (bits/byte, the rounding level) of the smallest.
    If the lines to u and q diverge at a distance g from p, then KL(u, q) = KL(u, p) + KL(p, q) - 2 g; `parted` is g, averaged
    over q.
    """
    of = [k for k in of if k != row]
    if not of:
        return []
    kl_BP = found.draws_BKK[:, row][:, of]
    is_least = kl_BP <= kl_BP.min(axis=1, keepdims=True) + floor
    share = (is_least / is_least.sum(axis=1, keepdims=True)).mean(axis=0)  # P(u descends from p)
    made = []
    for place, p in enumerate(of):
        others = [q for q in of if q != p]
        parted_B = _parted(found.draws_BKK, row, p, others)
        parted = float(_parted(found.kl_KK[None], row, p, others)[0])
        spread = float(found.draws_BKK[:, row, p].std())
        made.append(
            ParentCandidate(
                p, float(share[place]), float(found.kl_KK[row, p]), spread, parted, float(parted_B.std())
            )
        )
    return sorted(made, key=lambda c: (-c.probability, c.kl))


def _parted(kl_BKK: Array, u: int, p: int, others: Sequence[int]) -> Array:
    """Mean over q of (KL(u, p) + KL(p, q) - KL(u, q)) / 2 of every draw, (B,); NaN without another candidate."""
    if not others:
        return np.full(len(kl_BKK), np.nan)
    q = list(others)
    # distance from p to the point where the lines to u and q diverge, by the three-point formula
    g: Array = (kl_BKK[:, u, p, None] + kl_BKK[:, p, q] - kl_BKK[:, u, q]).mean(axis=1) / 2
    return g
