"""The scorer's promises: policies, NaN, progress, keys, memory, and an exact sum over all strings."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import (
    TEXTS,
    build_model,
    build_tokenizer,
    load_float64,
    true_logliks,
    write_model,
    write_run,
)

from kltui.errors import KltuiError
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoringSettings


def score(folder, texts=TEXTS, progress=lambda _: None, **settings):
    return Scorer(texts, "corpus", ScoringSettings(**settings)).score(folder, "none", "weights", progress)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("m"), "gpt_neox", max_position_embeddings=32)


@pytest.mark.parametrize("bos", ["auto", "always", "never"])
def test_bos_policies_against_the_loop(tmp_path, bos):
    folder = write_model(tmp_path / "m", "llama", prepend_bos=True)
    result = score(folder, bos=bos)
    truth = true_logliks(folder, TEXTS, prefix=() if bos == "never" else (1,), layers=False)[0]
    assert np.nanmax(np.abs(result.vectors[0].loglik_N - truth)) < 1e-4
    assert np.isnan(result.vectors[0].loglik_N).sum() == (bos == "never")
    assert result.key["bos"] == bos


def test_unscored_texts_are_nan_and_counted(folder):
    result = score(folder, ["", "x", "Two words"])
    (vector,) = result.vectors
    assert np.isnan(vector.loglik_N).tolist() == [True, True, False]
    assert vector.n_scored_N.tolist()[:2] == [0, 0] and vector.n_scored_N[2] > 0
    assert result.stats["n_unscored"] == 2 and any("NaN" in note for note in result.notes)


def test_a_corpus_with_nothing_to_score_is_a_failure(folder):
    with pytest.raises(KltuiError, match="no text of the corpus has a token to score"):
        score(folder, ["", "x"])
    assert score(folder, []).vectors[0].loglik_N.shape == (0,)


def test_overlong_texts_by_every_policy(folder):
    long = "ab " * 40
    with pytest.raises(KltuiError, match="model's context of 32; text 1"):
        score(folder, ["Two words", long])
    model, ids = load_float64(folder), torch.tensor(build_tokenizer()(long).input_ids)
    n, context = len(ids), 32
    truth = np.full(n, np.nan)
    with torch.no_grad():
        for start in range(1, n, context):
            stop = min(start + context, n)
            first = max(0, stop - 1 - context)
            logp = model(input_ids=ids[None, first : stop - 1]).logits[0].log_softmax(-1)
            for t in range(start, stop):
                truth[t] = logp[t - 1 - first, ids[t]]
    window = score(folder, [long], overlong="window", tokens=True, batch_texts=2)
    assert window.vectors[0].n_scored_N[0] == n - 1
    assert np.abs(window.token_logprobs[0] - truth[1:]).max() < 1e-5
    cut = score(folder, [long], overlong="truncate")
    assert cut.vectors[0].n_scored_N[0] == context - 1
    assert cut.vectors[0].loglik_N[0] == pytest.approx(truth[1:context].sum(), abs=1e-4)
    assert cut.stats["n_overlong"] == 1 and any("longer than" in note for note in cut.notes)


@pytest.mark.parametrize(
    ("kind", "more", "context"),
    [
        ("yarn", {"factor": 4.0, "original_max_position_embeddings": 32}, 128),
        ("dynamic", {"factor": 4.0}, 32),
        ("linear", {"factor": 4.0}, 32),
        ("llama3", {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8}, 32),
    ],
)  # fmt: skip
def test_scaled_rotary_positions_up_to_the_last_one(tmp_path, kind, more, context):
    scaling = {"rope_type": kind, "rope_theta": 1e4, **more}
    folder = write_model(tmp_path / "m", "llama", max_position_embeddings=32, rope_scaling=scaling)
    tokenizer, words = build_tokenizer(), TEXTS[8] * 5
    whole = tokenizer.decode(tokenizer(words).input_ids[:context])
    assert len(tokenizer(whole).input_ids) == context
    texts = [TEXTS[0], whole, whole[: len(whole) // 2], TEXTS[1]]
    truth = true_logliks(folder, texts, layers=False)[0]
    assert np.abs(score(folder, texts).vectors[0].loglik_N - truth).max() < 1e-4
    with pytest.raises(KltuiError, match=f"context of {context}; text 0"):
        score(folder, [whole + " x"])


def test_tokens_are_kept_in_order_and_add_up(folder):
    result = score(folder, ["x", *TEXTS], tokens=True, overlong="window")
    for text, logp in enumerate(result.token_logprobs):
        vector = result.vectors[0]
        assert logp.dtype == np.float32 and len(logp) == vector.n_scored_N[text]
        if len(logp):
            assert logp.astype(float).sum() == pytest.approx(vector.loglik_N[text], abs=1e-12)
    assert score(folder, ["a b"]).token_logprobs is None


def test_nan_from_a_model_is_fatal_and_names_the_text(tmp_path):
    folder = write_model(tmp_path / "m", "gpt_neox")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    word = build_tokenizer()("jagen").input_ids[1]
    tensors["gpt_neox.embed_in.weight"][word] = math.nan
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(KltuiError, match=r"text 1 \(dtype float32\)") as caught:
        score(folder, ["Two words", "Viktor jagen Viktor", "x y z"])
    assert "weights are damaged" in caught.value.hint


def test_likelihoods_of_all_strings_add_up_to_one(tmp_path):
    """Every string of four symbols behind a BOS: their probabilities are a distribution."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "<s>": 3}, unk_token="a"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 3)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", unk_token="a")
    folder = write_model(tmp_path / "m", "gpt2", tokenizer=tokenizer, vocab_size=4)
    texts = ["".join(t) for t in itertools.product("abc", repeat=3)]
    texts += ["".join(t) for t in itertools.product("abc", repeat=2)]
    result = score(folder, texts, batch_texts=7)
    total = np.exp(result.vectors[0].loglik_N)
    model = load_float64(folder)
    # what is missing from one is the probability that the fourth symbol comes up in the first three places
    with torch.no_grad():
        missing = sum(
            math.exp(
                float(np.log(p_of(model, [3, *prefix], 3)))
                + sum(math.log(p_of(model, [3, *prefix[:i]], prefix[i])) for i in range(len(prefix)))
            )
            for length in range(3)
            for prefix in itertools.product(range(3), repeat=length)
        )
    assert total[:27].sum() + missing == pytest.approx(1.0, abs=1e-6)


