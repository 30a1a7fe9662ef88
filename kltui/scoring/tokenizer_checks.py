"""Checks whether a tokenizer fits its model and the corpus, and where transformers would have given other ids."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from kltui.errors import KltuiError
from kltui.scoring.batching import Ids
from kltui.scoring.tokenizer_backends import Backend

# Texts on which tokenizers often differ: spaces, digits, line ends, scripts, bytes, and special-token strings.
PROBE: tuple[str, ...] = (
    " leading and trailing ",
    "two  spaces,   three,\ttabs\t\tand  ",
    "In 2023 and 1234567 there were 3.14159 and 10,000,000.",
    "lines\nand\n\nmore\r\nof\n\n\n them\n",
    "def f(x):\n    return x  # 42\n",
    "日本語の文章と中文，한국어도。",
    "🙂👩‍👩‍👧 emoji, e\u0301 and é, \ufb01 ligature",
    "\u0000\u0007 control \u200b and \ufeff marks, \U0001f9ff",
    "<|endoftext|> and <s> and </s> and [MASK] and <unk>",
    "Don't; we'll 'tis 'S 'RE CamelCase HTTPServer snake_case",
    "x",
    "Ünïcode Straße naïve Ω≈ç√ ½ ²",
)
UNKNOWN_FAILS, UNKNOWN_NOTED = 0.5, 0.01
_SAMPLE = 200
_EVERY_BYTE = 256

Encode = Callable[[Backend], Sequence[Ids]]


def check_vocabulary(ids: Sequence[Ids], size: int | None) -> None:
    """Raises KltuiError if there are ids beyond the model's `size` vocabulary entries."""
    highest = max((int(row.max()) for row in ids if len(row)), default=0)
    if size is not None and highest >= size:
        raise KltuiError(
            f"the tokenizer gives id {highest}, but the model has {size} entries",
            "tokenizer and model do not match",
        )


def check_size(backend: Backend, size: int | None) -> None:
    """Raises KltuiError if a tokenizer is empty, or too small to belong to a model with `size` vocabulary entries."""
    n = backend.n_entries
    tiny = size is not None and (n * 100 < size or (n < _EVERY_BYTE and n * 10 < size))
    if n == 0 or tiny:
        seen = "an empty vocabulary" if n == 0 else f"{n} entries and the model {size}"
        raise KltuiError(
            f"the tokenizer has {seen}, so it cannot be the one used to train the model ({backend.source})",
            "put the model's own tokenizer.json next to its weights, or name a tokenizer in the [[models]] entry",
        )


def check_repeatable(backend: Backend) -> None:
    """Raises KltuiError if the same text gets different ids the second time."""
    first = backend.ids(PROBE)
    if any(backend.ids(PROBE) != first for _ in range(2)):
        raise KltuiError(
            "the tokenizer is random: it gives different ids for the same text each time",
            "switch its sampling off (enable_sampling in tokenizer_config.json), or use a tokenizer.json",
        )


def check_known(backend: Backend, ids: Sequence[Ids], texts: Sequence[str]) -> tuple[str, ...]:
    """A note on the part of the corpus that the tokenizer does not cover; an error if that is most of it.

    `ids` are bare: without the ids put before a text.
    """
    share, lost = _unknown_share(backend, ids), _lost_share(backend, ids, texts)
    said = f"{share:.0%} of the corpus's tokens are its <unk>" if share >= lost else ""
    said = said or f"it drops {lost:.0%} of the corpus's characters"
    if max(share, lost) >= UNKNOWN_FAILS:
        raise KltuiError(
            f"the tokenizer does not fit this corpus: {said}",
            "check that it is the model's own: put its tokenizer.json next to the weights, or name it in the [[models]] entry",
        )
    notes = (
        [f"the tokenizer does not cover all of this corpus: {said}"]
        if max(share, lost) > UNKNOWN_NOTED
        else []
    )
    if (changed := _changed_share(backend, ids, texts)) > UNKNOWN_NOTED:
        notes.append(
            f"the tokenizer changes {changed:.0%} of the corpus's characters (case, accents or form): the model is scored on"
            " the changed texts, which are easier to predict, so its loss is not comparable with that of others"
        )
    if (white := _white_share(backend, ids, texts)) > UNKNOWN_NOTED:
        notes.append(
            f"the tokenizer drops or changes white space, {white:.0%} of the corpus's characters (line ends, repeated spaces): they are"
            " not scored, so its loss is not comparable with that of others"
        )
    return tuple(notes)


