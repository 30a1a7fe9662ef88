"""A corpus from its source: items or chunks, drawn with a seed, with a record of every rule applied."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from kltui.corpus.chunk import check_chunk_bytes, kept_chunks
from kltui.corpus.corpus import Corpus
from kltui.corpus.read import read_items, source_format
from kltui.errors import KltuiError, UsageError
from kltui.safe import safe_text

# What is done with each odd text; stored with the corpus.
RULES = {
    "empty": "kept as an item (nothing to score: unscored, never 0); chunking makes none",
    "duplicates": "kept",
    "invalid_utf8": "each invalid sequence becomes U+FFFD",
    "lone_surrogates": "each becomes U+FFFD",
    "bom": "stripped at the start of a file, kept inside a JSON string",
    "crlf": "kept, no newline is changed",
    "one_token": "kept; unscored where nothing is left to score",
    "longer_than_context": "kept; scoring.overlong decides",
    "blank_lines": "passed over in .jsonl",
}

TEXT_MOST_CHARACTERS = 1 << 28

Text = tuple[str, str]  # text, domain


def load_corpus(
    source: Path | str,
    *,
    chunk: bool = False,
    max_bytes: int = 1024,
    min_bytes: int = 256,
    sample: int | None = None,
    seed: int = 42,
) -> Corpus:
    """The corpus of `source`: a .txt, folder, .jsonl, .json list, or "demo" (SPEC section 2).

    With `chunk` every item is a document and is cut; without it every item is a text as it stands (a .txt file is
    one item). `sample` draws that many without replacement, in the order of `random.Random(seed).sample`; the
    source is then read twice, so that only the drawn texts are ever in memory.
    """
    where: Path | Literal["demo"] = "demo" if source == "demo" else Path(source)
    settings: dict[str, object] = {
        "source": str(source), "format": source_format(where), "chunk": chunk,
        "max_bytes": max_bytes, "min_bytes": min_bytes, "sample": sample, "seed": seed,
    }  # fmt: skip
    if chunk:
        check_chunk_bytes(max_bytes, min_bytes)
    if sample is not None and sample < 1:
        raise UsageError(
            f"sample = {sample} draws no text", "Set sample to 1 or more, or leave it out to take all."
        )
    bounds = (max_bytes, min_bytes) if chunk else None
    seen: Counter[str] = Counter()
    texts = list(_texts(where, bounds, seen)) if sample is None else _drawn(where, bounds, seen, sample, seed)
    if not texts:
        raise _no_texts(where, bounds, seen)
    return _corpus(texts, seen, settings)


def _texts(
    source: Path | Literal["demo"], bounds: tuple[int, int] | None, seen: Counter[str]
) -> Iterator[Text]:
    """Every text of `source` with its domain: the kept chunks of each item, or the item itself."""
    for item in read_items(source, seen):
        parts = (_whole(item.pieces, source),) if bounds is None else kept_chunks(item.pieces, *bounds)
        for text in parts:
            seen["texts"] += 1
            yield text, item.domain


def _whole(pieces: Iterable[str], source: Path | Literal["demo"]) -> str:
    """The pieces as one text, unless it is longer than anything that is scored as one."""
    joined, length = [], 0
    for piece in pieces:
        joined.append(piece)
        length += len(piece)
        if length > TEXT_MOST_CHARACTERS:
            raise KltuiError(
                f"one text of {safe_text(str(source))} has more than {TEXT_MOST_CHARACTERS:,} characters",
                "Set chunk = true under [corpus]: it cuts documents into texts.",
            )
    return "".join(joined)


def _drawn(
    source: Path | Literal["demo"], bounds: tuple[int, int] | None, seen: Counter[str], sample: int, seed: int
) -> list[Text]:
    """`sample` texts in the order drawn; equal to `random.Random(seed).sample(all_texts, sample)`."""
    n_texts = sum(1 for _ in _texts(source, bounds, seen))
    if n_texts < sample:
        what = "chunks" if bounds else "texts"
        raise KltuiError(
            f"sample = {sample} asks for more than the {n_texts} {what} of {safe_text(str(source))}",
            f"Set sample to at most {n_texts}, or leave it out to take all.",
        )
    drawn = random.Random(seed).sample(range(n_texts), sample)
    rank = {index: place for place, index in enumerate(drawn)}
    found: dict[int, Text] = {}
    for index, text in enumerate(_texts(source, bounds, Counter())):
        if index in rank:
            found[rank[index]] = text
    if len(found) < sample:
        raise KltuiError(
            f"{safe_text(str(source))} changed while it was read", "Let its writer finish, then run again."
        )
    return [found[place] for place in range(sample)]


def _no_texts(
    source: Path | Literal["demo"], bounds: tuple[int, int] | None, seen: Counter[str]
) -> KltuiError:
    where = safe_text(str(source))
    if bounds is None or not seen["items"]:
        return KltuiError(f"{where} holds no text", "A corpus needs at least one item.")
    return KltuiError(
        f"None of the {seen['items']} documents in {where} gives a chunk of more than {bounds[1]} bytes",
        "Lower min_bytes, or set chunk = false to take every item as a text as it stands.",
    )


def _corpus(texts: list[Text], seen: Counter[str], settings: dict[str, object]) -> Corpus:
    """The corpus with its record: settings, rules, counts over everything read, counts over the texts in use."""
    bodies = tuple(text for text, _ in texts)
    domains = tuple(domain for _, domain in texts)
    read_names = ("items", "texts", "invalid_utf8", "lone_surrogates", "bom_stripped", "blank_lines")
    record = {**settings, "rules": dict(RULES), "read": {name: seen[name] for name in read_names}}
    corpus = Corpus(bodies, domains if any(domains) else (), record)
    record["in_use"] = {
        "texts": len(bodies),
        "mean_bytes": float(corpus.text_bytes.mean()),
        "empty": sum(not text for text in bodies),
        "duplicates": len(bodies) - len(set(bodies)),
        "crlf": sum("\r\n" in text for text in bodies),
    }
    return corpus
