"""Taking a model apart: the paths beside the common one, each compared with the model's own logits."""

import numpy as np
import pytest
import torch
from tiny_models import build_model, build_tokenizer
from torch.utils._python_dispatch import TorchDispatchMode

from kltui.errors import KltuiError
from kltui.scoring import model_introspection, prepacked_linear
from kltui.scoring.batching import cut_pieces, fill_batch
from kltui.scoring.engine import Engine
from kltui.scoring.head import Head, make_head
from kltui.scoring.loading import Loaded
from kltui.scoring.model_introspection import LogitRule
from kltui.scoring.settings import ScoringSettings

CPU = torch.device("cpu")


def engine_of(model, dtype=torch.float32, **settings):
    return Engine(Loaded(model, model.config, "sdpa", dtype, ()), ScoringSettings(**settings), CPU, "none")


def some_batch(n_texts=5, seed=0):
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, 300, n) for n in rng.integers(2, 30, n_texts)]
    return fill_batch(cut_pieces([len(row) for row in ids], 1, None, "error"), ids)


def true_logp(model, batch):
    """Float64 log-softmax of the model's own logits at the batch's targets."""
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(batch.ids_BT), use_cache=False).logits
    rows = logits.flatten(0, 1)[torch.from_numpy(batch.positions_n)].double().log_softmax(-1)
    return rows.gather(1, torch.from_numpy(batch.targets_n)[:, None])[:, 0].numpy()


@pytest.mark.parametrize(
    ("family", "rule"),
    [
        ("gpt_neox", LogitRule()),
        ("cohere", LogitRule(0.25)),
        ("granite", LogitRule(0.25)),
        ("gemma2", LogitRule(1.0, 3.0)),
        ("recurrent_gemma", LogitRule(1.0, 3.0)),
    ],
)
def test_the_rule_behind_the_head_is_read_off(family, rule):
    model = build_model(family)
    with torch.inference_mode():
        found = model_introspection.find_logit_rule(model, model_introspection.find_head(model))
    assert found.scale == pytest.approx(rule.scale, rel=1e-6) and found.cap == pytest.approx(
        rule.cap, rel=1e-6
    )


@pytest.mark.parametrize("scaling", [13.0, 0.7, 8.0])
def test_odd_scales_are_read_off_exactly_enough(scaling):
    model = build_model("granite", logits_scaling=scaling)
    with torch.inference_mode():
        found = model_introspection.find_logit_rule(model, model_introspection.find_head(model))
    assert found.scale == pytest.approx(1 / scaling, rel=1e-6)


def test_a_head_that_cannot_be_split_falls_back_to_the_models_logits(monkeypatch):
    for family in ("gpt_neox", "gemma3"):
        model, batch = build_model(family), some_batch()
        monkeypatch.setattr(model_introspection, "find_head", lambda _: None)
        monkeypatch.setattr("kltui.scoring.engine.chunk_bytes", lambda _: 3000)
        with torch.inference_mode():
            engine = engine_of(model)
            ours = engine(batch)[0]
        assert np.abs(ours - true_logp(model, batch)).max() < 1e-4
        assert "cannot be separated" in engine.notes[0]
        with torch.inference_mode():
            assert "layers cannot be scored" in engine_of(model, layers="all").no_layers


def test_the_module_head_agrees_in_small_chunks(monkeypatch):
    monkeypatch.setattr("kltui.scoring.head.CHUNK_BYTES", {"cpu": 4 * 384 * 7})
    model, batch = build_model("phi"), some_batch()
    with torch.inference_mode():
        module, head = make_head(model, torch.float32)
        plain = Head(module, head.rule, 384)
        assert plain.rows(CPU) == 7
        hidden = model_introspection.body(model, module, torch.from_numpy(batch.ids_BT)).flatten(0, 1)
        ours = plain(hidden[torch.from_numpy(batch.positions_n)], torch.from_numpy(batch.targets_n)).numpy()
    assert np.abs(ours - true_logp(model, batch)).max() < 1e-5


