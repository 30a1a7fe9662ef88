"""Hidden states to log-probabilities of targets, never holding the logits of more than a small chunk."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from kltui.scoring import anatomy
from kltui.scoring.anatomy import LogitRule

CHUNK_BYTES = 16 * 2**20

LogProbs = NDArray[np.float32]


class Head(Protocol):
    """Log-probabilities (n,) float32, in nats, of targets (n,) from hidden states (n, D)."""

    name: str

    def __call__(self, hidden_nD: torch.Tensor, targets_n: torch.Tensor) -> LogProbs:
        """Log p(target) of every row."""
        ...


class ModuleHead:
    """The model's own head module, called on row chunks: exact for whatever the head is."""

    name = "module"

    def __init__(self, module: Any, rule: LogitRule, vocabulary: int) -> None:
        # bound now: while the body runs, the module's own forward is replaced
        self._forward = module.forward
        self.rule = rule
        self.rows = max(1, CHUNK_BYTES // (4 * vocabulary))

    def __call__(self, hidden_nD: torch.Tensor, targets_n: torch.Tensor) -> LogProbs:
        """Log p(target) of every row."""
        logp_n = torch.empty(len(targets_n), device=targets_n.device)
        for at in range(0, len(targets_n), self.rows):
            rows = slice(at, at + self.rows)
            logits = self.rule(self._forward(hidden_nD[rows]).float())
            logp_n[rows] = log_softmax_gather(logits, targets_n[rows])
        return logp_n.cpu().numpy()


def log_softmax_gather(logits_nV: torch.Tensor, targets_n: torch.Tensor) -> torch.Tensor:
    """Log p(target), (n,) float32, of float32 logits; NaN and +inf rows give NaN."""
    return logits_nV.gather(1, targets_n[:, None])[:, 0] - torch.logsumexp(logits_nV, dim=1)


def make_head(model: Any, dtype: torch.dtype) -> tuple[Any, Head] | None:
    """The head module and a tested head function for it, or None where the model cannot be split there."""
    module = anatomy.find_head(model)
    rule = anatomy.find_logit_rule(model, module) if module is not None else None
    if module is None or rule is None:
        return None
    ids = anatomy.probe_ids(model)
    logits = anatomy.run(model, ids).float()
    head = ModuleHead(module, rule, logits.shape[-1])
    return (module, head) if _agrees(head, model, module, logits, ids, dtype) else None


def _agrees(
    head: Head, model: Any, module: Any, logits: torch.Tensor, ids: torch.Tensor, dtype: torch.dtype
) -> bool:
    """Whether the split model gives the log-probabilities of the model's own logits."""
    targets = ids.flatten() % logits.shape[-1]
    truth = log_softmax_gather(logits.flatten(0, 1), targets).cpu().numpy()
    ours = head(anatomy.body(model, module, ids).flatten(0, 1), targets)
    return bool(np.abs(ours - truth).max() <= anatomy.tolerance(dtype, logits))
