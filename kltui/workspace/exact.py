"""Exact next-token KL of two scored checkpoints: computed once in a separate process, then stored in the workspace."""

from __future__ import annotations

import hashlib
import json
import math
import signal
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kltui.analysis.exact import Direction, NextTokenKL, direction, ratio_of_sums
from kltui.environment import check_scoring
from kltui.errors import KltuiError, StoreError, TryAgainError, UsageError
from kltui.registry.checkpoint import LocalSource, ServedSource
from kltui.scoring.settings import ExactKL, Progress, ScoringSettings
from kltui.store import CheckpointRow, CorpusRow, Store, VectorRow, comparable
from kltui.store.damage import decoded
from kltui.version import __version__

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kltui.jobs.messages import Message, PairTask, Setup
    from kltui.jobs.prepare import Ready

KIND = "exact"  # of the records with results
# Words of settings that `_settings` handles; any other word means that the vectors were scored in another way.
KNOWN_SETTINGS = {"bos", "dtype", "overlong", "kind", "template", "values"}
POLL_S = 0.2
ExactProgress = Callable[[str, float], None]  # (stage, share of the positions done, NaN if unknown)


def silent(_stage: str, _share: float) -> None:
    """Ignores progress."""


@dataclass(frozen=True, slots=True)
class ExactSide:
    """One of two checkpoints, and its vector over the corpus."""

    row: CheckpointRow
    vector: VectorRow

    @property
    def identity(self) -> str:
        """The weights and their variant, which determine this side of a result."""
        return f"{self.vector.weights} {self.row.checkpoint.quantization}"


@dataclass(frozen=True, slots=True)
class ExactRequest:
    """Two checkpoints and the corpus that they are compared on."""

    a: ExactSide
    b: ExactSide
    corpus: CorpusRow

    @property
    def key(self) -> dict[str, object]:
        """Everything that determines the result, in an order that does not depend on which of the two is `a`."""
        sides = sorted((self.a, self.b), key=lambda side: side.identity)
        return {
            "models": [side.identity for side in sides],
            "corpus": self.corpus.sha256,
            "settings": [side.vector.settings for side in sides],
            "dtype": [side.vector.key_fields.get("dtype", "") for side in sides],
        }

    @property
    def are_answers(self) -> bool:
        """Whether responses are compared given their prompts."""
        settings = self.a.vector.settings
        return "kind" in comparable.words(settings) and not comparable.is_unconditional(settings)

    @property
    def is_turned(self) -> bool:
        """Whether the stored result is in the opposite direction."""
        return self.a.identity > self.b.identity


def stored(records: Mapping[str, Mapping[str, Any]], asked: ExactRequest) -> NextTokenKL | None:
    """The stored result for two checkpoints, without the estimate from their vectors; None if there is none."""
    record = records.get(_name(asked.key))
    if record is None or record.get("key") != asked.key:
        return None
    found = _parsed(record, asked)
    return found.swapped() if asked.is_turned else found


def names_in(record: Mapping[str, Any]) -> tuple[str, str]:
    """The names that the two checkpoints of a record had when it was made."""
    return str(record.get("a", "")), str(record.get("b", ""))


def check(asked: ExactRequest) -> None:
    """Raises KltuiError if the exact KL of the two cannot be computed, as far as is known without reading their files."""
    for side in (asked.a, asked.b):
        if side.vector.is_imported:
            raise KltuiError(
                f"{side.row.name} was imported as a vector, so its next-token probabilities cannot be computed",
                "Only the KL from the two vectors is available: kltui --report --section kl",
            )
        source = side.row.checkpoint.source
        if isinstance(source, LocalSource) and not source.exists:
            raise KltuiError(
                f"the files of {side.row.name} are missing: {source.path} does not exist or cannot be read",
                "Restore them to the folder from which they were scored, or score the checkpoint from its new folder.",
            )
        if isinstance(source, ServedSource):
            raise KltuiError(
                f"{side.row.name} is a served model, and a server does not return full next-token distributions",
                "Score the model from its own files to compare it exactly.",
            )
    unknown = set(comparable.words(asked.a.vector.settings)) - KNOWN_SETTINGS
    if unknown:
        raise KltuiError(
            f"{asked.a.row.name} was scored with {asked.a.vector.settings}, which this version of kltui"
            " does not fully support",
            "The KL from the two vectors is available: kltui --report --section kl",
        )
    one, other = (side.vector.key_fields.get("tokenizer", "") for side in (asked.a, asked.b))
    if one != other:
        raise KltuiError(
            f"{asked.a.row.name} and {asked.b.row.name} have different tokenizers, so their next tokens cannot be compared",
            "The KL from the two vectors can: kltui --report --section kl",
        )
    if asked.a.vector.settings != asked.b.vector.settings:
        raise UsageError(
            f"{asked.a.row.name} was scored with {asked.a.vector.settings}, {asked.b.row.name} with"
            f" {asked.b.vector.settings}",
            "Score both with the same [scoring] settings.",
        )


