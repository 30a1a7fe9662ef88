"""How many threads numbers are worked out on: BLAS on one, large products in tiles on the cores that are idle.

Threads of BLAS and OpenMP spin while they wait for each other, which costs more than it brings wherever products are small
or the cores have other work; and their sums depend on how many they are. Here BLAS never has more than one thread, a large
product is cut into tiles of one fixed size, and threads of ours share them out: every number of threads gives the same bits.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ContextDecorator, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

_WAITS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_MIN_S = 0.05  # between two looks at the processors: their counters go in hundredths of a second
_BRING_BLAS = (
    "numpy",
    "scipy.linalg",
    "scipy.sparse.linalg",
    "sklearn",
    "torch",
)  # each may have one of its own
_set_here: set[str] = set()


def wait_passively(environment: MutableMapping[str, str] = os.environ) -> None:
    """Makes OpenMP threads sleep while they wait, unless the user has set it; call it before loading a library with OpenMP."""
    if not any(name in environment for name in _WAITS):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
        _set_here.add("OMP_WAIT_POLICY")


def environment_of_jobs() -> dict[str, str]:
    """This process's original environment, for scoring jobs, which assume that they have their cores to themselves."""
    return {name: value for name, value in os.environ.items() if name not in _set_here}


def usable_cores(environment: Mapping[str, str] = os.environ) -> int:
    """Cores this process may run on, at most what OMP_NUM_THREADS allows."""
    return _at_most(_cores(), environment, _LIMITS[:1])


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _at_most(cores: int, environment: Mapping[str, str], names: Iterable[str]) -> int:
    """`cores`, or the least number above 0 that one of these variables says."""
    said = [environment.get(name, "") for name in names]
    return min([cores, *(int(s) for s in said if re.fullmatch("[0-9]{1,9}", s) and int(s) > 0)])


# -- BLAS ----------------------------------------------------------------------------------------------------------


def _bringers() -> frozenset[str]:
    return frozenset(name for name in _BRING_BLAS if name in sys.modules)


class _OneBlasThread(ContextDecorator):
    """While open, and as a decorator while the function runs, every BLAS that is loaded works on one thread.

    May be entered again inside itself and from several threads; the last to leave restores what was.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._seen: frozenset[str] = frozenset()
        self._controller: ThreadpoolController | None = None
        self._limits = ExitStack()
        self._by = 0

    def __enter__(self) -> None:
        with self._lock:
            self._depth += 1
            if self._depth == 1 or _bringers() != self._seen:
                self._limits.enter_context(self._found().limit(limits=1, user_api="blas"))
                self._by = self._by or threading.get_ident()

    def _found(self) -> ThreadpoolController:
        """Every BLAS that is loaded now."""
        seen = _bringers()
        if self._controller is None or seen != self._seen:
            from threadpoolctl import ThreadpoolController

            self._controller, self._seen = ThreadpoolController(), seen
        return self._controller

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                if self._by != threading.get_ident():
                    self._let_any_thread_restore()
                self._limits.close()
                self._by = 0

    def _let_any_thread_restore(self) -> None:
        """Newer releases of threadpoolctl let the thread that limited OpenBLAS alone restore it."""
        for library in self._found().lib_controllers:
            clear = getattr(library, "clear_controlling_thread", None)
            if clear is not None:
                clear(force=True)


one_blas_thread = _OneBlasThread()


# -- what is idle --------------------------------------------------------------------------------------------------


class _Processors:
    """What this process could use of its cores since it last looked: what nobody used, and what it used itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at, self._idle, self._own = time.monotonic(), _idle_seconds(), time.process_time()
        self._last: int | None = None

    def free(self) -> int:
        """Cores, at least 1; all that may be used where the system does not say what is idle."""
        with self._lock:
            now, cores = time.monotonic(), _cores()
            past = now - self._at
            if past < _MIN_S:
                return self._last or cores
            idle, own = _idle_seconds(), time.process_time()
            if idle is None or self._idle is None:
                return cores
            share = (idle - self._idle + own - self._own) / past
            self._at, self._idle, self._own = now, idle, own
            self._last = max(1, min(cores, round(share)))
            return self._last


def _idle_seconds() -> float | None:
    """Seconds that the cores of this process were idle since the system started, added up; None where it does not say."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
        rows = {row[0]: row for row in map(str.split, lines) if row[0].startswith("cpu")}
        return sum(int(rows[f"cpu{core}"][4]) for core in os.sched_getaffinity(0)) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, KeyError, IndexError, ValueError):
        return None


_processors = _Processors()


def free_threads() -> int:
    """Threads that a large piece of work may have now: one, and one for each other core that is idle.

    At most what OMP_NUM_THREADS, OPENBLAS_NUM_THREADS or MKL_NUM_THREADS allow.
    """
    return _at_most(_processors.free(), os.environ, _LIMITS)


@one_blas_thread
def in_parallel(pieces: Sequence[Callable[[], object]]) -> None:
    """Runs all `pieces`, which share nothing, on `free_threads()` threads with one BLAS thread each."""
    n = min(free_threads(), len(pieces)) if len(pieces) > 1 else 1
    if n < 2:
        for piece in pieces:
            piece()
        return
    pool = ThreadPoolExecutor(n, thread_name_prefix="kltui-tiles")
    try:
        for done in [pool.submit(piece) for piece in pieces]:
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)
