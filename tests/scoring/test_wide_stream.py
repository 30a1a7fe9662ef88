"""bfloat16 on a CPU: products in bfloat16, float32 between them, nearer to the truth than a model that rounds everything."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import build_model
from transformers.pytorch_utils import Conv1D

from kltui.scoring import attention, model_introspection, prepacked_linear, wide_stream
from kltui.scoring.batching import cut_pieces, fill_batch
from kltui.scoring.engine import Engine
from kltui.scoring.loading import Loaded
from kltui.scoring.settings import ScoringSettings

CPU = torch.device("cpu")
IDS = [np.random.default_rng(k).integers(0, 300, 60 + k) for k in range(4)]
BATCH = fill_batch(cut_pieces([len(row) for row in IDS], 1, None, "error"), IDS)


def engine_of(model: Any, **settings: Any) -> Engine:
    return Engine(
        Loaded(model, model.config, "sdpa", model.dtype, ()), ScoringSettings(**settings), CPU, "none"
    )


def in_bfloat16(family: str, seed: int = 0) -> Any:
    return build_model(family, seed=seed).to(torch.bfloat16).requires_grad_(False)


@cache
def truth(family: str, seed: int = 0) -> Any:
    """Log-probabilities in float64 of the weights as bfloat16 holds them."""
    model = in_bfloat16(family, seed).double()
    model.config._experts_implementation = "eager"  # the others have no float64
    return logprobs(model)


def rms(x: Any) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def logprobs(model: Any) -> Any:
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(BATCH.ids_BT), use_cache=False).logits.flatten(0, 1)
    logp = logits[torch.from_numpy(BATCH.positions_n)].log_softmax(-1)
    return logp.gather(1, torch.from_numpy(BATCH.targets_n)[:, None])[:, 0].numpy()


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.bfloat16).to(x.dtype)


def with_rounded_products(model: Any) -> Any:
    """The float64 model, what its linear layers and its head read, and what the layers give, rounded to bfloat16."""
    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | Conv1D):
            module.register_forward_pre_hook(lambda _module, args: (rounded(args[0]),))
            if module is not head:
                module.register_forward_hook(lambda _module, _args, out: rounded(out))
    return model


FAMILIES = [
    "gpt_neox", "gpt2", "gpt_neo", "opt", "bloom", "falcon", "llama", "mistral", "gemma2", "phi", "cohere", "granite",
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_but_products_is_rounded(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the float64 model whose products alone are rounded, but for roundings that float32's error tips over."""
    # no layers are packed: what an activation that is done with its product reads would not be rounded
    monkeypatch.setattr(prepacked_linear, "_memory_bytes", lambda: 0.0)
    exact_n, expected_n = truth(family), logprobs(with_rounded_products(in_bfloat16(family).double()))
    with torch.inference_mode():
        engine = engine_of(in_bfloat16(family))
        assert engine.products.endswith(" head, plain linear layers, float32 between them")
        found_n = engine.final(BATCH)
    # The median: a rounding that falls the other way shows in its token and, less, in those behind it.
    assert np.median(np.abs(found_n - expected_n)) < 0.02 * np.median(np.abs(expected_n - exact_n))


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "recurrent_gemma", "mamba", "mamba2"])
def test_modules_with_weights_of_their_own_are_nearer_to_the_truth(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Experts, routers, convolutions and state spaces. Mamba's own code rounds in front of each norm, and gains less."""
    errors: dict[bool, list[Any]] = {True: [], False: []}
    possible = wide_stream.is_possible
    for seed, wide in product(range(2), (True, False)):
        monkeypatch.setattr(wide_stream, "is_possible", possible if wide else lambda model: False)
        with torch.inference_mode():
            engine = engine_of(in_bfloat16(family, seed))
            assert ("float32 between" in engine.products) == wide
            errors[wide].append(engine.final(BATCH) - truth(family, seed))
    if "mamba" in family:
        assert rms(errors[True]) < rms(errors[False])  # 0.90 and 0.93 of it
    else:  # the median, as a token that another expert gets is far off; 0.56 to 0.68 of it
        assert np.median(np.abs(errors[True])) < 0.8 * np.median(np.abs(errors[False]))


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gpt2", "gemma2", "mixtral", "mamba"])
def test_it_is_undone(family: str) -> None:
    model = in_bfloat16(family)
    with torch.inference_mode():
        own = model(torch.from_numpy(BATCH.ids_BT)).logits
        wide = engine_of(model, layers="all")
        assert wide.products.endswith(", float32 between them")
        assert wide.hidden(BATCH).dtype == (torch.bfloat16 if family == "mamba" else torch.float32)
        found_Ln = wide(BATCH)
        assert len(found_Ln) == 1 + len(wide.layers) and np.isfinite(found_Ln).all()
        assert np.array_equal(found_Ln[-1], found_Ln[0]), "the last layer is the model"
        prepacked_linear.unpack(model)
        assert torch.equal(model(torch.from_numpy(BATCH.ids_BT)).logits, own)


def test_attention_is_timed_in_the_dtype_that_it_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[torch.dtype] = []

    def notes(_config: Any, dtype: torch.dtype, _chooser: Any) -> bool:
        timed.append(dtype)
        return True

    monkeypatch.setattr(attention, "is_faster", notes)
    with torch.inference_mode():
        assert engine_of(in_bfloat16("llama"))._wide
        monkeypatch.setattr(wide_stream, "is_possible", lambda model: False)
        assert not engine_of(in_bfloat16("llama"))._wide
    assert timed == [torch.float32, torch.bfloat16]


def test_a_refilled_model_is_computed_the_same_way() -> None:
    model = in_bfloat16("gpt_neox")
    with torch.inference_mode():
        engine = engine_of(model)
        for p in model.parameters():
            p.mul_(1.25)
        assert engine.after_reload()
        again = engine.final(BATCH)
        assert engine.hidden(BATCH).dtype == torch.float32
        assert np.array_equal(again, engine_of(model).final(BATCH))


def test_a_model_that_cannot_be_run_so_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model = in_bfloat16("llama")

    def refuses(x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.bfloat16:
            raise RuntimeError("expected bfloat16")
        return x

    model.model.layers[0].register_forward_pre_hook(lambda _m, args: (refuses(args[0]), *args[1:]))
    with torch.inference_mode():
        engine = engine_of(model)
        assert "float32 between" not in engine.products
        assert model_introspection.body(model, model.lm_head, torch.arange(9)[None]).dtype == torch.bfloat16


def test_only_bfloat16_whose_forwards_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not wide_stream.is_possible(build_model("llama"))
    model = in_bfloat16("llama")
    assert wide_stream.is_possible(model)
    model.model.layers[0].mlp.forward = model.model.layers[0].mlp.forward
    assert not wide_stream.is_possible(model)


def test_what_several_layers_read_is_rounded_once() -> None:
    rounded, x = wide_stream._Rounded(), torch.randn(3, 4)
    half = rounded(x)
    assert half.dtype == torch.bfloat16 and rounded(x) is half and rounded(half) is half
    assert rounded(x + 1) is not half
