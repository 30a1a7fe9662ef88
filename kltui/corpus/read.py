"""Source files read as a stream of items: one document each, with its domain, and a count of what was odd."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from kltui.corpus.chunk import well_formed
from kltui.corpus.files import open_regular, read_lines, read_whole
from kltui.errors import KltuiError
from kltui.safe import safe_text

Format = Literal["text", "folder", "jsonl", "json", "demo"]

BLOCK_BYTES = 1 << 20
MALFORMED_SHOWN = 5
FORMATS = 'Name a .txt file, a folder of .txt or .jsonl files, a .jsonl file, a .json list, or "demo".'
DOMAIN_FIELDS = ("domain", "pile_set_name")


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a source: the pieces that join to its text, and its domain ("" where it has none)."""

    pieces: Iterable[str]
    domain: str = ""


def source_format(source: Path | Literal["demo"]) -> Format:
    """Which reader a source takes, by its kind and suffix. Raises KltuiError for anything else."""
    if source == "demo":
        return "demo"
    try:
        if source.is_dir():
            return "folder"
        if not source.exists():
            raise KltuiError(f"There is no corpus at {safe_text(str(source))}", FORMATS)
    except OSError as error:
        raise KltuiError(
            f"{safe_text(str(source))} cannot be read: {error.strerror}", "Check its permissions."
        ) from error
    formats: dict[str, Format] = {".txt": "text", ".jsonl": "jsonl", ".json": "json"}
    found = formats.get(source.suffix.lower())
    if found is None:
        raise KltuiError(f"The format of {safe_text(str(source))} cannot be told from its name", FORMATS)
    return found


def read_items(source: Path | Literal["demo"], seen: Counter[str]) -> Iterator[Item]:
    """Items of `source` in their order; what is odd in them is added to `seen`. Holds one item at a time.

    Consume an item's pieces before asking for the next one.
    """
    if source == "demo":
        from kltui.demo.texts import corpus_items

        return (_item(item.text, item.domain, seen) for item in corpus_items())
    readers: dict[str, Callable[[Path, Counter[str]], Iterator[Item]]]
    readers = {"text": _read_txt, "folder": _read_folder, "jsonl": _read_jsonl, "json": _read_json}
    return _named_errors(readers[source_format(source)](source, seen), source)


def _named_errors(items: Iterator[Item], source: Path) -> Iterator[Item]:
    try:
        yield from items
    except OSError as error:
        where = safe_text(str(error.filename or source))
        raise KltuiError(
            f"{where} cannot be read: {error.strerror or error}", "Check the path and its permissions."
        ) from error


def _item(text: str, domain: str, seen: Counter[str]) -> Item:
    seen["items"] += 1
    clean = well_formed(text)
    seen["lone_surrogates"] += clean is not text
    return Item((clean,), domain)


