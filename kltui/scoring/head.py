"""Log-probabilities of targets from hidden states, with logits of only a small chunk or tile in memory."""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import torch

from kltui.kernels import cuda, native
from kltui.scoring import hooks, model_introspection
from kltui.scoring.kernel_choice import MIN_WEIGHTS, TRIAL_ROWS, Candidate, KernelChooser
from kltui.scoring.memory_errors import ran_out
from kltui.scoring.model_introspection import LogitRule
from kltui.scoring.numerics import exact_half_products
from kltui.scoring.transfer import transfers

# Maximum bytes of a chunk of logits; on a GPU it is larger, because launching kernels is expensive.
CHUNK_BYTES = {"cpu": 16 * 2**20, "cuda": 64 * 2**20}

# A head is timed on a part of its vocabulary with about this many weights.
TRIAL_WEIGHTS = 1 << 21

# (n,) float32 on the device of the hidden states, so that nothing waits for a GPU
LogProbs = torch.Tensor


def chunk_bytes(device: torch.device) -> int:
    """Maximum size in bytes of a chunk of logits on `device`."""
    return CHUNK_BYTES.get(device.type, CHUNK_BYTES["cpu"])


class Head:
    """The model's own head module, called on chunks of rows: exact for any kind of head on any device."""

    name = "module"

    def __init__(self, module: Any, rule: LogitRule, vocabulary: int) -> None:
        # bound now, because the module's forward is replaced while the body runs
        self._forward = hooks.own_forward(module)
        self._module = module
        self.rule = rule
        self._vocabulary = vocabulary

    def __call__(self, hidden_nD: torch.Tensor, targets_n: torch.Tensor) -> LogProbs:
        """Log p(target) of every row."""
        with hooks.at_hand(self._module, self._taken(hidden_nD), targets_n) as (hidden_nD, targets_n):
            step = self.rows(hidden_nD.device)
            chunks = zip(torch.split(hidden_nD, step), torch.split(targets_n, step), strict=True)
            return torch.cat([log_softmax_gather(self._forward(h), t, self.rule) for h, t in chunks])

    def after_reload(self) -> Head:
        """The head updated to its module's current weights."""
        return self

    def rows(self, device: torch.device) -> int:
        """The maximum number of rows of logits in memory at a time."""
        return max(1, chunk_bytes(device) // (4 * self._vocabulary))

    def logits(self, hidden_nD: torch.Tensor) -> torch.Tensor:
        """Final float32 logits (n, V) of a few rows."""
        with hooks.at_hand(self._module, self._taken(hidden_nD)) as (hidden_nD,):
            return self.rule(self._forward(hidden_nD).float())

    def _taken(self, hidden_nD: torch.Tensor) -> torch.Tensor:
        """Hidden states in the dtype of the head's product: bfloat16 if its weights are bfloat16."""
        weight = getattr(self._module, "weight", None)
        is_half = isinstance(weight, torch.Tensor) and weight.dtype == torch.bfloat16
        return hidden_nD.to(torch.bfloat16) if is_half and hidden_nD.dtype == torch.float32 else hidden_nD


class FusedHead(Head):
    """A plain linear head on the CPU, fused with its log-softmax by the native core: logits never reach memory."""

    name = "native"

    def __init__(self, module: Any, rule: LogitRule, vocabulary: int) -> None:
        super().__init__(module, rule, vocabulary)
        self._fill()

    def _fill(self) -> None:
        """Prepares the module's current weights; weights that are only copied here while used are not kept."""
        stays = not self._module.weight.is_meta
        with hooks.at_hand(self._module):
            fused = self._on_weights()
        self._fast, self._kept = fused.fast, fused if stays else None

    def _on_weights(self) -> native.NativeHead:
        bias = None if self._module.bias is None else self._module.bias.detach()
        weight_VD = self._module.weight.detach()
        return native.NativeHead(weight_VD, bias, scale=self.rule.scale, softcap=self.rule.cap)

    def after_reload(self) -> Head:
        """The head updated to its module's current weights; the core has a copy of some biases."""
        self._fill()
        return self

    @property
    def fast(self) -> bool:
        """Whether the native core is about as fast as a library's matrix product on this machine."""
        return self._fast

    def __call__(self, hidden_nD: torch.Tensor, targets_n: torch.Tensor) -> LogProbs:
        """Log p(target) of every row."""
        with hooks.at_hand(self._module, self._taken(hidden_nD), targets_n) as (hidden_nD, targets_n):
            fused = self._kept or self._on_weights()
            return torch.from_numpy(fused.logprobs(hidden_nD, targets_n))


class TiledHead(Head):
    """A plain linear head on the CPU that computes a tile of vocabulary entries at a time, with an online log-softmax.

    Logits are float32 sums even if weights and hidden states are bfloat16: both are converted a tile at a time, and
    oneDNN still multiplies them in bfloat16 if the processor can.
    """

    name = "tiles"
    TILE = 2048

    def __call__(self, hidden_nD: torch.Tensor, targets_n: torch.Tensor) -> LogProbs:
        """Log p(target) of every row."""
        rows = native.OnlineLogSoftmax(targets_n, scale=self.rule.scale, softcap=self.rule.cap)
        with hooks.at_hand(self._module, self._taken(hidden_nD)) as (hidden_nD,):
            self._fold(hidden_nD, rows)
        return torch.from_numpy(rows.logprobs())

    def _fold(self, hidden_nD: torch.Tensor, rows: native.OnlineLogSoftmax) -> None:
        """Adds the logits to the online log-softmax `rows`, tile by tile."""
        weight, bias = self._module.weight, self._module.bias
        half = weight.dtype == hidden_nD.dtype == torch.bfloat16
        with exact_half_products() if half else nullcontext():
            for first in range(0, len(weight), self.TILE):
                tile = slice(first, first + self.TILE)
                rows.update(
                    _wide_linear(hidden_nD, weight[tile], None if bias is None else bias[tile]), first
                )


def _wide_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x . weight^T + bias in float32."""
    return torch.nn.functional.linear(x.float(), weight.float(), None if bias is None else bias.float())


class DeviceHead(Head):
    """A plain linear head on a GPU: float32 logits are computed a tile at a time and added to an online log-softmax while
    they are in the L2 cache.

    The tile's shape (rows of hidden states x vocabulary entries) is found by a short trial on the first large batch, which
    is the only time that the host waits for the device.
    """

    name = "GPU tiles"
    BYTES = 24 * 2**20
    WIDTHS = (1024, 2048, 4096, 8192, 16384)
    TRIAL_ROWS = 4096

    def __init__(self, module: Any, rule: LogitRule, vocabulary: int, width: int = 0) -> None:
        super().__init__(module, rule, vocabulary)
        self._width = width

    def __call__(self, hidden_nD: torch.Tensor, targets_n: torch.Tensor) -> LogProbs:
        """Log p(target) of every row."""
        # states, targets and head of a spread model may be on several devices
        hidden_nD = hidden_nD.to(self._module.weight.device)
        targets_n = targets_n.to(hidden_nD.device)
        if not len(targets_n):
            return torch.empty(0, device=hidden_nD.device)
        if not self._width and len(targets_n) >= self.TRIAL_ROWS and hidden_nD.device.type == "cuda":
            self._width = self._fastest(hidden_nD, targets_n)
        return self._tiled(hidden_nD, targets_n, self._width or self.WIDTHS[1])

    def _tiled(self, hidden_nD: torch.Tensor, targets_n: torch.Tensor, width: int) -> LogProbs:
        """Loops over tiles of the vocabulary and, inside, over rows, so that the weights are read once."""
        weight_VD, bias_V = self._module.weight.detach(), self._module.bias
        rows = cuda.CudaOnlineLogSoftmax(targets_n, scale=self.rule.scale, softcap=self.rule.cap)
        width = min(width, len(weight_VD))
        height = max(1, min(len(targets_n), self._tile_bytes(hidden_nD.device) // (4 * width)))
        buffer = torch.empty(height * width, dtype=torch.float32, device=hidden_nD.device)
        products = _Products(hidden_nD, weight_VD)
        parts = torch.split(hidden_nD, height)
        for first in range(0, len(weight_VD), width):
            tile_vD = weight_VD[first : first + width]
            for at, part_nD in enumerate(parts):
                logits_nv = buffer[: len(part_nD) * len(tile_vD)].view(len(part_nD), len(tile_vD))
                products.into(logits_nv, part_nD, tile_vD)
                if bias_V is not None:
                    logits_nv += bias_V[first : first + width]
                rows.update(logits_nv, first, at * height)
        logp_n: LogProbs = rows.logprobs()
        return logp_n

    def _tile_bytes(self, device: torch.device) -> int:
        """Maximum bytes of logits in a tile: half of the L2 cache."""
        if device.type != "cuda":
            return self.BYTES
        cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)
        return min(self.BYTES, cache // 2) or self.BYTES

    def _fastest(self, hidden_nD: torch.Tensor, targets_n: torch.Tensor) -> int:
        """The fastest tile width for some rows, by the best of three runs each."""
        hidden_nD, targets_n = hidden_nD[: self.TRIAL_ROWS], targets_n[: self.TRIAL_ROWS]
        widths = [w for w in self.WIDTHS if w < len(self._module.weight)] or [len(self._module.weight)]
        milliseconds = dict.fromkeys(widths, math.inf)
        there = transfers(hidden_nD.device)
        for width in widths * 3:
            before = there.mark()
            self._tiled(hidden_nD, targets_n, width)
            milliseconds[width] = min(milliseconds[width], 1e3 * there.seconds(before, there.mark()))
        return min(widths, key=lambda w: milliseconds[w])


class _Products:
    """Products of hidden states and a tile of weights in float32, even if both are in half precision."""

    def __init__(self, hidden_nD: torch.Tensor, weight_VD: torch.Tensor) -> None:
        self._half = weight_VD.dtype != torch.float32 or hidden_nD.dtype != torch.float32
        self._wide_out = self._half and hidden_nD.dtype == weight_VD.dtype and _sums_wide(hidden_nD.device)

    def into(self, logits_nv: torch.Tensor, hidden_nD: torch.Tensor, tile_vD: torch.Tensor) -> None:
        """Writes hidden . tile^T in float32 to `logits_nv`."""
        if self._wide_out:
            torch.ops.aten.mm.dtype_out(hidden_nD, tile_vD.t(), torch.float32, out=logits_nv)
        elif self._half:
            torch.mm(hidden_nD.float(), tile_vD.float().t(), out=logits_nv)
        else:
            torch.mm(hidden_nD, tile_vD.t(), out=logits_nv)


@cache
def _sums_wide(device: torch.device) -> bool:
    """Whether torch has products of half-precision matrices with float32 results (since torch 2.8, on CUDA)."""
    x = torch.ones(16, 16, dtype=torch.bfloat16, device=device)
    try:
        torch.ops.aten.mm.dtype_out(x, x.t(), torch.float32, out=x.new_empty(16, 16, dtype=torch.float32))
    except (RuntimeError, AttributeError, TypeError) as error:
        if ran_out(error):
            raise  # not a property of torch, and the result would be cached
        return False
    return True


def log_softmax_gather(logits_nV: torch.Tensor, targets_n: torch.Tensor, rule: LogitRule) -> LogProbs:
    """Log p(target), (n,) float32, of the head's raw output; NaN and +inf rows give NaN."""
    targets_n = targets_n.to(logits_nV.device)  # the head of a spread model may be on another device
    if len(targets_n) and cuda.usable(logits_nV.device) and cuda.takes(logits_nV):
        logp_n: LogProbs = cuda.log_softmax_gather(logits_nV, targets_n, scale=rule.scale, softcap=rule.cap)
        return logp_n
    if len(targets_n) and logits_nV.device.type == "cpu":
        return torch.from_numpy(
            native.log_softmax_gather(logits_nV, targets_n, scale=rule.scale, softcap=rule.cap)
        )
    final = rule(logits_nV.float())
    return final.gather(1, targets_n[:, None])[:, 0] - torch.logsumexp(final, dim=1)


def make_head(
    model: Any, dtype: torch.dtype, chooser: KernelChooser | None = None
) -> tuple[Any, Head] | None:
    """(head module, a tested function for it); None if the model cannot be split at its head."""
    module = model_introspection.find_head(model)
    rule = model_introspection.find_logit_rule(model, module) if module is not None else None
    if module is None or rule is None:
        return None
    probe = HeadTrial(model)
    for head in _candidates(module, rule, probe.vocabulary, chooser):
        if probe.agrees(module, head, dtype):
            return module, head
    return None


class HeadTrial:
    """A small batch and its log-probabilities from the model's own logits, with its current linear layers and attention."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._ids_BT = model_introspection.probe_ids(model)
        self._logits_BTV = model_introspection.run(model, self._ids_BT).float()
        self.vocabulary = self._logits_BTV.shape[-1]
        self._targets_n = self._ids_BT.flatten() % self.vocabulary
        self._truth_n = log_softmax_gather(self._logits_BTV.flatten(0, 1), self._targets_n, LogitRule())

    def agrees(self, module: Any, head: Head, dtype: torch.dtype, slack: float = 0.0) -> bool:
        """Whether the model, split at `module`, now gives the same log-probabilities.

        `slack`, in nats, is allowed in addition to the tolerance of the dtype.
        """
        hidden_nD = model_introspection.body(self._model, module, self._ids_BT).flatten(0, 1)
        error = (head(hidden_nD, self._targets_n) - self._truth_n).abs().max()
        return bool(error <= slack + model_introspection.tolerance(dtype, self._logits_BTV))


def _candidates(module: Any, rule: LogitRule, vocabulary: int, chooser: KernelChooser | None) -> list[Head]:
    """Possible heads, fastest first; on a CPU by timing, or by expectation without a `chooser`."""
    heads: list[Head] = [Head(module, rule, vocabulary)]
    plain = type(module) is torch.nn.Linear and type(module.weight.data) is torch.Tensor
    if plain and cuda.usable(module.weight.device):
        return [DeviceHead(module, rule, vocabulary), *heads]
    if not plain or hooks.device_of(module).type != "cpu":
        return heads
    return [*fused_heads(module, rule, vocabulary, chooser), *heads]


def fused_heads(module: Any, rule: LogitRule, vocabulary: int, chooser: KernelChooser | None) -> list[Head]:
    """Heads for a plain linear layer on the CPU that do not store all logits; the first one is used for scoring."""
    fused, tiled = FusedHead(module, rule, vocabulary), TiledHead(module, rule, vocabulary)
    fast: list[Head] = [fused, tiled] if fused.fast else [tiled, fused]
    if chooser is not None and module.weight.numel() >= MIN_WEIGHTS:
        taken = _fastest_of(fast, module, chooser)
        fast.sort(key=lambda head: head.name != taken)
    return fast


def _fastest_of(heads: list[Head], module: Any, chooser: KernelChooser) -> str:
    """The name of the fastest head, timed on a part of the vocabulary with random hidden states."""
    vocabulary, depth = module.weight.shape
    some = min(vocabulary, max(512, TRIAL_WEIGHTS // depth))
    with hooks.at_hand(module):
        bias = None if module.bias is None else module.bias.detach()[:some]
        part = SimpleNamespace(weight=module.weight.detach()[:some], bias=bias, forward=None)
    generator = torch.Generator().manual_seed(0)
    hidden_nD = torch.randn(TRIAL_ROWS, depth, generator=generator).to(module.weight.dtype)
    targets_n = torch.randint(some, (TRIAL_ROWS,), generator=generator)
    rule = heads[0].rule
    final_nV = rule(torch.nn.functional.linear(*(x.double() for x in (hidden_nD, part.weight)))
                    + (0.0 if bias is None else bias.double()))  # fmt: skip
    truth_n = final_nV.gather(1, targets_n[:, None])[:, 0] - torch.logsumexp(final_nV, dim=1)
    slack = 1e-5 * (1.0 + float(final_nV.abs().max()))  # the error of float32 sums in any order

    def candidate(head: Head) -> Candidate:
        run = partial(type(head)(part, rule, some), hidden_nD, targets_n)
        return Candidate(head.name, run, lambda: bool((run() - truth_n).abs().max() <= slack))

    dtype, cap = str(module.weight.dtype).removeprefix("torch."), " softcap" if rule.cap else ""
    return chooser.among(f"head {dtype} {vocabulary} x {depth}{cap}", [candidate(head) for head in heads])
