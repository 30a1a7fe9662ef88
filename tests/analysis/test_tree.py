"""Trees: exact on distances that add up, support against trees drawn with known branches, descent as planted."""

from __future__ import annotations

import re

import numpy as np
import pytest

from kltui.analysis.kl import kl_matrix
from kltui.analysis.tree import (
    TreeFork,
    average_linkage,
    candidates,
    neighbour_joining,
    newick,
    resampled_kl,
    trees,
)
from kltui.errors import KltuiError

#      0 -2-+       +-3- 2
#           +-- 4 --+
#      1 -5-+       +-1-+-2- 3
#                       +-6- 4
BRANCHES = {
    frozenset({0}): 2.0,
    frozenset({1}): 5.0,
    frozenset({2}): 3.0,
    frozenset({3}): 2.0,
    frozenset({4}): 6.0,
    frozenset({2, 3, 4}): 4.0,
    frozenset({3, 4}): 1.0,
}


def additive(branches: dict[frozenset[int], float], K: int) -> np.ndarray:
    """K x K distances: the branches that part two leaves, added up."""
    return np.array(
        [[sum(v for s, v in branches.items() if (i in s) != (j in s)) for j in range(K)] for i in range(K)]
    )


def branches_of(tree: TreeFork, K: int) -> dict[frozenset[int], float]:
    """{side without leaf 0 (leaf 0 alone: itself): length}."""
    every = frozenset(range(K))
    found = {}
    for node in tree.nodes():
        leaves = node.leaves()
        if leaves != every:
            found[leaves if leaves == {0} or 0 not in leaves else every - leaves] = node.length
    return found


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 2, 0, 3, 1), (3, 4, 1, 0, 2)])
def test_joining_finds_an_additive_tree_exactly(order):
    place = {k: at for at, k in enumerate(order)}
    known = {frozenset(place[k] for k in leaves): length for leaves, length in BRANCHES.items()}
    D = additive(known, 5)
    found = branches_of(neighbour_joining(D), 5)
    assert additive(found, 5) == pytest.approx(D)
    inner = {s if 0 not in s else frozenset(range(5)) - s for s in known if len(s) > 1}
    assert {s for s in found if 1 < len(s) < 4} == inner


def test_joining_of_random_additive_trees():
    rng = np.random.default_rng(5)
    for K in (3, 4, 7, 15, 30):
        nodes, branches = [frozenset({k}) for k in range(K)], {}
        for node in nodes:
            branches[node] = rng.uniform(0.1, 2)
        while len(nodes) > 3:
            i, j = sorted(rng.choice(len(nodes), 2, replace=False))
            merged = nodes[i] | nodes[j]
            branches[merged] = rng.uniform(0.1, 2)
            nodes = [n for k, n in enumerate(nodes) if k not in (i, j)] + [merged]
        D = additive(branches, K)
        tree = neighbour_joining(D)
        assert np.allclose(additive(branches_of(tree, K), K), D, atol=1e-9)


def test_average_linkage_of_an_ultrametric_tree_is_it():
    heights = {frozenset({0, 1}): 1.0, frozenset({2, 3}): 2.0, frozenset(range(4)): 5.0}
    D = np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            if i != j:
                D[i, j] = 2 * min(h for s, h in heights.items() if {i, j} <= s)
    found = {node.leaves(): node.length for node in average_linkage(D).nodes()}
    assert found[frozenset({0, 1})] == pytest.approx(4.0) and found[frozenset({2, 3})] == pytest.approx(3.0)
    assert found[frozenset({0})] == pytest.approx(1.0)


def grown(rng, N=4000, inner=1.0):
    """Five vectors that moved independently along the branches above; the inner ones times `inner`."""
    L = np.zeros((5, N))
    for leaves, length in BRANCHES.items():
        step = rng.normal(size=N) * np.sqrt(length * (inner if len(leaves) > 1 else 1.0))
        for k in leaves:
            L[k] += step
    return L - 500.0


def test_support_is_high_where_texts_tell_and_low_where_they_do_not():
    rng, size = np.random.default_rng(1), np.full(4000, 100)
    sure = trees(resampled_kl(grown(rng), size, draws=100))
    inner = [n.support for n in sure.joined.nodes() if n.support is not None]
    assert len(inner) == 2 and min(inner) == 1.0
    unsure = trees(resampled_kl(grown(rng, N=60, inner=1e-6), size[:60], draws=100))
    assert min(n.support for n in unsure.joined.nodes() if n.support is not None) < 0.9


