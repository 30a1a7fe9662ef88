"""Layers of families whose layers return more than a tensor, against the model truncated there; and models without layers."""

from collections import namedtuple

import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import TEXTS, WIDTH, _llama_like, load_float64, true_logliks, write_model

from kltui.errors import KltuiError
from kltui.scoring import lens as lens_module
from kltui.scoring import model_introspection
from kltui.scoring.engine import Engine
from kltui.scoring.layer_form import LayerForm, streams
from kltui.scoring.lens import LayerLogprobs
from kltui.scoring.model_introspection import forward_replaced
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoringSettings

COMMON = {"vocab_size": tiny_models.VOCAB, "hidden_size": WIDTH}
BERT_LIKE = {
    **COMMON,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "is_decoder": True,
    "pad_token_id": 0,
}
# layers that return a tuple of three, a list, a named tuple of two streams, a stack of streams, and a head inside modules
FAMILIES = {
    "rwkv": ("RwkvConfig", {**COMMON, "num_hidden_layers": 3, "attention_hidden_size": WIDTH, "intermediate_size": 48}),
    "openai-gpt": (
        "OpenAIGPTConfig",
        {"vocab_size": tiny_models.VOCAB, "n_positions": 256, "n_embd": WIDTH, "n_layer": 3, "n_head": 4},
    ),
    "reformer": (
        "ReformerConfig",
        {
            **BERT_LIKE,
            "attn_layers": ["local", "local", "local"],
            "local_attn_chunk_length": 8,
            "attention_head_size": 8,
            "feed_forward_size": 48,
            "axial_pos_embds": False,
        },
    ),
    "gemma3n_text": (
        "Gemma3nTextConfig",
        _llama_like(
            head_dim=8,
            sliding_window=12,
            vocab_size_per_layer_input=tiny_models.VOCAB,
            hidden_size_per_layer_input=8,
            laurel_rank=4,
            num_kv_shared_layers=0,
            layer_types=["sliding_attention", "full_attention", "full_attention"],
            activation_sparsity_pattern=[0.0, 0.0, 0.0],
        ),
    ),
    "bert": ("BertConfig", BERT_LIKE),
}  # fmt: skip


def score(folder, texts=TEXTS, **settings):
    return Scorer(texts, "corpus", ScoringSettings(**settings)).score(folder, "none", "w", lambda _: None)


def cut_off_logliks(folder, texts, depth):
    """Float64 log-likelihoods of a model whose layers from `depth` on hand on what they are given."""
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), load_float64(folder)
    for layer in model_introspection.find_layers(model)[depth:]:
        form = []
        with torch.no_grad(), layer_watched(layer, form):
            model_introspection.run(model, torch.tensor([[1, 2, 3]]))
        layer.forward = handing_on(type(layer).forward, layer, form[0])
    found = []
    for text in texts:
        row = torch.tensor(tokenizer(text, split_special_tokens=True, add_special_tokens=False).input_ids)
        if len(row) < 2:
            found.append(np.nan)
            continue
        with torch.no_grad():
            logp = model_introspection.run(model, row[None])[0].double().log_softmax(-1)
        found.append(float(logp[:-1].gather(1, row[1:, None]).sum()))
    return np.array(found)


def layer_watched(layer, outputs):
    own = layer.forward

    def forward(*args, **kwargs):
        outputs.append(own(*args, **kwargs))
        return outputs[-1]

    return forward_replaced(layer, forward)


def handing_on(_own, layer, output):
    names = list(type(layer).forward.__code__.co_varnames[1:])

    def forward(*args, **kwargs):
        given = dict(zip(names, args, strict=False)) | kwargs
        hidden = given["hidden_states"] if "hidden_states" in given else args[0]
        if isinstance(output, torch.Tensor):
            return hidden
        if hasattr(output, "_fields"):  # Reformer
            return output._replace(hidden_states=hidden, attn_output=given["prev_attn_output"])
        return type(output)([hidden, *([None] * (len(output) - 1))])

    return forward


@pytest.mark.parametrize("family", list(FAMILIES))
def test_layers_are_exact_whatever_a_layer_returns(tmp_path, monkeypatch, family):
    monkeypatch.setitem(tiny_models.FAMILIES, family, FAMILIES[family])
    folder = write_model(tmp_path / family, family, seed=3)
    result = score(folder, layers="all", batch_texts=4)
    assert not result.no_layers and [v.layer for v in result.vectors] == [None, 0, 1, 2, 3]
    truth = [cut_off_logliks(folder, TEXTS, 3), *(cut_off_logliks(folder, TEXTS, k) for k in range(4))]
    ours = np.array([v.loglik_N for v in result.vectors])
    assert np.nanmax(np.abs(ours - truth)) < 1e-4
    assert min(np.nanmax(np.abs(row - truth[0])) for row in truth[1:-1]) > 1e-2


def _fails(*_):
    raise TypeError("cannot unpack what it returned")


