"""Chooses the fastest of several ways to compute the same thing on this machine: timed once per shape, then stored in a file.

The ways differ in rounding, so a choice is permanent: a job stores its own copy in its workspace's cache, and
a resumed job gives bit-identical results. If nothing can be stored, nothing is timed and the first way is
always used. This module does not import torch.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kltui.atomic_files import replacing
from kltui.kernels import native
from kltui.scoring.device import processor_name
from kltui.scoring.memory_errors import ran_out
from kltui.version import __version__

log = logging.getLogger(__name__)

FILE_NAME = "kernels.json"
ROUNDS = 3
WORTH_A_CHANGE = 0.95  # of the first way's time; another way must be faster than this, because timings vary
MAX_FILE_BYTES = 1 << 20
# Ways are timed only for models with at least so many weights, each on so many rows.
MIN_WEIGHTS = 1 << 20
TRIAL_ROWS = 256


@dataclass(frozen=True)
class Candidate:
    """A way to compute something: `run` does it once, `is_right` says whether its values are within float32's error."""

    name: str
    run: Callable[[], object]
    is_right: Callable[[], bool]


@dataclass(frozen=True)
class Choice:
    """The way chosen for one shape, and the milliseconds of each way with correct values; the others have no time."""

    taken: str
    milliseconds: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        others = [f"{name} {ms:.2g} ms" for name, ms in self.milliseconds.items()]
        return f"{self.taken} ({', '.join(others)})" if others else self.taken


Choices = dict[str, dict[str, Choice]]  # by machine, then by what is computed and its shape


class KernelChooser:
    """Chooses for one machine; `job`: the folder of a job's own copy, `user`: that of the user's file, None for none."""

    def __init__(
        self,
        machine: str,
        job: Path | None,
        user: Path | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._machine = machine
        self._folders = [folder for folder in (job, user) if folder is not None]
        self._clock = clock

    def among(self, what: str, candidates: Sequence[Candidate]) -> str:
        """The name of the way to compute `what`. The first candidate is used unless another is faster and this can be stored."""
        names = {c.name for c in candidates}
        with _locked(self._folders[-1:]):
            kept = (read(folder / FILE_NAME).get(self._machine, {}).get(what) for folder in self._folders)
            found = next((choice for choice in kept if choice is not None and choice.taken in names), None)
            if found is None and len(names) > 1 and any(map(_is_writable, self._folders)):
                found = self._timed(candidates)
            stored = found is not None and [
                self._put(f / FILE_NAME, what, found, names) for f in self._folders
            ]
        return found.taken if found is not None and stored and any(stored) else candidates[0].name

    def _timed(self, candidates: Sequence[Candidate]) -> Choice | None:
        """The fastest correct candidate, by the best of several rounds; None if none is correct."""
        right = [c for c in candidates if _works(c)]
        seconds = dict.fromkeys((c.name for c in right), math.inf)
        for candidate in right * ROUNDS:
            before = self._clock()
            candidate.run()
            seconds[candidate.name] = min(seconds[candidate.name], self._clock() - before)
        if not right:
            return None
        taken = min(seconds, key=seconds.__getitem__)
        if seconds[taken] > WORTH_A_CHANGE * seconds[right[0].name]:
            taken = right[0].name
        return Choice(taken, {name: 1e3 * s for name, s in seconds.items()})

    def _put(self, path: Path, what: str, choice: Choice, names: Collection[str]) -> bool:
        """Stores this choice, unless the file has one among `names`; whether the file now has one."""
        every = read(path)
        before = every.get(self._machine, {}).get(what)
        if before is not None and before.taken in names:
            return True
        every.setdefault(self._machine, {})[what] = choice
        try:
            with replacing(path) as file:
                file.write(json.dumps(_as_json(every), indent=1).encode())
        except OSError:
            return False
        return True


def _works(candidate: Candidate) -> bool:
    """Whether the candidate runs here and gives correct values; this is also its first, untimed run.

    Raises the candidate's error if memory ran out.
    """
    try:
        return candidate.is_right()
    except (
        RuntimeError,
        AttributeError,
        ValueError,
    ) as error:  # an operator that this processor or torch lacks
        if ran_out(error):
            raise  # not a property of the candidate, and the choice would be permanent
        log.debug("%s cannot be used here", candidate.name, exc_info=error)
        return False


def user_folder() -> Path:
    """The folder in which this user's choices are stored."""
    from platformdirs import user_cache_path

    return user_cache_path("kltui")


def machine(torch_version: str, capability: str, threads: int) -> str:
    """A description of what the speed of a kernel depends on: processor, instruction sets, threads, libraries."""
    isa = native.info()["isa"]
    return f"{processor_name()}; {isa}, torch {capability}; {threads} threads; torch {torch_version}; kltui {__version__}"


def read(path: Path) -> Choices:
    """The choices in a file; {} if it is missing, damaged or not such a file. Invalid entries are left out."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return {}
        said = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    machines = said.get("kernels") if isinstance(said, dict) else None
    if not isinstance(machines, dict):
        return {}
    return {
        name: {what: c for what, one in choices.items() if (c := _choice(one)) is not None}
        for name, choices in machines.items()
        if isinstance(choices, dict)
    }


def _choice(said: Any) -> Choice | None:
    if not isinstance(said, dict) or not isinstance(said.get("taken"), str):
        return None
    times = said.get("milliseconds")
    if not isinstance(times, dict) or not all(isinstance(ms, int | float) for ms in times.values()):
        return None
    return Choice(said["taken"], {name: float(ms) for name, ms in times.items()})


def _as_json(every: Choices) -> dict[str, object]:
    return {"kernels": {name: {what: asdict(c) for what, c in one.items()} for name, one in every.items()}}


def _is_writable(folder: Path) -> bool:
    """Whether files can be created in the folder, which is created if missing."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return os.access(folder, os.W_OK | os.X_OK)


@contextmanager
def _locked(folders: Sequence[Path]) -> Iterator[None]:
    """Context in which no other process chooses, so that several that start together measure one after another and agree."""
    with ExitStack() as stack:
        with suppress(OSError):
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context((folder / f"{FILE_NAME}.lock").open("a"))
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield
