"""Loads a corpus from its source: items or chunks, sampled with a seed, with a record of how it was done."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kltui.corpus.chunk import check_chunk_bytes, kept_chunks
from kltui.corpus.corpus import Corpus, Prompt
from kltui.corpus.read import Fields, read_items
from kltui.corpus.sources import SourceFiles, kinds_seen, source_files
from kltui.errors import KltuiError, UsageError
from kltui.sanitize import safe_text

# What is done with irregular texts; stored with the corpus.
RULES = {
    "empty": "kept as an item (nothing to score: unscored, never 0); chunking makes none",
    "duplicates": "kept",
    "invalid_utf8": "each invalid sequence becomes U+FFFD",
    "lone_surrogates": "each becomes U+FFFD",
    "bom": "stripped at the start of a file, kept inside a JSON string",
    "crlf": "kept, no newline is changed",
    "one_token": "kept; unscored where nothing is left to score",
    "longer_than_context": "kept; scoring.overlong decides",
    "blank_lines": "skipped in .jsonl, .csv and .tsv",
    "null_rows": "skipped in .parquet where the text is null",
}

# (part of the record, count in it, message) of what is reported when a job is planned.
_REPORTED = (
    ("in_use", "empty", "{n} of the texts {are} empty, and not scored"),
    ("in_use", "duplicates", "{n} of the texts {repeat} another one: errors count it once"),
    ("in_use", "nul", "{n} of the texts {have} NUL characters: the source may not be text"),
    ("read", "invalid_utf8", "{n} of the source's items {have} invalid UTF-8 bytes, which become U+FFFD: the source may have another encoding"),
    ("read", "lone_surrogates", "{n} of the source's items {have} halves of characters (surrogates), which become U+FFFD"),
    ("read", "null_rows", "{n} of the source's rows {have} no text, and {are} skipped"),
    ("read", "parts_unread", "{n} of the source's pairs {have} more parts than prompt and response, or messages (such as a system prompt, tools or reasoning): models do not see these"),
)  # fmt: skip
_SINGULAR = {"are": "is", "repeat": "repeats", "have": "has"}

TEXT_MAX_CHARACTERS = 1 << 28

Text = tuple[str, str, Prompt]  # text, domain, prompt (or ())


SAY_EVERY_S = 2.0


@dataclass
class _Reading:
    """A corpus while it is read: its files (None: the demo's), how rows are read, and counts of irregularities in `seen`."""

    source: Path | str
    files: SourceFiles | None
    fields: Fields
    bounds: tuple[int, int] | None
    say: Callable[[str], None]
    seen: Counter[str] = field(default_factory=Counter)
    said: float = field(default_factory=time.monotonic)

    @property
    def where(self) -> str:
        return safe_text(str(self.source))

    def texts(self, doing: str) -> Iterator[Text]:
        """Every text with its domain and prompt: the chunks of each item, or the item itself. `doing` begins lines of progress."""
        count = 0
        for item in read_items(self.files, self.seen, self.fields):
            parts = (
                (self._whole(item.pieces),) if self.bounds is None else kept_chunks(item.pieces, *self.bounds)
            )
            for text in parts:
                count += 1
                yield text, item.domain, item.prompt
            if time.monotonic() > self.said + SAY_EVERY_S:
                self.said = time.monotonic()
                self.say(f"{doing} {self.where}: {count:,} text{'s' * (count != 1)} so far")
        self.seen["texts"] += count

    def _whole(self, pieces: Iterable[str]) -> str:
        """The pieces joined to one text. Raises KltuiError if it has more than TEXT_MAX_CHARACTERS."""
        joined, length = [], 0
        for piece in pieces:
            joined.append(piece)
            length += len(piece)
            if length > TEXT_MAX_CHARACTERS:
                raise KltuiError(
                    f"one text of {self.where} has more than {TEXT_MAX_CHARACTERS:,} characters",
                    "Set chunk = true under [corpus]: it cuts documents into texts.",
                )
        return "".join(joined)

    def drawn(self, sample: int, seed: int) -> list[Text]:
        """`sample` texts, equal to `random.Random(seed).sample(all_texts, sample)`. Raises KltuiError if there are too few."""
        n_texts = sum(1 for _ in self.texts("counting"))
        if n_texts < sample:
            what = "chunks" if self.bounds else "texts"
            raise KltuiError(
                f"sample = {sample} is more than the {n_texts} {what} of {self.where}",
                f"Set sample to at most {n_texts}, or leave it out to take all.",
            )
        drawn = random.Random(seed).sample(range(n_texts), sample)
        rank = {index: place for place, index in enumerate(drawn)}
        found: dict[int, Text] = {}
        counted, self.seen = self.seen, Counter()  # the second reading would count everything twice
        for index, text in enumerate(self.texts("drawing from")):
            if index in rank:
                found[rank[index]] = text
        self.seen = counted
        if len(found) < sample:
            raise KltuiError(
                f"{self.where} changed while it was being read", "Wait until it is complete, then run again."
            )
        return [found[place] for place in range(sample)]


def load_corpus(
    source: Path | str,
    *,
    chunk: bool = False,
    max_bytes: int = 1024,
    min_bytes: int = 256,
    sample: int | None = None,
    seed: int = 42,
    fields: Fields | None = None,
    template: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> Corpus:
    """The corpus of `source` (SPEC section 2): a file, a folder, a pattern of files, hf://datasets/..., or "demo".

    With `chunk` every item is a document and is cut; without it every item is a text as it stands (a .txt file is
    one item). `sample` draws that many without replacement, in the order of `random.Random(seed).sample`; the
    source is then read twice, so that only the drawn texts are ever in memory. `say` gets a line every other second.
    `template` says how prompts of pairs are written, for the record. Raises KltuiError if the source cannot be read or has no
    texts, and UsageError for invalid settings.
    """
    if chunk:
        check_chunk_bytes(max_bytes, min_bytes)
    if sample is not None and sample < 1:
        raise UsageError(
            f"sample = {sample} draws no text", "Set sample to 1 or more, or leave it out to take all."
        )
    fields = fields or Fields()
    files = None if source == "demo" else source_files(source, say)
    settings: dict[str, object] = {
        "source": str(source), "format": files.format if files else "demo", "chunk": chunk,
        "max_bytes": max_bytes, "min_bytes": min_bytes, "sample": sample, "seed": seed,
        "field": fields.text, "domain": fields.domain, "files": len(files.files) if files else 0,
        "commit": files.commit if files else "",
        "splits": files.splits if files else [],
        "left_out": [len(files.left_out), kinds_seen(files.left_out)] if files else [0, ""],
    }  # fmt: skip
    if fields.pairs:
        settings |= {"kind": "pairs", "template": template}
    reading = _Reading(source, files, fields, (max_bytes, min_bytes) if chunk else None, say)
    texts = list(reading.texts("reading")) if sample is None else reading.drawn(sample, seed)
    if not texts:
        raise _no_texts(reading)
    if fields.domain and not any(text[1] for text in texts):
        say(f'no text of {reading.where} has a domain in the field "{safe_text(fields.domain, 80)}"')
    return _corpus(texts, reading.seen, settings)


def _no_texts(reading: _Reading) -> KltuiError:
    items, bounds = reading.seen["items"], reading.bounds
    if bounds is None or not items:
        return KltuiError(f"{reading.where} contains no text", "A corpus needs at least one text.")
    return KltuiError(
        f"None of the {items} documents in {reading.where} gives a chunk of more than {bounds[1]} bytes",
        "Lower min_bytes, or set chunk = false to use every item as one text.",
    )


def _corpus(texts: list[Text], seen: Counter[str], settings: dict[str, object]) -> Corpus:
    """The corpus with its record: settings, rules, counts over everything read, counts over the texts in use."""
    bodies = tuple(text for text, _, _ in texts)
    domains = tuple(domain for _, domain, _ in texts)
    prompts = tuple(prompt for _, _, prompt in texts)
    read_names = (
        "items",
        "texts",
        "invalid_utf8",
        "lone_surrogates",
        "bom_stripped",
        "blank_lines",
        "null_rows",
        "parts_unread",
    )
    record = {**settings, "rules": dict(RULES), "read": {name: seen[name] for name in read_names}}
    corpus = Corpus(bodies, domains if any(domains) else (), record, prompts if any(prompts) else ())
    record["in_use"] = {
        "texts": len(bodies),
        "mean_bytes": float(corpus.text_bytes.mean()),
        "empty": sum(not text for text in bodies),
        "duplicates": len(bodies) - len(set(zip(bodies, prompts, strict=True))),
        "crlf": sum("\r\n" in text for text in bodies),
        "nul": sum("\0" in text for text in bodies),
    }
    return corpus


def odd_words(record: Mapping[str, object]) -> list[str]:
    """One line for each irregularity of a corpus that the user may not know of, from its record."""
    found = []
    in_use = record.get("in_use")
    match record.get("left_out"):
        case [int(n), str(kinds)] if n:
            found.append(f"{n:,} other files of the source's folder are not read ({kinds})")
    match record.get("splits"):
        case [*splits] if len(splits) > 1:
            named = ", ".join(map(str, splits))
            found.append(
                f"several splits ({named}) are read as one corpus: a pattern such as *train* selects one"
            )
    if isinstance(in_use, dict) and in_use.get("texts") == 1:
        whole = not record.get("chunk") and record.get("kind") != "pairs"
        way_out = ": chunk = true under [corpus] cuts it into texts" if whole else ""
        found.append(f"the corpus is a single text, but a KL is a variance over texts{way_out}")
    for part, name, words in _REPORTED:
        counts = record.get(part)
        n = counts.get(name, 0) if isinstance(counts, dict) else 0
        if n:
            found.append(words.format(n=f"{n:,}", **{v: _SINGULAR[v] if n == 1 else v for v in _SINGULAR}))
    return found
