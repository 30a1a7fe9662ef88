"""Pairs as token ids: the prompt is context, and the ids of the response are scored (docs/answers.md)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kltui.corpus.corpus import Prompt
from kltui.errors import KltuiError
from kltui.scoring import chat
from kltui.scoring.batching import Ids, Piece, cut_pieces, rolling
from kltui.scoring.settings import ScoringSettings
from kltui.scoring.tokenizer_backends import Backend
from kltui.scoring.tokens import Tokenizer


@dataclass(frozen=True)
class ScoredRows:
    """Rows of ids that a model reads, and the first scored position of each.

    If there are pairs, their `n_pairs` rows are followed, if requested, by the same responses without a prompt. `key` has
    additional fields of the vector's key, and `template_note` is for the user, or "".
    """

    ids: list[Ids]
    firsts: list[int]
    n_pairs: int = 0
    key: dict[str, str] = field(default_factory=dict)
    template_note: str = ""


def laid_out(
    folder: Path, tokenizer: Tokenizer, ids: list[Ids], prompts: Sequence[Prompt], settings: ScoringSettings
) -> ScoredRows:
    """The rows to score: texts as they are, or prompts (formatted with the chat template of the tokenizer in `folder`) followed by responses.

    `ids` are those of the texts, each with the prefix of an independent text. A response is tokenised separately from its
    prompt, so that l(y | x) and l(y) have the same ids.
    """
    if not prompts:
        return ScoredRows(ids, [tokenizer.first_scored] * len(ids))
    n_prefix, note = len(tokenizer.prefix), ""
    key: dict[str, str] = {"kind": "pairs", "template": settings.template}
    if settings.template == "chat":
        found = chat.find_template(folder)
        contexts, note = _by_template(found, tokenizer, prompts, settings.bos)
        key["chat_template"] = found.sha256
    else:
        texts = ["\n".join(content for _, content in prompt) for prompt in prompts]
        contexts = [[*tokenizer.prefix, *row] for row in tokenizer.backend.ids(texts)]
    rows = [
        np.concatenate((np.array(context, dtype=np.int64), response[n_prefix:]))
        for context, response in zip(contexts, ids, strict=True)
    ]
    firsts = [max(1, len(context)) for context in contexts]
    if settings.unconditional:
        rows, firsts = rows + ids, firsts + [tokenizer.first_scored] * len(ids)
    return ScoredRows(rows, firsts, len(prompts), key, note)


def _by_template(
    template: chat.ChatTemplate, tokenizer: Tokenizer, prompts: Sequence[Prompt], bos: str
) -> tuple[list[list[int]], str]:
    """(ids of the prompts formatted by the template, the template's note); under the BOS policy, "auto" leaves it to the template."""
    backend = tokenizer.backend
    specials = sorted(backend.specials, key=len, reverse=True)
    written = chat.write(template, prompts, specials)
    rows = _ids(backend, written, specials)
    begin = backend.bos
    if bos == "always":
        assert begin is not None  # otherwise the policy was rejected before
        rows = [row if row[:1] == [begin] else [begin, *row] for row in rows]
    if bos == "never":
        rows = [row[1:] if row[:1] == [begin] else row for row in rows]
    return rows, written.note


def _ids(backend: Backend, written: chat.Written, specials: Sequence[str]) -> list[list[int]]:
    """Ids of formatted prompts: special-token strings are special tokens in the template, and plain text in the contents."""
    plain = [text for text in written.texts if written.sentinel not in text]
    rows = iter(backend.ids(plain, special=True))
    return [
        _apart(backend, text, specials, written.sentinel) if written.sentinel in text else next(rows)
        for text in written.texts
    ]


def _apart(backend: Backend, text: str, specials: Sequence[str], sentinel: str) -> list[int]:
    """Ids of one prompt whose contents contain special-token strings, marked by the sentinel, which become plain text."""
    pattern = "|".join(map(re.escape, specials))
    parts = re.split(f"({pattern})", text)
    ids: list[int] = []
    for part in filter(None, parts):
        if part in specials:
            ids += backend.ids([part], special=True)[0]
        else:
            ids += backend.ids([part.replace(sentinel, "")])[0]
    return ids


def cut(scored: ScoredRows, context: int | None, overlong: str, window: int | None = None) -> list[Piece]:
    """Pieces of all rows by the length policy. Of pairs, the prompt is cut from the left, and the response never.

    Raises KltuiError if a row is too long under `overlong = "error"`, or a response is too long for "truncate".
    """
    lengths = [len(row) for row in scored.ids]
    if not scored.n_pairs:
        first = scored.firsts[0] if scored.firsts else 1
        return cut_pieces(lengths, first, context, overlong, window)
    too_long = overlong_rows(scored, context)
    if too_long and overlong == "error":
        raise _too_long(scored, too_long, context)
    pieces: list[Piece] = []
    for row, (length, first) in enumerate(zip(lengths, scored.firsts, strict=True)):
        if row in too_long:
            assert context is not None
            pieces += _shortened(scored, row, length, first, context, overlong, window or context)
        elif length > first:
            pieces.append(Piece(row, 0, length, first))
    return pieces


def overlong_rows(scored: ScoredRows, context: int | None) -> set[int]:
    """Indices of rows with more ids than the context."""
    return {i for i, row in enumerate(scored.ids) if context is not None and len(row) > context}


def _shortened(
    scored: ScoredRows, row: int, length: int, first: int, context: int, overlong: str, window: int
) -> list[Piece]:
    if overlong == "window":
        return rolling(row, length, first, window)
    start = length - context
    if start >= first:
        pair = row % scored.n_pairs
        raise KltuiError(
            f"the response of pair {pair} has {length - first} tokens, and the model's context is {context}, so"
            " cutting the prompt is not enough",
            'set overlong = "window" (every token scored once), or remove that pair',
        )
    return [Piece(row, start, length, first)]


def _too_long(scored: ScoredRows, rows: set[int], context: int | None) -> KltuiError:
    worst = max(rows, key=lambda i: len(scored.ids[i]))
    n = len({row % scored.n_pairs for row in rows})
    return KltuiError(
        f"{n} of {scored.n_pairs} pairs have more tokens than the model's context of {context};"
        f" pair {worst % scored.n_pairs} has {len(scored.ids[worst])}",
        'set overlong = "truncate" or "window" in [scoring]: both cut the prompt from the left, never the response',
    )


def notes(scored: ScoredRows, n_scored_R: NDArray[np.int32], n_overlong: int, overlong: str) -> list[str]:
    """Notes on rows without a token to score, and on `n_overlong` texts or pairs that are longer than the context.

    `n_scored_R` is the number of scored tokens per row.
    """
    said: list[str] = []
    if not scored.n_pairs:
        if n := int((n_scored_R == 0).sum()):
            said.append(f"{n} of {len(n_scored_R)} texts have no token to score and are NaN")
        if n_overlong:
            done = "scored in windows" if overlong == "window" else "cut to the context"
            texts, were = ("1 text is", "was") if n_overlong == 1 else (f"{n_overlong} texts are", "were")
            said.append(f"{texts} longer than the model's context and {were} {done}")
        return said
    n_pairs = scored.n_pairs
    said += [scored.template_note] if scored.template_note else []
    for what, part in (("responses", n_scored_R[:n_pairs]), ("responses alone", n_scored_R[n_pairs:])):
        if n := int((part == 0).sum()):
            said.append(f"{n} of {n_pairs} {what} have no token to score and are NaN")
    if n_overlong:
        way = (
            "responses that are too long by themselves were scored in windows"
            if overlong == "window"
            else "no response was cut"
        )
        said.append(
            f"{n_overlong} pairs are longer than the model's context: prompts were cut from the left, {way}"
        )
    return said
