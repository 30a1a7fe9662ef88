"""The head for GPUs, its kernels emulated: tiles of any shape give float64's log-probabilities."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import build_model

from kltui.scoring.head import DeviceHead, make_head
from kltui.scoring.model_introspection import LogitRule

pytestmark = pytest.mark.usefixtures("emulated_cuda")


def truth(
    linear: torch.nn.Linear, hidden: torch.Tensor, targets: torch.Tensor, rule: LogitRule
) -> torch.Tensor:
    """log p(target) in float64 of the numbers as they are stored."""
    wide = copy.deepcopy(linear).double()
    return torch.log_softmax(rule(wide(hidden.double())), 1).gather(1, targets[:, None])[:, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tile_bytes", [4, 4 * 64 * 3, 24 * 2**20])
@pytest.mark.parametrize(
    ("vocabulary", "width", "n"), [(1, 64, 1), (63, 64, 5), (64, 64, 7), (197, 64, 13), (300, 1024, 2)]
)
def test_every_tiling_gives_the_log_probabilities(
    dtype: torch.dtype, tile_bytes: int, vocabulary: int, width: int, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DeviceHead, "BYTES", tile_bytes)
    torch.manual_seed(vocabulary)
    linear = torch.nn.Linear(24, vocabulary, bias=n % 2 == 1).to(dtype)
    hidden, targets = torch.randn(n, 24).to(dtype), torch.randint(vocabulary, (n,))
    rule = LogitRule(scale=0.5, cap=9.0 if n > 4 else 0.0)
    with torch.inference_mode():
        ours = DeviceHead(linear, rule, vocabulary, width)(hidden, targets)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), truth(linear, hidden, targets, rule), rtol=1e-5, atol=2e-6)


def test_no_targets_give_nothing() -> None:
    linear = torch.nn.Linear(4, 9)
    nothing = torch.empty(0, dtype=torch.int64)
    with torch.inference_mode():
        assert len(DeviceHead(linear, LogitRule(), 9)(torch.empty(0, 4), nothing)) == 0


@pytest.mark.parametrize("family", ["gpt_neox", "gemma2", "cohere", "gptj", "opt", "granite"])
def test_models_take_it_and_agree_with_their_own_logits(family: str) -> None:
    model = build_model(family).eval()
    with torch.inference_mode():
        made = make_head(model, torch.float32)
    assert made is not None
    assert isinstance(made[1], DeviceHead)