def p_of(model, ids, target):
    return float(model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)[target])


def test_progress_tells_every_stage_and_counts_up(folder):
    seen = []
    score(folder, progress=seen.append, batch_texts=2, overlong="window")
    assert [p.stage for p in seen][:2] == ["tokenize", "load"]
    done = [p.tokens_done for p in seen if p.stage == "score"]
    assert len(done) >= 3 and done == sorted(done) and done[-1] == seen[-1].tokens_total
    assert seen[-1].texts_total == len(TEXTS)


def test_key_names_what_changes_a_value(folder):
    first, second = score(folder, ["a b"]), score(folder, ["a b"], bos="always", dtype="bfloat16")
    assert {k for k in first.key if first.key[k] != second.key[k]} == {
        "bos", "prefix", "dtype", "products"
    }  # fmt: skip
    for name in (
        "weights",
        "corpus",
        "tokenizer",
        "overlong",
        "quantization",
        "attention",
        "products",
        "torch",
        "transformers",
    ):
        assert first.key[name]
    assert all(isinstance(v, str) for v in first.key.values())
    assert all(isinstance(v, float) for v in first.stats.values())


def test_layers_do_not_change_the_final_vectors_key(folder):
    assert score(folder, ["a b"]).key == score(folder, ["a b"], layers="all").key


def test_layers_that_do_not_exist_are_named(folder):
    with pytest.raises(KltuiError, match="layer 9"):
        score(folder, layers=(0, 9), overlong="window")


