"""The process from which workers are forked. They share its memory, with torch and the tokenised corpus, copy on write.

Python's own fork server is not used: it runs the main program's module again, which may be a user's script without a guard,
inherits the environment unchanged, and can preload modules but no corpus.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import recv_handle
from typing import TYPE_CHECKING, NoReturn

from kltui.jobs import worker
from kltui.jobs.messages import FirstModel, Setup
from kltui.scoring.third_party_messages import silence_libraries

if TYPE_CHECKING:
    from kltui.scoring.scorer import Scorer


@dataclass(frozen=True, slots=True)
class Start:
    """Sent once: the setup and the environment of every worker."""

    setup: Setup
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class Fork:
    """Requests a worker for the pipe whose file descriptor follows."""

    number: int
    compares_dtypes: bool


@dataclass(frozen=True, slots=True)
class Forked:
    """The response to Fork; `pid` is absent if forking is not safe or the system refuses."""

    number: int
    pid: int | None


@dataclass(frozen=True, slots=True)
class Wait:
    """Requests the exit status of a worker; its process id cannot be reused before that."""

    number: int
    pid: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A worker's exit status, negative for a signal."""

    number: int
    status: int


def main() -> int:
    """Forks workers on request from the process at the other end of the given file descriptor, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in every worker
    silence_libraries()
    # Imports create little garbage, and a collection would write to, and so copy, the memory that workers share.
    gc.disable()
    with Connection(int(sys.argv[1])) as line, suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _serve(line)
    return 0


def _serve(line: Connection) -> None:
    start, is_imported = _started(line)
    scorer = _ready(start) if is_imported else None
    gc.freeze()
    _serve_forks(line, start, scorer)


def _started(line: Connection) -> tuple[Start, bool]:
    """(the first message of the other end, whether torch and transformers could be imported).

    A forked process waits for the message during the import and tokenises the corpus into the cache, because this process must
    remain single-threaded.
    """
    if not is_safe():
        return line.recv(), _imports()
    ours, theirs = Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        ours.close()
        _end_as(lambda: _listen(line, theirs))
    theirs.close()
    is_imported = _imports()
    try:
        with ours:
            return ours.recv(), is_imported
    finally:
        os.waitpid(pid, 0)


def _imports() -> bool:
    """Imports torch and transformers; returns whether that succeeded. If not, a worker gets the same error and reports it."""
    from kltui.scoring import ahead

    try:
        ahead.import_libraries()
    except Exception:
        return False
    return True


def _listen(line: Connection, onwards: Connection) -> int:
    """Receives Start from `line`, tokenises its corpus and sends Start to `onwards`; sends nothing if `line` closes first."""
    with suppress(EOFError, OSError):
        start: Start = line.recv()
        _tokenize(start.setup)
        onwards.send(start)
    return 0


def _serve_forks(line: Connection, start: Start, scorer: Scorer | None) -> None:
    """Answers requests until `line` closes, which raises EOFError."""
    while True:
        asked: Fork | Wait = line.recv()
        if isinstance(asked, Wait):
            line.send(Ended(asked.number, os.waitstatus_to_exitcode(os.waitpid(asked.pid, 0)[1])))
            continue
        pipe = recv_handle(line)
        pid = _forked(start, scorer, line, pipe, asked.compares_dtypes)
        line.send(Forked(asked.number, pid))
        os.close(pipe)  # after the answer: to the other end a pipe closed before means that the worker died


def _ready(start: Start) -> Scorer | None:
    """A scorer with the corpus tokenised for the first model, if its folder is known; None if it could not be made."""
    from kltui.scoring import ahead

    setup, first = start.setup, start.setup.first or FirstModel()
    # a process with more than one thread cannot be forked safely
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        return ahead.ready_scorer(
            setup.texts, setup.corpus_sha256, setup.settings, setup.cache_dir, setup.prompts, first.folder,
            first.tokenizer,
        )  # fmt: skip
    except Exception:  # a worker gets any error again and reports it with its checkpoint
        return None


def _tokenize(setup: Setup) -> None:
    """Tokenises the corpus for the first model into the cache, if that model's folder is known."""
    from kltui.scoring import ahead

    first = setup.first
    if first is not None and first.folder is not None:
        with suppress(Exception):  # see `_ready`
            ahead.tokenize(
                setup.texts,
                setup.corpus_sha256,
                setup.settings,
                setup.cache_dir,
                first.folder,
                first.tokenizer,
            )


def is_safe() -> bool:
    """Whether this process may be forked: it has one thread and has not initialised CUDA; a fork can use neither."""
    try:
        threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - only their number
    except OSError:
        return False
    torch = sys.modules.get("torch")
    has_cuda = torch is not None and hasattr(torch.cuda, "is_initialized") and torch.cuda.is_initialized()
    return threads == 1 and not has_cuda


def _forked(
    start: Start, scorer: Scorer | None, line: Connection, pipe: int, compares_dtypes: bool
) -> int | None:
    """The process id of a new worker that talks through `pipe`; None if forking is not safe or fails."""
    if not is_safe():
        return None
    try:
        pid = os.fork()
    except OSError:  # no memory, or no more processes
        return None
    if pid == 0:
        line.close()
        gc.enable()
        os.environ.clear()
        os.environ.update(start.environment)
        sys.argv[1:] = [str(pipe)]
        # before there are other threads: each has a niceness of its own, which new ones inherit
        _give_way(start.setup.niceness)
        setup = replace(start.setup, compares_dtypes=compares_dtypes)
        _end_as(lambda: worker.main(setup, scorer))
    return pid


def _give_way(niceness: int) -> None:
    """Raises the niceness of this thread to at least `niceness`; not if the system, such as a sandbox, does not allow it."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(os.getpriority(os.PRIO_PROCESS, 0), niceness))


def _end_as(work: Callable[[], int]) -> NoReturn:
    """Runs `work` and ends the process with its exit status, without running the parent's exit handlers."""
    status = 1
    try:
        status = work()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(status)
