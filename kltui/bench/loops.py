"""The code that kltui is compared with: the procedure of the papers' code, and an optimised, batched loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from kltui.scoring.batching import Ids

Logliks = NDArray[np.float64]

# Padded ids of a batch, and rows of logits at a time, that are fast on each kind of device.
BATCH_TOKENS = {"cpu": 1536, "cuda": 32_768}
LOGIT_ROWS = {"cpu": 512, "cuda": 8192}


def by_reference(model: Any, ids: list[Ids], device: torch.device) -> Logliks:
    """Log-likelihoods (1, N) in nats, computed like the papers' code."""
    logliks = []
    for row in ids:
        ids_1T = torch.from_numpy(row)[None].to(device)
        logp_1TV = torch.log_softmax(model(ids_1T).logits, dim=-1)
        logliks.append(logp_1TV[0, :-1].gather(1, ids_1T[0, 1:, None]).sum().item())
    return np.array([logliks])


def by_reference_lens(model: Any, ids: list[Ids], device: torch.device) -> Logliks:
    """Log-likelihoods (2 + depth, N) in nats: final, and of every layer by its own norm and head for each text."""
    columns = []
    for row in ids:
        ids_1T = torch.from_numpy(row)[None].to(device)
        states = model(ids_1T, output_hidden_states=True).hidden_states
        logits = [model.lm_head(model.gpt_neox.final_layer_norm(h)) for h in states[:-1]]
        logits.append(model.lm_head(states[-1]))  # transformers has applied the norm
        gathered = [
            torch.log_softmax(z, dim=-1)[0, :-1].gather(1, ids_1T[0, 1:, None]).sum().item() for z in logits
        ]
        columns.append([gathered[-1], *gathered])
    return np.array(columns).T


def by_careful_loop(model: Any, ids: list[Ids], device: torch.device) -> Logliks:
    """Log-likelihoods (1, N) in nats: texts sorted by length, padded on the right, sdpa, no cache, head on scored rows only.

    It uses only torch and transformers, in inference mode and, on a CPU, with float32 products at "medium" if that is exact.
    Logits are converted to float32 and summed in float64 on the device; it waits for a GPU once, at the end.
    """
    logliks_N = torch.zeros(len(ids), dtype=torch.float64, device=device)
    step, head = LOGIT_ROWS.get(device.type, 512), model.get_output_embeddings()
    for texts in sorted_batches([len(row) - 1 for row in ids], BATCH_TOKENS.get(device.type, 4096)):
        padded = pad_sequence([torch.from_numpy(ids[text]) for text in texts], batch_first=True)
        scored_B = torch.tensor([len(ids[text]) - 1 for text in texts])
        is_scored_BT = torch.arange(padded.shape[1] - 1) < scored_B[:, None]
        positions = is_scored_BT.flatten().nonzero()[:, 0]
        sent = (padded[:, :-1], positions, padded[:, 1:][is_scored_BT])
        ids_BT, positions_n, targets_n = (_sent(x, device) for x in sent)
        texts_n = _sent(torch.tensor(texts).repeat_interleave(scored_B), device)
        hidden_nD = model.base_model(ids_BT, use_cache=False)[0].flatten(0, 1)[positions_n]
        for at in range(0, len(targets_n), step):
            rows = slice(at, at + step)
            nats_n = cross_entropy(head(hidden_nD[rows]).float(), targets_n[rows], reduction="none")
            logliks_N.index_add_(0, texts_n[rows], -nats_n.double())
    return logliks_N.cpu().numpy()[None]


def sorted_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices of texts by decreasing length, in batches of at most `batch_tokens` padded tokens and at least one text."""
    batches: list[list[int]] = []
    for text in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > batch_tokens:
            batches.append([])
        batches[-1].append(text)
    return batches


def _sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The values on the device; they are copied to a GPU from pinned memory, without waiting."""
    if device.type == "cpu":
        return values
    return values.contiguous().pin_memory().to(device, non_blocking=True)
