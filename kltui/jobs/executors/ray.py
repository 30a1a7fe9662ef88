"""Workers as actors of a Ray cluster: one that runs already, or one of the job's own on this machine.

Messages come back to the batch process, which stays the only writer. A dead actor is replaced here and not by Ray's
max_restarts: a restarted actor keeps its place in the queue of its dead node, and a task that waited for it would hang
where fewer machines are left than before.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import io
import logging
import os
import secrets
import signal
import site
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kltui import version
from kltui.errors import KltuiError, TryAgainError, UsageError
from kltui.gpus import system_gpus
from kltui.jobs.executors.ray_actor import RayActor
from kltui.jobs.job_tables import EngineTable
from kltui.jobs.messages import Died, Failed, Message, Said, Setup, Task, TaskScored

INSTALL = "pip install '.[ray]'"
OBJECT_STORE_BYTES = 256 << 20  # for results in transit, a few megabytes each at most
CONNECT_S = 5.0
START_S = 0.5  # how long to wait for actors where no other work is under way
SAY_WAITING_AFTER_S = 30.0
HEAD_EVERY_S = 2.0  # between checks whether the cluster's head answers
HEAD_LOST_S = 30.0  # less than the minute without a head after which Ray ends this process without an error
FETCH_S = 5.0  # how long to wait for a result that is ready elsewhere; signals are not handled meanwhile
LEAVE_S = 15.0
MAX_FAILED_STARTS = 3  # in a row, after which the job fails
_NO_GPU = (
    "no machine of the Ray cluster offers a GPU, so CPUs are used (to offer one: ray start --num-gpus 1)"
)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

log = logging.getLogger(__name__)


def check_ray() -> None:
    """Raises UsageError if Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError('engine.kind = "ray" needs Ray, which is not installed here', INSTALL)


class _Aside(io.TextIOBase):
    """Writes what Ray prints to the log instead of standard output, which is for the job's events."""

    def write(self, text: str, /) -> int:
        if text.strip():
            log.info("ray: %s", text.strip())
        return len(text)


@dataclass(eq=False)
class _Slot:
    """One actor. `awaited`: the reference to its start, a task's stream of messages, or None if it is idle.

    `coming`: the reference to a message of the stream that has not been fetched yet, or None.
    """

    actor: Any
    awaited: Any
    task: Task | None = None
    host: str = ""
    coming: Any = None

    @property
    def pending(self) -> Any:
        """The reference to wait for next, None if idle."""
        return self.awaited if self.coming is None else self.coming


class _Head:
    """The cluster's head at HOST:PORT, which is checked for an answer every `HEAD_EVERY_S`."""

    def __init__(self, address: str) -> None:
        self.address = address
        host, _, port = address.rpartition(":")
        self._place = (host.strip("[]"), int(port))
        self._asked = time.monotonic()
        self._silent_since: float | None = None

    def is_silent(self, *, at_once: bool = False) -> bool:
        """Whether it did not answer the last check. Raises TryAgainError after `HEAD_LOST_S` seconds without an answer."""
        if not at_once and time.monotonic() - self._asked < HEAD_EVERY_S:
            return self._silent_since is not None
        why = self._ask()
        self._asked = time.monotonic()
        if not why:
            self._silent_since = None
            return False
        self._silent_since = self._silent_since or self._asked
        silent_s = self._asked - self._silent_since
        if silent_s > HEAD_LOST_S:
            raise TryAgainError(
                f"the head of the Ray cluster at {self.address} has not answered for {silent_s:.0f} s: {why}",
                "Finished results are stored. Start the cluster again (ray start --head), then run the job again.",
            )
        return True

    def _ask(self) -> str:
        """Connects once; the reason why it failed, "" if it worked."""
        try:
            socket.create_connection(self._place, CONNECT_S).close()
        except OSError as error:
            return error.strerror or str(error)
        return ""


