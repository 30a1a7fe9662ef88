"""Attention in the native core: who comes to it, who goes on to torch, and that it can be undone."""

from types import SimpleNamespace

import pytest
import torch
from tiny_models import build_model

from kltui import native
from kltui.scoring import attention


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    made: list[tuple[int, ...]] = []
    kernel = native.causal_attention

    def counted(query, key, value, out, scale) -> None:
        made.append(tuple(query.shape))
        kernel(query, key, value, out, scale)

    monkeypatch.setattr(native, "causal_attention", counted)
    return made


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gpt2", "qwen2", "mixtral"])
def test_a_model_gives_the_same_with_it_and_without(family: str, calls) -> None:
    model = build_model(family)
    ids = torch.arange(60).reshape(2, 30) % 50
    with torch.inference_mode():
        before = model(ids, use_cache=False).logits
        assert not calls and attention.use_native(model)
        after = model(ids, use_cache=False).logits
        assert len(calls) == model.config.num_hidden_layers
        attention.use_library(model)
        again = model(ids, use_cache=False).logits
    assert len(calls) == model.config.num_hidden_layers
    assert (after - before).abs().max() < 2e-5
    assert torch.equal(again, before)


def test_padding_on_the_left_goes_on_to_torch(calls) -> None:
    model = build_model("llama")
    ids = torch.arange(40).reshape(2, 20) % 50
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    with torch.inference_mode():
        before = model(ids, attention_mask=mask, use_cache=False).logits
        attention.use_native(model)
        after = model(ids, attention_mask=mask, use_cache=False).logits
    assert not calls
    assert torch.equal(after, before)


def test_a_window_shorter_than_the_text_goes_on_to_torch(calls) -> None:
    model = build_model("mistral", sliding_window=8)
    with torch.inference_mode():
        attention.use_native(model)
        model(torch.arange(20)[None], use_cache=False)
    assert not calls


@pytest.mark.parametrize(
    "special",
    [{"dropout": 0.1}, {"is_causal": False}, {"softcap": None, "position_bias": torch.zeros(1, 2, 6, 6)}],
)
def test_special_calls_go_on_to_torch(special, calls) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 6, 8) for _ in range(3))
    module = SimpleNamespace(is_causal=True, training=False)
    attention.attention(module, query, key, value, None, **special)
    assert not calls


def test_one_token_or_a_gradient_or_doubles_go_on_to_torch(calls) -> None:
    module = SimpleNamespace(is_causal=True)
    for made in (
        torch.randn(1, 2, 1, 8),
        torch.randn(1, 2, 6, 8, requires_grad=True),
        torch.randn(1, 2, 6, 8).double(),
    ):
        attention.attention(module, made, made, made, None)
    assert not calls


def test_a_model_without_sdpa_is_left_alone() -> None:
    model = build_model("gpt_neox")
    model.config._attn_implementation = "eager"
    assert not attention.use_native(model)
    assert model.config._attn_implementation == "eager"


def test_without_the_extension_torch_attends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_core", None)
    model = build_model("gpt_neox")
    assert not attention.use_native(model)
    assert model.config._attn_implementation == "sdpa"
