"""Served models: values equal those of the same model scored here, and no fault of a server becomes a number."""

from __future__ import annotations

import ssl
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_server import ServedModel
from tiny_models import TEXTS, true_logliks, write_model

from kltui.errors import KltuiError, TryAgainError
from kltui.registry.checkpoint import ServedSource
from kltui.registry.retry import RetryPolicy
from kltui.scoring.scorer import Scorer
from kltui.scoring.served import UNSEEN, score_served, served_weights
from kltui.scoring.served_client import DIALECTS, ServedClient, ServerFacts
from kltui.scoring.settings import Progress, ScoreResult, ScoringSettings

SOON = RetryPolicy(attempts=8, base_s=0.02, cap_s=0.1)
MORE = [*TEXTS, "", "x", "ü日本 🎉 \ufffd", "  spaces  and\nlines\t", "the end " * 12]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("served"), "llama", prepend_bos=True)


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[ServedModel]:
    with ServedModel(folder) as server:
        yield server


@pytest.fixture
def server(shared: ServedModel) -> ServedModel:
    """The one server as it was at first."""
    fresh: dict[str, Any] = {
        "dialect": "vllm",
        "context": None,
        "key": "",
        "delay_s": 0.0,
        "version": "0.9",
        "most_open": 0,
        "refusal": {"error": "as asked"},
    }
    while shared.open:  # what the test before gave up on
        time.sleep(0.01)
    for name, value in fresh.items():
        setattr(shared, name, value)
    shared.faults, shared.prompts, shared.headers = [], [], []
    shared.alter = lambda answer: answer
    return shared


def score(
    server: ServedModel,
    texts: list[str] = MORE,
    retry: RetryPolicy = SOON,
    seen: list[Progress] | None = None,
    **more: Any,
) -> ScoreResult:
    place: dict[str, Any] = {k: more.pop(k) for k in ("concurrency", "api_key_env") if k in more}
    source = ServedSource(server.url, "org/model", **place)
    said = seen if seen is not None else []
    return score_served(
        source, server.folder, "served:x", texts, "sha", ScoringSettings(**more), None, said.append, retry
    )


@pytest.mark.parametrize("dialect", ["vllm", "echo0", "echo1"])
@pytest.mark.parametrize("bos", ["auto", "never"])
def test_values_are_those_of_the_same_model_scored_here(server: ServedModel, dialect: str, bos: Any) -> None:
    server.dialect = dialect
    served = score(server, bos=bos, tokens=True)
    local = Scorer(MORE, "sha", ScoringSettings(bos=bos, tokens=True)).score(
        server.folder, "none", "w", lambda _: None
    )
    (ours,), (theirs,) = local.vectors, served.vectors
    np.testing.assert_allclose(theirs.loglik_N, ours.loglik_N, atol=1e-4)
    np.testing.assert_array_equal(theirs.n_scored_N, ours.n_scored_N)
    truth = true_logliks(server.folder, MORE, prefix=() if bos == "never" else (1,), layers=False)[0]
    np.testing.assert_allclose(theirs.loglik_N, truth, atol=1e-4)
    assert served.token_logprobs is not None and local.token_logprobs is not None
    for a, b in zip(served.token_logprobs, local.token_logprobs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    same = ("tokenizer", "ids", "bos", "prefix", "overlong", "corpus")
    assert {k: served.key[k] for k in same} == {k: local.key[k] for k in same}
    assert served.key["attention"] == UNSEEN and UNSEEN in served.notes


def test_windows_and_cuts_fit_the_server_s_context(server: ServedModel) -> None:
    """One place is left for the token that is generated: a window reads one id less than a local one."""
    server.context = 12
    with pytest.raises(KltuiError, match="more tokens than the model's context"):
        score(server)
    cut = score(server, overlong="truncate")
    assert max(map(len, server.prompts)) == 11
    whole = score(server, overlong="window", concurrency=3)
    assert max(map(len, server.prompts)) == 11
    long = MORE.index(max(MORE, key=len))
    assert whole.vectors[0].n_scored_N[long] > cut.vectors[0].n_scored_N[long] == 10
    # each window by hand, through the server itself
    ids = [row for row in server.prompts if len(row) == 11]
    values = {tuple(row): server._logprobs(row) for row in ids}
    assert np.isclose(cut.vectors[0].loglik_N[long], [sum(v) for v in values.values()]).any()
    (said,) = [note for note in cut.notes if "cut to the context" in note]
    assert "longer than the model's context" in said
    assert any("longer than the model's context" in note and "windows" in note for note in whole.notes)


def test_at_most_so_many_requests_are_open_and_order_does_not_matter(server: ServedModel) -> None:
    alone = score(server, concurrency=1).vectors[0].loglik_N
    assert server.most_open == 1
    server.delay_s = 0.01
    seen: list[Progress] = []
    together = score(server, concurrency=5, seen=seen).vectors[0].loglik_N
    np.testing.assert_array_equal(alone, together)
    assert 2 <= server.most_open <= 5
    done = [p.texts_done for p in seen if p.stage == "score"]
    assert done == sorted(done) and done[-1] == len(MORE)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 0])
