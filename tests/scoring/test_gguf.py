"""GGUF files scored: against a float64 loop over their own dequantised tensors, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import write_gguf
from tiny_models import TEXTS as ALL_TEXTS
from tiny_models import build_tokenizer, load_float64, write_model
from tokenizers import Tokenizer

from kltui.errors import KltuiError
from kltui.registry.gguf_file import read_model
from kltui.registry.reading import Hashed, Reading
from kltui.scoring import gguf as gguf_scoring
from kltui.scoring.pair import exact_kl
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoreResult, ScoringSettings

TEXTS = ALL_TEXTS[:6]
SETTINGS = ScoringSettings(device="cpu")
# Whole blocks of 32 in every matrix; two layers are one of each kind where a family has two.
WIDER = {"intermediate_size": 64, "num_hidden_layers": 2}


def scored(path: Path, tokenizer: Path | None = None, **settings: Any) -> ScoreResult:
    scorer = Scorer(TEXTS, "corpus", ScoringSettings(device="cpu", **settings))
    with Reading(Hashed(path, "", tokenizer=tokenizer)) as reading:
        return scorer.score(path, read_model(path).variant, "weights", lambda _: None, reading)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("llama") / "mine", "llama", **WIDER)


@pytest.fixture(scope="module")
def q8(llama: Path) -> Path:
    return write_gguf(llama.parent / "mine-Q8_0.gguf", llama, "Q8_0")


def ids_of(folder: Path) -> list[Any]:
    import torch

    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    core.encode_special_tokens = True
    return [torch.tensor(core.encode(text, add_special_tokens=False).ids) for text in TEXTS]


def logliks(folder: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Log-likelihoods by a float64 loop, text by text; NaN where there is nothing to score."""
    import torch

    model, found = load_float64(folder), []
    for row in ids_of(folder):
        with torch.no_grad():
            logp = model(input_ids=row[None], use_cache=False).logits[0].double().log_softmax(-1)
        found.append(float(logp[:-1].gather(1, row[1:, None]).sum()) if len(row) > 1 else float("nan"))
    return np.array(found)


def assert_near(found: ScoreResult, truth: Path) -> None:
    wanted_N = logliks(truth)
    found_N = found.vectors[0].loglik_N
    assert np.array_equal(np.isnan(found_N), np.isnan(wanted_N))
    np.testing.assert_allclose(found_N, wanted_N, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "family", ["llama_tied", "mistral", "qwen2", "gpt2", "gemma2", "gemma3", "bloom", "stablelm"]
)
def test_families_by_their_original_s_configuration(tmp_path: Path, family: str) -> None:
    changes = {} if family in ("gpt2", "bloom") else WIDER
    folder = write_model(tmp_path / "m", family, seed=3, **changes)
    path = write_gguf(tmp_path / "m-Q5_1.gguf", folder, "Q5_1", dequantised=tmp_path / "truth")
    assert_near(scored(path, folder), tmp_path / "truth")


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "llama_tied", "gemma2"])
def test_a_file_alone(tmp_path: Path, family: str) -> None:
    """Configuration and tokenizer are made from the file's header."""
    changes = {} if family == "gpt2" else WIDER
    if family == "gemma2":  # transformers' default, 256, is that of models whose heads have as many entries
        changes = {**changes, "query_pre_attn_scalar": 16, "head_dim": 16}
    folder = write_model(tmp_path / "m", family, seed=4, **changes)
    path = write_gguf(tmp_path / "m-Q4_1.gguf", folder, "Q4_1", dequantised=tmp_path / "truth")
    found = scored(path)
    assert_near(found, tmp_path / "truth")
    assert "its tokenizer was converted from the file by transformers" in found.notes
    assert found.key["ids"] == "gguf" and found.key["quantization"] == "gguf-q4_1"
    assert found.key["gguf"] and found.stats["bits_per_weight"] == read_model(path).bits_per_weight


def test_every_kind_that_the_package_can_make(llama: Path, tmp_path: Path) -> None:
    plain, distance = logliks(llama), {}
    for kind in ("F32", "F16", "BF16", "Q8_0", "Q5_0", "Q5_1", "Q4_0", "Q4_1"):
        truth = tmp_path / f"truth-{kind}"
        path = write_gguf(tmp_path / f"m-{kind}.gguf", llama, kind, dequantised=truth)
        assert read_model(path).variant == f"gguf-{kind.lower()}"
        found = scored(path, llama)
        assert_near(found, truth)
        distance[kind] = float(np.nanmax(np.abs(found.vectors[0].loglik_N - plain)))
    assert distance["F32"] < 1e-4 < distance["F16"] < distance["Q8_0"] < distance["Q5_0"]


