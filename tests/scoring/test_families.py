"""Every family against a float64 loop over its texts, and every layer against the model truncated there."""

import random

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, TEXTS, build_config, build_model, true_logliks, write_model

from kltui.scoring import prepacked_linear
from kltui.scoring.engine import Engine
from kltui.scoring.head import Head
from kltui.scoring.loading import Loaded
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoringSettings

TOLERANCE_NATS = 1e-4
# More than 32, so that a batch of 32 is one; lengths in no order, some beyond the sliding windows of 12.
CORPUS = [*TEXTS, " ".join(TEXTS[:3]), "ab" * 40, "yz " * 9, *(t[i:] for i in (3, 5) for t in TEXTS)]
# What the scoring engine is asked to score, as transformers calls it.
ASKED = {
    "gpt_neox", "gpt2", "gptj", "gpt_neo", "opt", "bloom", "falcon", "llama", "mistral", "qwen2", "qwen3", "mixtral",
    "qwen2_moe", "gemma2", "gemma3_text", "phi", "olmo2", "stablelm", "cohere", "granite", "mamba", "mamba2",
    "recurrent_gemma",
}  # fmt: skip


@pytest.fixture(autouse=True)
def packed_here(monkeypatch):
    """Layers are packed whatever processor this is; unpacked they are the model's own."""
    monkeypatch.setattr(prepacked_linear, "pays", lambda dtype: True)


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request, tmp_path_factory):
    """A tiny model's folder, and its true log-likelihoods (2 + depth, N)."""
    folder = write_model(tmp_path_factory.mktemp(request.param), request.param, seed=7)
    return folder, np.array(true_logliks(folder, CORPUS))


def test_every_family_asked_for_is_here():
    assert {build_config(name).model_type for name in FAMILIES} >= ASKED
    assert len(CORPUS) > 32
    opt, gemma = build_config("opt"), build_config("gemma3")
    assert opt.word_embed_proj_dim != opt.hidden_size and gemma.final_logit_softcapping


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_fast_ways_serve_every_family(name):
    """None is scored by a fallback unnoticed: its head is split off, and its tail's modules are called by themselves."""
    model = build_model(name)
    loaded = Loaded(model, model.config, "sdpa", torch.float32, ())
    with torch.inference_mode():
        engine = Engine(loaded, ScoringSettings(layers="all"), torch.device("cpu"), "none")
    assert not engine.notes
    assert engine._head is not None and type(engine._head[1]) is not Head
    assert engine._lens is not None and engine._lens.path == "modules"
    assert len(engine._lens.modules) == model.config.num_hidden_layers


def score(folder, texts, **settings):
    return Scorer(texts, "corpus", ScoringSettings(**settings)).score(folder, "none", "w", lambda _: None)


@pytest.mark.parametrize(
    "batch_texts", [1, 32, *(pytest.param(n, marks=pytest.mark.full) for n in (3, 8))]
)  # batches of a few texts are below
def test_final_and_layers_match_the_float64_loop(family, batch_texts):
    folder, truth = family
    result = score(folder, CORPUS, layers="all", batch_texts=batch_texts, batch_tokens=100_000)
    assert [v.layer for v in result.vectors] == [None, *range(len(truth) - 1)]
    ours = np.array([v.loglik_N for v in result.vectors])
    assert np.array_equal(np.isnan(ours), np.isnan(truth))
    assert np.nanmax(np.abs(ours - truth)) < TOLERANCE_NATS
    assert np.array_equal(ours[0], ours[-1], equal_nan=True)


def test_order_of_texts_does_not_matter(family):
    folder, truth = family
    order = list(range(len(CORPUS)))
    random.Random(1).shuffle(order)
    result = score(folder, [CORPUS[i] for i in order], batch_tokens=64, layers="all")
    ours = np.array([v.loglik_N for v in result.vectors])
    assert np.nanmax(np.abs(ours - truth[:, order])) < TOLERANCE_NATS
    assert not any("cannot be separated" in note for note in result.notes)


def test_layers_differ_from_the_final_vector(family):
    """Guards the test itself: a lens that returned the final vector for every layer would be seen."""
    _, truth = family
    distances = np.nanmax(np.abs(truth[1:-1] - truth[0]), axis=1)
    assert (distances > 100 * TOLERANCE_NATS).all()


def test_replayed_tail_is_exact_where_the_tail_modules_do_not_serve(tmp_path, monkeypatch):
    """The slow path alone, on a family with a projection behind its layers and one with tuples out of them."""
    from kltui.scoring import lens

    monkeypatch.setattr(lens.Lens, "_serves", lambda *_: False)
    for name in ("opt", "bloom", "gemma2"):
        folder = write_model(tmp_path / name, name, seed=3)
        result = score(folder, TEXTS, layers=(0, 2), batch_texts=4)
        truth = np.array(true_logliks(folder, TEXTS))
        for vector, row in zip(result.vectors, (0, 1, 3), strict=True):
            assert np.nanmax(np.abs(vector.loglik_N - truth[row])) < TOLERANCE_NATS
