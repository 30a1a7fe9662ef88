"""kltui.score: the values of a batch, from a folder or from memory, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from hub_server import FakeHub
from scored_run import Run

import kltui
from kltui.errors import KltuiError, UsageError
from kltui.notebook.vector import ScoredTexts


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many threads as the batch had: sums are then made in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def from_folder(run: Run) -> ScoredTexts:
    return kltui.score(run.folder / "step1", run.texts, layers=[1], tokens=True)


def in_memory(folder: Path) -> tuple[Any, Any]:
    """The folder's model, training, and its tokenizer, as transformers loads them."""
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.train(), PreTrainedTokenizerFast.from_pretrained(folder)


def test_a_folder_gets_what_a_batch_gives_it(run: Run, from_folder: ScoredTexts) -> None:
    with kltui.open(run.workspace) as ws:
        m = ws.map(layers=True)
        key = ws.vectors()["tiny-seed1@1"].key_fields
    assert m.loglik_KN[m.row("tiny-seed1@1")].tobytes() == from_folder.loglik_N.tobytes()
    assert m.loglik_KN[m.row("tiny-seed1@1#1")].tobytes() == from_folder.layers[1].tobytes()
    assert m.n_scored_KN is not None
    assert m.n_scored_KN[m.row("tiny-seed1@1")].tolist() == from_folder.n_scored_N.tolist()
    assert m.text_bytes_N.tolist() == from_folder.text_bytes_N.tolist()
    shared = key.keys() & from_folder.key.keys()
    assert {"weights", "corpus", "tokenizer", "bos", "dtype"} <= shared
    assert {k: key[k] for k in shared} == {k: from_folder.key[k] for k in shared}


def test_a_folder_gets_what_a_float64_loop_gives(run: Run, from_folder: ScoredTexts) -> None:
    truth = tiny_models.true_logliks(run.folder / "step1", run.texts)
    np.testing.assert_allclose(from_folder.loglik_N, truth[0], atol=1e-4, equal_nan=True)
    np.testing.assert_allclose(from_folder.layers[1], truth[2], atol=1e-4, equal_nan=True)
    assert math.isnan(from_folder.loglik_N[run.texts.index("")])


def test_tokens_add_up(from_folder: ScoredTexts) -> None:
    assert from_folder.token_logprobs is not None
    sums = [row.astype(np.float64).sum() if len(row) else math.nan for row in from_folder.token_logprobs]
    np.testing.assert_allclose(sums, from_folder.loglik_N, rtol=1e-6, equal_nan=True)
    assert [len(row) for row in from_folder.token_logprobs] == from_folder.n_scored_N.tolist()


def test_kl_of_two_is_the_map_s(run: Run, from_folder: ScoredTexts) -> None:
    other = kltui.score(str(run.folder / "step2"), run.texts)
    with kltui.open(run.workspace) as ws:
        assert from_folder.kl(other) == ws.map().pair("tiny-seed1@1", "tiny-seed1@2")
    d = (from_folder.loglik_N - other.loglik_N)[from_folder.n_scored_N > 0]
    size = from_folder.text_bytes_N[from_folder.n_scored_N > 0].mean()
    assert from_folder.kl(other).value == pytest.approx(d.var() / (2 * size * math.log(2)), rel=1e-12)


def test_loss_is_that_of_the_texts(from_folder: ScoredTexts) -> None:
    scored = np.isfinite(from_folder.loglik_N)
    nats, size = -from_folder.loglik_N[scored].sum(), from_folder.text_bytes_N[scored].sum()
    assert from_folder.bits_per_byte == pytest.approx(nats / size / math.log(2), rel=1e-12)
    assert 0 < from_folder.bits_per_byte_se < from_folder.bits_per_byte


def test_a_model_in_memory_gets_its_folder_s_values(run: Run, from_folder: ScoredTexts) -> None:
    model, tokenizer = in_memory(run.folder / "step1")
    made = kltui.score(model, run.texts, tokenizer, layers=[1])
    assert made.loglik_N.tobytes() == from_folder.loglik_N.tobytes()
    assert made.layers[1].tobytes() == from_folder.layers[1].tobytes()
    differing = {k for k in made.key if made.key[k] != from_folder.key[k]}
    assert differing == {"weights"} and made.key["weights"].startswith("memory:")
    assert made.kl(from_folder).value == 0.0