@pytest.mark.parametrize(
    ("place", "stand_in", "reason"),
    [
        ("model_introspection.find_layers", lambda _: None, "cannot identify this model's layers"),
        ("Lens.replay", _fails, "cannot unpack what it returned"),
        ("Lens._matches_final", lambda *_: False, "does not give its own logits"),
    ],
)
def test_a_model_whose_layers_cannot_be_had_keeps_its_final_vector(
    tmp_path, monkeypatch, place, stand_in, reason
):
    folder = write_model(tmp_path / "m", "llama", seed=3)
    monkeypatch.setattr(f"kltui.scoring.lens.{place}", stand_in)
    result = score(folder, layers="all")
    assert [v.layer for v in result.vectors] == [None]
    np.testing.assert_allclose(
        result.vectors[0].loglik_N, true_logliks(folder, TEXTS, layers=False)[0], atol=1e-4
    )
    assert reason in result.no_layers and result.no_layers in result.notes


def test_running_out_of_memory_is_no_lack_of_layers(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("kltui.scoring.lens.Lens.replay", full)
    with pytest.raises((KltuiError, torch.OutOfMemoryError)):
        score(write_model(tmp_path / "m", "llama"), layers="all")


def test_a_layer_that_the_tail_cannot_read_is_left_out_alone(tmp_path, monkeypatch):
    """A first layer whose hidden states overflow in the tail costs that layer's vector, not the checkpoint."""
    folder = write_model(tmp_path / "m", "llama", seed=3)
    truth = np.array(true_logliks(folder, TEXTS))
    own = Engine._logprobs

    def overflowing(self, batch, *more):
        logp_Ln = own(self, batch, *more)
        logp_Ln[1, torch.from_numpy(batch.texts_n == 4)] = np.nan
        return logp_Ln

    monkeypatch.setattr(Engine, "_logprobs", overflowing)
    result = score(folder, layers="all", batch_tokens=60)
    kept = [v.layer for v in result.vectors]
    assert kept == [None, 1, 2, 3]
    ours = np.array([v.loglik_N for v in result.vectors])
    assert np.nanmax(np.abs(ours - truth[[0, 2, 3, 4]])) < 1e-4
    assert (
        "layers 0 are not stored" in result.no_layers
        and "in text 4" in result.no_layers
        and result.no_layers in result.notes
    )


Pair = namedtuple("Pair", ["hidden_states", "attn_output"])
H, A = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)


@pytest.mark.parametrize(
    ("output", "again"),
    [
        (H, H),
        ((H,), (H,)),
        ((H, None), (H, None)),
        ((H, torch.ones(2, 3), torch.ones(2, 4, 3, 3)), (H, None, None)),
        ([H, torch.ones(2, 4, 3, 3)], [H, None]),
        (Pair(H, A), Pair(H, A)),
        ({"loss": None, "hidden_states": H}, {"loss": None, "hidden_states": H}),
    ],
)
def test_hidden_states_go_back_to_where_a_layer_had_them(output, again):
    form = LayerForm(output)
    given = form.given(form.taken(output))
    assert type(given) is type(again) and len(given) == len(again)
    pairs = (
        zip(given.values(), again.values(), strict=True)
        if isinstance(again, dict)
        else zip(given, again, strict=True)
    )
    assert all(a is b or torch.equal(a, b) for a, b in pairs)


def test_a_first_layers_inputs_take_their_places_by_name():
    class Layer(torch.nn.Module):
        def forward(self, prev_attn_output, hidden_states, mask=None):
            return Pair(hidden_states, prev_attn_output)

    entering = LayerForm(Pair(H, A)).entering(streams(Layer(), (A, H), {"mask": torch.ones(2, 3)}))
    assert torch.equal(entering[0], H) and torch.equal(entering[1], A)
    with pytest.raises(TypeError, match="without hidden states"):
        LayerForm((None, torch.ones(2)))


@pytest.mark.parametrize(("limit", "calls"), [(0, [7, 7, 7, 7]), (4 * 5 * 7 * 3, [21, 7]), (1 << 20, [28])])
def test_layers_share_calls_of_the_head_within_their_memory(
    limit: int, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(lens_module, "MAX_STATES_BYTES", limit)
    weight_VD, targets_n = torch.randn(11, 5), torch.arange(7)
    rows: list[int] = []

    def head(states_nD: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        rows.append(len(states_nD))
        return (states_nD @ weight_VD.T).log_softmax(1).gather(1, targets[:, None])[:, 0]

    states, layers = torch.randn(4, 7, 5), LayerLogprobs(head, targets_n)
    for k, states_nD in enumerate(states):
        layers.add(k, states_nD)
    found = layers.found()
    assert rows == calls and sorted(found) == [0, 1, 2, 3]
    for k, states_nD in enumerate(states):
        torch.testing.assert_close(found[k], head(states_nD, targets_n))
