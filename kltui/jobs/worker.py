"""The scoring process. Only it uses torch, so a crash costs one checkpoint and not the job."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kltui.environment import check_environment
from kltui.errors import KltuiError, TryAgainError
from kltui.jobs.messages import (
    DEVICE_LOST,
    Computes,
    Expect,
    Failed,
    PairCompared,
    PairTask,
    Setup,
    Task,
    TaskProgress,
    TaskScored,
)
from kltui.registry.adapters import Adapted, AdaptedReading
from kltui.registry.checkpoint import HubSource, ServedSource
from kltui.registry.gguf_file import is_gguf
from kltui.registry.layout import has_tokenizer, is_adapter_folder, is_model_folder, weight_paths
from kltui.registry.reading import Hashed, Reading
from kltui.scoring.settings import ExactKL, Progress, ScoreResult
from kltui.scoring.third_party_messages import silence_libraries

if TYPE_CHECKING:
    from kltui.scoring.scorer import Scorer

REPORT_EVERY_S = 0.2


class Channel(Protocol):
    """The worker's connection to the batch process."""

    def send(self, message: Any, /) -> None: ...
    def recv(self) -> Any: ...
    def poll(self) -> bool: ...


def _to_stderr(text: str) -> None:
    # stderr is the job's log
    print(text, end="", file=sys.stderr, flush=True)  # noqa: T201


def main(setup: Setup | None = None, scorer: Scorer | None = None) -> int:
    """Serves tasks from the pipe with the given file descriptor until it closes; a fork already has `setup` and `scorer`."""
    # A terminal's ctrl-C reaches the whole process group; only the batch process decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Connection(int(sys.argv[1])) as pipe:
        try:
            serve_tasks(pipe, setup or pipe.recv(), _to_stderr, scorer)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return 0
    return 0


def serve(pipe: Channel, log: Callable[[str], None] = _to_stderr) -> None:
    """`serve_tasks` with the setup that the pipe delivers first."""
    serve_tasks(pipe, pipe.recv(), log)


