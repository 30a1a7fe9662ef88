"""Settings and results of scoring, as plain data that does not need torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from kltui.errors import KltuiError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LayerChoice = Literal["none", "all"] | tuple[int, ...]
Stage = Literal["fetch", "load", "tokenize", "score"]


@dataclass(frozen=True, slots=True)
class ScoringSettings:
    """The `[scoring]` table of a job file and related settings; those that can change a value are in the vector's key."""

    device: str = "auto"
    dtype: Literal["float32", "float16", "bfloat16", "auto"] = "float32"
    bos: Literal["auto", "always", "never"] = "auto"
    overlong: Literal["error", "window", "truncate"] = "error"
    layers: LayerChoice = "none"
    tokens: bool = False
    batch_tokens: int = 0
    allow_bin: bool = False
    batch_texts: int = 0  # maximum texts in a batch; 0: limited only by `batch_tokens`
    unconditional: bool = False  # for pairs: also score the response without its prompt
    template: str = ""  # how the prompts of pairs are formatted, "chat" or "none"; "" for texts
    device_map: str = "none"  # of `[engine]`: how a model larger than one device is spread over several


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of one checkpoint: its stage, and the texts and tokens that are done, out of all."""

    stage: Stage
    texts_done: int = 0
    texts_total: int = 0
    tokens_done: int = 0
    tokens_total: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class DtypeCost:
    """The ratio of a batch's time in float32 to that with dtype = "auto"; None with the reason `why` if unknown.

    `largest_nat` and `mean_nat`: by how much the log-likelihoods of its texts differ then, in nats.
    """

    auto: str
    factor: float | None
    why: str = ""
    largest_nat: float | None = None
    mean_nat: float | None = None

    def __str__(self) -> str:
        stored = f'dtype = "auto" would ({self.auto}, as the weights are stored)'
        if self.factor is None:
            return f"the cost of float32 relative to {stored} was not measured: {self.why}"
        moved = (
            ""
            if self.largest_nat is None
            else f"; the log-likelihoods of its texts then differ by up to {self.largest_nat:.2g} nats"
        )
        moved += "" if self.mean_nat is None else f", {self.mean_nat:.2g} on average"
        return f"float32 takes {self.factor:.1f} times as long here as {stored}, measured on the first batch{moved}"


@dataclass(frozen=True)
class Vector:
    """Log-likelihoods of one checkpoint (layer None) or of its layer k, in nats per text.

    `loglik_N` is float64 with NaN for unscored texts; `n_scored_N` (int32) counts the scored tokens.
    """

    layer: int | None
    loglik_N: NDArray[np.float64]
    n_scored_N: NDArray[np.int32]


@dataclass(frozen=True)
class ScoreResult:
    """All vectors of one checkpoint, their key, and statistics of the run.

    `key` contains everything that changes a value: weights fingerprint, corpus hash, policies, dtype, quantisation,
    attention implementation, library versions. `stats` contains what does not: seconds, tokens, peak bytes,
    counts of unscored and over-long texts. `token_logprobs` (with `tokens = true`): one float32 array per text.
    `no_layers` is the reason why requested layers are missing. `unconditional` are the vectors of responses
    without their prompts, if requested, and `unconditional_tokens` their per-token values.
    """

    vectors: tuple[Vector, ...]
    key: dict[str, str]
    stats: dict[str, float]
    notes: tuple[str, ...] = ()
    token_logprobs: tuple[NDArray[np.float32], ...] | None = field(default=None, repr=False)
    no_layers: str = ""
    unconditional: tuple[Vector, ...] = ()
    unconditional_tokens: tuple[NDArray[np.float32], ...] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class OverPositions:
    """Median, 99 % quantile and maximum over all scored positions, in nats; NaN where there is none."""

    median: float = math.nan
    high: float = math.nan
    maximum: float = math.nan


@dataclass(frozen=True)
class ExactKL:
    """Sums over the scored positions of each text: KL(a, b) and KL(b, a) in nats, and how often both top tokens agree.

    The KL at a position is sum_v p(v) log(p(v) / q(v)) over the next token, as in llama.cpp's `--kl-divergence`.
    """

    forward_nats_N: NDArray[np.float64]
    reverse_nats_N: NDArray[np.float64]
    same_top_N: NDArray[np.int64]
    n_scored_N: NDArray[np.int64]
    forward_positions: OverPositions = OverPositions()
    reverse_positions: OverPositions = OverPositions()

    @property
    def forward(self) -> float:
        """Mean KL(a, b) in nats per token."""
        return float(self.forward_nats_N.sum() / max(1, self.n_scored_N.sum()))

    @property
    def reverse(self) -> float:
        """Mean KL(b, a) in nats per token."""
        return float(self.reverse_nats_N.sum() / max(1, self.n_scored_N.sum()))

    @property
    def top1_agreement(self) -> float:
        """Share of positions at which both models have the same top token."""
        return float(self.same_top_N.sum() / max(1, self.n_scored_N.sum()))

    def bits_per_byte(self, text_bytes_N: NDArray[np.int64]) -> tuple[float, float]:
        """Forward and reverse KL on the map's scale, bits per byte of the scored texts."""
        used = self.n_scored_N > 0
        scale = float(text_bytes_N[used].sum()) * math.log(2)
        return float(self.forward_nats_N.sum()) / scale, float(self.reverse_nats_N.sum()) / scale


def wanted_layers(layers: LayerChoice, depth: int) -> tuple[int, ...]:
    """The layer indices that the setting selects, from 0 (embedding output) to `depth` (final), in order.

    Raises KltuiError for an index beyond `depth`.
    """
    if layers == "none":
        return ()
    if layers == "all":
        return tuple(range(depth + 1))
    wrong = [k for k in layers if not 0 <= k <= depth]
    if wrong:
        raise KltuiError(
            f"layers = {list(layers)} contains layer {wrong[0]}, but this model has layers 0 (embeddings) to {depth}",
            "choose layers in that range",
        )
    return tuple(sorted(set(layers)))