def _unknown_share(backend: Backend, ids: Sequence[Ids]) -> float:
    """Share of all ids that are the unknown token."""
    total = sum(len(row) for row in ids)
    if backend.unknown is None or not total:
        return 0.0
    return sum(int((row == backend.unknown).sum()) for row in ids) / total


def _lost_share(backend: Backend, ids: Sequence[Ids], texts: Sequence[str]) -> float:
    """Share of the characters (without spaces) that are lost when ids are decoded, over a sample of the texts."""
    before = after = 0
    for text, decoded in _sampled(backend, ids, texts):
        before += len(text)
        after += min(len(text), len(decoded))
    return 1.0 - after / before if before else 0.0


def _changed_share(backend: Backend, ids: Sequence[Ids], texts: Sequence[str]) -> float:
    """Share of the characters that decoding returns in another case, without an accent or in another form, over a sample."""
    total = changed = 0
    for text, decoded in _sampled(backend, ids, texts):
        total += len(text)
        # a character and its parts are the same text
        before, after = (Counter(unicodedata.normalize("NFC", t)) for t in (text, decoded))
        gone, new = before - after, after - before
        for character, n in gone.items():
            plain = unicodedata.normalize("NFKD", character).casefold()[:1]
            changed += min(n, new[plain] or new[unicodedata.normalize("NFKC", character)])
    return changed / total if total else 0.0


def _white_share(backend: Backend, ids: Sequence[Ids], texts: Sequence[str]) -> float:
    """Share of the characters that are white space and do not come back from decoding, over a sample; not those at a text's ends."""
    total = lost = 0
    for text, decoded in _decoded(backend, ids, texts):
        before, after = (Counter(c for c in t.strip() if c.isspace()) for t in (text, decoded))
        total += len(text)
        lost += (before - after).total()
    return lost / total if total else 0.0


def _sampled(backend: Backend, ids: Sequence[Ids], texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(a text, the text of its ids), both without spaces, for a sample of the texts."""
    for text, decoded in _decoded(backend, ids, texts):
        yield "".join(text.split()), "".join(decoded.split())


def _decoded(backend: Backend, ids: Sequence[Ids], texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(a text, the text of its ids) for a sample of the texts."""
    for at in range(0, len(texts), max(1, len(texts) // _SAMPLE)):
        yield texts[at], backend.decode(ids[at].tolist())


def difference_notes(ours: Backend, other: Backend, encode: Encode) -> tuple[str, ...]:
    """Notes on differences between `ours` and `other`, transformers' class for the same files.

    `encode` returns the corpus's ids, without prefix, by a backend.
    """
    if other.sha256 == ours.sha256:
        return ()
    notes = []
    name = other.source
    corpus = _differing(encode(ours), encode(other))
    probe = sum(a != b for a, b in zip(ours.ids(PROBE), other.ids(PROBE), strict=True))
    if corpus[0] or probe:
        notes.append(
            f"ids are those of {ours.source}: {name} would give others for {corpus[0]} of {corpus[1]} texts"
            f" (and {probe} of {len(PROBE)} made to test it)"
        )
    if ours.frame()[0] != other.frame()[0]:
        notes.append(
            f"before a text {ours.source} puts {_words(ours.frame()[0])}, as is done here; {name} would put "
            f"{_words(other.frame()[0])}"
        )
    return tuple(notes)


def _differing(ours: Sequence[Ids], others: Sequence[Ids]) -> tuple[int, int]:
    return sum(not np.array_equal(a, b) for a, b in zip(ours, others, strict=True)), len(ours)


def _words(prefix: Sequence[int]) -> str:
    return f"id {', '.join(map(str, prefix))}" if prefix else "nothing"
