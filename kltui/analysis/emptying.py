"""Vectors that would empty a map: those without a number, and those that share few texts with the others."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import ArrayLike

LEFT_OUT = "left_out"  # of a map's record: {name: why}
_LEAST_SHARE = 0.5


def emptying(loglik_KN: ArrayLike) -> dict[int, str]:
    """{row: why} of the vectors that a map over K x N values leaves out.

    Pictures stand on the texts that all vectors have. Rows that have the same texts belong together; the group with the
    most numbers is taken, and the others join it in turn, those that share most texts with it first, as long as at least
    half of its texts remain.
    """
    defined = np.isfinite(np.asarray(loglik_KN))
    if defined.all():
        return {}
    n_texts = defined.shape[1]
    counts = defined.sum(axis=1)
    out = {int(k): f"none of its {n_texts} texts has a number" for k in np.flatnonzero(counts == 0)}
    rest = [k for k in range(len(defined)) if k not in out]
    if not rest:
        return out
    alike = Counter(defined[k].tobytes() for k in rest)
    usual = defined[max(rest, key=lambda k: (alike[defined[k].tobytes()] * counts[k], -k))]
    common, least = usual.copy(), _LEAST_SHARE * int(usual.sum())
    for k in sorted(rest, key=lambda k: (-int((defined[k] & usual).sum()), k)):
        shared = common & defined[k]
        if int(shared.sum()) < least:
            out[k] = (
                f"scored on {int(counts[k])} of {n_texts} texts: {int(shared.sum())} would be left for the map"
            )
        else:
            common = shared
    return dict(sorted(out.items()))
