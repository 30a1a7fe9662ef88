"""Exact next-token KL against a float64 loop, against itself, and where it must refuse."""

import numpy as np
import pytest
import torch
from tiny_models import TEXTS, build_tokenizer, load_float64, write_model, write_run

from kltui.errors import KltuiError
from kltui.scoring.pair import _kl_by_torch, exact_kl, kl_rows
from kltui.scoring.settings import ScoringSettings


def true_kl(folder_a, folder_b, texts):
    """Per text: sums of KL(a, b), KL(b, a), agreements and positions, in float64 over whole logits."""
    a, b, tokenizer = load_float64(folder_a), load_float64(folder_b), build_tokenizer()
    rows = []
    for text in texts:
        ids = torch.tensor([tokenizer(text, split_special_tokens=True).input_ids])
        with torch.no_grad():
            p, q = (m(input_ids=ids).logits[0, :-1].log_softmax(-1) for m in (a, b))
        same = (p.argmax(-1) == q.argmax(-1)).sum()
        rows.append([float((p.exp() * (p - q)).sum()), float((q.exp() * (q - p)).sum()), int(same), len(p)])
    return np.array(rows).T


@pytest.mark.parametrize("family", ["gpt_neox", "gemma2", "opt"])
def test_against_the_loop(tmp_path, family):
    first, _, last = write_run(tmp_path, family, steps=(0, 1, 2))
    truth = true_kl(first, last, TEXTS)
    ours = exact_kl(first, last, TEXTS, "c", ScoringSettings(batch_texts=5))
    assert np.abs(ours.forward_nats_N - truth[0]).max() < 1e-4
    assert np.abs(ours.reverse_nats_N - truth[1]).max() < 1e-4
    assert np.array_equal(ours.same_top_N, truth[2]) and np.array_equal(ours.n_scored_N, truth[3])
    assert ours.forward == pytest.approx(truth[0].sum() / truth[3].sum(), rel=1e-4)
    text_bytes = np.array([len(t.encode()) for t in TEXTS])
    used = text_bytes[truth[3] > 0].sum()
    assert ours.bits_per_byte(text_bytes)[0] == pytest.approx(truth[0].sum() / used / np.log(2), rel=1e-4)


def test_a_model_against_itself_is_zero(tmp_path):
    folder = write_model(tmp_path / "m", "gpt_neox")
    kl = exact_kl(folder, folder, TEXTS, "c", ScoringSettings())
    assert kl.forward == kl.reverse == 0.0 and kl.top1_agreement == 1.0


def test_padded_vocabularies_are_compared_where_both_have_entries():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 9, generator=generator), torch.randn(5, 7, generator=generator)
    wide, cut = kl_rows(a, b), kl_rows(a[:, :7], b)
    assert all(np.array_equal(x, y) for x, y in zip(wide, cut, strict=True))


def test_entries_that_are_impossible_in_both_add_nothing():
    a = torch.tensor([[0.0, 1.0, -torch.inf]])
    b = torch.tensor([[0.5, 0.0, -torch.inf]])
    forward, reverse, same = kl_rows(a, b)
    p, q = a[0, :2].double().log_softmax(-1), b[0, :2].double().log_softmax(-1)
    assert forward[0] == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-6)
    assert reverse[0] == pytest.approx(float((q.exp() * (q - p)).sum()), rel=1e-6)
    assert same[0] == 0.0


@pytest.mark.parametrize("sums", [torch.float32, torch.float64])
def test_devices_without_kernels_get_the_same_from_torch_in_either_precision(sums):
    generator = torch.Generator().manual_seed(0)
    a, b = (3 * torch.randn(7, 50, generator=generator) for _ in range(2))
    a[:, 3] = b[:, 3] = -torch.inf
    ours = _kl_by_torch(a, b, sums)
    assert ours.dtype == sums
    np.testing.assert_allclose(ours, kl_rows(a, b), rtol=2e-5)


def test_different_tokenizers_are_refused(tmp_path):
    a = write_model(tmp_path / "a", "gpt_neox")
    b = write_model(tmp_path / "b", "gpt_neox", prepend_bos=True)
    with pytest.raises(KltuiError, match="different tokenizers"):
        exact_kl(a, b, TEXTS, "c", ScoringSettings())


def test_a_tokenizer_that_does_not_fit_a_model_is_refused(tmp_path):
    whole = write_model(tmp_path / "a", "gpt_neox")
    short = write_model(tmp_path / "b", "gpt_neox", vocab_size=100)
    with pytest.raises(KltuiError, match="the model has 100 entries"):
        exact_kl(whole, short, TEXTS, "c", ScoringSettings())


