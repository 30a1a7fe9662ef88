"""Special-token policies, fingerprints and the cache of ids."""

import numpy as np
import pytest
from tiny_models import TEXTS, build_tokenizer

from kltui.errors import KltuiError
from kltui.scoring import tokens
from kltui.scoring.tokenizer_backends import ClassBackend


@pytest.fixture(scope="module")
def plain():
    return ClassBackend(build_tokenizer())


@pytest.fixture(scope="module")
def with_bos():
    return ClassBackend(build_tokenizer(prepend_bos=True))


def ids_of(backend, bos, text="Two words"):
    return tokens.encode(tokens.with_policy(backend, bos), [text], "c", None)[0].tolist()


def test_auto_does_what_the_tokenizer_does(plain, with_bos):
    assert ids_of(plain, "auto") == plain.tokenizer("Two words").input_ids
    assert ids_of(with_bos, "auto") == with_bos.tokenizer("Two words").input_ids
    assert tokens.with_policy(plain, "auto").first_scored == 1
    assert tokens.with_policy(with_bos, "auto").prefix == (1,)


def test_always_adds_one_and_never_two(plain, with_bos):
    assert ids_of(plain, "always")[0] == plain.bos
    assert ids_of(with_bos, "always") == ids_of(with_bos, "auto")
    assert ids_of(with_bos, "never") == ids_of(plain, "never")


def test_special_token_strings_are_text(plain, with_bos):
    for backend in (plain, with_bos):
        ids = ids_of(backend, "never", "a<|endoftext|><s>b")
        assert not {0, 1} & set(ids)
        assert backend.decode(ids) == "a<|endoftext|><s>b"


def test_no_end_token_is_added():
    from tokenizers import processors

    backend = build_tokenizer()
    backend.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A <|endoftext|>", special_tokens=[("<s>", 1), ("<|endoftext|>", 0)]
    )
    policy = tokens.with_policy(ClassBackend(backend), "auto")
    assert (policy.prefix, policy.dropped_suffix) == ((1,), (0,))
    assert ids_of(ClassBackend(backend), "auto")[-1] != 0


def test_always_without_a_bos_token_says_so(plain):
    backend = build_tokenizer()
    backend.bos_token = None
    with pytest.raises(KltuiError, match="no beginning-of-text token"):
        tokens.with_policy(ClassBackend(backend), "always")


def test_fingerprint_sees_the_pipeline_but_not_the_process(plain, with_bos):
    assert plain.sha256 == ClassBackend(build_tokenizer()).sha256 != with_bos.sha256
    used = build_tokenizer()
    used(["a"], truncation=True, max_length=4)
    assert ClassBackend(used).sha256 == plain.sha256


def test_python_tokenizers_differ_by_more_than_their_vocabulary(tmp_path):
    """Two with one vocabulary and other merges give other ids, and may not share a cache or a comparison."""
    import json

    from transformers import CTRLTokenizer

    vocabulary = {w: i for i, w in enumerate(["a@@", "b@@", "a", "b", "ab@@", "ab", "ba@@", "ba", "<unk>"])}
    made = []
    for at, merges in enumerate((("a b</w>",), ("b a</w>",), ("a b</w>",))):
        folder = tmp_path / str(at)
        folder.mkdir()
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        (folder / "merges.txt").write_text("\n".join(("#version", *merges)) + "\n")
        made.append(CTRLTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")))
    first, second, third = (ClassBackend(tokenizer).sha256 for tokenizer in made)
    assert first == third != second


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tekken.json", "bpe.codes", "spiece.model", "added_tokens.json"]
)
def test_every_file_of_a_tokenizer_counts(tmp_path, name):
    from types import SimpleNamespace

    config = SimpleNamespace(model_type="llama", tokenizer_class=None)
    (tmp_path / name).write_bytes(b"one")
    before = tokens.files_digest(tmp_path, config)
    (tmp_path / name).write_bytes(b"two")
    assert tokens.files_digest(tmp_path, config) != before
    other = SimpleNamespace(model_type="llama", tokenizer_class="CodeLlamaTokenizer")
    assert tokens.files_digest(tmp_path, config) != tokens.files_digest(tmp_path, other)


def test_cache_gives_the_same_ids_and_a_damaged_file_is_made_anew(tmp_path, plain):
    policy = tokens.with_policy(plain, "auto")
    texts = ["", *TEXTS, ""]
    fresh = tokens.encode(policy, texts, "c", None)
    for _ in range(2):
        cached = tokens.encode(policy, texts, "c", tmp_path)
        assert all(np.array_equal(a, b) for a, b in zip(fresh, cached, strict=True))
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", whole[:-300] + bytes(300)):
        file.write_bytes(damage)
        again = tokens.encode(policy, texts, "c", tmp_path)
        assert all(np.array_equal(a, b) for a, b in zip(fresh, again, strict=True))
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_cache_is_read_rather_than_made(tmp_path, plain, monkeypatch):
    policy = tokens.with_policy(plain, "auto")
    tokens.encode(policy, list(TEXTS), "c", tmp_path)
    monkeypatch.setattr(tokens, "_made", lambda *_: pytest.fail("tokenised again"))
    tokens.encode(policy, list(TEXTS), "c", tmp_path)


def test_a_folder_without_tokenizer_says_so(tmp_path):
    with pytest.raises(KltuiError, match=r"there is no tokenizer in"):
        tokens.load_tokenizer(tmp_path, "auto")
