"""The rows of a file, one at a time with their position: JSON lines, a JSON list, CSV, TSV or Parquet."""

from __future__ import annotations

import csv
import itertools
import json
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from kltui.corpus.files import COMPRESSED, open_regular, opened, read_lines, read_whole
from kltui.corpus.text_files import decode, without_bom
from kltui.errors import KltuiError
from kltui.sanitize import safe_text

Row = tuple[str, object]  # its position ("line 3"), and its value: an object, a string, or Malformed
Reader = Callable[[Path, Counter[str], Sequence[str]], Iterator[Row]]

MALFORMED_SHOWN = 5
CELL_MAX_CHARACTERS = 1 << 28
PARQUET_BATCH_ROWS = 256
DELIMITER_NAMES = {",": "commas", "\t": "tabs"}


class Malformed(str):
    """The reason why a row cannot be read."""


def kind_of(path: Path) -> str:
    """The suffix of a file before that of its compression, such as ".jsonl" for `a.jsonl.gz`."""
    name = path.name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return Path(name).suffix


def read_rows(path: Path, seen: Counter[str], columns: Sequence[str] = ()) -> Iterator[Row]:
    """Every row of a file, read according to its suffix, one of READERS; for a Parquet file only `columns`, if given.

    Unusual properties are added to `seen`. Raises KltuiError for a file that does not have the format of its suffix.
    """
    return READERS[kind_of(path)](path, seen, columns)


def value_at(row: object, name: str) -> object:
    """The value of the field `name` of a row, or of the nested field if the name is dotted; None if there is none.

    >>> value_at({"meta": {"set": "wiki"}}, "meta.set"), value_at({"a.b": 1}, "a.b"), value_at({}, "a.b")
    ('wiki', 1, None)
    """
    if not isinstance(row, dict):
        return None
    if name in row:
        return row[name]
    first, dot, rest = name.partition(".")
    return value_at(row.get(first), rest) if dot else None


def json_kind(value: object) -> str:
    """The JSON type of a value in words, such as "a JSON list"."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return f"a JSON {names.get(type(value), 'null')}"


def usable(
    rows: Iterable[Row], problem: Callable[[object], str], path: Path, example: str
) -> Iterator[object]:
    """The values of `rows` up to the first for which `problem` is not "". After the last row, raises KltuiError that counts
    the malformed rows, names the first MALFORMED_SHOWN of them, and has `example` as its hint.
    """
    malformed: list[str] = []
    for where, row in rows:
        wrong = str(row) if isinstance(row, Malformed) else problem(row)
        if wrong:
            malformed.append(f"{where}: {wrong}")
        elif not malformed:  # after the first one the rest is only counted
            yield row
    if malformed:
        more = len(malformed) - MALFORMED_SHOWN
        shown = "; ".join(malformed[:MALFORMED_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise KltuiError(f"{len(malformed)} malformed in {safe_text(str(path))}: {safe_text(shown)}", example)


def _json_lines(path: Path, seen: Counter[str], columns: Sequence[str]) -> Iterator[Row]:
    for number, line in read_lines(path):
        if number == 1:
            line = without_bom(line, path, seen)
        if not line.strip():
            seen["blank_lines"] += 1
            continue
        yield f"line {number}", _parsed(decode(line, seen))


def _json(path: Path, seen: Counter[str], columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a .json file: a list, or JSON lines, as C4 and Dolma name them."""
    with opened(path) as file:
        lines = file.read(len(BOM_UTF8) + 1).removeprefix(BOM_UTF8)[:1] == b"{"
    if lines:
        first = [row for _, row in itertools.islice(_json_lines(path, Counter(), columns), 2)]
        lines = len(first) == 2 and isinstance(first[0], dict)
    yield from (_json_lines if lines else _json_list)(path, seen, columns)


