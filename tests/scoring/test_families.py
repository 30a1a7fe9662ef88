"""Every family against a float64 loop over its texts, and every layer against the model truncated there."""

import random

import numpy as np
import pytest
from tiny_models import FAMILIES, TEXTS, true_logliks, write_model

from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoringSettings

TOLERANCE_NATS = 1e-4
CORPUS = [*TEXTS, " ".join(TEXTS[:3]), "ab" * 40, "yz " * 9]


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request, tmp_path_factory):
    """A tiny model's folder, and its true log-likelihoods (2 + depth, N)."""
    folder = write_model(tmp_path_factory.mktemp(request.param), request.param, seed=7)
    return folder, np.array(true_logliks(folder, CORPUS))


def score(folder, texts, **settings):
    return Scorer(texts, "corpus", ScoringSettings(**settings)).score(folder, "none", "w", lambda _: None)


@pytest.mark.parametrize("batch_texts", [1, 3, 8, 32])
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
    result = score(folder, [CORPUS[i] for i in order], batch_tokens=64)
    assert np.nanmax(np.abs(result.vectors[0].loglik_N - truth[0][order])) < TOLERANCE_NATS
    assert not any("cannot be split" in note for note in result.notes)


def test_layers_differ_from_the_final_vector(family):
    """Guards the test itself: a lens that returned the final vector for every layer would be seen."""
    _, truth = family
    distances = np.nanmax(np.abs(truth[1:-1] - truth[0]), axis=1)
    assert (distances > 100 * TOLERANCE_NATS).all()


def test_replayed_tail_is_exact_where_the_tail_modules_do_not_serve(tmp_path, monkeypatch):
    """The slow path alone, on a family with a projection behind its layers and one with tuples out of them."""
    from kltui.scoring import lens

    monkeypatch.setattr(
        lens.Lens,
        "_tested_tail",
        lambda self, head, dtype: self._watch_whole_pass(lens.anatomy.probe_ids(self.model)) and None,
    )
    for name in ("opt", "bloom", "gemma2"):
        folder = write_model(tmp_path / name, name, seed=3)
        result = score(folder, TEXTS, layers=(0, 2), batch_texts=4)
        truth = np.array(true_logliks(folder, TEXTS))
        for vector, row in zip(result.vectors, (0, 1, 3), strict=True):
            assert np.nanmax(np.abs(vector.loglik_N - truth[row])) < TOLERANCE_NATS