def test_no_draw_is_the_whole_and_copies_are_drawn_together():
    rng = np.random.default_rng(2)
    L, size = grown(rng, N=50), rng.integers(50, 100, 50)
    once = resampled_kl(L, size, draws=40)
    assert once.kl_KK == pytest.approx(kl_matrix(L, size))
    ids = np.tile(np.arange(50), 3)
    copied = resampled_kl(np.tile(L, 3), np.tile(size, 3), ids, draws=40)
    assert copied.draws_BKK == pytest.approx(once.draws_BKK)


def test_the_bootstrap_s_spread_is_the_error_of_the_kl():
    from kltui.analysis.kl import kl_pair

    rng = np.random.default_rng(3)
    L, size = grown(rng, N=400), np.full(400, 100)
    found = resampled_kl(L, size, draws=600)
    assert found.draws_BKK[:, 0, 1].std() == pytest.approx(kl_pair(L[0], L[1], size).se, rel=0.1)


def test_who_descends_from_whom_as_planted():
    """u is a child of p; q and r are others; s is p's sibling by a common ancestor that is not on the map."""
    rng, N = np.random.default_rng(4), 3000
    a = rng.normal(size=N)
    p, s = a + 0.5 * rng.normal(size=N), a + 0.5 * rng.normal(size=N)
    u = p + 0.3 * rng.normal(size=N)
    q, r = rng.normal(size=N), rng.normal(size=N)
    found = resampled_kl(np.array([u, p, s, q, r]), np.full(N, 10), draws=100)
    first, *others = candidates(found, 0, [1, 2, 3, 4])
    assert first.row == 1 and first.probability == 1.0 and sum(c.probability for c in others) == 0.0
    assert abs(first.parted) < 3 * first.parted_se  # it descends from p itself
    sibling = next(c for c in candidates(found, 2, [1, 3, 4]) if c.row == 1)
    assert sibling.probability == 1.0  # given that one of them is the parent
    assert sibling.parted == pytest.approx(sibling.kl / 2, rel=0.1)  # though they part half-way


def test_probability_is_shared_by_equal_candidates():
    rng, N = np.random.default_rng(6), 500
    u = rng.normal(size=N)
    L = np.array([u, u + rng.normal(size=N), u + rng.normal(size=N)])
    found = candidates(resampled_kl(L, np.full(N, 10), draws=400), 0, [1, 2])
    assert sum(c.probability for c in found) == pytest.approx(1.0) and found[0].probability < 1.0


def test_copies_of_a_parent_share_it_and_so_does_what_rounding_tells_apart():
    rng, N = np.random.default_rng(8), 500
    p = rng.normal(size=N)
    rounded = p + 1e-7 * rng.normal(size=N)
    L = np.array([p + 0.3 * rng.normal(size=N), p, p, rounded, rng.normal(size=N)])
    found = resampled_kl(L, np.full(N, 10), draws=50)
    shares = {c.row: c.probability for c in candidates(found, 0, [1, 2, 3, 4], 1e-6)}
    assert shares == pytest.approx({1: 1 / 3, 2: 1 / 3, 3: 1 / 3, 4: 0.0})
    without = {c.row: c.probability for c in candidates(found, 0, [1, 2, 3, 4])}
    assert without[1] == without[2] and sum(without.values()) == pytest.approx(1.0)


def test_newick_quotes_names_and_names_supports():
    tree = trees(resampled_kl(grown(np.random.default_rng(7)), np.full(4000, 100), draws=10)).joined
    text = newick(tree, ["it's", "b c", "c@1", "d(1)", "e"])
    assert text.endswith(";\n") and "'it''s':" in text and "'b c':" in text
    assert len(re.findall(r"\)\d+:", text)) == 2 and text.count("(") - 1 == 3


def test_two_models_are_no_tree():
    with pytest.raises(KltuiError, match="three models"):
        trees(resampled_kl(np.random.default_rng(0).normal(size=(2, 9)), np.ones(9), draws=3))
