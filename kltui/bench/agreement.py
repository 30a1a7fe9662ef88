"""Whether two ways of scoring the same texts give the same values, which is checked before their times are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Largest difference in nats, for a text of 250 tokens, between two correct ways of scoring in a dtype, which comes from the
# rounding of hidden states, logits and sums. Two programs have their own: the harness sums a text in float32, and llama.cpp
# reads GELU from a table of half-precision values of its tanh form.
TOLERANCE_NAT = {"float32": 2e-3, "float16": 0.25, "bfloat16": 1.0, "lm_eval": 1e-2, "llama_cpp": 0.1}
CAREFUL = "careful loop"


@dataclass(frozen=True)
class Beside:
    """Another way of scoring compared with kltui on the same model and texts: largest difference of values, and times."""

    name: str
    version: str
    model: str
    dtype: str
    texts: int
    largest_difference_nat: float
    tolerance_nat: float
    seconds: float
    kltui_seconds: float

    @property
    def agrees(self) -> bool:
        """Whether the values of every text differ by at most the tolerance; False for NaN."""
        return self.largest_difference_nat <= self.tolerance_nat

    @property
    def ratio(self) -> float:
        """Its time divided by kltui's."""
        return self.seconds / self.kltui_seconds

    def line(self) -> str:
        """The comparison as one line of text."""
        named = f"{self.name} {self.version}".strip()
        verdict = "they agree" if self.agrees else "they DIFFER, so the times cannot be compared"
        return (
            f"{self.model:6} {self.dtype:9} {named}: values differ from kltui's by at most {self.largest_difference_nat:.1e} nats per text "
            f"(tolerance {self.tolerance_nat:g}): {verdict}; {self.seconds:.2f}s, kltui {self.kltui_seconds:.2f}s: "
            f"{self.ratio:.2f}x\n"
        )


def largest(a: Sequence[NDArray[np.float64]], b: Sequence[NDArray[np.float64]]) -> float:
    """The largest absolute difference between two sets of values, in nats, over all blocks; NaN if a value is NaN."""
    return float(np.max([np.abs(x - y).max() for x, y in zip(a, b, strict=True)]))