def test_a_model_in_memory_is_left_as_it_was(run: Run) -> None:
    model, tokenizer = in_memory(run.folder / "step0")
    model.config.use_cache = True
    model.gpt_neox.layers[0].eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    training = [m.training for m in model.modules()]
    first = kltui.score(model, run.texts[:3], tokenizer)
    assert [m.training for m in model.modules()] == training and model.config.use_cache is True
    assert all("forward" not in m.__dict__ and not m._forward_hooks for m in model.modules())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    ids = torch.tensor([[5, 6, 7]])
    model(input_ids=ids, labels=ids).loss.backward()
    with torch.no_grad():
        model.get_output_embeddings().weight.add_(
            0.1 * torch.randn(model.get_output_embeddings().weight.shape)
        )
    moved = kltui.score(model, run.texts[:3], tokenizer)
    assert moved.key["weights"] != first.key["weights"] and moved.kl(first).value > 0


def test_the_ids_are_the_tokenizer_s_own(run: Run, from_folder: ScoredTexts) -> None:
    model, tokenizer = in_memory(run.folder / "step1")
    tokenizer.backend_tokenizer.enable_truncation(2)  # left behind by whoever used it last
    for given in (tokenizer, tokenizer.backend_tokenizer, run.folder / "step1"):
        assert kltui.score(model, run.texts, given).loglik_N.tobytes() == from_folder.loglik_N.tobytes()
    begun = kltui.score(model, run.texts, tokenizer, bos="always")
    assert begun.n_scored_N.sum() > from_folder.n_scored_N.sum()
    with pytest.raises(UsageError, match="bos is always or auto"):
        begun.kl(from_folder)


def test_an_adapter_s_folder_is_scored_on_its_base(
    run: Run, from_folder: ScoredTexts, tmp_path: Path
) -> None:
    from adapter_folders import write_adapter

    folder = write_adapter(run.folder / "step1", tmp_path / "lora", seed=1)
    made = kltui.score(folder, run.texts)
    assert made.name == "lora" and made.kl(from_folder).value > 0


