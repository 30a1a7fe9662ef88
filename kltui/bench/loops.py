"""What kltui is timed against: the procedure of the papers' code, and a batched loop as a careful user writes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kltui.scoring.batching import Ids, cut_pieces, fill_batch, plan_batches

Logliks = NDArray[np.float64]

# Padded ids of a batch, and rows of logits at once: what is fast on each kind of device.
BATCH_TOKENS = {"cpu": 1536, "cuda": 32_768}
LOGIT_ROWS = {"cpu": 1536, "cuda": 8192}


def by_reference(model: Any, ids: list[Ids], device: torch.device) -> Logliks:
    """Log-likelihoods (1, N), nats, as the papers' code computes them."""
    logliks = []
    for row in ids:
        ids_1T = torch.from_numpy(row)[None].to(device)
        logp_1TV = torch.log_softmax(model(ids_1T).logits, dim=-1)
        logliks.append(logp_1TV[0, :-1].gather(1, ids_1T[0, 1:, None]).sum().item())
    return np.array([logliks])


def by_reference_lens(model: Any, ids: list[Ids], device: torch.device) -> Logliks:
    """Log-likelihoods (2 + depth, N), nats, of the final and every layer: norm and head per layer per text."""
    columns = []
    for row in ids:
        ids_1T = torch.from_numpy(row)[None].to(device)
        states = model(ids_1T, output_hidden_states=True).hidden_states
        logits = [model.lm_head(model.gpt_neox.final_layer_norm(h)) for h in states[:-1]]
        logits.append(model.lm_head(states[-1]))  # already normed
        gathered = [
            torch.log_softmax(z, dim=-1)[0, :-1].gather(1, ids_1T[0, 1:, None]).sum().item() for z in logits
        ]
        columns.append([gathered[-1], *gathered])
    return np.array(columns).T


def by_careful_loop(model: Any, ids: list[Ids], device: torch.device) -> Logliks:
    """Log-likelihoods (1, N), nats: texts sorted by length, padded on the right, sdpa, no cache, the head on scored rows.

    Logits are widened to float32, log-softmax by `logsumexp`, sums in float64 on the device, one copy at the end.
    """
    logliks_N = torch.zeros(len(ids), dtype=torch.float64, device=device)
    pieces = cut_pieces([len(row) for row in ids], 1, None, "error")
    budget, step = BATCH_TOKENS.get(device.type, 4096), LOGIT_ROWS.get(device.type, 1536)
    for batch in (fill_batch(rows, ids) for rows in plan_batches(pieces, budget)):
        sent = (batch.ids_BT, batch.positions_n, batch.targets_n, batch.texts_n)
        ids_BT, positions_n, targets_n, texts_n = (torch.from_numpy(x).to(device) for x in sent)
        hidden_nD = model.base_model(ids_BT, use_cache=False)[0].flatten(0, 1)[positions_n]
        for at in range(0, len(targets_n), step):
            rows = slice(at, at + step)
            logits_nV = model.lm_head(hidden_nD[rows]).float()
            logp_n = logits_nV.gather(1, targets_n[rows, None])[:, 0] - logits_nV.logsumexp(1)
            logliks_N.index_add_(0, texts_n[rows], logp_n.double())
    return logliks_N.cpu().numpy()[None]