def test_out_of_memory_halves_the_batch_and_changes_nothing(folder, monkeypatch):
    from kltui.scoring.engine import Engine

    truth = score(folder, overlong="window").vectors[0].loglik_N
    run, sizes = Engine.submit, []

    def small_memory(self, batch):
        sizes.append(batch.ids_BT.size)
        if batch.ids_BT.size > 60 and len(batch.ids_BT) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self, batch)

    monkeypatch.setattr(Engine, "submit", small_memory)
    scorer = Scorer(TEXTS, "c", ScoringSettings(overlong="window"))
    result = scorer.score(folder, "none", "w", lambda _: None)
    assert max(sizes) > 60 and np.nanmax(np.abs(result.vectors[0].loglik_N - truth)) < 1e-4
    failed = sum(size > 60 for size in sizes)
    scorer.score(folder, "none", "w", lambda _: None)
    assert sum(size > 60 for size in sizes) == failed, "the budget found is remembered"


@pytest.mark.parametrize("asked", [0, 4096])
def test_the_budget_found_is_of_one_model_and_device(tmp_path, monkeypatch, asked):
    from kltui.scoring.engine import Engine

    small, large = (write_model(tmp_path / f, f, max_position_embeddings=128) for f in ("gpt_neox", "llama"))
    run, failed = Engine.submit, []

    def small_memory(self, batch):
        if batch.ids_BT.size > 60 and len(batch.ids_BT) > 1:
            failed.append(self.model.config.model_type)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self, batch)

    monkeypatch.setattr(Engine, "submit", small_memory)
    scorer = Scorer(TEXTS, "c", ScoringSettings(device="cpu", batch_tokens=asked))
    first = scorer.score(small, "none", "w", lambda _: None)
    tries = len(failed)
    assert tries and first.stats["batch_tokens"] <= 60 * 2
    scorer.score(small, "none", "w", lambda _: None)
    assert len(failed) == tries, "remembered for this model"
    scorer.score(large, "none", "w", lambda _: None)
    assert set(failed[tries:]) == {"llama"}, "another model is tried anew"
    assert len(scorer._batch_tokens) == 2 and all(" cpu" in key for key in scorer._batch_tokens)


def test_one_text_too_many_for_memory_says_so(folder, monkeypatch):
    from kltui.scoring.engine import Engine

    def no_memory(self, batch):
        raise MemoryError

    monkeypatch.setattr(Engine, "submit", no_memory)
    with pytest.raises(KltuiError, match="a single text"):
        score(folder, overlong="window")


def test_bf16_is_near_and_says_so_in_the_key(folder):
    exact, near = score(folder, overlong="window"), score(folder, overlong="window", dtype="bfloat16")
    error = np.abs(exact.vectors[0].loglik_N - near.vectors[0].loglik_N)
    assert np.nanmax(error) < 1.0 and near.key["dtype"] == "bfloat16"


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(tmp_path):
    folder = write_model(tmp_path / "m", "gpt2", vocab_size=100)
    with pytest.raises(KltuiError, match="the model has 100 entries"):
        score(folder)


def test_checkpoints_of_one_run_score_as_each_alone(tmp_path):
    folders = write_run(tmp_path, steps=(0, 1, 2))
    scorer = Scorer(TEXTS, "c", ScoringSettings(), tmp_path / "cache")
    together = [scorer.score(f, "none", "w", lambda _: None).vectors[0].loglik_N for f in folders]
    alone = [score(f).vectors[0].loglik_N for f in folders]
    assert np.array_equal(together, alone, equal_nan=True)
    assert not np.array_equal(alone[0], alone[1], equal_nan=True)


@pytest.mark.parametrize(
    ("stored", "computed"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float32")]
)
def test_auto_computes_in_the_dtype_that_is_stored(tmp_path, stored, computed):
    """On a CPU float16 is widened, as ever; the config's word is not asked where the files tell."""
    model = build_model("gpt_neox").to(getattr(torch, stored))
    model.save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": "float64"}))
    found, plain = score(tmp_path, dtype="auto"), score(tmp_path, dtype=computed)
    assert found.key["dtype"] == computed
    np.testing.assert_array_equal(found.vectors[0].loglik_N, plain.vectors[0].loglik_N)
