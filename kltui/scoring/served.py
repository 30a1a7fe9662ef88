"""Scores a model behind a server: texts are sent as token ids, and their log-probabilities are returned."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kltui.corpus.corpus import Prompt
from kltui.errors import KltuiError, TryAgainError
from kltui.registry.checkpoint import ServedSource
from kltui.registry.retry import RetryPolicy
from kltui.sanitize import safe_text
from kltui.scoring import answers, tokens
from kltui.scoring.batching import Ids, Piece
from kltui.scoring.served_client import PATIENCE, Dialect, ServedClient, ServerFacts, UnusableAnswerError
from kltui.scoring.settings import Progress, ScoreResult, ScoringSettings, Vector

SERVED_VERSION = "1"
UNSEEN = "served: weights not seen"  # in notes and keys
N_PROBES = 3
_SHORT_TEXTS = ("A short text.", "The quick brown fox jumps over the lazy dog.", "One, two, three, four.")

Report = Callable[[Progress], None]


def served_weights(facts: ServerFacts, tokenizer: str) -> str:
    """The identity of a served model's weights in a vector's key: its server's description and the tokenizer's digest."""
    said = json.dumps([facts.identity(), tokenizer], sort_keys=True)
    return f"served:{safe_text(facts.model, 100)}@{hashlib.sha256(said.encode()).hexdigest()[:32]}"


@dataclass(frozen=True)
class _Rows:
    """A tokenised corpus, with rows for texts and possibly for responses without prompts; `pieces` are the requests.

    `longest` is the maximum number of ids in a request (None: no limit).
    """

    scored: answers.ScoredRows
    notes: tuple[str, ...]
    n_texts: int
    longest: int | None
    pieces: list[Piece]


def score_served(
    source: ServedSource,
    tokenizer_folder: Path,
    weights_key: str,
    texts: Sequence[str],
    corpus_sha256: str,
    settings: ScoringSettings,
    cache_dir: Path | None,
    progress: Report,
    retry: RetryPolicy = PATIENCE,
    prompts: Sequence[Prompt] = (),
) -> ScoreResult:
    """The vector of a served model: log-likelihoods in nats of every text, as for a local model with the same ids.

    Raises TryAgainError if the server does not respond, KltuiError if it drops, reorders or cuts tokens, or if it serves
    another model at the end than at the beginning.
    """
    started = time.perf_counter()
    progress(Progress("tokenize", texts_total=len(texts)))
    tokenizer = tokens.load_tokenizer(tokenizer_folder, settings.bos)
    bare, notes = tokens.encode_checked(tokenizer, texts, corpus_sha256, cache_dir)
    scored = answers.laid_out(tokenizer_folder, tokenizer, bare, prompts, settings)

    def say(line: str) -> None:
        progress(Progress("load", message=line))

    client = ServedClient(source, _spellings(tokenizer), retry)
    facts = client.facts(say)
    rows = _rows(scored, notes, len(texts), facts, settings)
    dialect = client.probe([_prompt(piece, scored.ids) for piece in _spread(rows.pieces)], say)
    ready = time.perf_counter()
    came = _answers(client, dialect, rows.pieces, scored.ids, len(scored.ids), progress)
    if client.facts(say).identity() != facts.identity():
        raise KltuiError(
            f"{client.where} now serves a different model than when scoring began",
            "Run the job again: nothing was stored.",
        )
    key = {
        "weights": weights_key, "corpus": corpus_sha256, **tokenizer.key(), "bos": settings.bos,
        "prefix": ",".join(map(str, tokenizer.prefix)), "overlong": settings.overlong,
        **scored.key, **_served_key(facts, dialect),
    }  # fmt: skip
    seconds = ready - started, time.perf_counter() - ready
    return _score_result(rows, came, key, settings, seconds, source.concurrency)


def asked_briefly(source: ServedSource, tokenizer_folder: Path | None, bos: str, timeout_s: float) -> str:
    """A description of a server: its model, version and context, and how it returns a prompt's log-probabilities.

    Three short prompts are sent, if the tokenizer is available. Raises TryAgainError without an answer within `timeout_s`
    seconds, KltuiError if the server's answers cannot be scored.
    """
    tokenizer = None if tokenizer_folder is None else tokens.load_tokenizer(tokenizer_folder, bos)
    spellings = (lambda token: ("", "")) if tokenizer is None else _spellings(tokenizer)
    client = ServedClient(source, spellings, RetryPolicy(attempts=1), timeout_s)
    facts = client.facts()
    found = {"version": facts.version, "dtype": facts.dtype, "context": facts.context}
    said = ", ".join(f"{name} {value}" for name, value in found.items() if value)
    shown = safe_text(f"{facts.model}{f' ({said})' if said else ''}", 200)
    if tokenizer is None:
        return (
            f"answers as {shown}; log-probabilities were not tested, because its tokenizer is not available"
        )
    rows = tokenizer.backend.ids(_SHORT_TEXTS)
    return f"answers as {shown}, by {client.probe([[*tokenizer.prefix, *row] for row in rows])}"


def _spellings(tokenizer: tokens.Tokenizer) -> Callable[[int], tuple[str, str]]:
    backend = tokenizer.backend
    return lambda token: (backend.decode([token]), backend.piece(token))


def _rows(
    scored: answers.ScoredRows,
    notes: tuple[str, ...],
    n_texts: int,
    facts: ServerFacts,
    settings: ScoringSettings,
) -> _Rows:
    """The corpus cut for the server's context. Raises KltuiError if no text has a token to score."""
    longest = _longest(facts.context)
    pieces = answers.cut(scored, longest, settings.overlong, None if longest is None else longest - 1)
    if not pieces:
        raise KltuiError(
            "no text of the corpus has a token to score", 'A text needs two tokens, or bos = "always".'
        )
    return _Rows(scored, notes, n_texts, longest, pieces)


