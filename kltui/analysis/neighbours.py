"""Nearest neighbours and hierarchical clustering by KL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.errors import KltuiError

Array = NDArray[np.float64]
Linkage = Literal["average", "single", "complete", "ward"]


@dataclass(frozen=True, eq=False)
class Clustering:
    """A dendrogram: `order` of its K leaves, and merges ((K-1) x 4: two nodes, height in sqrt(bits/byte), size)."""

    order: NDArray[np.intp]
    merges: Array

    def groups(self, n: int) -> NDArray[np.intp]:
        """Group number (from 0, by first leaf) of every row when the tree is cut into at most n groups, (K,)."""
        from scipy.cluster.hierarchy import fcluster

        raw = fcluster(self.merges, max(n, 1), criterion="maxclust") if len(self.merges) else np.zeros(1)
        _, first, number = np.unique(raw[self.order], return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))
        out = np.empty(len(self.order), dtype=np.intp)
        out[self.order] = rank[number]
        return out


def nearest(kl_K: ArrayLike, row: int, n: int = 10) -> NDArray[np.intp]:
    """Up to n rows nearest to `row` by its KL to all (K), nearest first, without itself and undefined ones."""
    kl = np.array(kl_K, dtype=np.float64)
    kl[row] = np.nan
    order = np.argsort(kl, kind="stable")
    return order[: min(n, int(np.isfinite(kl).sum()))]


def cluster(kl_KK: ArrayLike, method: Linkage = "average", names: Sequence[str] = ()) -> Clustering:
    """Agglomerative clustering on the distance sqrt(KL). Raises KltuiError if a KL is undefined."""
    kl = np.asarray(kl_KK, dtype=np.float64)
    K = len(kl)
    if K < 2:
        return Clustering(np.arange(K), np.zeros((0, 4)))
    if not np.isfinite(kl).all():
        i = int(np.flatnonzero(~np.isfinite(kl).all(axis=1))[0])
        raise KltuiError(
            f"clustering needs every pairwise KL, and those of {names[i] if names else f'row {i}'} are undefined",
            "leave out checkpoints that share fewer than two scored texts with another",
        )
    from scipy.cluster.hierarchy import leaves_list, linkage

    condensed = np.sqrt(kl[np.triu_indices(K, 1)])
    merges = linkage(condensed, method)  # by default UPGMA (Sokal and Michener 1958), of distances sqrt(KL)
    return Clustering(leaves_list(merges).astype(np.intp), merges)
