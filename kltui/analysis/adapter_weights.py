"""Squared distances between adapters of one base, and to the base, from the factors of their changes.

Only r x r products of the factors of s B A are formed: |s B A|^2 = tr((B^T B)(A A^T)) s^2, and the difference of two such changes has
factors too. Changes without factors (DoRA, full tensors) are merged one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kltui.errors import KltuiError
from kltui.registry.adapter_tensors import Change

F64 = NDArray[np.float64]
Base = Callable[[str], F64]


def sqdist(a: Change | None, b: Change, base: Base) -> float:
    """|theta_b - theta_a|^2 summed over all tensors that either adapter changes; `a` = None means the base. `base` gives the base's tensors by name.

    Raises KltuiError if the shapes of a tensor differ.
    """
    names = sorted((a.names if a is not None else set()) | b.names)
    return float(sum(_of_tensor(a, b, name, base) for name in names))


def _of_tensor(a: Change | None, b: Change, name: str, base: Base) -> float:
    changes = [c for c in (a, b) if c is not None and name in c.names]
    if not any(name in c.whole or name in c.magnitude for c in changes):
        left = a.low_rank.get(name) if a is not None else None
        return product_sqnorm(*_difference(left, b.low_rank.get(name)))
    both_whole = len(changes) == 2 and all(name in c.whole and name not in c.magnitude for c in changes)
    own = None if both_whole else base(name)  # not needed if both adapters replace the tensor
    one, other = _merged(a, name, own), _merged(b, name, own)
    if one.shape != other.shape:
        raise KltuiError(
            f"{name} is {list(one.shape)} in one and {list(other.shape)} in the other",
            "weight distances need adapters of the same shape; a resized vocabulary has none",
        )
    return float(np.sum((other - one) ** 2))


def _merged(change: Change | None, name: str, own: F64 | None) -> F64:
    """A tensor with the adapter merged into it; `own` is the base's tensor."""
    value = change.whole.get(name, own) if change is not None else own
    assert value is not None
    if change is None or name not in change.low_rank:
        return value
    B, A = change.low_rank[name]
    value = value + (B @ A).reshape(value.shape)  # LoRA (arXiv 2106.09685): W + s B A, s already in a factor
    if name in change.magnitude:  # DoRA: m V / |V|, norms of rows
        norm = np.linalg.norm(value, axis=1)  # arXiv 2402.09353
        value = value * (change.magnitude[name] / norm)[:, None]
    return value


def _difference(a: tuple[F64, F64] | None, b: tuple[F64, F64] | None) -> tuple[F64, F64]:
    """(B, A) with B A = b - a, or a - b if b is None; None is no change.

    For equal ranks it is (B_b - B_a) A_a + B_b (A_b - A_a), so that the difference of similar adapters loses no digits.
    """
    if a is None or b is None:
        found = a or b
        assert found is not None
        return found
    (B_a, A_a), (B_b, A_b) = a, b
    if A_a.shape == A_b.shape and B_a.shape == B_b.shape:
        return np.hstack((B_b - B_a, B_b)), np.vstack((A_a, A_b - A_a))
    return np.hstack((B_b, -B_a)), np.vstack((A_b, A_a))


def product_sqnorm(B: F64, A: F64) -> float:
    """|B A|^2, Frobenius, of B (out, r) and A (r, in): tr((B^T B)(A A^T))."""
    return float(np.sum((B.T @ B) * (A @ A.T)))  # |B A|^2 = tr(A^T B^T B A), the trace is cyclic