@pytest.fixture
def packed_here(monkeypatch):
    """Layers are packed whatever processor this is."""
    monkeypatch.setattr(prepacked_linear, "pays", lambda dtype: True)


@pytest.mark.parametrize(
    ("capability", "mkl", "packed"),
    [("AVX2", True, False), ("DEFAULT", True, False), ("AVX512", True, True), ("AVX512_VNNI", True, True),
     ("DEFAULT", False, True), ("AVX2", False, True)],
)  # fmt: skip
def test_float32_is_packed_where_it_pays_and_bfloat16_anywhere(monkeypatch, capability, mkl, packed):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    assert prepacked_linear.pays(torch.float32) == packed and prepacked_linear.pays(torch.bfloat16)
    model, batch = build_model("llama"), some_batch()
    with torch.inference_mode():
        engine = engine_of(model)
        assert np.abs(engine(batch)[0] - true_logp(model, batch)).max() < 1e-4
    found = any(prepacked_linear.is_taken_over(m) for m in model.modules())
    assert found == (packed and prepacked_linear._available())


@pytest.mark.usefixtures("packed_here")
def test_packed_layers_give_the_same_and_are_undone():
    model, batch = build_model("llama"), some_batch()
    truth = true_logp(model, batch)
    with torch.inference_mode():
        engine = engine_of(model)
        packed = any(prepacked_linear.is_taken_over(m) for m in model.modules())
        assert np.abs(engine(batch)[0] - truth).max() < 1e-4
    prepacked_linear.unpack(model)
    assert not any("forward" in m.__dict__ for m in model.modules())
    if prepacked_linear._available():
        assert packed
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight.mul_(2)
        with torch.inference_mode():
            assert np.abs(engine_of(model)(batch)[0] - true_logp(model, batch)).max() < 1e-4


@pytest.mark.skipif(not prepacked_linear._available(), reason="this torch has no packed linear layers")
@pytest.mark.usefixtures("packed_here")
@pytest.mark.parametrize(
    ("family", "fused"), [("gpt_neox", True), ("llama", True), ("opt", True), ("gpt2", False)]
)
def test_the_activation_behind_a_packed_layer_is_done_with_its_product(family, fused):
    model, batch = build_model(family), some_batch()
    truth = true_logp(model, batch)
    activations = [m for m in model.modules() if type(m).__name__ in prepacked_linear.ACTIVATIONS]
    with torch.inference_mode():
        engine = engine_of(model)
        assert all((m.__dict__.get("forward") is prepacked_linear._unchanged) == fused for m in activations)
        assert np.abs(engine(batch)[0] - truth).max() < 1e-4
    prepacked_linear.unpack(model)
    assert activations and not any("forward" in m.__dict__ for m in model.modules())


def test_an_activation_that_reads_something_else_stays():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.act = torch.nn.Linear(4, 4), torch.nn.SiLU()

        def forward(self, x):
            return self.act(self.up(x)) + self.act(x)

    odd = Odd()
    assert prepacked_linear._activations_behind(odd, [odd.up], lambda: odd(torch.ones(2, 4))) == {}


def test_an_activation_that_experts_share_stays():
    class Expert(torch.nn.Module):
        def __init__(self, act):
            super().__init__()
            self.up, self.act = torch.nn.Linear(4, 4), act

        def forward(self, x):
            return self.act(self.up(x))

    act = torch.nn.SiLU()
    experts = torch.nn.ModuleList([Expert(act), Expert(act)])
    visit_one = lambda: experts[0](torch.ones(2, 4))  # noqa: E731
    assert prepacked_linear._activations_behind(experts, [e.up for e in experts], visit_one) == {}
    experts[1].act = torch.nn.SiLU()
    assert prepacked_linear._activations_behind(experts, [e.up for e in experts], visit_one) == {
        experts[0].up: act
    }