def test_what_time_mends_is_waited_for(server: ServedModel, status: int) -> None:
    expected = score(server).vectors[0].loglik_N
    server.fail(status, times=4, Retry_After="0")
    np.testing.assert_array_equal(score(server, concurrency=2).vectors[0].loglik_N, expected)


def test_a_server_that_restarts_is_waited_for(server: ServedModel) -> None:
    expected = score(server).vectors[0].loglik_N
    server.delay_s = 0.02
    restart = threading.Timer(0.1, lambda: (server.stop(), time.sleep(0.3), server.start()))
    restart.start()
    patient = RetryPolicy(attempts=1000, base_s=0.05, cap_s=0.1)
    np.testing.assert_array_equal(score(server, retry=patient, concurrency=1).vectors[0].loglik_N, expected)
    restart.join()


def test_a_server_that_stays_away_may_be_tried_again_later(server: ServedModel) -> None:
    server.fail(503, times=1000)
    with pytest.raises(TryAgainError, match="it answers 503"):
        score(server)
    server.stop()
    try:
        with pytest.raises(TryAgainError, match="cannot be reached"):
            score(server)
    finally:
        server.start()


def _choice(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def alter(answer: dict[str, Any]) -> dict[str, Any]:
        choice = answer["choices"][0]
        held = choice.get("prompt_logprobs") or (choice["logprobs"] or {}).get("tokens", ())
        if len(held) > 9:
            change(choice)
        return answer

    return alter


def _drop(choice: dict[str, Any]) -> None:
    if "prompt_logprobs" in choice:
        del choice["prompt_logprobs"][3]
    else:
        del choice["logprobs"]["tokens"][3], choice["logprobs"]["token_logprobs"][3]


def _reorder(choice: dict[str, Any]) -> None:
    for held in (
        [choice.get("prompt_logprobs")] if "prompt_logprobs" in choice else choice["logprobs"].values()
    ):
        held[2:8] = held[2:8][::-1]


def _undefined(choice: dict[str, Any]) -> None:
    if "prompt_logprobs" in choice:
        next(iter(choice["prompt_logprobs"][4].values()))["logprob"] = -9999.0
    else:
        choice["logprobs"]["token_logprobs"][4] = None


@pytest.mark.parametrize("dialect", ["vllm", "echo0", "echo1"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop, "were returned for"),
        (_reorder, "came back as|was returned without"),
        (_undefined, "has the log-probability"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_a_server_that_alters_tokens_fails_the_checkpoint(
    server: ServedModel, dialect: str, change: Callable[[dict[str, Any]], None], said: str, late: bool
) -> None:
    """At the probe, or only when the corpus is under way."""
    server.dialect = dialect
    alter = _choice(change)
    server.alter = lambda answer: answer if late and len(server.prompts) < 12 else alter(answer)
    with pytest.raises(KltuiError, match=said) as error:
        score(server, concurrency=1)
    assert not isinstance(error.value, TryAgainError)
    assert ("was not scored" in error.value.message) == late


def test_a_server_without_log_probabilities_is_told_what_was_tried(server: ServedModel) -> None:
    server.dialect = "none"
    with pytest.raises(
        KltuiError, match=r"does not return .* \(prompt_logprobs: .*; echo, 0 .*; echo, 1 "
    ) as error:
        score(server)
    assert "vLLM" in error.value.hint


def test_a_prompt_that_the_server_counts_otherwise_is_refused(server: ServedModel) -> None:
    server.dialect = "echo0"

    def longer(answer: dict[str, Any]) -> dict[str, Any]:
        answer["usage"]["prompt_tokens"] += 1
        return answer

    server.alter = longer
    with pytest.raises(KltuiError, match="it counted"):
        score(server)


def test_another_model_at_the_end_is_noticed(server: ServedModel) -> None:
    def change(answer: dict[str, Any]) -> dict[str, Any]:
        server.version = "1.0"
        return answer

    server.alter = change
    with pytest.raises(KltuiError, match="now serves a different model"):
        score(server)


def test_a_name_that_is_not_served_lists_those_that_are(server: ServedModel) -> None:
    with pytest.raises(KltuiError, match="does not serve the model other") as error:
        ServedClient(ServedSource(server.url, "other"), retry=SOON).facts()
    assert "org/model" in error.value.hint
    with pytest.raises(KltuiError, match="nothing at"):
        ServedClient(ServedSource(server.url + "/wrong", "org/model"), retry=SOON).facts()


def test_the_key_is_sent_and_never_shown(server: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    server.key = "s3cret"
    with pytest.raises(KltuiError, match="refuses a request without a key"):
        score(server)
    with pytest.raises(KltuiError, match="KLTUI_TEST_KEY is not set"):
        score(server, api_key_env="KLTUI_TEST_KEY")
    monkeypatch.setenv("KLTUI_TEST_KEY", "wrong")
    with pytest.raises(KltuiError, match="refuses the key in KLTUI_TEST_KEY") as error:
        score(server, api_key_env="KLTUI_TEST_KEY")
    assert "wrong" not in str(error.value)
    monkeypatch.setenv("KLTUI_TEST_KEY", "s3cret")
    result = score(server, api_key_env="KLTUI_TEST_KEY")
    assert "s3cret" not in repr(result) and np.isfinite(result.vectors[0].loglik_N).any()


@pytest.mark.parametrize("held", ["s3cret\r", " s3cret\n", "s3\ncret", "s3cret\u20ac"])
def test_no_error_shows_a_key_that_cannot_be_sent(
    server: ServedModel, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    server.key = "s3cret"
    monkeypatch.setenv("KLTUI_TEST_KEY", held)
    if held.strip() == server.key:
        assert np.isfinite(score(server, api_key_env="KLTUI_TEST_KEY").vectors[0].loglik_N).any()
        return
    with pytest.raises(KltuiError, match="KLTUI_TEST_KEY contains characters") as error:
        score(server, api_key_env="KLTUI_TEST_KEY")
    assert "s3" not in str(error.value) + error.value.hint


def test_a_server_that_takes_no_tokens_for_no_limit_is_asked_for_one(server: ServedModel) -> None:
    """As llama.cpp's Python library does: it would write to the end of its context for every text."""
    server.dialect = "echo0"
    expected = score(server).vectors[0].loglik_N

    def unlimited(answer: dict[str, Any]) -> dict[str, Any]:
        held, usage = answer["choices"][0]["logprobs"], answer["usage"]
        if held and not usage["completion_tokens"]:
            held["tokens"] += ["z"] * 50
            held["token_logprobs"] += [-1.0] * 50
            usage["completion_tokens"] = 50
        return answer

    server.alter = unlimited
    found = score(server)
    np.testing.assert_array_equal(found.vectors[0].loglik_N, expected)
    assert found.key["dialect"] == "echo, 1 generated"


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None, "completion_tokens": None}])
@pytest.mark.parametrize("dialect", ["vllm", "echo0", "echo1"])
def test_a_server_that_counts_nothing_is_scored(server: ServedModel, dialect: str, usage: Any) -> None:
    server.dialect = dialect
    expected = score(server, list(TEXTS[:4])).vectors[0].loglik_N
    server.alter = lambda answer: {**answer, "usage": usage}
    np.testing.assert_array_equal(score(server, list(TEXTS[:4])).vectors[0].loglik_N, expected)


def test_what_a_server_says_of_an_error_is_told(server: ServedModel) -> None:
    server.alter = lambda answer: {"error": {"message": "out of memory"}}
    with pytest.raises(KltuiError, match="out of memory"):
        score(server)


def test_a_web_page_is_not_waited_for(server: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "<!doctype html><title>Log in</title>"
    monkeypatch.setattr("served_server.json.dumps", lambda answer: page)
    with pytest.raises(KltuiError, match="a web page") as error:
        ServedClient(ServedSource(server.url, "org/model"), retry=SOON).facts()
    assert not isinstance(error.value, TryAgainError)


def test_a_redirect_does_not_carry_the_key_elsewhere(
    server: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLTUI_TEST_KEY", "s3cret")
    server.fail(302, times=1000, Location=server.url + "/completions")
    with pytest.raises(KltuiError, match="302"):
        score(server, api_key_env="KLTUI_TEST_KEY")
    assert not [h for h in server.headers if h.get("authorization") != "Bearer s3cret"]


def test_what_stands_for_weights_outlives_a_restart() -> None:
    facts = ServerFacts("m", "root", "vllm", "0.9")
    assert served_weights(facts, "t") == served_weights(
        ServerFacts("m", "root", "vllm", "0.9", context=99), "t"
    )
    others = [
        ServerFacts("m2", "root", "vllm", "0.9"),
        ServerFacts("m", "other", "vllm", "0.9"),
        ServerFacts("m", "root", "vllm", "1.0"),
    ]
    assert len({served_weights(f, "t") for f in (facts, *others)} | {served_weights(facts, "u")}) == 5


def test_layers_of_a_served_model_are_told_to_be_none(server: ServedModel) -> None:
    result = score(server, layers="all")
    assert "layer vectors are not available" in result.no_layers and len(result.vectors) == 1


def test_a_server_that_takes_no_token_ids_is_refused_at_once(server: ServedModel) -> None:
    """As llama-cpp-python says it: with status 500, which is otherwise waited for."""
    server.refusal = {"error": {"message": "5 validation errors: Input should be a valid string"}}
    server.fail(500, times=1000)
    with pytest.raises(KltuiError, match="does not return") as error:
        score(server)
    assert not isinstance(error.value, TryAgainError) and len(server.headers) == len(DIALECTS)


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("http://no-such-host.invalid/v1", "unknown host no-such-host.invalid"),
        ("https", "does not speak TLS"),
    ],
)
def test_what_no_waiting_mends_is_said_at_once(server: ServedModel, endpoint: str, said: str) -> None:
    if endpoint == "https":
        endpoint = server.url.replace("http:", "https:")
    waits: list[float] = []
    client = ServedClient(ServedSource(endpoint, "org/model"), retry=RetryPolicy(sleep=waits.append))
    with pytest.raises(KltuiError, match=said) as error:
        client.facts()
    assert not isinstance(error.value, TryAgainError) and error.value.hint and not waits


def test_a_certificate_that_nobody_trusts_is_said_at_once(
    server: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = ssl.SSLCertVerificationError(1, "certificate verify failed")
    wrong.verify_message = "self-signed certificate"
    client = ServedClient(ServedSource(server.url, "org/model"), retry=SOON)

    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError(wrong)

    monkeypatch.setattr(client._opener, "open", refuse)
    with pytest.raises(KltuiError, match=r"certificate is not trusted \(self-signed") as error:
        client.facts()
    assert not isinstance(error.value, TryAgainError) and "SSL_CERT_FILE" in error.value.hint


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_not_waited_for(server: ServedModel, status: int) -> None:
    server.fail(status, times=99)
    with pytest.raises(KltuiError, match=str(status)) as error:
        score(server, retry=RetryPolicy(sleep=lambda s: pytest.fail("it was waited for")))
    assert not isinstance(error.value, TryAgainError)


@pytest.mark.parametrize("dialect", ["echo0", "echo1"])
def test_entries_of_the_vocabulary_are_as_good_as_texts(server: ServedModel, dialect: str) -> None:
    """Some servers echo `Ġthe` for ` the`; one that echoes another id's entry is refused."""
    from tokenizers import Tokenizer

    core = Tokenizer.from_file(str(server.folder / "tokenizer.json"))
    server.dialect = dialect
    truth_N = score(server).vectors[0].loglik_N
    shift = 0

    def spelt(answer: dict[str, Any]) -> dict[str, Any]:
        sent, held = server.prompts[-1], answer["choices"][0]["logprobs"]
        if held is None:
            return answer
        held["tokens"][: len(sent)] = [core.id_to_token((i + shift) % core.get_vocab_size()) for i in sent]
        return answer

    server.alter = spelt
    np.testing.assert_array_equal(score(server, concurrency=1).vectors[0].loglik_N, truth_N)
    shift = 1
    with pytest.raises(KltuiError, match="came back as"):
        score(server, concurrency=1)