def exact_kl_of(
    store: Store, asked: ExactRequest, device: str = "auto", progress: ExactProgress = silent
) -> NextTokenKL:
    """Computes and stores the exact KL of two checkpoints; returns it without the estimate.

    Raises KltuiError for different tokenizers, missing or changed files, imported vectors, a workspace that is
    not writable, or an installation that cannot score.
    """
    from kltui.jobs.messages import Setup
    from kltui.threads import usable_cores

    check_scoring()
    check(asked)
    with _writing(store.folder):
        pass  # fails now instead of after the computation, whose result could not be stored
    texts = tuple(store.corpora.texts(asked.corpus.id))
    prompts = store.corpora.prompts(asked.corpus.sha256) if asked.are_answers else ()
    settings = _settings(asked, device, [job.job_toml for job in store.jobs.all()])
    progress("fetch", math.nan)
    ready = _prepared(store, asked, settings.allow_bin, progress)
    setup = Setup(
        texts, asked.corpus.sha256, settings, store.folder / "cache", usable_cores(), prompts=prompts
    )
    found = _scored(setup, asked, ready, progress)
    made = _summary(asked, found, store.corpora.text_bytes(asked.corpus.id), _ids(texts))
    with _writing(store.folder) as writer, writer.atomic():
        writer.records.put(KIND, _name(asked.key), _as_record(asked, made))
        for side, one in zip((asked.a, asked.b), ready, strict=True):
            if one.settled and one.mix is None:
                writer.fingerprints.put(one.folder, one.signature, side.vector.weights)
    return made


@contextmanager
def _writing(folder: Path) -> Iterator[Store]:
    """Context with the workspace's store, open for writing. Raises StoreError that says what cannot be stored."""
    try:
        store = Store.write(folder)
    except StoreError as error:
        raise StoreError(
            f"the exact KL is stored in the workspace, which cannot be written now: {error.message}",
            error.hint,
        ) from error
    try:
        yield store
    finally:
        store.close()


def _settings(asked: ExactRequest, device: str, jobs: Sequence[str]) -> ScoringSettings:
    """The settings with which both vectors were scored, on `device`; pickled weights are allowed if a job allowed them."""
    stated = comparable.words(asked.a.vector.settings)
    allowed = any(tomllib.loads(toml).get("scoring", {}).get("allow_bin", False) for toml in jobs if toml)
    return ScoringSettings(
        device=device,
        dtype=stated.get("dtype", "float32"),  # type: ignore[arg-type]  # checked when the job file was read
        bos=stated.get("bos", "auto"),  # type: ignore[arg-type]
        overlong=stated.get("overlong", "error"),  # type: ignore[arg-type]
        allow_bin=allowed,
        template=stated.get("template", "") if asked.are_answers else "",
    )


def _prepared(
    store: Store, asked: ExactRequest, allow_bin: bool, progress: ExactProgress
) -> tuple[Ready, Ready]:
    """Both checkpoints' files, downloaded if necessary. Raises KltuiError if they are not those that were scored."""
    from kltui.jobs.prepare import NotReady, Preparer, remembered

    preparer = Preparer(
        list(enumerate((asked.a.row.checkpoint, asked.b.row.checkpoint))),
        remembered(store.fingerprints.all()),
        ahead=2,
        allow_bin=allow_bin,
        on_fetch=lambda index, message: progress(f"fetch: {message}", math.nan),
    )
    found: list[Ready] = []
    try:
        for side in (asked.a, asked.b):
            while (one := preparer.take(POLL_S)) is None:
                pass
            if isinstance(one, NotReady):
                raise _error(f"{side.row.name}: {one.error}", one.hint, one.retry)
            if one.weights != side.vector.weights:
                raise KltuiError(
                    f"the files of {side.row.name} have changed since scoring",
                    "Score it again, then compare the two.",
                )
            found.append(one)
    finally:
        preparer.stop()
    return found[0], found[1]