def _read_folder(folder: Path, seen: Counter[str]) -> Iterator[Item]:
    """Every .txt and .jsonl file below `folder`, by relative path; the sub-folder of a .txt is its domain."""
    files = sorted(
        (p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.relative_to(folder).as_posix()
    )
    files = [p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    texts = [p for p in files if p.suffix.lower() in {".txt", ".jsonl"}]
    if not texts:
        suffixes = ", ".join(sorted({p.suffix or p.name for p in files})[:8]) or "nothing"
        raise KltuiError(
            f"No .txt or .jsonl file in {safe_text(str(folder))} (seen: {safe_text(suffixes, 200)})", FORMATS
        )
    for path in texts:
        if path.suffix.lower() == ".txt":
            parent = path.relative_to(folder).parent.as_posix()
            yield from _read_txt(path, seen, domain="" if parent == "." else parent)
        else:
            yield from _read_jsonl(path, seen)


def _read_txt(path: Path, seen: Counter[str], domain: str = "") -> Iterator[Item]:
    """The whole file as one item, its newlines untouched."""
    with open_regular(path) as file:
        seen["items"] += 1
        yield Item(_decoded(file, path, seen), domain)


def _decoded(file: BinaryIO, path: Path, seen: Counter[str]) -> Iterator[str]:
    """Pieces of a UTF-8 file: a leading BOM is stripped, each invalid sequence becomes U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    block = _without_bom(file.read(BLOCK_BYTES), path, seen)
    while True:
        try:
            yield decoder.decode(block, final=not block)
        except UnicodeDecodeError:
            decoder.errors = "replace"
            seen["invalid_utf8"] += 1
            yield decoder.decode(block, final=not block)
        if not block:
            return
        block = file.read(BLOCK_BYTES)


def _without_bom(head: bytes, path: Path, seen: Counter[str]) -> bytes:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise KltuiError(
            f"{safe_text(str(path))} is UTF-16 text, not UTF-8",
            "Convert it first: iconv -f UTF-16 -t UTF-8 OLD > NEW",
        )
    if head.startswith(codecs.BOM_UTF8):
        seen["bom_stripped"] += 1
        return head[len(codecs.BOM_UTF8) :]
    return head


def _decode(data: bytes, seen: Counter[str]) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        seen["invalid_utf8"] += 1
        return data.decode(errors="replace")


def _read_jsonl(path: Path, seen: Counter[str]) -> Iterator[Item]:
    """The "text" field of every line. Blank lines are passed over; malformed ones are all named in one error."""
    malformed: list[str] = []
    for number, line in read_lines(path):
        if number == 1:
            line = _without_bom(line, path, seen)
        if not line.strip():
            seen["blank_lines"] += 1
            continue
        row = _parse(_decode(line, seen))
        problem = _row_problem(row)
        if problem:
            malformed.append(f"line {number}: {problem}")
        elif not malformed:  # after the first one the rest is only counted
            yield _row_item(row, seen)
    _raise_malformed(path, malformed)


def _read_json(path: Path, seen: Counter[str]) -> Iterator[Item]:
    """The items of a JSON list: strings, or objects with a "text" field."""
    rows = _parse(_decode(_without_bom(read_whole(path), path, seen), seen))
    if not isinstance(rows, list):
        what = rows if isinstance(rows, _Malformed) else f"a JSON {_kind(rows)}"
        raise KltuiError(
            f"{safe_text(str(path))} is not a JSON list of texts: {what}",
            'It should read ["first text", "second text", ...]; one object per line belongs in a .jsonl file.',
        )
    problems = [(k, _row_problem(row)) for k, row in enumerate(rows) if not isinstance(row, str)]
    _raise_malformed(path, [f"item {k}: {problem}" for k, problem in problems if problem])
    for row in rows:
        yield _row_item(row, seen)


class _Malformed(str):
    """Why a line is no JSON."""


def _parse(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return _Malformed(f"not JSON ({error.msg} at column {error.colno})")
    except (ValueError, RecursionError) as error:
        return _Malformed(f"not JSON ({type(error).__name__})")


def _row_problem(row: object) -> str:
    """What keeps a row from being a text, "" if nothing does."""
    if isinstance(row, _Malformed):
        return row
    if not isinstance(row, dict):
        return f'a JSON {_kind(row)}, not an object with "text"'
    if "text" not in row:
        return f'no "text" field (has {safe_text(", ".join(map(str, list(row)[:6])), 80) or "none"})'
    if not isinstance(row["text"], str):
        return f'"text" is a JSON {_kind(row["text"])}, not a string'
    return ""


def _row_item(row: object, seen: Counter[str]) -> Item:
    if isinstance(row, dict):
        return _item(row["text"], _domain(row), seen)
    assert isinstance(row, str)
    return _item(row, "", seen)


def _domain(row: dict[str, object]) -> str:
    """The row's domain: `domain` or `pile_set_name`, at the top or (as the Pile has it) under `meta`."""
    meta = row.get("meta")
    for fields in (row, meta if isinstance(meta, dict) else {}):
        for name in DOMAIN_FIELDS:
            value = fields.get(name)
            if isinstance(value, str):
                return well_formed(value)
    return ""


def _kind(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _raise_malformed(path: Path, malformed: list[str]) -> None:
    if not malformed:
        return
    more = len(malformed) - MALFORMED_SHOWN
    shown = "; ".join(malformed[:MALFORMED_SHOWN]) + (f"; and {more} more" if more > 0 else "")
    raise KltuiError(
        f"{len(malformed)} malformed in {safe_text(str(path))}: {safe_text(shown)}",
        'Each item is an object with a "text" string, for example {"text": "..."}. Mend or remove these.',
    )