def test_a_gguf_file_is_scored(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from gguf_files import write_gguf

    plain = tiny_models.write_model(tmp_path / "plain", "llama", seed=2)
    file = write_gguf(tmp_path / "m-F32.gguf", plain, "F32")
    a, b = kltui.score(plain, run.texts), kltui.score(file, run.texts)
    np.testing.assert_allclose(a.loglik_N, b.loglik_N, atol=1e-3, equal_nan=True)


def test_a_repository_s_revision_is_scored(
    run: Run, from_folder: ScoredTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add_folder("org/tiny", "main", run.folder / "step2")
        commit = hub.add_folder("org/tiny", "step1", run.folder / "step1")
        made = kltui.score("org/tiny@step1", run.texts)
    assert made.loglik_N.tobytes() == from_folder.loglik_N.tobytes()
    assert made.key["weights"] == f"org/tiny@{commit}"


def test_results_of_other_texts_are_not_compared(run: Run, from_folder: ScoredTexts) -> None:
    fewer = kltui.score(run.folder / "step1", run.texts[:4])
    with pytest.raises(UsageError, match="their texts differ"):
        from_folder.kl(fewer)
    with pytest.raises(UsageError, match="not a float"):
        from_folder.kl(1.0)  # type: ignore[arg-type]


def test_a_result_is_frozen_and_short_to_see(from_folder: ScoredTexts) -> None:
    with pytest.raises(ValueError, match="read-only"):
        from_folder.loglik_N[0] = 0.0
    assert (
        repr(from_folder).startswith("ScoredTexts('tiny-seed1@1', 15 texts, ")
        and len(repr(from_folder)) < 120
    )
    assert "loss, bits/byte" in from_folder._repr_html_()


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ("one text", "not a list of strings"),
        ([], "texts is empty"),
        (["a", 3], r"texts\[1\] is of the type int"),
        (7, "not a list of strings"),
    ],
)
def test_texts_that_are_none_are_refused(texts: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        kltui.score("nowhere", texts)


@pytest.mark.parametrize(
    ("scoring", "words"),
    [
        ({"dtyp": "float32"}, "dtyp"),
        ({"dtype": "float64"}, "scoring.dtype"),
        ({"bos": True}, "scoring.bos"),
        ({"device": "tpu"}, "scoring.device"),
        ({"layers": [-1]}, "scoring.layers"),
        ({"batch_tokens": -1}, "scoring.batch_tokens"),
        ({"keep_cache": False}, "does not accept keep_cache"),
        ({"unconditional": True}, "does not accept unconditional"),
    ],
)
def test_settings_that_mean_nothing_are_refused(run: Run, scoring: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        kltui.score(run.folder / "step1", ["a text"], **scoring)


def test_models_that_are_none_are_refused(run: Run, tmp_path: Path) -> None:
    for model, words in (
        (tmp_path / "nothing", "no model found"),
        (run.folder, "contains 3 checkpoints"),
        (run.folder / "step1" / "config.json", r"kltui.score\n  - .*config.json is a file"),
        ("http://127.0.0.1:1/v1", "is a server"),
        (torch.nn.Linear(2, 2), "of the type torch.Linear, which is not a path"),
        (None, "which is not a path"),
    ):
        with pytest.raises(KltuiError, match=words):
            kltui.score(model, ["a text"], tokenizer=None)


def test_models_in_memory_that_are_not_scored_are_refused(run: Run) -> None:
    model, tokenizer = in_memory(run.folder / "step1")
    for given, more, words in (
        (None, {}, "none was given"),
        (object(), {}, "not from the tokenizers library"),
        ("nowhere", {}, "there is no tokenizer in nowhere"),
        (tokenizer, {"dtype": "bfloat16"}, "the model in memory is in float32"),
        (tokenizer, {"device": "cuda"}, "is on cpu"),
        (tokenizer, {"overlong": "cut"}, "scoring.overlong"),
    ):
        with pytest.raises(UsageError, match=words):
            kltui.score(model, ["a text"], given, **more)
    with pytest.raises(UsageError, match="no language-model head"):
        kltui.score(model.gpt_neox, ["a text"], tokenizer)
    with pytest.raises(UsageError, match="float64"):
        kltui.score(model.double(), ["a text"], tokenizer)
    with pytest.raises(UsageError, match="on a CPU"):
        kltui.score(model.half(), ["a text"], tokenizer)
    with pytest.raises(UsageError, match="a tokenizer object needs a model object"):
        kltui.score(run.folder / "step1", ["a text"], tokenizer)


def test_models_that_are_not_whole_or_plain_are_refused(run: Run) -> None:
    peft = pytest.importorskip("peft")
    model, tokenizer = in_memory(run.folder / "step1")
    model.gpt_neox.layers[0].to("meta")
    with pytest.raises(UsageError, match="it is on cpu, meta"):
        kltui.score(model, ["a text"], tokenizer)
    model, _ = in_memory(run.folder / "step1")
    model.config.quantization_config = {"quant_method": "gptq", "bits": 4}
    with pytest.raises(UsageError, match="a quantised model \\(gptq 4-bit\\)"):
        kltui.score(model, ["a text"], tokenizer)
    del model.config.quantization_config
    with pytest.raises(UsageError, match="peft adapters"):
        kltui.score(peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM")), ["a text"], tokenizer)


def test_results_in_other_dtypes_are_not_compared(run: Run, from_folder: ScoredTexts) -> None:
    half = kltui.score(run.folder / "step1", run.texts, dtype="bfloat16", overlong="window")
    with pytest.raises(UsageError, match="overlong is error or window; dtype is float32 or bfloat16"):
        from_folder.kl(half)


def test_texts_longer_than_the_context_have_their_rule(run: Run) -> None:
    model, tokenizer = in_memory(run.folder / "step1")
    long = ["word " * 600]
    with pytest.raises(KltuiError, match="more tokens than the model's context of 256"):
        kltui.score(model, long, tokenizer)
    cut = kltui.score(model, long, tokenizer, overlong="truncate")
    assert any("cut to the context" in note for note in cut.notes)


def test_lone_surrogates_are_replaced_and_said(run: Run) -> None:
    made = kltui.score(run.folder / "step1", ["a \ud800 b", "another text"])
    assert any("U+FFFD" in note for note in made.notes)