def serve_tasks(
    pipe: Channel, setup: Setup, log: Callable[[str], None] = _to_stderr, made: Scorer | None = None
) -> None:
    """Scores the tasks from the pipe, with the scorer `made` or a new one; `log` receives tracebacks.

    Raises EOFError when the other side has closed the pipe.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(setup.threads))
    silence_libraries()
    with ExitStack() as stack:
        scorer = None
        while True:
            message: Task | PairTask | Expect = pipe.recv()
            if isinstance(message, Expect):
                continue  # it arrived after the scoring that it was meant for; the task itself follows
            if isinstance(message, PairTask):
                compare = partial(_compared, setup, message)
                pipe.send(_outcome(compare, message.index, _ScoringReporter(pipe, message.index), log))
                continue
            task = message
            if task.served is not None:
                pipe.send(
                    _outcome(
                        partial(_score_served, setup, task, task.served),
                        task.index,
                        _ScoringReporter(pipe, task.index),
                        log,
                    )
                )
                continue
            try:
                if scorer is None:
                    scorer = _scorer(setup, pipe, made)
                    stack.callback(scorer.close)
                    pipe.send(Computes(scorer.in_use, setup.threads, socket.gethostname()))
                score = partial(score_task, scorer, task, setup.settings.allow_bin)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                # For example no torch, or no such device. Every checkpoint tries again and reports the reason.
                pipe.send(_failure(task.index, error, log))
                continue
            expect = partial(_expect, scorer, setup.settings.allow_bin)
            pipe.send(_outcome(score, task.index, _ScoringReporter(pipe, task.index, expect), log))


def _expect(scorer: Scorer, allow_bin: bool, task: Task) -> None:
    """Starts reading the weights of an announced task, if all its files are here; nothing is downloaded or created for it.

    Errors are ignored: they are reported when the task itself is scored.
    """
    hashed = task.hashed
    with suppress(KltuiError, OSError, RuntimeError):
        if task.adapted is not None:
            scorer.expect(hashed, task.quantization, task.adapted)
            return
        here = hashed.tokenizer is None or has_tokenizer(hashed.tokenizer)
        plain = task.mix is None and task.served is None
        if plain and here and _is_whole(hashed.folder, allow_bin):
            scorer.expect(hashed, task.quantization)


def _score_served(setup: Setup, task: Task, source: ServedSource, report: _ScoringReporter) -> ScoreResult:
    """The result for a model behind a server, without importing torch."""
    from kltui.scoring.served import score_served

    folder = _tokenizer_at_hand(task.hashed.folder, task.tokenizer_hub) or task.hashed.folder
    result = score_served(
        source,
        folder,
        task.hashed.weights,
        setup.texts,
        setup.corpus_sha256,
        setup.settings,
        setup.cache_dir,
        report,
        prompts=setup.prompts,
    )
    return replace(result, notes=(*task.notes, *result.notes))


def _scorer(setup: Setup, pipe: Channel, made: Scorer | None) -> Scorer:
    """The scorer `made`, or a new one."""
    tell_cost = pipe.send if setup.compares_dtypes else None
    if made is not None:
        made.tell_cost = tell_cost
        return made
    check_environment()  # environment variables may be invalid on another machine of a cluster
    from kltui.scoring.scorer import Scorer

    return Scorer(setup.texts, setup.corpus_sha256, setup.settings, setup.cache_dir, tell_cost, setup.prompts)


def score_task(
    scorer: Scorer, task: Task, allow_bin: bool, report: Callable[[Progress], None]
) -> ScoreResult:
    """The task's result. The task's notes are added to those of the result or, if it fails, to the hint of the KltuiError."""
    try:
        result = _scored(scorer, task, allow_bin, report)
    except KltuiError as error:
        if task.notes:
            error.hint = " ".join(_sentence(part) for part in (error.hint, *task.notes) if part)
        raise
    return replace(result, notes=(*task.notes, *result.notes))


def _compared(setup: Setup, task: PairTask, report: _ScoringReporter) -> ExactKL:
    """The exact next-token KL of the task's two checkpoints."""
    check_environment()
    from kltui.scoring.pair import exact_kl

    allow_bin = setup.settings.allow_bin
    with ExitStack() as stack:
        a, b = (stack.enter_context(_files(one, allow_bin)) for one in (task.a, task.b))
        return exact_kl(
            a.folder,
            b.folder,
            setup.texts,
            setup.corpus_sha256,
            setup.settings,
            prompts=setup.prompts,
            quantizations=(task.a.quantization, task.b.quantization),
            tokenizers=(a.tokenizer, b.tokenizer),
            weights=(a.weights, b.weights),
            adapted=(task.a.adapted, task.b.adapted),
            cache_dir=setup.cache_dir,
            progress=report,
        )


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}{'' if words[-1] in '.?!' else '.'}"


def _scored(scorer: Scorer, task: Task, allow_bin: bool, report: Callable[[Progress], None]) -> ScoreResult:
    if task.adapted is not None:
        adapted = _adapted_at_hand(task, task.adapted, allow_bin)
        with AdaptedReading(adapted) as reading:
            return scorer.score(adapted.base.folder, task.quantization, task.hashed.weights, report, reading)
    with _files(task, allow_bin) as hashed, Reading(hashed) as reading:
        return scorer.score(hashed.folder, task.quantization, task.hashed.weights, report, reading)


@contextmanager
def _files(task: Task, allow_bin: bool) -> Iterator[Hashed]:
    """Context with the task's files in a folder of this machine; for an adapter, those of its base."""
    if task.adapted is not None:
        yield replace(task.adapted.base, tokenizer=task.adapted.tokenizer)
        return
    from kltui.jobs.interpolation import materialised

    with materialised(_at_hand(task, allow_bin), task.mix) as folder:
        # The parts of an interpolation are checked when it is created; no other process changes its temporary folder.
        hashed = replace(task.hashed, folder=folder) if task.mix is None else Hashed(folder, "")
        yield replace(hashed, tokenizer=_tokenizer_at_hand(hashed.tokenizer, task.tokenizer_hub))