def _error(message: str, hint: str, retry: bool) -> KltuiError:
    return TryAgainError(message, hint) if retry else KltuiError(message, hint)


def _scored(
    setup: Setup, asked: ExactRequest, ready: tuple[Ready, Ready], progress: ExactProgress
) -> ExactKL:
    """Runs both models over the texts in a separate process; returns the sums for every text."""
    from kltui.jobs.executors.local import LocalExecutor
    from kltui.jobs.messages import PairTask
    from kltui.jobs.prepare import task_of

    a, b = (task_of(one, side.row.checkpoint) for one, side in zip(ready, (asked.a, asked.b), strict=True))
    executor = LocalExecutor(setup, 1)
    try:
        return _waited(executor.submit, executor.wait, PairTask(0, a, b), progress)
    finally:
        executor.stop()


def _waited(
    submit: Callable[[PairTask], None],
    wait: Callable[[float], list[Message]],
    task: PairTask,
    progress: ExactProgress,
) -> ExactKL:
    """Submits a task, passes progress on and returns the result. Raises KltuiError if the task fails."""
    from kltui.jobs.messages import Died, Failed, PairCompared, TaskProgress

    progress("load", math.nan)
    submit(task)
    while True:
        for message in wait(POLL_S):
            if isinstance(message, PairCompared):
                return message.result
            if isinstance(message, Failed):
                raise _error(message.error, message.hint, message.retry)
            if isinstance(message, Died):
                raise _died(message.status)
            if isinstance(message, TaskProgress):
                progress(message.progress.stage, _share(message.progress))


def _share(progress: Progress) -> float:
    return progress.tokens_done / progress.tokens_total if progress.tokens_total else math.nan


def _died(status: int) -> KltuiError:
    how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    hint = (
        "Probably out of memory: both models must fit at the same time." if status == -signal.SIGKILL else ""
    )
    return KltuiError(f"the process that compares the two models ended ({how})", hint or "Try again.")


def _ids(texts: Sequence[str]) -> NDArray[np.intp] | None:
    from kltui.corpus.corpus import text_ids

    return text_ids(texts)


def _summary(
    asked: ExactRequest, found: ExactKL, text_bytes_N: NDArray[np.int64], ids_N: NDArray[np.intp] | None
) -> NextTokenKL:
    n_N = found.n_scored_N
    forward, reverse = (
        direction(nats_N, n_N, text_bytes_N, (at.median, at.high, at.maximum), ids_N)
        for nats_N, at in (
            (found.forward_nats_N, found.forward_positions),
            (found.reverse_nats_N, found.reverse_positions),
        )
    )
    agreement, agreement_se = ratio_of_sums(found.same_top_N, n_N, ids_N)
    used = n_N > 0
    return NextTokenKL(
        asked.a.row.name,
        asked.b.row.name,
        forward,
        reverse,
        agreement,
        agreement_se,
        n_texts=int(used.sum()),
        n_tokens=int(n_N.sum()),
        n_bytes=int(text_bytes_N[used].sum()),
    )


def _name(key: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def _as_record(asked: ExactRequest, made: NextTokenKL) -> dict[str, object]:
    oriented = made.swapped() if asked.is_turned else made
    values = {name: value for name, value in asdict(oriented).items() if name != "estimate"}
    return {"key": asked.key, "kltui": __version__, **_finite(values)}


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with None for NaN and infinities, which JSON lacks."""
    return {
        name: _finite(v)
        if isinstance(v, Mapping)
        else None
        if isinstance(v, float) and not math.isfinite(v)
        else v
        for name, v in values.items()
    }


@decoded
def _parsed(record: Mapping[str, Any], asked: ExactRequest) -> NextTokenKL:
    """A stored result, with the checkpoints' present names."""
    a, b = (asked.b, asked.a) if asked.is_turned else (asked.a, asked.b)
    forward, reverse = (
        Direction(**{name: _number(v) for name, v in record[way].items()}) for way in ("forward", "reverse")
    )
    return NextTokenKL(
        a.row.name,
        b.row.name,
        forward,
        reverse,
        _number(record["top1_agreement"]),
        _number(record["top1_agreement_se"]),
        int(record["n_texts"]),
        int(record["n_tokens"]),
        int(record["n_bytes"]),
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