def _score_result(
    rows: _Rows, came: Sequence[Sequence[float]], key: dict[str, str], settings: ScoringSettings,
    seconds: tuple[float, float], concurrency: int,
) -> ScoreResult:  # fmt: skip
    """The result from the server's answers; `seconds` are those before the first request and those of all requests."""
    n = rows.n_texts
    loglik_R, n_scored_R, kept = _summed(rows.pieces, came, len(rows.scored.ids))
    n_tokens = int(n_scored_R.sum())
    overlong = answers.overlong_rows(rows.scored, rows.longest)
    cuts = answers.notes(rows.scored, n_scored_R, len({row % n for row in overlong}), settings.overlong)
    notes = (*rows.notes, UNSEEN, *cuts, *_notes(settings))
    stats = {
        "seconds_tokenize": seconds[0], "seconds_score": seconds[1], "tokens": float(n_tokens),
        "tokens_per_second": n_tokens / max(seconds[1], 1e-9), "n_unscored": float((n_scored_R[:n] == 0).sum()),
        "concurrency": float(concurrency),
    }  # fmt: skip
    by_row = tuple(map(np.concatenate, kept)) if settings.tokens else None
    logprobs, logprobs_alone = by_row and by_row[:n], by_row and by_row[n:]
    no_layers = (
        ""
        if settings.layers == "none"
        else "layer vectors are not available: a served model gives no hidden states"
    )
    parts = (slice(n), slice(n, None))[: 1 + settings.unconditional]
    vector, *alone = [
        Vector(None, np.where(n_scored_R[p] == 0, np.nan, loglik_R[p]), n_scored_R[p].copy()) for p in parts
    ]
    notes += (no_layers,) if no_layers else ()
    return ScoreResult(
        (vector,), key, stats, notes, logprobs, no_layers, tuple(alone), logprobs_alone or None
    )


def _served_key(facts: ServerFacts, dialect: Dialect) -> dict[str, str]:
    """Fields of a vector's key that describe the server, which computes in its own dtype."""
    return {
        "dtype": facts.dtype or "unknown", "quantization": "none", "attention": UNSEEN, "served": facts.model,
        "server": facts.version or "unknown", "dialect": dialect, "scoring": f"served {SERVED_VERSION}",
    }  # fmt: skip


