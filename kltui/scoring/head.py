"""Hidden states to log-probabilities of targets, never holding the logits of more than a small chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kltui import native
from kltui.scoring import anatomy
from kltui.scoring.anatomy import LogitRule

# The most that a chunk of logits may take; on a GPU launches cost more than memory.
CHUNK_BYTES = {"cpu": 16 * 2**20, "cuda": 64 * 2**20}

LogProbs = NDArray[np.float32]


def chunk_bytes(device: torch.device) -> int:
    """Bytes of logits that may be held at once on `device`."""
    return CHUNK_BYTES.get(device.type, CHUNK_BYTES["cpu"])


class Head:
    """The model's own head module, called on row chunks: exact for whatever the head is, on any device."""

    def __init__(self, module: Any, rule: LogitRule, vocabulary: int) -> None:
        # bound now: while the body runs, the module's own forward is replaced
        self._forward = module.forward
        self.rule = rule
        self._vocabulary = vocabulary

    def __call__(self, hidden_nD: torch.Tensor, targets_n: torch.Tensor) -> LogProbs:
        """Log p(target) of every row."""
        step = self.rows(hidden_nD.device)
        out = np.empty(len(targets_n), dtype=np.float32)
        for at in range(0, len(targets_n), step):
            rows = slice(at, at + step)
            out[rows] = log_softmax_gather(self._forward(hidden_nD[rows]), targets_n[rows], self.rule)
        return out

    def refilled(self) -> Head:
        """The same head on its module's weights of this moment."""
        return self

    def rows(self, device: torch.device) -> int:
        """Rows of logits that may be held at once."""
        return max(1, chunk_bytes(device) // (4 * self._vocabulary))

    def logits(self, hidden_nD: torch.Tensor) -> torch.Tensor:
        """Final float32 logits (n, V) of a few rows."""
        return self.rule(self._forward(hidden_nD).float())


class FusedHead(Head):
    """A plain linear head on the CPU, fused with its log-softmax by the native core: logits never reach memory."""

    def __init__(self, module: Any, rule: LogitRule, vocabulary: int) -> None:
        super().__init__(module, rule, vocabulary)
        self._module = module
        self._fill()

    def _fill(self) -> None:
        bias = None if self._module.bias is None else self._module.bias.detach()
        self._fused = native.Head(
            self._module.weight.detach(), bias, scale=self.rule.scale, softcap=self.rule.cap
        )

    def refilled(self) -> Head:
        """The same head on its module's weights of this moment; the core has a copy of some biases."""
        self._fill()
        return self

    @property
    def fast(self) -> bool:
        """Whether the core keeps up with a library's product here."""
        return self._fused.fast

    def __call__(self, hidden_nD: torch.Tensor, targets_n: torch.Tensor) -> LogProbs:
        """Log p(target) of every row."""
        return self._fused.logprobs(hidden_nD, targets_n)


class TiledHead(Head):
    """A plain linear head on the CPU, a tile of vocabulary entries at a time, folded in as it comes (online)."""

    TILE = 2048

    def __init__(self, module: Any, rule: LogitRule, vocabulary: int) -> None:
        super().__init__(module, rule, vocabulary)
        self._module = module

    def __call__(self, hidden_nD: torch.Tensor, targets_n: torch.Tensor) -> LogProbs:
        """Log p(target) of every row."""
        weight, bias = self._module.weight, self._module.bias
        rows = native.OnlineLogSoftmax(targets_n, scale=self.rule.scale, softcap=self.rule.cap)
        for first in range(0, len(weight), self.TILE):
            tile = slice(first, first + self.TILE)
            rows.update(
                torch.nn.functional.linear(hidden_nD, weight[tile], None if bias is None else bias[tile]),
                first,
            )
        return rows.logprobs()


def log_softmax_gather(logits_nV: torch.Tensor, targets_n: torch.Tensor, rule: LogitRule) -> LogProbs:
    """Log p(target), (n,) float32, of the head's raw output; NaN and +inf rows give NaN."""
    targets_n = targets_n.to(logits_nV.device)  # of a model that is spread, the head may lie elsewhere
    if logits_nV.device.type == "cpu" and len(targets_n):
        return native.log_softmax_gather(logits_nV, targets_n, scale=rule.scale, softcap=rule.cap)
    final = rule(logits_nV.float())
    logp_n = final.gather(1, targets_n[:, None])[:, 0] - torch.logsumexp(final, dim=1)
    return logp_n.cpu().numpy()


def make_head(model: Any, dtype: torch.dtype) -> tuple[Any, Head] | None:
    """The head module and a tested head function for it, or None where the model cannot be split there."""
    module = anatomy.find_head(model)
    rule = anatomy.find_logit_rule(model, module) if module is not None else None
    if module is None or rule is None:
        return None
    probe = Probe(model)
    for head in _candidates(module, rule, probe.vocabulary):
        if probe.agrees(module, head, dtype):
            return module, head
    return None


class Probe:
    """A small batch and what the model's own logits say of it, as its linear layers and attention are at this moment."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._ids_BT = anatomy.probe_ids(model)
        self._logits_BTV = anatomy.run(model, self._ids_BT).float()
        self.vocabulary = self._logits_BTV.shape[-1]
        self._targets_n = self._ids_BT.flatten() % self.vocabulary
        self._truth_n = log_softmax_gather(self._logits_BTV.flatten(0, 1), self._targets_n, LogitRule())

    def agrees(self, module: Any, head: Head, dtype: torch.dtype, slack: float = 0.0) -> bool:
        """Whether the model, split at `module`, now gives the log-probabilities of those logits.

        `slack`, in nats, may come on top of what the dtype's rounding explains.
        """
        hidden_nD = anatomy.body(self._model, module, self._ids_BT).flatten(0, 1)
        error = np.abs(head(hidden_nD, self._targets_n) - self._truth_n).max()
        return bool(error <= slack + anatomy.tolerance(dtype, self._logits_BTV))


def _candidates(module: Any, rule: LogitRule, vocabulary: int) -> list[Head]:
    """Heads that may serve, fastest first."""
    heads: list[Head] = [Head(module, rule, vocabulary)]
    plain = type(module) is torch.nn.Linear and type(module.weight.data) is torch.Tensor
    if plain and module.weight.device.type == "cpu":
        heads.insert(0, TiledHead(module, rule, vocabulary))
        fused = FusedHead(module, rule, vocabulary)
        if fused.fast:
            heads.insert(0, fused)
    return heads