@pytest.mark.parametrize("kind", ["Q2_K", "Q4_K", "Q6_K", "IQ2_XXS", "IQ3_S"])
def test_kinds_that_it_takes_apart(tmp_path: Path, kind: str) -> None:
    wide = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "num_key_value_heads": 4}
    folder = write_model(tmp_path / "m", "llama", seed=5, **wide)
    path = write_gguf(tmp_path / "m.gguf", folder, kind, dequantised=tmp_path / "truth")
    assert {t.type for t in read_model(path).tensors} == {"F32", kind}
    assert_near(scored(path, folder), tmp_path / "truth")


def test_parts_give_what_the_whole_gives(llama: Path, q8: Path, tmp_path: Path) -> None:
    first = write_gguf(tmp_path / "mine.gguf", llama, "Q8_0", parts=3)
    a, b = scored(q8, llama), scored(first, llama)
    np.testing.assert_array_equal(a.vectors[0].loglik_N, b.vectors[0].loglik_N)
    assert read_model(first).bits_per_weight == read_model(q8).bits_per_weight


def test_dtype_as_stored(llama: Path, q8: Path, tmp_path: Path) -> None:
    half = write_gguf(tmp_path / "mine-BF16.gguf", llama, "BF16")
    assert scored(half, llama, dtype="auto").key["dtype"] == "bfloat16"
    assert scored(q8, llama, dtype="auto").key["dtype"] == "float32"


def test_exact_kl_to_the_original(llama: Path, tmp_path: Path) -> None:
    """Held against the sum over positions of sum_v p log(p / q) in float64."""
    import torch

    path = write_gguf(tmp_path / "mine-Q4_0.gguf", llama, "Q4_0", dequantised=tmp_path / "truth")
    found = exact_kl(
        llama, path, TEXTS, "corpus", SETTINGS, quantizations=("none", "gguf-q4_0"), tokenizers=(None, llama)
    )
    models = [load_float64(folder) for folder in (llama, tmp_path / "truth")]
    for at, row in enumerate(ids_of(llama)):
        with torch.no_grad():
            p, q = (m(input_ids=row[None]).logits[0, :-1].log_softmax(-1) for m in models)
        assert abs(float((p.exp() * (p - q)).sum()) - found.forward_nats_N[at]) < 1e-4


