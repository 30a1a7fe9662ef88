"""Benchmark scores from a table with a name and one column per task, or with the columns name, task and score."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kltui.corpus.files import read_whole
from kltui.importers.imported import Imported, ImportFormatError, point_name
from kltui.registry.revisions import parse_step
from kltui.sanitize import safe_text

NAME_COLUMNS = ("name", "model", "model_name", "fullname", "checkpoint", "run")
STEP_COLUMNS = ("step", "global_step", "training_step", "revision")
_EXPECTED = (
    "expected a column name and one column per task, or the columns name, task, score; scores from 0 to 100"
)
Scores = dict[str, dict[str, float]]


def read_scores_csv(path: Path) -> Imported:
    """Scores of a .csv or .tsv with a header; an empty cell means no score, a step in a column of its own is the model's.

    Raises ImportFormatError.
    """
    text = read_whole(path).decode("utf-8-sig", errors="replace")
    try:
        table = csv.DictReader(
            io.StringIO(text, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ","
        )
        rows = list(table)
    except csv.Error as error:
        raise ImportFormatError(f"{safe_text(str(path))} is not a table ({error})", _EXPECTED) from None
    columns = Counter(c.strip() for c in table.fieldnames or () if c)
    twice = [column for column, count in columns.items() if column and count > 1]
    if twice:
        raise ImportFormatError(
            f"{safe_text(str(path))} has two columns {safe_text(twice[0], 60)}", _EXPECTED
        )
    return _imported(path, rows)


def read_scores_json(path: Path, data: object) -> Imported:
    """Scores of a JSON value: {name: {task: score}}, or a list of objects with a name. Raises ImportFormatError."""
    if isinstance(data, dict):
        if not all(isinstance(v, dict) for v in data.values()):
            raise ImportFormatError(f"{safe_text(str(path))} is not {{name: {{task: score}}}}", _EXPECTED)
        return _imported(path, [{**tasks, "name": name} for name, tasks in data.items()])
    assert isinstance(data, list)
    return _imported(path, data)


def are_scores(data: object) -> bool:
    """Whether a JSON value looks like scores rather than a list of texts."""
    if isinstance(data, dict):
        return True
    if not isinstance(data, list) or not data:
        return False
    return all(isinstance(r, dict) and _name_of(r) and not isinstance(r.get("text"), str) for r in data)


def _imported(path: Path, rows: Iterable[Mapping[str, Any]]) -> Imported:
    scores: Scores = {}
    rows = list(rows)
    for number, row in enumerate(rows, 1):
        if row.get(None):  # type: ignore[call-overload] # csv puts there what goes beyond the header
            raise ImportFormatError(
                f"{safe_text(str(path))}, row {number} has more cells than there are columns",
                "a comma within a cell, as in 45,3, needs quotes; decimals have a point. " + _EXPECTED,
            )
        column = _name_of(row)
        if column is None:
            raise ImportFormatError(f"{safe_text(str(path))}, row {number} has no model name", _EXPECTED)
        step_column, step = _step_of(row)
        name = str(row[column]).strip()
        held = scores.setdefault(point_name(name, None if "@" in name else step, "none", None), {})
        for task, value in _tasks(row, {column, step_column}):
            score = _number(value)
            if score is None:
                raise ImportFormatError(
                    f"{safe_text(str(path))}, row {number}: {safe_text(task, 60)} is "
                    f"{safe_text(repr(value), 60)}, which is not a number",
                    _EXPECTED,
                )
            if not math.isfinite(score):
                continue
            if held.setdefault(task, score) != score:
                raise ImportFormatError(
                    f"{safe_text(str(path))}, row {number} gives {safe_text(str(row[column]), 60)} a different "
                    f"{safe_text(task, 60)} than an earlier row",
                    "each model must have one score per task",
                )
    # A column with other numbers, such as parameter counts, is not a task.
    odd = {t for tasks in scores.values() for t, score in tasks.items() if not 0.0 <= score <= 100.0}
    scores = {n: {t: s for t, s in tasks.items() if t not in odd} for n, tasks in scores.items()}
    scores = {name: tasks for name, tasks in scores.items() if tasks}
    if not scores:
        raise ImportFormatError(f"{safe_text(str(path))} contains no scores", _EXPECTED)
    left_out = ", ".join(safe_text(task, 40) for task in sorted(odd))
    notes = (f"skipped, because scores must lie between 0 and 100: {left_out}",) if odd else ()
    return Imported(scores=scores, notes=(*notes, *_words_among_numbers(rows, scores), *_fractions(scores)))


def _words_among_numbers(rows: Sequence[Mapping[str, Any]], scores: Scores) -> list[str]:
    """A note on cells in columns of scores that are not numbers, such as "45.3%", and were skipped; [] if there are none."""
    tasks = {task for held in scores.values() for task in held}
    odd = [
        (number, str(c).strip(), value)
        for number, row in enumerate(rows, 1)
        for c, value in row.items()
        if str(c).strip() in tasks and _number(value) is None
    ]
    if not odd:
        return []
    number, task, value = odd[0]
    such = f"{safe_text(task, 40)} of row {number}, {safe_text(repr(value), 40)}"
    return [f"{len(odd)} cells are not numbers and were skipped, such as {such}"]


def _fractions(scores: Scores) -> list[str]:
    """A note on tasks whose scores are all 1 or less, and so are probably fractions, not percent; [] if there are none."""
    by_task: dict[str, list[float]] = {}
    for held in scores.values():
        for task, score in held.items():
            by_task.setdefault(task, []).append(score)
    small = [task for task, values in by_task.items() if max(values) <= 1.0 and any(v % 1 for v in values)]
    if not small:
        return []
    named = ", ".join(safe_text(task, 40) for task in sorted(small)[:6])
    return [
        f"no score of {named} is above 1: scores must be in percent, so multiply fractions by 100 and import again"
    ]


def _name_of(row: Mapping[str, Any]) -> str | None:
    """The column with the model's name; None if there is none or its cell is empty."""
    lowered = {str(c).strip().lower(): c for c in row if c is not None}
    found = next((lowered[c] for c in NAME_COLUMNS if c in lowered), None)
    return found if found is not None and str(row[found] or "").strip() else None


def _step_of(row: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """(the column with the training step of the row's model, the step); None for what there is not."""
    lowered = {str(c).strip().lower(): c for c in row if c is not None}
    column = next((lowered[c] for c in STEP_COLUMNS if c in lowered), None)
    value = row[column] if column is not None else None
    if isinstance(value, str) and parse_step(value.strip()) is not None:
        return column, parse_step(value.strip())
    number = _number(value)
    whole = number is not None and math.isfinite(number) and number >= 0 and number == int(number)
    return column, int(number) if whole and number is not None else None


def _tasks(row: Mapping[str, Any], others: Collection[str | None]) -> list[tuple[str, Any]]:
    """(task, value) of one row; cells without a number (an architecture, a licence) and the columns `others` are not scores."""
    lowered = {str(c).strip().lower(): c for c in row if c is not None}
    if {"task", "score"} <= lowered.keys():
        return [(str(row[lowered["task"]]).strip(), row[lowered["score"]])]
    cells = [(str(c).strip(), v) for c, v in row.items() if c is not None and c not in others]
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
