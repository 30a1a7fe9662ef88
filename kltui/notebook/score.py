"""Scores texts under one model without a workspace. This is the only part of `import kltui` that imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from kltui.corpus.chunk import well_formed
from kltui.corpus.corpus import Corpus, text_ids
from kltui.environment import check_scoring
from kltui.errors import UsageError
from kltui.jobs.place import entry_of
from kltui.jobs.single_model import job_of, score_alone
from kltui.notebook.vector import ScoredTexts
from kltui.scoring.settings import ScoreResult


def score(
    model: Any, texts: Iterable[str], tokenizer: Any = None, scoring: Mapping[str, Any] | None = None
) -> ScoredTexts:
    """The implementation of `kltui.score`."""
    check_scoring()
    scoring = dict(scoring or {})
    corpus, replaced = _corpus(texts)
    if isinstance(model, str | PathLike):
        name, result, _ = score_alone(_entry(model, tokenizer), corpus, scoring)
    else:
        name, result = type(model).__name__, _in_memory(model, tokenizer, corpus, scoring)
    return _scored(name, result, corpus, replaced)


def _entry(model: str | PathLike[str], tokenizer: Any) -> dict[str, Any]:
    """The `[[models]]` entry of a model on disk or on the hub. Raises UsageError if there is no such model."""
    entry = entry_of(str(model))
    if "endpoint" in entry:
        raise UsageError(
            f"kltui.score loads models, and {entry['endpoint']} is a server",
            "Score it with a job (kltui --batch).",
        )
    if tokenizer is None:
        return entry
    if not isinstance(tokenizer, str | PathLike):
        raise UsageError(
            "a tokenizer object needs a model object; a model in a folder uses the tokenizer in that folder",
            "Omit tokenizer, or name the folder or OWNER/NAME of one if the model has none.",
        )
    return {**entry, "tokenizer": str(tokenizer)}


def _corpus(texts: Iterable[str]) -> tuple[Corpus, int]:
    """(corpus of the texts, number of texts in which lone surrogates became U+FFFD). Raises UsageError unless all are strings."""
    if isinstance(texts, str | bytes | Mapping):
        raise UsageError(
            f"texts is of the type {type(texts).__name__}, not a list of strings",
            "Put a single text into a list: [text]",
        )
    try:
        found = list(texts)
    except TypeError:
        raise UsageError(
            f"texts is of the type {type(texts).__name__}, not a list of strings",
            'For example ["a text", "another"]',
        ) from None
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise UsageError(
                f"texts[{place}] is of the type {type(text).__name__}, not a string",
                "Every text must be a str.",
            )
    if not found:
        raise UsageError("texts is empty", "Give at least one text.")
    clean = tuple(map(well_formed, found))
    return Corpus(clean), sum(a is not b for a, b in zip(clean, found, strict=True))


def _in_memory(model: Any, tokenizer: Any, corpus: Corpus, scoring: Mapping[str, Any]) -> ScoreResult:
    """The result of scoring with a model object that is in memory."""
    settings = job_of({"path": "."}, scoring, Path("unused")).settings()
    from kltui.scoring.in_memory import score_in_memory

    return score_in_memory(model, tokenizer, corpus.texts, corpus.sha256, settings, frozenset(scoring))


def _scored(name: str, result: ScoreResult, corpus: Corpus, replaced: int) -> ScoredTexts:
    final = next(v for v in result.vectors if v.layer is None)
    said = (f"{replaced} texts had lone surrogates, which became U+FFFD",) if replaced else ()
    return ScoredTexts(
        name,
        final.loglik_N,
        final.n_scored_N,
        corpus.text_bytes,
        dict(result.key),
        (*said, *result.notes),
        {v.layer: v.loglik_N for v in result.vectors if v.layer is not None},
        result.token_logprobs,
        text_ids(corpus.texts),
    )
