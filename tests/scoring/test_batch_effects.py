"""Models whose numbers for a text depend on its company: each is scored as it would be alone, against float64 loops."""

import random

import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import TEXTS, build_model, load_float64, true_logliks, write_model

from kltui.errors import KltuiError
from kltui.scoring import pair
from kltui.scoring.batch_effects import BatchRule, find_rule
from kltui.scoring.batching import cut_pieces, plan_batches
from kltui.scoring.engine import Engine
from kltui.scoring.loading import Loaded
from kltui.scoring.oom_retry import rule_within_memory
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoringSettings

CPU = torch.device("cpu")
CORPUS = [*TEXTS, " ".join(TEXTS[:3]), "ab" * 40, "yz " * 9]
THRESHOLD = 27


def _longrope(**more):
    return {
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [2.0, 3.0, 4.0, 6.0],
            "original_max_position_embeddings": THRESHOLD,
            **more,
        }
    }


@pytest.fixture
def longrope(tmp_path, monkeypatch):
    """A tiny Phi-3 whose rotary frequencies change where a batch is wider than THRESHOLD."""
    arguments = tiny_models._llama_like(num_key_value_heads=4, pad_token_id=0, **_longrope())
    monkeypatch.setitem(
        tiny_models.FAMILIES,
        "phi3",
        ("Phi3Config", arguments | {"original_max_position_embeddings": THRESHOLD}),
    )
    return write_model(tmp_path / "phi3", "phi3", seed=5)


def score(folder, texts, **settings):
    return Scorer(texts, "corpus", ScoringSettings(**settings)).score(folder, "none", "w", lambda _: None)


def test_long_context_rope_gives_a_text_its_own_numbers_in_any_batch_and_order(longrope):
    truth = np.array(true_logliks(longrope, CORPUS))
    for seed, settings in enumerate(
        ({}, {"batch_tokens": 90}, {"batch_texts": 3}, {"layers": "all", "tokens": True})
    ):
        order = random.Random(seed).sample(range(len(CORPUS)), len(CORPUS))
        result = score(longrope, [CORPUS[i] for i in order], **settings)
        ours = np.array([v.loglik_N for v in result.vectors])
        assert np.nanmax(np.abs(ours - truth[: len(ours), order])) < 1e-4
        assert any(
            "the longest text in its batch" in note and "were scored separately" in note
            for note in result.notes
        )
    sums = [float(t.astype(np.float64).sum()) if len(t) else np.nan for t in result.token_logprobs]
    np.testing.assert_allclose(sums, truth[0, order], atol=1e-4)


def test_texts_on_one_side_of_the_threshold_are_batched_as_ever(longrope):
    short = [text for text in CORPUS if len(text) < 20]
    assert not any("batch" in note for note in score(longrope, short).notes)


def windows_by_loop(folder, texts, context):
    """Float64 log-likelihoods, every window of lm-evaluation-harness by itself."""
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), load_float64(folder)
    sums = []
    for text in texts:
        ids = tokenizer(text, split_special_tokens=True, add_special_tokens=False).input_ids
        total, scored = 0.0, 1
        while scored < len(ids):
            stop = min(scored + context, len(ids)) if len(ids) > context else len(ids)
            row = torch.tensor(ids[max(0, stop - 1 - context) : stop])
            with torch.no_grad():
                logp = model(input_ids=row[None, :-1], use_cache=False).logits[0].double().log_softmax(-1)
            total += float(logp.gather(1, row[1:, None])[scored - stop :].sum())
            scored = stop
        sums.append(total if len(ids) > 1 else np.nan)
    return np.array(sums)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_windows_of_scaled_rope_are_scored_as_if_alone(tmp_path, monkeypatch, kind):
    rope = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}}
    arguments = tiny_models._llama_like(
        max_position_embeddings=40, **(_longrope() if kind == "longrope" else rope)
    )
    monkeypatch.setitem(tiny_models.FAMILIES, "scaled", ("LlamaConfig", arguments))
    folder = write_model(tmp_path / "m", "scaled", seed=6)
    truth = windows_by_loop(folder, CORPUS, 40)
    for order in (range(len(CORPUS)), range(len(CORPUS) - 1, -1, -1)):
        result = score(folder, [CORPUS[i] for i in order], overlong="window")
        assert np.nanmax(np.abs(result.vectors[0].loglik_N - truth[list(order)])) < 1e-4


def test_exact_kl_does_not_depend_on_the_batches(longrope, tmp_path):
    other = write_model(tmp_path / "other", "phi3", seed=6)
    found = [
        pair.exact_kl(longrope, other, CORPUS, "c", ScoringSettings(batch_tokens=n)).forward_nats_N
        for n in (1, 1536)
    ]
    np.testing.assert_allclose(*found, atol=1e-4)


def _scaled_by_batch(x, weight, bias=None):
    """A linear layer whose inputs are quantised to 8 bits by one scale for all rows, that of their first tokens."""
    scale = x[:, 0].abs().max() / 64
    return torch.nn.functional.linear((x / scale).round() * scale, weight, bias)


