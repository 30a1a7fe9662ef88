"""Benchmark scores as people keep them: a table with a name and one column per task, or name, task, score rows."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kltui.corpus.files import read_whole
from kltui.importers.imported import Imported, ImportFormatError, lineage
from kltui.sanitize import safe_text

NAME_COLUMNS = ("name", "model", "model_name", "fullname", "checkpoint", "run")
_EXPECTED = (
    "expected a column name and one column per task, or the columns name, task, score; scores from 0 to 100"
)
Scores = dict[str, dict[str, float]]


def read_scores_csv(path: Path) -> Imported:
    """Scores of a .csv or .tsv with a header; an empty cell is no score."""
    text = read_whole(path).decode("utf-8-sig", errors="replace")
    try:
        table = csv.DictReader(
            io.StringIO(text, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ","
        )
        rows = list(table)
    except csv.Error as error:
        raise ImportFormatError(f"{safe_text(str(path))} is no table ({error})", _EXPECTED) from None
    columns = Counter(c.strip() for c in table.fieldnames or () if c)
    twice = [column for column, count in columns.items() if column and count > 1]
    if twice:
        raise ImportFormatError(
            f"{safe_text(str(path))} has two columns {safe_text(twice[0], 60)}", _EXPECTED
        )
    return _imported(path, rows)


def read_scores_json(path: Path, data: object) -> Imported:
    """Scores of a JSON value: {name: {task: score}}, or a list of objects with a name."""
    if isinstance(data, dict):
        if not all(isinstance(v, dict) for v in data.values()):
            raise ImportFormatError(f"{safe_text(str(path))} is no {{name: {{task: score}}}}", _EXPECTED)
        return _imported(path, [{**tasks, "name": name} for name, tasks in data.items()])
    assert isinstance(data, list)
    return _imported(path, data)


def are_scores(data: object) -> bool:
    """Whether a JSON value looks like scores and not like a list of texts."""
    if isinstance(data, dict):
        return True
    if not isinstance(data, list) or not data:
        return False
    return all(isinstance(r, dict) and _name_of(r) and not isinstance(r.get("text"), str) for r in data)


def _imported(path: Path, rows: Iterable[Mapping[str, Any]]) -> Imported:
    scores: Scores = {}
    for number, row in enumerate(rows, 1):
        column = _name_of(row)
        if column is None:
            raise ImportFormatError(f"{safe_text(str(path))}, row {number} names no model", _EXPECTED)
        held = scores.setdefault(lineage(str(row[column]).strip()).name, {})
        for task, value in _tasks(row, column):
            score = _number(value)
            if score is None:
                raise ImportFormatError(
                    f"{safe_text(str(path))}, row {number}: {safe_text(task, 60)} is "
                    f"{safe_text(repr(value), 60)}, no number",
                    _EXPECTED,
                )
            if not math.isfinite(score):
                continue
            if held.setdefault(task, score) != score:
                raise ImportFormatError(
                    f"{safe_text(str(path))}, row {number} gives {safe_text(str(row[column]), 60)} another "
                    f"{safe_text(task, 60)} than a row before",
                    "each model has one score a task",
                )
    # a column of other numbers, such as parameter counts, is no task
    odd = {t for tasks in scores.values() for t, score in tasks.items() if not 0.0 <= score <= 100.0}
    scores = {n: {t: s for t, s in tasks.items() if t not in odd} for n, tasks in scores.items()}
    scores = {name: tasks for name, tasks in scores.items() if tasks}
    if not scores:
        raise ImportFormatError(f"{safe_text(str(path))} holds no scores", _EXPECTED)
    left_out = ", ".join(safe_text(task, 40) for task in sorted(odd))
    notes = (f"left out, for scores lie between 0 and 100: {left_out}",) if odd else ()
    return Imported(scores=scores, notes=notes)


def _name_of(row: Mapping[str, Any]) -> str | None:
    """The column that names the model, None where there is none or it is empty."""
    lowered = {str(c).strip().lower(): c for c in row if c is not None}
    found = next((lowered[c] for c in NAME_COLUMNS if c in lowered), None)
    return found if found is not None and str(row[found] or "").strip() else None


def _tasks(row: Mapping[str, Any], name_column: str) -> list[tuple[str, Any]]:
    """(task, value) of one row; words in other columns (an architecture, a licence) are no scores."""
    lowered = {str(c).strip().lower(): c for c in row if c is not None}
    if {"task", "score"} <= lowered.keys():
        return [(str(row[lowered["task"]]).strip(), row[lowered["score"]])]
    cells = [(str(c).strip(), v) for c, v in row.items() if c is not None and c != name_column]
    return [(task, value) for task, value in cells if _number(value) is not None]


def _number(value: object) -> float | None:
    """The number in a cell, NaN for an empty one, None for anything else."""
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "nan", "na", "n/a", "-")):
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