def test_the_size_of_batches_changes_nothing(tmp_path):
    first, _, last = write_run(tmp_path, "llama", steps=(0, 1, 2))
    whole = exact_kl(first, last, TEXTS, "c", ScoringSettings())
    for size in (1, 3, 32):
        some = exact_kl(first, last, TEXTS, "c", ScoringSettings(batch_texts=size))
        assert np.abs(some.forward_nats_N - whole.forward_nats_N).max() < 1e-4


def test_out_of_memory_halves_the_batch_and_changes_nothing(tmp_path, monkeypatch):
    from kltui.scoring.engine import Engine

    first, _, last = write_run(tmp_path, "llama", steps=(0, 1, 2))
    whole = exact_kl(first, last, TEXTS, "c", ScoringSettings())
    run, sizes = Engine.hidden, []

    def small_memory(self, batch):
        sizes.append(batch.ids_BT.size)
        if batch.ids_BT.size > 60 and len(batch.ids_BT) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self, batch)

    monkeypatch.setattr(Engine, "hidden", small_memory)
    halved = exact_kl(first, last, TEXTS, "c", ScoringSettings())
    assert max(sizes) > 60 and min(sizes) <= 60
    assert np.abs(halved.forward_nats_N - whole.forward_nats_N).max() < 1e-4
    assert np.abs(halved.reverse_nats_N - whole.reverse_nats_N).max() < 1e-4
    assert np.array_equal(halved.n_scored_N, whole.n_scored_N)


def test_one_text_that_does_not_fit_is_told(tmp_path, monkeypatch):
    folder = write_model(tmp_path / "m", "llama")

    def no_memory(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("kltui.scoring.engine.Engine.hidden", no_memory)
    with pytest.raises(KltuiError, match="a single text does not fit"):
        exact_kl(folder, folder, TEXTS, "c", ScoringSettings())


def test_weights_other_than_those_that_are_meant_are_refused(tmp_path, monkeypatch):
    from kltui.registry.digest import fingerprint
    from kltui.registry.reading import ChangedError
    from kltui.scoring import loading

    a, b = write_run(tmp_path, "llama", steps=(0, 1))
    meant = (fingerprint(a), fingerprint(b))
    exact_kl(a, b, TEXTS[:2], "c", ScoringSettings(), weights=meant)
    with pytest.raises(ChangedError, match="step1"):
        exact_kl(a, b, TEXTS[:2], "c", ScoringSettings(), weights=(meant[0], meant[0]))
    real = loading.load_model

    def changing(folder, *more):
        loaded = real(folder, *more)
        (b / "config.json").write_text((b / "config.json").read_text() + " ")
        return loaded

    monkeypatch.setattr(loading, "load_model", changing)
    with pytest.raises(ChangedError, match=r"config\.json"):
        exact_kl(a, b, TEXTS[:2], "c", ScoringSettings())


def test_next_token_kl_adds_up_to_that_of_whole_sequences():
    """Chain rule, by enumeration of all 4^3 sequences: KL(P, Q) = sum over contexts c of P(c) KL(p(. | c), q(. | c))."""
    generator = torch.Generator().manual_seed(3)
    p_of, q_of = (
        [torch.randn(4**t, 4, generator=generator, dtype=torch.float64) for t in range(3)] for _ in range(2)
    )
    logp, logq, total = torch.zeros(1), torch.zeros(1), 0.0
    for p, q in zip(p_of, q_of, strict=True):
        total += float(logp.double().exp() @ kl_rows(p.float(), q.float())[0].double())
        logp, logq = ((before[:, None] + z.log_softmax(-1)).flatten() for before, z in ((logp, p), (logq, q)))
    enumerated = float((logp.exp() * (logp - logq)).sum())
    assert len(logp) == 64 and total == pytest.approx(enumerated, rel=1e-5)


def test_never_more_rows_of_logits_than_fit(tmp_path, monkeypatch):
    """A vocabulary of 50,000 entries takes memory for a few rows at once, not for all positions of the corpus."""
    from kltui.scoring.engine import Engine

    first, _, last = write_run(tmp_path, "llama", steps=(0, 1, 2))
    whole = exact_kl(first, last, TEXTS, "c", ScoringSettings())
    run, rows = Engine.logits, []

    def counted(self, hidden_nD):
        rows.append(len(hidden_nD))
        return run(self, hidden_nD)

    monkeypatch.setattr(Engine, "logits", counted)
    monkeypatch.setattr(Engine, "logit_rows", 7)
    few = exact_kl(first, last, TEXTS, "c", ScoringSettings())
    assert max(rows) == 7 and sum(rows) == 2 * few.n_scored_N.sum()
    assert np.abs(few.forward_nats_N - whole.forward_nats_N).max() < 1e-5
    assert few.forward_positions.high == pytest.approx(whole.forward_positions.high, rel=1e-4)
