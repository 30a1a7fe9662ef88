"""Responses to prompts: log p(y | x) against float64 loops, by six families' chat templates, cut contexts, bad templates."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kltui.corpus.corpus import Corpus, Prompt
from kltui.corpus.load import load_corpus
from kltui.corpus.read import Fields
from kltui.errors import KltuiError
from kltui.scoring import chat, chat_renderer
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoreResult, ScoringSettings
from tests.chat_pairs import (
    PAIRS,
    PROMPTS,
    RESPONSES,
    TEMPLATES,
    core,
    ids_of_prompt,
    ids_of_response,
    model,
    truth,
)
from tests.tiny_models import BEGIN, load_float64, write_model


def scored(
    folder: Path, prompts: Any = PROMPTS, texts: Any = RESPONSES, template: str = "chat", **settings: Any
) -> ScoreResult:
    settings = {"device": "cpu", **settings}
    scorer = Scorer(texts, "c", ScoringSettings(template=template, **settings), None, None, prompts)
    return scorer.score(folder, "none", "w", lambda _: None)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_response_by_each_chat_template_equals_a_float64_loop(name: str, tmp_path: Path) -> None:
    template, family, specials = TEMPLATES[name]
    folder = model(tmp_path / "m", family, template, specials)
    result = scored(folder, unconditional=True, tokens=True)
    network, begin = load_float64(folder), core(folder).token_to_id(BEGIN)
    for k, (prompt, text) in enumerate(PAIRS):
        context, response = ids_of_prompt(folder, prompt), ids_of_response(folder, text)
        assert result.vectors[0].loglik_N[k] == pytest.approx(truth(network, context, response), abs=2e-4)
        assert result.vectors[0].n_scored_N[k] == len(response)
        assert result.token_logprobs is not None
        assert len(result.token_logprobs[k]) == len(response)
        assert context[:2].count(begin) == (1 if name in ("llama3", "mistral", "gemma") else 0)
        alone = result.unconditional[0].loglik_N[k]
        assert alone == pytest.approx(truth(network, [begin], response), abs=2e-4)
    assert result.key["template"] == "chat"
    assert len(result.token_logprobs or ()) == len(PAIRS)


_THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' + opened }}{% endif %}"
)
_HEADLESS = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '\n' }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        *((TEMPLATES[name][0], "") for name in ("chatml", "llama3", "gemma", "phi3", "zephyr")),
        (TEMPLATES["mistral"][0], "puts ' ' before a response: it is not put here"),
        (_THINKING.replace("+ opened", ""), r"puts '<think>\n\n</think>\n\n' before a response: it is not put here"),
        (_THINKING.replace("opened", "'<think>\n'"), r"puts '\n</think>\n\n' before a response"),
        (TEMPLATES["chatml"][0].replace("assistant\n", "assistant\n<think>"), "ends a prompt with"),
        (_HEADLESS, "puts '<|assistant|>' before a response"),
        ("{% if not add_generation_prompt %}{{ raise_exception('no') }}{% endif %}x", ""),
    ],
)  # fmt: skip
def test_a_template_that_continues_a_prompt_otherwise_is_noted(template: str, said: str) -> None:
    note = chat.write(
        chat.ChatTemplate(template, {"bos_token": "<s>", "eos_token": "</s>"}, "x"), PROMPTS, []
    ).note
    assert said in note if said else note == ""


def test_the_note_on_a_template_is_with_the_result(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", "gpt2", _HEADLESS, ["<|user|>", "<|assistant|>"])
    assert any("'<|assistant|>' before a response" in note for note in scored(folder).notes)


def test_bos_is_added_or_taken_where_that_is_asked_and_never_twice(tmp_path: Path) -> None:
    network_ids = {}
    for name in ("llama3", "chatml"):
        template, _, specials = TEMPLATES[name]
        folder = model(tmp_path / name, "llama", template, specials)
        network, begin = load_float64(folder), core(folder).token_to_id(BEGIN)
        context, response = ids_of_prompt(folder, PROMPTS[0]), ids_of_response(folder, RESPONSES[0])
        bare = context[1:] if context[0] == begin else context
        for bos, read in (("always", [begin, *bare]), ("never", bare), ("auto", context)):
            value = scored(folder, PROMPTS[:1], RESPONSES[:1], bos=bos).vectors[0].loglik_N[0]
            assert value == pytest.approx(truth(network, read, response), abs=2e-4)
        network_ids[name] = context[0] == begin
    assert network_ids == {"llama3": True, "chatml": False}


@pytest.mark.parametrize("overlong", ["truncate", "window"])
def test_a_long_prompt_is_cut_from_the_left_and_no_response_is(overlong: str, tmp_path: Path) -> None:
    template, _, specials = TEMPLATES["chatml"]
    folder = model(tmp_path / "m", "llama", template, specials)
    network, context = load_float64(folder), 256
    prompts: tuple[Prompt, ...] = ((("user", "the quick fox " * 80),), *PROMPTS[:1])
    texts = ("Two words and more", RESPONSES[0])
    with pytest.raises(KltuiError, match="1 of 2 pairs have more tokens"):
        scored(folder, prompts, texts)
    result = scored(folder, prompts, texts, overlong=overlong)
    response = ids_of_response(folder, texts[0])
    whole = ids_of_prompt(folder, prompts[0]) + response
    # truncate keeps `context` ids in all; in a window the model reads `context` ids, and the last target is one more
    kept = whole[-context:] if overlong == "truncate" else whole[-context - 1 :]
    expected = truth(network, kept[: -len(response)], response)
    assert result.vectors[0].loglik_N[0] == pytest.approx(expected, abs=2e-4)
    assert result.vectors[0].n_scored_N[0] == len(response)
    assert result.stats["n_overlong"] == 1
    assert any("1 pairs are longer" in note for note in result.notes)


def test_a_response_longer_than_the_context_is_windowed_or_refused(tmp_path: Path) -> None:
    template, _, specials = TEMPLATES["chatml"]
    folder = model(tmp_path / "m", "llama", template, specials)
    texts = ("the lazy dog " * 90,)
    response = ids_of_response(folder, texts[0])
    assert len(response) > 256
    with pytest.raises(KltuiError, match="the response of pair 0"):
        scored(folder, PROMPTS[:1], texts, overlong="truncate")
    result = scored(folder, PROMPTS[:1], texts, overlong="window")
    assert result.vectors[0].n_scored_N[0] == len(response)
    network, whole = load_float64(folder), ids_of_prompt(folder, PROMPTS[0]) + response
    at, expected = len(whole) - len(response), 0.0
    while at < len(whole):
        stop = min(at + 256, len(whole))
        left = max(0, stop - 257)
        expected += truth(network, whole[left:at], whole[at:stop])
        at = stop
    assert result.vectors[0].loglik_N[0] == pytest.approx(expected, abs=1e-3)


def test_without_a_template_contents_stand_as_they_are(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", "llama", prepend_bos=True)
    result = scored(folder, template="none")
    network, begin = load_float64(folder), core(folder).token_to_id(BEGIN)
    for k, (prompt, text) in enumerate(PAIRS):
        context = ids_of_response(folder, "\n".join(content for _, content in prompt))
        expected = truth(network, [begin, *context], ids_of_response(folder, text))
        assert result.vectors[0].loglik_N[k] == pytest.approx(expected, abs=2e-4)
    with pytest.raises(KltuiError, match="no chat template") as error:
        scored(folder)
    assert 'template = "none" under [corpus] to use' in error.value.hint


def test_an_empty_response_is_unscored(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", "llama")
    result = scored(folder, PROMPTS[:2], ("", "x"), template="none", unconditional=True)
    assert math.isnan(result.vectors[0].loglik_N[0])
    # without a BOS there is nothing before the first token of a response alone
    assert np.isnan(result.unconditional[0].loglik_N).all()
    assert any("1 of 2 responses have no token" in note for note in result.notes)


BAD = {
    "reaches outside": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "reads a file": "{% include '/etc/passwd' %}",
    "globals": "{{ cycler.__init__.__globals__.os.system('true') }}",
    "raises": "{{ raise_exception('only users may speak') }}",
    "changes what it is given": "{{ messages.append(1) }}",
    "is no template": "{% for m in messages %}",
    "undefined": "{{ nothing.at.all }}",
    "writes without end": "{% for a in range(99999) %}{{ ('abcdefgh' ~ a) * 20000 }}{% endfor %}",
    "takes all memory": "{{ 'a' * 9999999999 }}",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_template_that_reaches_outside_or_fails_is_an_error_with_the_remedy(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kltui.scoring import chat

    (tmp_path / "chat_template.jinja").write_text(BAD[kind])
    template = chat.find_template(tmp_path)
    with pytest.raises(KltuiError, match="chat template in") as error:
        chat.write(template, PROMPTS[:1], [])
    assert 'template = "none"' in error.value.hint


def test_a_template_that_never_ends_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kltui.scoring import chat

    monkeypatch.setattr(chat, "_PATIENCE_S", 1.5)
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(endless)
    with pytest.raises(KltuiError, match="did not end"):
        chat.write(chat.find_template(tmp_path), PROMPTS[:1], [])
    assert chat_renderer.CPU_SECONDS <= 60


def test_the_template_is_found_in_either_file_and_among_named_ones(tmp_path: Path) -> None:
    from kltui.scoring.chat import find_template

    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": "one", "bos_token": {"content": "<b>"}}))
    assert (find_template(tmp_path).source, find_template(tmp_path).variables) == (
        "one",
        {"bos_token": "<b>"},
    )
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    config.write_text(json.dumps({"chat_template": named}))
    assert find_template(tmp_path).source == "d"
    named[1]["name"] = "rag"
    config.write_text(json.dumps({"chat_template": named}))
    with pytest.raises(KltuiError, match="several"):
        find_template(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("file")
    assert find_template(tmp_path).source == "file"


def test_pairs_are_read_and_every_mistake_is_named_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows: list[Any] = [
        {"prompt": "a", "response": "b", "domain": "x"},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"},
                      {"role": "assistant", "content": "y"}]},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = load_corpus(path, fields=Fields(pairs=True), template="chat")
    assert corpus.texts == ("b", "y")
    assert corpus.prompts == ((("user", "a"),), (("system", "s"), ("user", "u")))
    assert corpus.text_bytes.tolist() == [1, 1]
    assert (corpus.record["kind"], corpus.record["template"]) == ("pairs", "chat")
    assert corpus.sha256 != Corpus(corpus.texts).sha256
    wrong: list[Any] = [
        {"prompt": "a"}, {"prompt": 1, "response": "b"}, {"messages": []},
        {"messages": [{"role": "user", "content": "u"}, {"role": "user", "content": "v"}]},
        {"messages": [{"role": "tool", "content": "u"}, {"role": "assistant", "content": "v"}]},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in [*wrong, *rows]))
    with pytest.raises(KltuiError) as error:
        load_corpus(path, fields=Fields(pairs=True))
    for said in (
        'line 1: "response" is missing',
        'line 2: "prompt" is a JSON number',
        "line 3:",
        "line 4:",
        "line 5:",
    ):
        assert said in error.value.message
    assert Counter(error.value.message)[";"] >= 4
