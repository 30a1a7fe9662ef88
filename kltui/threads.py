"""Threads of numerical work: BLAS uses one; large matrix products are cut into tiles, which idle cores compute.

Threads of BLAS and OpenMP spin while they wait for each other. That costs more than it saves if the products are small or
the cores have other work, and the rounding of sums depends on the number of threads. Here BLAS uses one thread, and the
tiles of a large product have a fixed size and are computed by Python threads, so that any number of threads gives the same bits.
"""

from __future__ import annotations

import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ContextDecorator, ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

_WAITS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_COUNT = re.compile(r"\s*([0-9]{1,9})\s*(?:,[0-9,\s]*)?")
_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_MIN_S = 0.05  # between two readings of the cores' idle times, which are counted in hundredths of a second
_WITH_BLAS = (
    "numpy",
    "scipy.linalg",
    "scipy.sparse.linalg",
    "sklearn",
    "torch",
)  # libraries that may each load a BLAS of their own
HELPER_NICENESS = 2  # of the interface's helpers: served after the interface, before scoring
_set_here: set[str] = set()  # environment variables that `wait_passively` has set


def wait_passively(environment: MutableMapping[str, str] = os.environ) -> None:
    """Makes OpenMP threads sleep while they wait, unless the user has set it; call it before loading a library with OpenMP."""
    if not any(name in environment for name in _WAITS):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
        _set_here.add("OMP_WAIT_POLICY")


def environment_of_jobs() -> dict[str, str]:
    """This process's environment without what `wait_passively` set: scoring jobs do not share their cores."""
    return {name: value for name, value in os.environ.items() if name not in _set_here}


def usable_cores(environment: Mapping[str, str] = os.environ) -> int:
    """Number of cores that this process may use, at most OMP_NUM_THREADS if that is set."""
    return _at_most(_cores(), environment, _LIMITS[:1])


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _cores_of_quota())


@cache
def _cores_of_quota(system: Path = Path("/")) -> int:
    """Number of cores that fit the CPU quota of this process's control groups under Linux; sys.maxsize if there is no quota.

    Threads beyond a quota do not add time: they use it up sooner, and then all of them are stopped until the next period. A
    container has its quota in its own group or, where it sees only that one, at the top of the mounted tree.
    """
    quotas = []
    for line in _text_of(system / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = system / "sys/fs/cgroup"
        # without controllers: version 2; the folder of version 1 may name them in another order
        top = next((t for t in (mounted / controllers, mounted / "cpu") if t.is_dir()), mounted)
        own = top / group.lstrip("/")
        for folder in (own, *(parent for parent in own.parents if parent.is_relative_to(top))):
            if controllers:
                quota, period = _text_of(folder / "cpu.cfs_quota_us"), _text_of(folder / "cpu.cfs_period_us")
            else:
                quota, _, period = _text_of(folder / "cpu.max").partition(" ")
            with suppress(ValueError, ZeroDivisionError):
                quotas.append(int(quota) / int(period))
    limits = [max(1, math.ceil(allowed)) for allowed in quotas if allowed > 0]  # -1: no limit
    return min(limits, default=sys.maxsize)


def _text_of(path: Path) -> str:
    """The text of a file of the system; "" if it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _at_most(cores: int, environment: Mapping[str, str], names: Iterable[str]) -> int:
    """The smallest of `cores` and the positive numbers in the environment variables `names`.

    Of a list such as OMP_NUM_THREADS=4,2 the first number counts, that of the outermost level.
    """
    found = [_COUNT.fullmatch(environment.get(name, "")) for name in names]
    return min([cores, *(n for match in found if match and (n := int(match[1])) > 0)])


# -- BLAS ----------------------------------------------------------------------------------------------------------


def _loaded_with_blas() -> frozenset[str]:
    """Those of _WITH_BLAS that are imported."""
    return frozenset(name for name in _WITH_BLAS if name in sys.modules)


class _OneBlasThread(ContextDecorator):
    """Context manager and decorator under which every loaded BLAS uses one thread.

    It can be nested and entered by several threads; the last exit restores the numbers of threads.
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
            # Without such a library there is nothing to limit, and importing threadpoolctl would delay the first frame.
            if (loaded := _loaded_with_blas()) and (self._depth == 1 or loaded != self._seen):
                self._limits.enter_context(self._found().limit(limits=1, user_api="blas"))
                self._by = self._by or threading.get_ident()

    def _found(self) -> ThreadpoolController:
        """The controller of all BLAS libraries that are loaded now."""
        seen = _loaded_with_blas()
        if self._controller is None or seen != self._seen:
            from threadpoolctl import ThreadpoolController

            self._controller, self._seen = ThreadpoolController(), seen
        return self._controller

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                if self._by not in (0, threading.get_ident()):
                    self._let_any_thread_restore()
                self._limits.close()
                self._by = 0

    def _let_any_thread_restore(self) -> None:
        """Allows this thread to restore OpenBLAS: newer releases of threadpoolctl allow only the thread that limited it."""
        for library in self._found().lib_controllers:
            clear = getattr(library, "clear_controlling_thread", None)
            if clear is not None:
                clear(force=True)


one_blas_thread = _OneBlasThread()


# -- idle cores ----------------------------------------------------------------------------------------------------


class _Processors:
    """Measures how many cores were available to this process since the last measurement: idle ones, and those it used itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at, self._idle, self._own = time.monotonic(), _idle_seconds(), time.process_time()
        self._last: int | None = None

    def free(self) -> int:
        """Number of available cores, at least 1; all usable ones if the system does not report idle times.

        Within _MIN_S of a measurement, its result is returned again.
        """
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
    """Total idle time of the cores of this process since the system started, in seconds; None if the system does not report it."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
        rows = {row[0]: row for row in map(str.split, lines) if row[0].startswith("cpu")}
        return sum(int(rows[f"cpu{core}"][4]) for core in os.sched_getaffinity(0)) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, KeyError, IndexError, ValueError):
        return None


_processors = _Processors()


def free_threads() -> int:
    """Number of threads that a large computation may use now: one, and one for each further core that is idle.

    At most OMP_NUM_THREADS, OPENBLAS_NUM_THREADS and MKL_NUM_THREADS, if these are set.
    """
    return _at_most(_processors.free(), os.environ, _LIMITS)


def has_idle_core() -> bool:
    """Whether another thread would run at once on a core that nothing else uses at this moment; true if that is not known.

    Unlike `free_threads` it needs no time to measure: it reads how many threads want to run now, this one among them.
    """
    loads = _text_of(Path("/proc/loadavg")).split()  # three averages, running/all threads, the newest process
    running = loads[3].partition("/")[0] if len(loads) > 3 else "1"
    return int(running) < usable_cores({})


@one_blas_thread
def in_parallel(pieces: Sequence[Callable[[], object]]) -> None:
    """Runs all `pieces`, which must be independent, on `free_threads()` threads with one BLAS thread each.

    Raises the first exception that one of them raised.
    """
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