def test_another_model_s_tokenizer_is_refused(llama: Path, q8: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(llama, other)
    file = json.loads((other / "tokenizer.json").read_text())
    vocab = file["model"]["vocab"]
    names = sorted(vocab, key=vocab.get)
    file["model"]["vocab"] = dict(zip(names, [*range(2), *range(len(names) - 1, 1, -1)], strict=True))
    (other / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(KltuiError, match=r"the tokenizer is not that of .*mine-Q8_0\.gguf") as caught:
        scored(q8, other)
    assert "of its 384 tokens differ, id 2 is" in caught.value.message


def test_a_tokenizer_that_cuts_otherwise_is_noted(llama: Path, tmp_path: Path) -> None:
    """The same tokens, but the file has a pre-tokenizer of its own and asks for a beginning-of-text token."""
    from tokenizers import pre_tokenizers

    other = build_tokenizer(prepend_bos=True)
    folder = write_model(tmp_path / "m", "llama", tokenizer=other, **WIDER)
    path = write_gguf(tmp_path / "m-Q8_0.gguf", folder, "Q8_0")
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    plain = tmp_path / "plain"
    shutil.copytree(folder, plain)
    other.backend_tokenizer.save(str(plain / "tokenizer.json"))
    file = json.loads((plain / "tokenizer.json").read_text())
    (plain / "tokenizer.json").write_text(json.dumps(file | {"post_processor": None}))
    notes = " ".join(scored(path, plain).notes)
    assert (
        "the tokenizer converted from the file by transformers would give" in notes
        and "ask for one and the tokenizer adds none" in notes
    )


def test_a_configuration_of_another_model_is_not_used(llama: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "small", "qwen3", **WIDER)
    path = write_gguf(tmp_path / "m-Q8_0.gguf", folder, "Q8_0", dequantised=tmp_path / "truth")
    found = scored(path, llama)
    assert_near(found, tmp_path / "truth")
    assert any(
        "belongs to another model (llama), so the file's own header was used" in note for note in found.notes
    )


def with_architecture(path: Path, out: Path, name: bytes) -> Path:
    """A copy whose family goes by another name of as many letters."""
    data = path.read_bytes()
    assert len(name) == 5
    out.write_bytes(data.replace(b"llama", name))
    return out


@pytest.mark.parametrize(
    ("how", "words", "hint"),
    [
        ("family", "of the family gemma, which transformers .* does not read from GGUF files", "endpoint"),
        ("rope_freqs", "scales its rotary positions \\(rope_freqs\\)", "parent = NAME"),
        ("scaling", "scales its rotary positions \\(linear\\)", "parent = NAME"),
        ("window", "attends through a window of 8 tokens", "parent = NAME"),
        ("extra", "has 1 tensors in its layers .* first blk.0.attn_q.bias", "serve the file"),
        ("damaged", "download or create it again|ends within|of .* bytes", ""),
    ],
)
def test_refusals(llama: Path, q8: Path, tmp_path: Path, how: str, words: str, hint: str) -> None:
    path = tmp_path / "m.gguf"
    ones = np.ones(4, np.float32)
    if how == "family":
        with_architecture(q8, path, b"gemma")
    elif how == "damaged":
        path.write_bytes(q8.read_bytes()[:-100])
    else:
        keys: dict[str, dict[str, Any]] = {
            "scaling": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
            "window": {"llama.attention.sliding_window": 8},
        }
        extra = {
            "rope_freqs": {"rope_freqs.weight": ones},
            "extra": {"blk.0.attn_q.bias": np.ones(32, np.float32)},
        }
        write_gguf(path, llama, "Q8_0", keys=keys.get(how), extra=extra.get(how))
    with pytest.raises(KltuiError, match=words) as caught:
        scored(path)
    assert hint in caught.value.hint


def test_scaled_positions_come_from_the_original(tmp_path: Path) -> None:
    """What the reader drops is in the original's config.json; the frequencies in the file are then of no account."""
    scaling = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    folder = write_model(tmp_path / "m", "llama", seed=6, rope_parameters=scaling, **WIDER)
    extra = {"rope_freqs.weight": np.full(4, 2, np.float32)}
    path = write_gguf(tmp_path / "m-Q8_0.gguf", folder, "Q8_0", dequantised=tmp_path / "truth", extra=extra)
    assert_near(scored(path, folder), tmp_path / "truth")


def test_without_the_package(q8: Path, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        gguf_scoring, "find_spec", lambda name: None if name == "gguf" else importlib.util.find_spec(name)
    )
    with pytest.raises(KltuiError, match="GGUF files need gguf, not installed here") as caught:
        scored(q8, llama)
    assert caught.value.hint == "pip install '.[gguf]'"


IGNORED = {
    "attention.causal": False, "attention.clamp_kqv": 0.1, "attention.scale": 0.7, "embedding_scale": 3.0,
    "final_logit_softcapping": 2.0, "logit_scale": 0.3, "residual_scale": 0.2, "rope.dimension_count": 4, "rope.scale_linear": 4.0,
    "use_parallel_residual": True,
}  # fmt: skip


@pytest.mark.parametrize("key", IGNORED)
def test_settings_that_the_reader_ignores_are_refused(llama: Path, tmp_path: Path, key: str) -> None:
    """The values would be those of another model; its configuration beside it has them."""
    path = write_gguf(tmp_path / "m-F32.gguf", llama, "F32", keys={f"llama.{key}": IGNORED[key]})
    with pytest.raises(KltuiError, match=rf"has llama\.{key} = ") as caught:
        gguf_scoring.load_config(path, None)
    assert "parent = NAME" in caught.value.hint


@pytest.mark.parametrize(("layers", "scalar"), [(46, 32), (3, 16)])
def test_the_scale_of_attention_of_gemma_is_that_of_llama_cpp(
    tmp_path: Path, layers: int, scalar: int
) -> None:
    """The header does not have it: 144 in place of 256 in Gemma 2 27B."""
    changes = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    folder = write_model(tmp_path / "m", "gemma2", seed=1, num_hidden_layers=layers, **changes)
    path = write_gguf(tmp_path / "m-F32.gguf", folder, "F32")
    assert gguf_scoring.load_config(path, None).query_pre_attn_scalar == scalar


def test_parallel_residuals_of_stablelm_are_known_from_its_tensors(tmp_path: Path) -> None:
    """Its converter writes True for models whose config.json does not say, all of which have residuals one after the other."""
    folder = write_model(tmp_path / "m", "stablelm", seed=1, **WIDER)
    rotated = 2  # of 8 entries of a head, the share that transformers takes
    keys = {"stablelm.use_parallel_residual": True, "stablelm.rope.dimension_count": rotated}
    path = write_gguf(tmp_path / "m-F32.gguf", folder, "F32", keys=keys)
    assert gguf_scoring.load_config(path, None).use_parallel_residual is False
