"""Models that do not fit: laid over devices by accelerate, here over memory and disk, with the same numbers."""

import numpy as np
import pytest
from tiny_models import FAMILIES, TEXTS, build_model, write_model

from kltui.scoring import loading, packing, spread
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoringSettings

needs_accelerate = pytest.mark.skipif(
    spread.find_spec("accelerate") is None, reason="accelerate is not installed"
)


@pytest.fixture
def memory(monkeypatch):
    """Sets how many bytes of weights fit in memory; the rest goes to disk."""

    def set_to(size):
        monkeypatch.setattr(spread, "room", lambda _: {"cpu": int(size)})

    return set_to


@pytest.fixture
def loads(monkeypatch):
    """Every model that is loaded, in order."""
    seen, real = [], loading.load_model

    def load(*arguments):
        seen.append(real(*arguments).model)
        return loading.Loaded(seen[-1], seen[-1].config, "sdpa", seen[-1].dtype, spread.note(seen[-1]))

    monkeypatch.setattr(loading, "load_model", load)
    return seen


def score(folder, texts=TEXTS, quantization="none", **settings):
    settings = {"device": "cpu", "layers": "all", "tokens": True, **settings}
    return Scorer(texts, "c", ScoringSettings(**settings)).score(folder, quantization, "w", lambda _: None)


def size_of(family):
    return sum(p.nbytes for p in build_model(family).parameters())


def differences(a, b):
    """Largest difference of log-likelihoods, of all vectors, and of single tokens."""
    assert [v.layer for v in a.vectors] == [v.layer for v in b.vectors]
    vectors = [np.nanmax(np.abs(x.loglik_N - y.loglik_N)) for x, y in zip(a.vectors, b.vectors, strict=True)]
    tokens = [np.abs(x - y).max(initial=0) for x, y in zip(a.token_logprobs, b.token_logprobs, strict=True)]
    return max(vectors), max(tokens)


@needs_accelerate
@pytest.mark.parametrize("share", [0.3, 0.7, 0.9])
@pytest.mark.parametrize("family", ["gpt_neox", "llama", "llama_tied", "mixtral"])
def test_a_model_larger_than_memory_scores_the_same(tmp_path, memory, loads, family, share):
    folder = write_model(tmp_path / "m", family)
    whole = score(folder)
    memory(share * size_of(family))
    spread_out = score(folder, device_map="auto")
    model = loads[-1]
    assert spread.is_spread(model) and spread.is_offloaded(model) and not spread.is_spread(loads[0])
    assert max(differences(whole, spread_out)) < 1e-5
    assert len(spread_out.vectors) == 2 + model.config.num_hidden_layers
    assert spread_out.key == whole.key
    assert any("spread over" in note and "disk" in note for note in spread_out.notes)


@needs_accelerate
@pytest.mark.parametrize("device_map", ["balanced", "sequential"])
def test_every_layout_and_dtype(tmp_path, memory, monkeypatch, device_map):
    # packed layers fuse their activation, which bfloat16 shows; what lies on disk is never packed
    monkeypatch.setattr(packing, "pack", lambda *_: False)
    folder = write_model(tmp_path / "m", "llama_tied")
    memory(0.4 * size_of("llama_tied"))
    for dtype in ("float32", "bfloat16", "float16"):
        error = max(
            differences(score(folder, dtype=dtype), score(folder, dtype=dtype, device_map=device_map))
        )
        assert error < 1e-5


@needs_accelerate
@pytest.mark.slow
def test_every_family_scores_from_disk(tmp_path, memory, loads):
    for family in FAMILIES:
        folder = write_model(tmp_path / family, family)
        memory(0.5 * size_of(family))
        difference = max(differences(score(folder, TEXTS[:3]), score(folder, TEXTS[:3], device_map="auto")))
        assert difference < 1e-5 and spread.is_offloaded(loads[-1]), family
