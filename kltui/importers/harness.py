"""Logged samples of lm-evaluation-harness: a rolling log-likelihood task gives a vector over its texts."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kltui.corpus.chunk import well_formed
from kltui.corpus.corpus import Corpus
from kltui.importers.harness_names import model_of
from kltui.importers.imported import Imported, ImportedVector, ImportFormatError, Texts
from kltui.importers.modelmap import json_lines
from kltui.importers.naming import released
from kltui.sanitize import safe_text

_EXPECTED = (
    "expected samples_TASK_DATE.jsonl of a task with output_type loglikelihood_rolling, by --log_samples"
)


SOURCE = "lm-eval"  # of these vectors (`ImportedVector.source`)


class OtherTaskError(ImportFormatError):
    """Raised for valid samples of a task that does not give one log-likelihood for each text."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """One document: its log-likelihood in nats, its text (None if not logged), and the filter applied to the value."""

    value: float
    text: str | None
    filter: str


def read_samples(path: Path, model: str = "") -> Imported:
    """One model's samples of a rolling task: log-likelihoods in nats over the documents' texts, by doc_id.

    The model is that of `model_of` unless `model` is given. Several filters repeat a document:
    the first counts. The harness scores the first token after a prefix token, so these vectors share no map with others.
    Raises OtherTaskError for another task, ImportFormatError for invalid samples.
    """
    found = _samples(path)
    docs = sorted(found)
    texts = [found[doc].text for doc in docs]
    notes = [f"{path.name}: scored by lm-evaluation-harness, first token after a prefix token"]
    absent = docs[-1] + 1 - len(docs)
    if absent:
        notes.append(f"{path.name}: {absent} of {docs[-1] + 1} documents are absent")
    if any(text is None for text in texts):
        if absent:
            raise ImportFormatError(
                f"{safe_text(str(path))} lacks documents and does not contain the texts, so the documents cannot be identified",
                _EXPECTED,
            )
        over = None
    else:
        whole = tuple(text for text in texts if text is not None)
        over = Texts(Corpus(whole, record={"source": path.name, "format": "lm-eval"}))
    loglik, odd = _values([found[doc] for doc in docs])
    notes += [f"{path.name}: {said}" for said in odd]
    point = released(model) if model else model_of(path)
    return Imported((ImportedVector(point, loglik, source=SOURCE, texts=over),), notes=tuple(notes))


def _values(samples: list[_Sample]) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], list[str]]:
    """(nats, NaN for texts that were not scored; notes on values that became NaN)."""
    infinite = [not math.isfinite(s.value) for s in samples]
    # The sum over no tokens is 0, which is not a log-likelihood: such a text is unscored. The samples do not count tokens, so that
    # the rare 0 of a probability that rounds to 1 cannot be told apart.
    empty = [not bad and (s.value == 0 or s.text == "") for s, bad in zip(samples, infinite, strict=True)]
    gone = [a or b for a, b in zip(infinite, empty, strict=True)]
    loglik = np.array([math.nan if out else s.value for s, out in zip(samples, gone, strict=True)])
    said = [f"{sum(infinite)} values are infinite or NaN: treated as unscored"] if any(infinite) else []
    said += (
        [
            f"{sum(empty)} texts are empty or have exactly 0 nats (a sum over no token, or a probability that rounds to 1): treated as unscored"
        ]
        if any(empty)
        else []
    )
    return loglik, said


def _samples(path: Path) -> dict[int, _Sample]:
    """{doc_id: its first sample}. Raises ImportFormatError if a document is repeated with another text, or with another value
    by the same filter.
    """
    found: dict[int, _Sample] = {}
    for number, row in json_lines(path):
        doc = row.get("doc_id")
        if type(doc) is not int or doc < 0:
            raise ImportFormatError(f"{safe_text(str(path))}, line {number} has no doc_id", _EXPECTED)
        sample = _Sample(_loglik(row, path, number), _text(row), str(row.get("filter", "none")))
        first = found.setdefault(doc, sample)
        if first.text != sample.text or (
            first.filter == sample.filter and not _same(first.value, sample.value)
        ):
            what = "with another text" if first.text != sample.text else "with another value"
            raise ImportFormatError(
                f"{safe_text(str(path))}, line {number}: document {doc} comes again {what}",
                "a file must contain one run of one task: split it",
            )
    if not found:
        raise ImportFormatError(f"{safe_text(str(path))} contains no samples", _EXPECTED)
    return found


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def _loglik(row: dict[str, object], path: Path, number: int) -> float:
    """The log-likelihood in a sample's responses, which are [[-12.5]], ["-12.5"] or [["(-12.5,)"]].

    Raises OtherTaskError if the first line has none, ImportFormatError if a later line has none.
    """
    value: object = row.get("filtered_resps", row.get("resps"))
    for _ in range(8):
        if isinstance(value, str):
            value = _literal(value)
        elif isinstance(value, list | tuple) and len(value) == 1:
            value = value[0]
        elif type(value) in (int, float):
            return _as_float(value)
        else:
            break
    kind = OtherTaskError if number == 1 else ImportFormatError
    raise kind(
        f"{safe_text(str(path))}, line {number} has no single log-likelihood among its responses", _EXPECTED
    )


def _as_float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:  # a whole number beyond all floats
        return math.nan


def _literal(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text[:200])
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _text(row: dict[str, object]) -> str | None:
    """The scored text: the first argument of the first request; None if it is not logged."""
    value = row.get("arguments")
    for _ in range(4):
        if isinstance(value, dict) and value:
            value = next(iter(value.values()))
        elif isinstance(value, list | tuple) and value:
            value = value[0]
    return well_formed(value) if isinstance(value, str) else None
