"""Reads source files as a stream of items, one document each with its domain, and counts irregularities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kltui.corpus.chunk import well_formed
from kltui.corpus.corpus import Prompt
from kltui.corpus.files import opened
from kltui.corpus.pairs import EXAMPLE, pairs_of
from kltui.corpus.rows import json_kind, kind_of, read_rows, usable, value_at
from kltui.corpus.sources import TEXT, SourceFiles
from kltui.corpus.text_files import decode, decoded
from kltui.errors import KltuiError
from kltui.sanitize import safe_text

# Fields in which a row's domain is looked for if the job names none; the Pile has it under `meta`.
DOMAIN_FIELDS = ("domain", "pile_set_name", "meta.domain", "meta.pile_set_name")


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One item of a source: the pieces of its text, its domain (or ""), and its prompt, if any."""

    pieces: Iterable[str]
    domain: str = ""
    prompt: Prompt = ()


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a row with its text and its domain (dotted names are nested); domain "": the first of DOMAIN_FIELDS.

    `pairs`: every row is a prompt and a response, which is the text.
    """

    text: str = "text"
    domain: str = ""
    pairs: bool = False

    def domain_of(self, row: object) -> str:
        """The domain that a row states, or "". If the field was named, a number is converted to text."""
        for name in (self.domain,) if self.domain else DOMAIN_FIELDS:
            value = value_at(row, name)
            if isinstance(value, str):
                return well_formed(value)
            if self.domain and isinstance(value, int | float):
                return str(value)
        return ""

    def problem(self, row: object) -> str:
        """Why a row has no text, in words; "" if it has one."""
        if not isinstance(row, dict):
            return f'{json_kind(row)}, not an object with "{safe_text(self.text, 80)}"'
        value = value_at(row, self.text)
        if isinstance(value, str | bytes):
            return ""
        if value is None and self.text not in row:
            has = safe_text(", ".join(map(str, list(row)[:6])), 80) or "none"
            return f'no "{safe_text(self.text, 80)}" field (has {has})'
        return f'"{safe_text(self.text, 80)}" is {json_kind(value)}, not a string'

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of a table that may be needed, the text's first."""
        return (self.text, *((self.domain,) if self.domain else DOMAIN_FIELDS))


def read_items(source: SourceFiles | None, seen: Counter[str], fields: Fields) -> Iterator[SourceItem]:
    """Items of `source` (None: the demo's) in order; irregularities are counted in `seen`.

    Only one item is in memory: consume an item's pieces before the next item. Raises KltuiError for malformed rows.
    """
    if source is None:
        from kltui.demo.texts import corpus_items

        yield from (_item(item.text, item.domain, seen) for item in corpus_items())
        return
    for path, domain in source.files:
        if fields.pairs:
            yield from _pairs(path, seen, fields)
        elif kind_of(path) == TEXT:
            yield from _whole_file(path, domain, seen)
        else:
            yield from _rows(path, seen, fields)


def _item(text: str, domain: str, seen: Counter[str]) -> SourceItem:
    seen["items"] += 1
    clean = well_formed(text)
    seen["lone_surrogates"] += clean is not text
    return SourceItem((clean,), domain)


def _whole_file(path: Path, domain: str, seen: Counter[str]) -> Iterator[SourceItem]:
    """The whole file as one item, with its newlines unchanged."""
    with opened(path) as file:
        seen["items"] += 1
        yield SourceItem(decoded(file, path, seen), domain)


def _pairs(path: Path, seen: Counter[str], fields: Fields) -> Iterator[SourceItem]:
    """The responses of a file's rows, each with its prompt."""
    if kind_of(path) == TEXT:
        raise KltuiError(f"{safe_text(str(path))} is plain text, and pairs need a file with rows", EXAMPLE)
    for prompt, response, row in pairs_of(read_rows(path, seen), seen, path):
        seen["items"] += 1
        yield SourceItem((response,), fields.domain_of(row), prompt)


def _rows(path: Path, seen: Counter[str], fields: Fields) -> Iterator[SourceItem]:
    """The texts of a file's rows; strings of a JSON list are texts themselves."""
    listed = kind_of(path) == ".json"

    def problem(row: object) -> str:
        return "" if listed and isinstance(row, str) else fields.problem(row)

    example = (
        f'Each item is an object with a "{safe_text(fields.text, 80)}" string, for example '
        f'{{"{safe_text(fields.text, 80)}": "..."}}. Fix or remove these, or name the field of the texts: '
        'field = "..." under [corpus].'
    )
    for row in usable(read_rows(path, seen, fields.columns), problem, path, example):
        value = row if isinstance(row, str) else value_at(row, fields.text)
        if isinstance(value, bytes):  # a Parquet column without a logical type
            value = decode(value, seen)
        yield _item(str(value), fields.domain_of(row), seen)