def test_a_model_that_mixes_the_rows_of_a_batch_is_scored_one_by_one(monkeypatch):
    from kltui.scoring import prepacked_linear

    monkeypatch.setattr(prepacked_linear, "find", lambda *_: None)
    model = build_model("llama", seed=2)
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            module.forward = lambda x, m=module: _scaled_by_batch(x, m.weight, m.bias)
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 300, n) for n in rng.integers(2, 60, 14)]
    pieces = cut_pieces([len(row) for row in ids], 1, None, "error")
    with torch.inference_mode():
        engine = Engine(
            Loaded(model, model.config, "sdpa", torch.float32, ()), ScoringSettings(), CPU, "none"
        )
        rule = find_rule(engine.final, pieces, ids, 1536, torch.float32)
    assert rule == BatchRule(alone=True) and "each text was scored alone" in rule.notes[0]
    assert [len(rows) for rows in plan_batches(pieces, 1536, 0, rule.group)] == [1] * len(pieces)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["gpt_neox", "qwen2_moe", "gemma2", "mamba2"])
def test_ordinary_families_are_batched_together(tmp_path, family, dtype):
    folder = write_model(tmp_path / family, family, seed=4)
    assert not any("its batch" in note for note in score(folder, CORPUS, dtype=dtype).notes)


class Fake:
    """`run` of a model that gives every token the log-probability `rule(width, batch, call)`; counts its batches."""

    def __init__(self, rule):
        self.rule, self.batches = rule, []

    def __call__(self, batch):
        self.batches.append(batch.ids_BT.shape)
        rows = batch.positions_n // batch.ids_BT.shape[1]
        values = self.rule(batch.ids_BT.shape[1], batch, len(self.batches))
        return np.broadcast_to(np.asarray(values, np.float32), batch.ids_BT.shape[:1])[rows].copy()


def some_texts(lengths):
    ids = [np.full(n + 1, n, dtype=np.int64) for n in lengths]
    return cut_pieces([n + 1 for n in lengths], 1, None, "error"), ids


LENGTHS = [3, 4, 7, 9, 12, 15, 16, 17, 30, 31, 47, 64, 65, 100, 101, 300]


@pytest.mark.parametrize("threshold", LENGTHS[:-1])
def test_a_threshold_is_found_between_any_two_widths(threshold):
    run = Fake(lambda width, _batch, _call: -1.0 - (width > threshold))
    rule = find_rule(run, *some_texts(LENGTHS), 1536, torch.float32)
    assert rule == BatchRule((threshold,))
    assert sum(rows * width for rows, width in run.batches) < 20 * LENGTHS[-1]


def test_what_changes_at_every_width_leaves_only_texts_of_one_length_together():
    rule = find_rule(Fake(lambda width, *_: -1 / width), *some_texts(LENGTHS), 1536, torch.float32)
    assert rule.last_widths == tuple(LENGTHS[:-1]) and "one length" in rule.notes[0]
    pieces, _ = some_texts([5, 5, 5, 9, 9])
    assert [len(rows) for rows in plan_batches(pieces, 999, 0, rule.group)] == [2, 3]


def test_no_trial_is_made_of_one_text_and_rounding_is_let_pass():
    run = Fake(lambda *_: -1.0)
    assert find_rule(run, *some_texts([9]), 1536, torch.float32) == BatchRule() and not run.batches
    rng = np.random.default_rng(0)
    noisy = Fake(lambda width, batch, _call: -1.0 + 1e-7 * rng.standard_normal(len(batch.ids_BT)))
    assert find_rule(noisy, *some_texts(LENGTHS), 1536, torch.float32) == BatchRule()


def test_a_model_that_draws_at_random_or_remembers_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(KltuiError, match="a different value when the same text is scored again"):
        find_rule(Fake(lambda *_: rng.standard_normal()), *some_texts(LENGTHS), 1536, torch.float32)
    widest = [0]

    def remembers(width, _batch, _call):
        widest[0] = max(widest[0], width)
        return -1.0 - widest[0]

    with pytest.raises(KltuiError, match="a different value"):
        find_rule(Fake(remembers), *some_texts(LENGTHS), 1536, torch.float32)


def test_the_trial_makes_do_with_less_memory_and_says_when_one_text_does_not_fit():
    limit = [310]

    def run(batch):
        if batch.ids_BT.size > limit[0]:
            raise MemoryError
        return Fake(lambda width, *_: -1.0 - (width > 47))(batch)

    settings, freed = ScoringSettings(), []
    pieces, ids = some_texts(LENGTHS * 3)
    rule = rule_within_memory(run, pieces, ids, 1536, settings, lambda: freed.append(1), torch.float32)
    assert rule == BatchRule((47,)) and freed
    limit[0] = 200
    with pytest.raises(KltuiError, match="a single text does not fit"):
        rule_within_memory(run, pieces, ids, 1536, settings, lambda: None, torch.float32)
