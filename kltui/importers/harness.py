"""Logged samples of lm-evaluation-harness: a rolling log-likelihood task as vector and corpus."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import numpy as np

from kltui.corpus.corpus import Corpus
from kltui.importers.imported import Imported, ImportedVector, ImportFormatError, lineage
from kltui.importers.modelmap import json_lines
from kltui.safe import safe_text

_EXPECTED = (
    "expected samples_TASK_DATE.jsonl of a task with output_type loglikelihood_rolling, by --log_samples"
)


def read_samples(path: Path, model: str = "") -> Imported:
    """One model's samples of a rolling task, by doc_id: log-likelihoods in nats and, where logged, the texts.

    The model's name is the folder's ("__" stands for "/") unless given. Several filters repeat a document: the first
    counts. The harness scores the first token after a prefix token, so these vectors keep apart from others.
    """
    found: dict[int, tuple[float, str | None]] = {}
    for number, row in json_lines(path):
        doc = row.get("doc_id")
        if type(doc) is not int or doc < 0:
            raise ImportFormatError(f"{safe_text(str(path))}, line {number} has no doc_id", _EXPECTED)
        if doc not in found:
            found[doc] = (_loglik(row, path, number), _text(row))
    if not found:
        raise ImportFormatError(f"{safe_text(str(path))} holds no samples", _EXPECTED)
    n = max(found) + 1
    loglik = np.full(n, np.nan)
    for doc, (value, _) in found.items():
        loglik[doc] = value if math.isfinite(value) else math.nan
    texts = [found[d][1] if d in found else None for d in range(n)]
    notes = [f"{path.name}: scored by lm-evaluation-harness, first token after a prefix token"]
    if len(found) < n:
        notes.append(f"{path.name}: {n - len(found)} of {n} documents are absent")
    whole = [t for t in texts if t is not None]
    corpus = (
        Corpus(tuple(whole), record={"source": path.name, "format": "lm-eval"}) if len(whole) == n else None
    )
    name = model or path.parent.name.replace("__", "/")
    vector = ImportedVector(lineage(name), loglik, source="lm-eval")
    return Imported((vector,), corpus, notes=tuple(notes))


def _loglik(row: dict[str, object], path: Path, number: int) -> float:
    """The one number of a sample's responses: [[-12.5]], ["-12.5"] or [["(-12.5,)"]]."""
    value: object = row.get("filtered_resps", row.get("resps"))
    for _ in range(8):
        if isinstance(value, str):
            value = _literal(value)
        elif isinstance(value, list | tuple) and len(value) == 1:
            value = value[0]
        elif type(value) in (int, float):
            return float(value)  # type: ignore[arg-type]
        else:
            break
    raise ImportFormatError(
        f"{safe_text(str(path))}, line {number} has no single log-likelihood among its responses", _EXPECTED
    )


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
    """The scored text: the first argument of the first request."""
    value = row.get("arguments")
    for _ in range(4):
        if isinstance(value, dict) and value:
            value = next(iter(value.values()))
        elif isinstance(value, list | tuple) and value:
            value = value[0]
    return value if isinstance(value, str) else None