def _json_list(path: Path, seen: Counter[str], columns: Sequence[str]) -> Iterator[Row]:
    rows = _parsed(decode(without_bom(read_whole(path), path, seen), seen))
    if not isinstance(rows, list):
        what = rows if isinstance(rows, Malformed) else json_kind(rows)
        raise KltuiError(
            f"{safe_text(str(path))} is not a JSON list of texts: {what}",
            'It should read ["first text", "second text", ...]; one object per line belongs in a .jsonl file.',
        )
    for k, row in enumerate(rows):
        yield f"item {k}", row


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return Malformed(f"not JSON ({error.msg.removesuffix(' at')} at column {error.colno})")
    except (ValueError, RecursionError) as error:
        return Malformed(f"not JSON ({type(error).__name__})")


def _separated(delimiter: str) -> Reader:
    """The reader of a table whose first line has the column names; quoted values may contain delimiters and newlines."""

    def read(path: Path, seen: Counter[str], columns: Sequence[str]) -> Iterator[Row]:
        csv.field_size_limit(CELL_MAX_CHARACTERS)
        table = csv.reader(_lines(path, seen), delimiter=delimiter, strict=True)
        try:
            names = next((cells for cells in table if cells), [])
            if len(set(names)) < len(names):
                raise _no_table(path, "a column name occurs twice in its first line")
            if columns and names and columns[0] not in names:
                raise _no_column(
                    path,
                    names,
                    columns[0],
                    f"; the first line of such a file must have the column names, separated by {DELIMITER_NAMES[delimiter]}",
                )
            for cells in table:
                where = f"line {table.line_num}"
                if not cells:
                    seen["blank_lines"] += 1
                elif len(cells) != len(names):
                    yield where, Malformed(f"{len(cells)} values for {len(names)} names")
                else:
                    yield where, dict(zip(names, cells, strict=True))
        except csv.Error as error:
            raise _no_table(path, f"line {table.line_num}: {error}") from None

    return read


def _lines(path: Path, seen: Counter[str]) -> Iterator[str]:
    for number, line in read_lines(path):
        yield decode(without_bom(line, path, seen) if number == 1 else line, seen)


def _no_table(path: Path, why: str) -> KltuiError:
    return KltuiError(
        f"{safe_text(str(path))} cannot be read as a table: {safe_text(why, 200)}",
        "Its first line must name the columns; values that contain a quote, the delimiter or a newline must be quoted.",
    )


def _parquet(path: Path, seen: Counter[str], columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a Parquet file; a row whose first column of `columns`, the text, is null is skipped and counted."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise KltuiError(
            f"{safe_text(str(path))} is Parquet, which needs pyarrow",
            "pip install '.[corpora]' (in kltui's folder)",
        ) from None
    with open_regular(path) as file:
        try:
            table = parquet.ParquetFile(file)
            chosen = _chosen(path, table.schema_arrow.names, columns)
            number = 0
            for batch in table.iter_batches(PARQUET_BATCH_ROWS, columns=chosen, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    if columns and value_at(row, columns[0]) is None:
                        seen["null_rows"] += 1
                        continue
                    yield f"row {number}", row
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise KltuiError(
                f"{safe_text(str(path))} cannot be read as Parquet: {safe_text(str(error), 200)}",
                "Check that the file is complete and is a Parquet file.",
            ) from None


def _chosen(path: Path, names: Sequence[str], columns: Sequence[str]) -> list[str] | None:
    """The columns to read: `columns`, or the first parts of dotted names. Raises KltuiError if the first does not exist."""
    if not columns:
        return None
    found = [c if c in names else c.partition(".")[0] for c in columns]
    lost = [c for c, there in zip(columns, found, strict=True) if there not in names]
    if columns[0] in lost:
        raise _no_column(path, names, columns[0])
    return list(dict.fromkeys(there for there in found if there in names))


def _no_column(path: Path, names: Sequence[str], wanted: str, more: str = "") -> KltuiError:
    return KltuiError(
        f'{safe_text(str(path))} has no column "{safe_text(wanted, 80)}" (has {safe_text(", ".join(names), 200)})',
        f'Name the column of the texts: field = "..." under [corpus]{more}.',
    )


READERS: dict[str, Reader] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".parquet": _parquet,
}