def _tokenizer_at_hand(folder: Path | None, hub: HubSource | None) -> Path | None:
    """The folder of an external tokenizer, downloaded from the hub if this machine has no access to the named one."""
    if folder is None or hub is None or has_tokenizer(folder):
        return folder
    from kltui.registry.hub import fetch_tokenizer

    return fetch_tokenizer(hub)[0]


def _at_hand(task: Task, allow_bin: bool) -> Path:
    """The task's folder, downloaded from the hub if this machine has no access to the named one."""
    if task.hub is None or _is_whole(task.hashed.folder, allow_bin):
        return task.hashed.folder
    from kltui.registry.hub import fetch

    return fetch(task.hub, allow_bin=allow_bin)[0]


def _adapted_at_hand(task: Task, adapted: Adapted, allow_bin: bool) -> Adapted:
    """The adapter and its base, downloaded from the hub if this machine has no access to their folders."""
    base, adapter = adapted.base, adapted.adapter
    if adapted.base_hub is not None and not _is_whole(base.folder, allow_bin):
        from kltui.registry.hub import fetch

        base = replace(base, folder=fetch(adapted.base_hub, allow_bin=allow_bin)[0])
    if task.hub is not None and not is_adapter_folder(adapter.folder):
        from kltui.registry.adapter_hub import fetch_adapter

        adapter = replace(adapter, folder=fetch_adapter(task.hub, allow_bin=allow_bin)[0])
    return replace(adapted, base=base, adapter=adapter)


def _is_whole(folder: Path, allow_bin: bool) -> bool:
    """Whether a model's config and all its weights are there; another worker may still be downloading them."""
    try:
        return (is_gguf(folder) or is_model_folder(folder)) and bool(weight_paths(folder, allow_bin))
    except (KltuiError, OSError):
        return False


def _outcome(
    work: Callable[[_ScoringReporter], ScoreResult | ExactKL],
    index: int,
    report: _ScoringReporter,
    log: Callable[[str], None],
) -> TaskScored | PairCompared | Failed:
    try:
        result = work(report)
        return PairCompared(index, result) if isinstance(result, ExactKL) else TaskScored(index, result)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:
        return _failure(index, error, log)


def _failure(index: int, error: Exception, log: Callable[[str], None]) -> Failed:
    """The report of an error: its message if it is a KltuiError, otherwise its type and message, with a traceback in the log.

    Ends the process after an error that leaves the GPU unusable for it.
    """
    if _device_is_lost(error):
        log("".join(traceback.format_exception(error)))
        raise SystemExit(DEVICE_LOST)
    if isinstance(error, KltuiError):
        return Failed(index, error.message, error.hint, isinstance(error, TryAgainError))
    if isinstance(error, MemoryError):
        return Failed(
            index, "out of memory", "Lower scoring.batch_tokens, or use a machine with more memory."
        )
    log("".join(traceback.format_exception(error)))
    kind = type(error).__name__
    return Failed(index, f"{kind}: {error}", "This is unexpected: the traceback is in the log.")


def _device_is_lost(error: BaseException) -> bool:
    """Whether `error` was caused by a CUDA error after which every later call in this process would fail."""
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen)
        if "CUDA error" in text and "out of memory" not in text:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


class _ScoringReporter:
    """Sends progress a few times per second, and every change of stage at once. `expect` receives announced tasks meanwhile."""

    def __init__(self, pipe: Channel, index: int, expect: Callable[[Task], None] = lambda task: None) -> None:
        self._pipe, self._index, self._expect = pipe, index, expect
        self._stage, self._next = "", 0.0

    def __call__(self, progress: Progress) -> None:
        # not before scoring has begun: only then the model exists into which the next checkpoint may be loaded, and the
        # largest batch has shown how much memory is left
        begun = progress.stage == "score" and (progress.tokens_done or progress.texts_done)
        while begun and self._pipe.poll():
            self._expect(self._pipe.recv().task)
        now = time.monotonic()
        if progress.stage == self._stage and now < self._next:
            return
        self._stage, self._next = progress.stage, now + REPORT_EVERY_S
        self._pipe.send(TaskProgress(self._index, progress))
