"""The log-likelihoods of texts under one model, as `kltui.score` returns them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kltui.analysis.kl import KL, kl_pair
from kltui.analysis.loss import bits_per_byte
from kltui.analysis.number_text import with_error
from kltui.errors import UsageError
from kltui.html_table import html_table
from kltui.sanitize import safe_text

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class ScoredTexts:
    """N texts under one model: `loglik_N` in nats (NaN: unscored), `n_scored_N` tokens, `text_bytes_N` bytes.

    `layers` are the vectors of the requested layers, {k: (N,) nats}; `token_logprobs`, if requested, are one
    float32 array in nats per text. `key` contains everything that determined the values; `notes` are remarks on them.
    `text_ids_N` numbers equal texts equally (None: all differ).
    """

    name: str
    loglik_N: Array
    n_scored_N: NDArray[np.int32]
    text_bytes_N: NDArray[np.int64]
    key: Mapping[str, str]
    notes: tuple[str, ...] = ()
    layers: Mapping[int, Array] = field(default_factory=dict)
    token_logprobs: tuple[NDArray[np.float32], ...] | None = None
    text_ids_N: NDArray[np.intp] | None = None

    def __post_init__(self) -> None:
        arrays: tuple[NDArray[Any], ...] = (self.loglik_N, self.n_scored_N, self.text_bytes_N)
        for values in (*arrays, *self.layers.values()):
            values.flags.writeable = False

    def __len__(self) -> int:
        return len(self.loglik_N)

    @property
    def bits_per_byte(self) -> float:
        """Loss in bits per byte: the summed log-likelihood, in bits, over the bytes of the scored texts."""
        return bits_per_byte(self.loglik_N, self.text_bytes_N, self.text_ids_N)[0]

    @property
    def bits_per_byte_se(self) -> float:
        """Standard error of `bits_per_byte` over texts; NaN with fewer than three differing ones."""
        return bits_per_byte(self.loglik_N, self.text_bytes_N, self.text_ids_N)[1]

    def kl(self, other: ScoredTexts) -> KL:
        """KL to another model in bits/byte with its standard error. Raises UsageError for other texts or settings."""
        if not isinstance(other, ScoredTexts):
            raise UsageError(
                f"a KL needs two results of kltui.score, not a {type(other).__name__}",
                "Score the other model on the same texts.",
            )
        differing = [
            name for name in ("corpus", "bos", "overlong", "dtype") if self.key[name] != other.key[name]
        ]
        if differing:
            raise UsageError(
                f"{safe_text(self.name, 80)} and {safe_text(other.name, 80)} cannot be compared: "
                + "; ".join(_difference(name, self.key[name], other.key[name]) for name in differing),
                "Score both on the same texts with the same bos, overlong and dtype.",
            )
        return kl_pair(self.loglik_N, other.loglik_N, self.text_bytes_N, self.text_ids_N)

    def __repr__(self) -> str:
        loss = with_error(self.bits_per_byte, self.bits_per_byte_se)
        return f"ScoredTexts({safe_text(self.name, 80)!r}, {len(self)} texts, {loss} bits/byte)"

    def _repr_html_(self) -> str:
        rows = [
            ("loss, bits/byte", with_error(self.bits_per_byte, self.bits_per_byte_se)),
            ("tokens scored", str(int(self.n_scored_N.sum()))),
            ("texts unscored", str(int(np.count_nonzero(self.n_scored_N == 0)))),
            *((name, self.key[name]) for name in ("dtype", "bos", "overlong", "quantization")),
            *(("note", note) for note in self.notes),
        ]
        return html_table(f"{len(self)} texts under {self.name}", ("", "value"), rows)


def _difference(name: str, ours: str, theirs: str) -> str:
    return "their texts differ" if name == "corpus" else f"{name} is {ours} or {theirs}"