@pytest.mark.usefixtures("packed_here")
def test_packing_that_goes_wrong_is_left_out(monkeypatch):
    model, batch = build_model("llama"), some_batch()
    real = prepacked_linear._packed_forward
    monkeypatch.setattr(prepacked_linear, "_packed_forward", lambda *a: lambda x: real(*a)(x) * 1.01)
    with torch.inference_mode():
        ours = engine_of(model)(batch)[0]
    assert np.abs(ours - true_logp(model, batch)).max() < 1e-4
    assert not any(prepacked_linear.is_taken_over(m) for m in model.modules())


def test_a_model_that_sees_the_future_is_refused():
    from transformers import AutoModelForCausalLM, BertConfig

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.inference_mode(), pytest.raises(KltuiError, match="depends on later tokens"):
        engine_of(model)


def test_a_model_that_sees_the_future_is_refused_though_its_head_cannot_be_split(monkeypatch):
    from transformers import AutoModelForCausalLM, BertConfig

    monkeypatch.setattr(model_introspection, "find_head", lambda _: None)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.inference_mode(), pytest.raises(KltuiError, match="depends on later tokens"):
        engine_of(model)


def test_onednn_is_tested_and_the_setting_restored():
    from kltui.scoring import numerics

    before = torch.get_float32_matmul_precision()
    with numerics.fast_float32(CPU) as fast:
        assert fast == numerics.onednn_is_exact()
        assert torch.get_float32_matmul_precision() == ("medium" if fast else "highest")
    assert torch.get_float32_matmul_precision() == before
    rounded = torch.backends.cudnn.allow_tf32
    with numerics.fast_float32(torch.device("cuda")):
        assert not torch.backends.cudnn.allow_tf32, "TF32 convolutions are off by 1e-3"
    assert torch.backends.cudnn.allow_tf32 == rounded
    with numerics.fast_float32(torch.device("cuda")) as fast:
        assert not fast and torch.get_float32_matmul_precision() == "highest"


def test_right_padding_is_never_read():
    """The padded ids may be anything: no target's log-probability moves."""
    model, batch = build_model("bloom"), some_batch()
    with torch.inference_mode():
        engine = engine_of(model)
        plain = engine(batch)
        read = np.zeros(batch.ids_BT.size, bool)
        read[batch.positions_n] = True
        batch.ids_BT[~read.reshape(batch.ids_BT.shape)] = 200
        assert np.array_equal(engine(batch), plain)


def test_the_tokenizer_fixture_is_what_the_models_have():
    assert len(build_tokenizer()) == 384


def test_of_a_quantised_model_only_a_gross_look_ahead_counts():
    """LLM.int8 picks outlier columns over all tokens of a batch; a model that reads both ways is still refused."""
    model = build_model("llama")
    own = model.model.forward

    def leaks(share):
        def forward(*args, **kwargs):
            out = own(*args, **kwargs)
            out.last_hidden_state = out.last_hidden_state * (1 + share * out.last_hidden_state[:, -1:].sign())
            return out

        return forward

    for quantised, share, refused in ((False, 0.01, True), (True, 0.01, False), (True, 0.9, True)):
        model.is_quantized, model.model.forward = quantised, leaks(share)
        with torch.inference_mode():
            module = model_introspection.find_head(model)
            assert model_introspection.looks_ahead(model, module, torch.float32) == refused


class NoFloat64(TorchDispatchMode):
    """Refuses to make a float64 tensor, as Apple's GPUs do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dtype == torch.float64:
            raise TypeError(f"{func} made a float64 tensor")
        return made


def test_a_look_ahead_is_seen_without_float64():
    model = build_model("llama")
    with torch.inference_mode(), NoFloat64():
        assert not model_introspection.looks_ahead(model, model_introspection.find_head(model), torch.float32)
