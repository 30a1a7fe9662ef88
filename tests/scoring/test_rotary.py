"""Rotary embeddings in the native core: the model's own bits, who comes to it, and that it is undone."""

import sys

import pytest
import torch
from tiny_engines import engine_of
from tiny_models import build_model

from kltui.kernels import native
from kltui.scoring.rotary import REPLACED, NativeRotary


def ids_of(rows: int, width: int) -> torch.Tensor:
    return torch.arange(rows * width).reshape(rows, width) * 37 % 300


def own_function(model):
    """The function beside the model's own class."""
    return getattr(sys.modules[type(model).__module__], REPLACED, None)


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "qwen3", "mixtral"])
def test_a_model_gives_the_same_bits_with_it(family: str) -> None:
    model, ids = build_model(family), ids_of(2, 30)
    own = own_function(model)
    rotary = NativeRotary(model)
    with torch.inference_mode():
        before = model(ids, use_cache=False).logits
        with rotary.in_place():
            after = model(ids, use_cache=False).logits
    assert rotary.calls == model.config.num_hidden_layers
    assert torch.equal(after, before)
    assert own_function(model) is own


@pytest.mark.parametrize(
    ("family", "dtype", "taken"),
    [
        ("gpt_neox", torch.float32, True),
        ("llama", torch.float32, True),
        ("gptj", torch.float32, False),  # turns neighbours, by a function of another name
        ("gpt2", torch.float32, False),
        ("gpt_neox", torch.bfloat16, True),  # float32 between its products
    ],
)
def test_an_engine_takes_it_where_the_bits_are_the_same(family: str, dtype: torch.dtype, taken: bool) -> None:
    assert (engine_of(build_model(family), dtype)._rotary is not None) == taken


def test_a_function_that_turns_otherwise_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("llama")

    def neighbours(q, k, cos, sin, unsqueeze_dim=1):
        return tuple(x * cos[:, None] + x.flip(-1) * sin[:, None] for x in (q, k))

    monkeypatch.setattr(sys.modules[type(model).__module__], REPLACED, neighbours)
    assert engine_of(model)._rotary is None
    assert own_function(model) is neighbours


def test_what_is_not_plain_goes_on_to_the_function_itself() -> None:
    model = build_model("llama")
    rotary, own = NativeRotary(model), own_function(model)
    q, k, angle = torch.randn(1, 2, 6, 8), torch.randn(1, 1, 6, 8), torch.randn(1, 6, 8)
    with rotary.in_place():
        for a, b, more in (
            (q.double(), k.double(), {}),
            (q.transpose(1, 2), k.transpose(1, 2), {"unsqueeze_dim": 2}),
            (q.clone().requires_grad_(), k, {}),
            (q, k.expand(1, 2, 6, 8), {}),
            (q, q, {}),
        ):
            expected = own(a, b, angle, angle, **more)
            found = own_function(model)(a, b, angle, angle, **more)
            assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    assert rotary.calls == 0


def test_without_the_extension_torch_rotates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_core", None)
    assert engine_of(build_model("gpt_neox"))._rotary is None
