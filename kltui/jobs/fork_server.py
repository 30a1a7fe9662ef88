"""The process that workers are forked from: torch and the corpus in ids are in it once, shared copy on write.

Python's own fork server is not used: it runs the main program's module again, which may be a user's script without a guard,
takes over the environment as it is, and can hold modules only, no corpus.
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
    """Sent once: what every worker is set up with, and the environment that each has."""

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
    """Requests the exit status of a worker, whose process id stays reserved until then."""

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
    # Imports make much that stays and little to be collected; and no collection may touch, and so copy, what workers share.
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
    """What the other end says first, and whether libraries could be imported, which is done while that is waited for.

    Meanwhile another process listens, and puts the corpus into ids on threads of its own: they are in the cache then.
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
    """Whether torch and transformers could be imported; why they could not, a worker finds out again and reports."""
    from kltui.scoring import ahead

    try:
        ahead.import_libraries()
    except Exception:
        return False
    return True


def _listen(line: Connection, onwards: Connection) -> int:
    """Puts the corpus that comes through `line` into ids, then hands on what came; nothing where the other end has gone."""
    with suppress(EOFError, OSError):
        start: Start = line.recv()
        _tokenize(start.setup)
        onwards.send(start)
    return 0


def _serve_forks(line: Connection, start: Start, scorer: Scorer | None) -> None:
    """Answers until the other end has gone, which raises EOFError."""
    while True:
        asked: Fork | Wait = line.recv()
        if isinstance(asked, Wait):
            line.send(Ended(asked.number, os.waitstatus_to_exitcode(os.waitpid(asked.pid, 0)[1])))
            continue
        pipe = recv_handle(line)
        pid = _forked(start, scorer, line, pipe, asked.compares_dtypes)
        line.send(Forked(asked.number, pid))
        os.close(pipe)  # only now: the other end takes a closed pipe for a worker that has died


def _ready(start: Start) -> Scorer | None:
    """A scorer that holds the corpus in the ids of the model named; None where a worker has to make its own."""
    from kltui.scoring import ahead

    setup, first = start.setup, start.setup.first or FirstModel()
    # one thread: the threads of a pool would not be there in a fork
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        return ahead.ready_scorer(
            setup.texts, setup.corpus_sha256, setup.settings, setup.cache_dir, setup.prompts, first.folder,
            first.tokenizer,
        )  # fmt: skip
    except Exception:  # whatever it is, a worker meets it again and reports it with its checkpoint
        return None


def _tokenize(setup: Setup) -> None:
    """Leaves the corpus in the ids of the first model in the cache, where that model is known."""
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
    """Whether this process may be forked: it has one thread and no state of CUDA, neither of which a fork could use."""
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
    """The process id of a new worker at `pipe`; None where there can be none."""
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
        setup = replace(start.setup, compares_dtypes=compares_dtypes)
        _end_as(lambda: worker.main(setup, scorer))
    return pid


def _end_as(work: Callable[[], int]) -> NoReturn:
    """Ends a fork as a process of its own would end after `work`, but for what the parent has at its exit."""
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
