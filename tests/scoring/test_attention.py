"""Attention in the native core: who comes to it, who goes on to torch, and that it can be undone."""

from types import SimpleNamespace

import pytest
import torch
from tiny_engines import engine_of
from tiny_models import build_model

from kltui.kernels import native
from kltui.scoring import attention
from kltui.scoring.attention import NativeAttention
from kltui.scoring.batching import cut_pieces, fill_batch, plan_batches


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    made: list[tuple[int, ...]] = []
    kernel = native.causal_attention

    def counted(query, key, value, out, scale) -> None:
        made.append(tuple(query.shape))
        kernel(query, key, value, out, scale)

    monkeypatch.setattr(native, "causal_attention", counted)
    return made


def ids_of(rows: int, width: int) -> torch.Tensor:
    return torch.arange(rows * width).reshape(rows, width) * 37 % 300


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gpt2", "qwen2", "mixtral"])
def test_a_model_gives_the_same_with_it_and_without(family: str, calls) -> None:
    model, ids = build_model(family), ids_of(2, 30)
    assert attention.is_possible(model)
    taken = NativeAttention()
    with torch.inference_mode():
        before = model(ids, use_cache=False).logits
        assert not calls
        with taken.in_place():
            after = model(ids, use_cache=False).logits
        assert taken.calls == len(calls) == model.config.num_hidden_layers
        again = model(ids, use_cache=False).logits
    assert taken.calls == len(calls) == model.config.num_hidden_layers
    assert (after - before).abs().max() < 2e-5
    assert torch.equal(again, before)


def test_padding_on_the_left_goes_on_to_torch(calls) -> None:
    model, ids = build_model("llama"), ids_of(2, 20)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    with torch.inference_mode():
        before = model(ids, attention_mask=mask, use_cache=False).logits
        with NativeAttention().in_place():
            after = model(ids, attention_mask=mask, use_cache=False).logits
    assert not calls
    assert torch.equal(after, before)


@pytest.mark.parametrize(("width", "native_calls"), [(8, 2), (20, 0)])
def test_a_window_shorter_than_the_text_goes_on_to_torch(width: int, native_calls: int, calls) -> None:
    model, ids = build_model("mistral", sliding_window=9, num_hidden_layers=2), ids_of(1, width)
    with torch.inference_mode():
        before = model(ids, use_cache=False).logits
        with NativeAttention().in_place():
            after = model(ids, use_cache=False).logits
    assert len(calls) == native_calls
    assert (after - before).abs().max() < 2e-5


def sparse_attention_model():
    """A model whose attention leaves out all but 20 earlier positions, by a mask that only sdpa's name gets."""
    import transformers

    config = transformers.DeepseekV32Config(
        vocab_size=384, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, n_routed_experts=4, num_experts_per_tok=2, n_group=1,
        topk_group=1, first_k_dense_replace=1, kv_lora_rank=16, q_lora_rank=16, qk_rope_head_dim=8,
        qk_nope_head_dim=8, v_head_dim=8, index_topk=20, index_n_heads=2, index_head_dim=16,
        max_position_embeddings=256,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model


@pytest.mark.parametrize("width", [12, 60, 200])
def test_families_that_ask_for_sdpa_by_name_do_what_they_did(width: int) -> None:
    if not hasattr(__import__("transformers"), "DeepseekV32Config"):
        pytest.skip("this transformers has no DeepSeek-V3.2")
    model, ids = sparse_attention_model(), ids_of(1, width)
    with torch.inference_mode():
        before = model(ids, use_cache=False).logits
        with NativeAttention().in_place():
            after = model(ids, use_cache=False).logits
    assert (after - before).abs().max() < 1e-4 * before.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_falcon_with_alibi_keeps_its_bias_once(dtype: torch.dtype, calls) -> None:
    """Falcon adds its bias to the mask itself, and once more under any name but sdpa's."""
    model = build_model("falcon", alibi=True, hidden_size=64, num_attention_heads=32).to(dtype)
    ids = ids_of(1, 250)
    engine = engine_of(model, dtype)
    with torch.inference_mode():
        alone = model(ids, use_cache=False).logits.log_softmax(-1)
        with engine._attending():
            attending = model(ids, use_cache=False).logits.log_softmax(-1)
    assert engine.attention == "sdpa" and not calls
    assert torch.equal(attending, alone)


@pytest.mark.parametrize(
    ("family", "changes", "name"),
    [("llama", {}, attention.NAME), ("mistral", {"sliding_window": 4096}, attention.NAME),
     ("mistral", {"sliding_window": 8}, "sdpa"), ("gpt_neox", {}, attention.NAME)],
)  # fmt: skip
def test_the_key_names_the_core_only_where_it_attended(family: str, changes, name: str, calls) -> None:
    engine = engine_of(build_model(family, **changes))
    assert engine.attention == name
    calls.clear()
    texts = [ids_of(1, n)[0].numpy() for n in (5, 30, 17)]
    for rows in plan_batches(cut_pieces([len(t) for t in texts], 1, None, "error"), 64):
        with torch.inference_mode():
            engine(fill_batch(rows, texts))
    assert bool(calls) == (name == attention.NAME)


def test_a_text_whose_keys_would_not_fit_goes_on_to_torch(monkeypatch: pytest.MonkeyPatch, calls) -> None:
    monkeypatch.setattr(attention, "MAX_SCRATCH", 4 * 16 * 40)
    module = SimpleNamespace(is_causal=True, training=False)
    for length in (40, 41):
        query, key, value = (torch.randn(1, 2, length, 8) for _ in range(3))
        NativeAttention()(module, query, key, value, None)
    assert calls == [(1, 2, 40, 8)]


@pytest.mark.parametrize(
    "special",
    [{"dropout": 0.1}, {"is_causal": False}, {"softcap": None, "position_bias": torch.zeros(1, 2, 6, 6)}],
)
def test_special_calls_go_on_to_torch(special, calls) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 6, 8) for _ in range(3))
    module = SimpleNamespace(is_causal=True, training=False)
    NativeAttention()(module, query, key, value, None, **special)
    assert not calls


def test_one_token_or_a_gradient_or_doubles_go_on_to_torch(calls) -> None:
    module = SimpleNamespace(is_causal=True)
    for made in (
        torch.randn(1, 2, 1, 8),
        torch.randn(1, 2, 6, 8, requires_grad=True),
        torch.randn(1, 2, 6, 8).double(),
    ):
        NativeAttention()(module, made, made, made, None)
    assert not calls


def test_a_model_without_sdpa_is_left_alone() -> None:
    model = build_model("gpt_neox")
    model.config._attn_implementation = "eager"
    assert not attention.is_possible(model)


def test_without_the_extension_torch_attends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_core", None)
    assert not attention.is_possible(build_model("gpt_neox"))
    assert engine_of(build_model("gpt_neox")).attention == "sdpa"
