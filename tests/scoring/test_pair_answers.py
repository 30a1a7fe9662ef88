"""Exact next-token KL of responses behind their prompts: against float64 loops, each model's template its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kltui.corpus.corpus import Prompt
from kltui.errors import KltuiError
from kltui.scoring.batching import Piece, cut_pieces, paired_pieces, rolling
from kltui.scoring.pair import exact_kl
from kltui.scoring.settings import ExactKL, ScoringSettings
from tests.chat_pairs import (
    CHATML,
    LLAMA3,
    PAIRS,
    PROMPTS,
    RESPONSES,
    TEMPLATES,
    core,
    ids_of_prompt,
    ids_of_response,
    model,
)
from tests.tiny_models import BEGIN, load_float64, write_model

CONTEXT = 256  # of the tiny models
LONG: tuple[Prompt, ...] = ((("user", "the quick fox " * 80),), *PROMPTS[:1])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models of one tokenizer that write their prompts in two ways."""
    root = tmp_path_factory.mktemp("answers")
    specials = [*TEMPLATES["chatml"][2], *TEMPLATES["llama3"][2]]
    a = model(root / "a", "llama", CHATML, specials)
    return a, model(root / "b", "gpt_neox", LLAMA3, specials)


def of_both(
    both: tuple[Path, Path], prompts: Any = PROMPTS, texts: Any = RESPONSES, **settings: Any
) -> ExactKL:
    chosen = ScoringSettings(**{"template": "chat", "device": "cpu", "batch_texts": 3, **settings})
    return exact_kl(*both, texts, "c", chosen, prompts=prompts)


def contexts_of(both: tuple[Path, Path], prompt: Prompt) -> list[list[int]]:
    return [ids_of_prompt(folder, prompt) for folder in both]


def true_sums(both: tuple[Path, Path], contexts: list[list[int]], response: list[int]) -> np.ndarray:
    """(KL(a, b), KL(b, a), same top, positions): a forward for every token of the response, in float64."""
    sums = np.zeros(4)
    networks = [load_float64(folder) for folder in both]
    for t in range(len(response)):
        with torch.no_grad():
            p, q = (
                network(input_ids=torch.tensor([row + response[:t]]), use_cache=False).logits[0, -1].double()
                for network, row in zip(networks, contexts, strict=True)
            )
        p, q = p.log_softmax(-1), q.log_softmax(-1)
        there, back = (p.exp() * (p - q)).sum(), (q.exp() * (q - p)).sum()
        sums += (float(there), float(back), float(p.argmax() == q.argmax()), 1)
    return sums


def check(found: ExactKL, text: int, truth: np.ndarray) -> None:
    assert found.forward_nats_N[text] == pytest.approx(truth[0], abs=2e-4)
    assert found.reverse_nats_N[text] == pytest.approx(truth[1], abs=2e-4)
    assert (found.same_top_N[text], found.n_scored_N[text]) == tuple(truth[2:])


def test_the_responses_tokens_alone_are_compared_each_behind_its_own_template(
    both: tuple[Path, Path],
) -> None:
    found = of_both(both)
    for k, (prompt, text) in enumerate(PAIRS):
        check(found, k, true_sums(both, contexts_of(both, prompt), ids_of_response(both[0], text)))
    assert found.n_scored_N[2] == len(ids_of_response(both[0], "x"))


@pytest.mark.parametrize("overlong", ["truncate", "window"])
def test_prompts_are_cut_from_the_left_for_each(both: tuple[Path, Path], overlong: str) -> None:
    texts = ("Two words and more", RESPONSES[0])
    with pytest.raises(KltuiError, match="1 of 2 pairs have more tokens"):
        of_both(both, LONG, texts)
    found = of_both(both, LONG, texts, overlong=overlong)
    for k, text in enumerate(texts):
        response = ids_of_response(both[0], text)
        room = CONTEXT - len(response) + (overlong == "window")
        check(found, k, true_sums(both, [row[-room:] for row in contexts_of(both, LONG[k])], response))


def test_windows_over_a_response_that_is_too_long_have_each_its_own_context(both: tuple[Path, Path]) -> None:
    text = "the lazy dog " * 90
    response = ids_of_response(both[0], text)
    assert len(response) > CONTEXT
    contexts = contexts_of(both, PROMPTS[1])
    assert len(contexts[0]) != len(contexts[1])
    found = of_both(both, PROMPTS[1:2], (text,), overlong="window")
    assert found.n_scored_N[0] == len(response)
    total = np.zeros(2)
    networks = [load_float64(folder) for folder in both]
    for t in range(len(response)):
        logp = []
        for network, context in zip(networks, contexts, strict=True):
            row, at = context + response, len(context) + t
            # rolling windows of CONTEXT inputs from the first target on
            start = len(context) + (t // CONTEXT) * CONTEXT
            stop = min(start + CONTEXT, len(row))
            with torch.no_grad():
                logits = network(input_ids=torch.tensor([row[max(0, stop - 1 - CONTEXT) : at]])).logits[0, -1]
            logp.append(logits.double().log_softmax(-1))
        p, q = logp
        total += (float((p.exp() * (p - q)).sum()), float((q.exp() * (q - p)).sum()))
    assert (found.forward_nats_N[0], found.reverse_nats_N[0]) == pytest.approx(tuple(total), abs=1e-3)


def test_without_a_template_contents_stand_as_they_are(tmp_path: Path) -> None:
    both = (
        write_model(tmp_path / "a", "llama", prepend_bos=True),
        write_model(tmp_path / "b", "opt", prepend_bos=True),
    )
    found = of_both(both, template="none")
    for k, (prompt, text) in enumerate(PAIRS):
        tokens = ids_of_response(both[0], "\n".join(content for _, content in prompt))
        begin = core(both[0]).token_to_id(BEGIN)
        check(found, k, true_sums(both, [[begin, *tokens]] * 2, ids_of_response(both[0], text)))
    with pytest.raises(KltuiError, match="no chat template"):
        of_both(both)


def targets(pieces: list[Piece], length: int) -> list[tuple[int, int]]:
    """(places from the end, first id that the model reads) of every target in order."""
    return [(length - t, p.start) for p in pieces for t in range(p.first, p.stop)]


def test_pieces_of_two_rows_are_parted_where_either_is() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        response, window = int(rng.integers(1, 40)), int(rng.integers(3, 15))
        lengths = [response + int(n) for n in rng.integers(1, 20, 2)]
        a, b = (rolling(0, n, n - response, window) for n in lengths)
        paired = paired_pieces(a, b, lengths[:1], lengths[1:])
        assert all(p.n_scored == q.n_scored for p, q in paired)
        for whole, parted, n in (
            (a, [p for p, _ in paired], lengths[0]),
            (b, [q for _, q in paired], lengths[1]),
        ):
            assert targets(parted, n) == targets(whole, n)
    same = cut_pieces([5, 1, 9], 1, None, "error")
    assert paired_pieces(same, same, [5, 1, 9], [5, 1, 9]) == [(p, p) for p in same]


def test_what_one_of_two_rows_does_not_score_is_left_out() -> None:
    # a template that writes nothing leaves the first token of the response without a context
    (pair,) = paired_pieces([Piece(0, 0, 4, 1)], [Piece(0, 0, 7, 3)], [4], [7])
    assert pair == (Piece(0, 0, 4, 1), Piece(0, 0, 7, 4))