def _summed(
    pieces: Sequence[Piece], answers: Sequence[Sequence[float]], n_texts: int
) -> tuple[NDArray[np.float64], NDArray[np.int32], list[list[NDArray[np.float32]]]]:
    """(log-likelihood of each row in nats, float64; its number of scored tokens; its log-probabilities by piece)."""
    loglik_N, n_scored_N = np.zeros(n_texts), np.zeros(n_texts, dtype=np.int32)
    kept: list[list[NDArray[np.float32]]] = [[np.empty(0, np.float32)] for _ in range(n_texts)]
    for piece, values in zip(pieces, answers, strict=True):
        scored = np.array(values[piece.first - piece.start - 1 :], dtype=np.float64)
        loglik_N[piece.text] += scored.sum()
        n_scored_N[piece.text] += len(scored)
        kept[piece.text].append(scored.astype(np.float32))
    return loglik_N, n_scored_N, kept


def _notes(settings: ScoringSettings) -> tuple[str, ...]:
    notes = []
    if settings.dtype not in ("auto", "float32"):
        notes.append(
            f"dtype = {settings.dtype} has no effect on the server, which computes in its own precision"
        )
    return tuple(notes)


def _longest(context: int | None) -> int | None:
    """Maximum number of ids in a request: one position is left for a generated token."""
    return None if context is None else context - 1


def _prompt(piece: Piece, ids: Sequence[Ids]) -> list[int]:
    return [int(token) for token in ids[piece.text][piece.start : piece.stop]]


def _spread(pieces: Sequence[Piece]) -> list[Piece]:
    """A short, a medium and a long piece for the probe."""
    by_length = sorted(pieces, key=lambda piece: piece.n_inputs)
    places = {round(k * (len(by_length) - 1) / (N_PROBES - 1)) for k in range(N_PROBES)}
    return [by_length[place] for place in sorted(places)]


def _answers(
    client: ServedClient,
    dialect: Dialect,
    pieces: Sequence[Piece],
    ids: Sequence[Ids],
    n_texts: int,
    progress: Report,
) -> list[list[float]]:
    """Log-probabilities of every piece's ids except the first, in the order of `pieces`."""
    found: dict[int, list[float]] = {}
    texts_left = np.bincount([piece.text for piece in pieces], minlength=n_texts)
    at = Progress("score", 0, n_texts, 0, sum(piece.n_scored for piece in pieces))
    waiting: list[str] = []

    def ask(place: int) -> list[float]:
        return client.logprobs(_prompt(pieces[place], ids), dialect, waiting.append)

    concurrency = client.source.concurrency
    pool, queue = ThreadPoolExecutor(concurrency, "served"), iter(range(len(pieces)))
    under_way: dict[Future[list[float]], int] = {}
    progress(at)
    try:
        while len(found) < len(pieces):
            # Not all at once, so that after an error there are only a few requests to wait for.
            for place in itertools.islice(queue, concurrency - len(under_way)):
                under_way[pool.submit(ask, place)] = place
            finished, _ = wait(under_way, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in finished:
                place = under_way.pop(future)
                found[place] = _result(future, pieces[place])
                texts_left[pieces[place].text] -= 1
                at = replace(
                    at, texts_done=int((texts_left == 0).sum()), tokens_done=at.tokens_done + pieces[place].n_scored
                )  # fmt: skip
            progress(replace(at, message="" if finished or not waiting else waiting[-1]))
            waiting.clear()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return [found[place] for place in range(len(pieces))]


def _result(future: Future[list[float]], piece: Piece) -> list[float]:
    """The result of a request. Raises KltuiError that names the text."""
    try:
        return future.result()
    except UnusableAnswerError as error:
        raise KltuiError(
            f"text {piece.text} was not scored: {error.message}",
            "The vector would be wrong if a text was cut or reordered: check the server's log and its limits.",
        ) from None
    except TryAgainError as error:
        raise TryAgainError(f"text {piece.text}: {error.message}", error.hint) from None