class RayExecutor:
    """`workers` actors, each with a GPU if the device requires one or the cluster has any, otherwise with CPUs."""

    def __init__(self, setup: Setup, workers: int, engine: EngineTable) -> None:
        check_ray()
        cpus = engine.cpus or (1 if engine.address else max(1, setup.threads // workers))
        self._stdout, sys.stdout = sys.stdout, _Aside()
        self._slots: list[_Slot] = []
        self._failed_starts, self._waiting_since, self._reported = 0, time.monotonic(), False
        self._unsaid: list[Message] = []
        self._ray: Any = None
        try:
            self._ray = _connect(engine.address, workers * cpus)
            self._head = _Head(self._ray.get_runtime_context().gcs_address)
            self._options, settings = _options(self._ray.cluster_resources(), setup.settings.device, cpus)
            if setup.settings.device == "auto" and settings == "cpu" and (seen := system_gpus()):
                self._unsaid.append(Said(f"this machine has {seen}, but {_NO_GPU}"))
            setup = replace(setup, settings=replace(setup.settings, device=settings), threads=cpus)
            self._setup = self._ray.put(setup)
            self._slots.append(self._launch())
            self._setup = self._ray.put(replace(setup, compares_dtypes=False))
            self._slots += [self._launch() for _ in range(workers - 1)]
        except BaseException:
            self.stop()
            raise

    @property
    def idle(self) -> int:
        """How many more tasks could start now: the number of actors that have started and have no task."""
        return sum(s.awaited is None for s in self._slots)

    @property
    def can_expect(self) -> bool:
        """False: actors do not read ahead."""
        return False

    @property
    def expected(self) -> Task | None:
        """None, see `can_expect`."""
        return None

    def expect(self, task: Task) -> None:
        """Does nothing, see `can_expect`."""

    def submit(self, task: Task) -> None:
        """Starts `task` on an idle actor."""
        slot = next(s for s in self._slots if s.awaited is None)
        slot.task = task
        slot.awaited = slot.actor.score.options(num_returns="streaming").remote(task)

    def wait(self, timeout_s: float) -> list[Message]:
        """Messages that arrive within `timeout_s`; returns when the first does."""
        if self._unsaid:
            said, self._unsaid = self._unsaid, []
            return said
        if not any(s.task for s in self._slots):
            timeout_s = 0.0 if self.idle else START_S
        if self._head.is_silent():
            # without the head, any call of Ray may never return
            time.sleep(START_S)
            return []
        awaited = {s.pending: s for s in self._slots if s.pending is not None}
        if not awaited:
            return []
        ready, _ = self._ray.wait(list(awaited), num_returns=1, timeout=timeout_s)
        if ready:  # all others that are ready too
            ready, _ = self._ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
        messages = [m for r in ready for m in self._hear(awaited[r])]
        return messages + self._patience()

    def stop(self) -> None:
        """Ends every actor, also one that is scoring, and disconnects from Ray, which ends a cluster that this job started."""
        # a cluster that has ended must neither make the end of the job fail nor delay it
        thread = threading.Thread(target=self._leave, name="leave", daemon=True)
        thread.start()
        thread.join(LEAVE_S)
        if thread.is_alive() and self._ray is not None:
            atexit.unregister(self._ray.shutdown)
        sys.stdout = self._stdout

    def _leave(self) -> None:
        for slot in self._slots:
            self._kill(slot.actor)
        self._slots.clear()
        try:
            self._ray.shutdown()
        except (
            Exception
        ) as error:  # Ray raises various types if the cluster has ended, which is what is wanted
            log.info("Ray was not shut down in order", exc_info=error)

    def _launch(self) -> _Slot:
        actor = self._ray.remote(RayActor).options(**self._options).remote(self._setup)
        return _Slot(actor, actor.host.remote())

    def _hear(self, slot: _Slot) -> list[Message]:
        if slot.task is None:
            return self._started(slot)
        try:
            if slot.coming is None:
                slot.coming = next(slot.awaited)
            message: Message = self._ray.get(slot.coming, timeout=FETCH_S)
        except self._ray.exceptions.GetTimeoutError:
            return []  # slow network: fetched at the next wait
        except (self._ray.exceptions.RayError, StopIteration) as error:
            if self._head.is_silent(at_once=True):
                return []
            message = _death(slot, error, self._ray.exceptions.OutOfMemoryError)
        slot.coming = None
        if isinstance(message, Died):
            self._replace(slot)
        elif isinstance(message, TaskScored | Failed):
            slot.task = slot.awaited = None
        return [message]

    def _started(self, slot: _Slot) -> list[Message]:
        try:
            slot.host, slot.awaited = self._ray.get(slot.awaited, timeout=FETCH_S), None
        except self._ray.exceptions.GetTimeoutError:
            return []
        except self._ray.exceptions.RayError as error:
            if self._head.is_silent(at_once=True):
                return []
            self._failed_starts += 1
            why = _last_line(error)
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise KltuiError(
                    f"no worker can be started on the Ray cluster: {why}",
                    "Every machine of it needs the same kltui, Python and Ray as this one.",
                ) from None
            self._replace(slot)
            return [Said(f"a Ray worker did not start: {why}")]
        self._failed_starts = 0
        return []

    def _replace(self, slot: _Slot) -> None:
        self._kill(slot.actor)
        self._slots[self._slots.index(slot)] = self._launch()

    def _kill(self, actor: Any) -> None:
        try:
            self._ray.kill(actor, no_restart=True)
        except Exception as error:  # likewise if the actor has ended
            log.info("an actor was not ended", exc_info=error)

    def _patience(self) -> list[Message]:
        """A message, once, if for `SAY_WAITING_AFTER_S` no actor has started and none is working; otherwise nothing."""
        now = time.monotonic()
        if self._reported or self.idle or any(s.task for s in self._slots):
            self._waiting_since = now
        elif now - self._waiting_since > SAY_WAITING_AFTER_S:
            self._reported = True
            wanted = ", ".join(f"{v} {k}" for k, v in self._options.items() if k.startswith("num_") and v)
            return [Said(f"waiting for resources of the Ray cluster: each worker needs {wanted}")]
        return []


def _options(resources: dict[str, float], device: str, cpus: int) -> tuple[dict[str, Any], str]:
    """(Ray's options of each actor, among them its CPUs and GPUs; the device that it scores on)."""
    common = {"scheduling_strategy": "SPREAD", "max_restarts": 0, "max_task_retries": 0}
    gpus = resources.get("GPU", 0.0)
    if device.startswith("cuda") and gpus < 1:
        raise KltuiError(
            "scoring.device is cuda, but no machine of the Ray cluster has a GPU",
            'Start one with a GPU (ray start --num-gpus 1 ...), or use device = "cpu".',
        )
    if device.startswith("cuda") or (device == "auto" and gpus >= 1):
        # each actor sees only its own GPU, as the first
        return common | {"num_gpus": 1, "num_cpus": 0}, "cuda"
    return common | {"num_cpus": cpus}, "cpu" if device == "auto" else device


def _death(slot: _Slot, error: BaseException, out_of_memory: type[BaseException]) -> Died:
    assert slot.task is not None
    index, host = slot.task.index, slot.host
    if isinstance(error, out_of_memory):
        return Died(index, -signal.SIGKILL, f"Ray ended it because {host} ran out of memory")
    return Died(index, 1, f"its Ray worker on {host} died")


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def _connect(address: str, cpus: int) -> Any:
    """The ray module, connected to the cluster at `address`, or to a new one on the loopback of this machine."""
    if address:
        _check_reachable(address)
    else:
        _confine()
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "error")  # otherwise a rejected token floods the terminal
    with _signals_kept():
        ray = importlib.import_module("ray")
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        own = {
            "num_cpus": cpus,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
        try:
            ray.init(address=address or "local", **(quiet if address else quiet | own))
        except Exception as error:
            raise _not_connected(address, error) from error
    return ray


def _confine() -> None:
    """Sets environment variables that restrict a new cluster to this machine and user; Ray reads them when imported."""
    own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
    for name, value in own.items():
        os.environ.setdefault(name, value)
    # "0" makes every service of a single machine listen on 127.0.0.1 only, as Ray does on desktops
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    token = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if os.environ["RAY_AUTH_MODE"] == "token" and not token:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    root = str(Path(version.__file__).resolve().parents[1])
    if root not in site.getsitepackages():  # its processes import the same kltui
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))


def _check_reachable(address: str) -> None:
    """Raises TryAgainError if nothing listens at HOST:PORT; Ray itself would try for a minute."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise _not_connected(address, error) from error


def _not_connected(address: str, error: Exception) -> KltuiError:
    why = getattr(error, "strerror", None) or _last_line(error)
    if not address:
        return KltuiError(f"Ray could not be started on this machine: {why}", "Its logs are in /tmp/ray.")
    return TryAgainError(
        f"no Ray cluster can be reached at {address!r}: {why}",
        "Check that it is running (ray status) and that this machine is part of it. If it requires a token: RAY_AUTH_MODE=token and its"
        " ~/.ray/auth_token here too. Without an address, a job starts its own cluster on this machine.",
    )


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Restores, at its end, the signal handlers that Ray replaces."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
