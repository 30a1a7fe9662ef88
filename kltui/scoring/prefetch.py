"""Reads the next checkpoint's weights while the current one is scored, so that a GPU does not wait for a disk.

A thread reads them into page-locked memory, with the usual checks of the files, and copies them to the GPU on a separate
stream if it has space for a second set. After an error, the checkpoint is read again in the ordinary way, which reports it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

import torch

from kltui.registry.reading import Hashed, Reading
from kltui.registry.tensors import BITS, read_header
from kltui.scoring.weight_reload import Header, weight_files

log = logging.getLogger(__name__)

Event = Any
Tensors = Mapping[str, torch.Tensor]

ALIGNMENT = 256  # of the tensors in memory, in bytes; suits every dtype
HOST_SHARE = 0.5  # of the available memory: the maximum of page-locked memory for all GPUs together
SPARE_SHARE = 0.05  # of a GPU's memory that a second set of weights must leave free
END_WITHIN_S = 5.0
PIECE_BYTES = 64 * 2**20

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


class Gpu(Protocol):
    """The operations of a GPU that reading ahead needs."""

    @property
    def peers(self) -> int:
        """Number of GPUs of this machine, each of which may have a worker that reads ahead."""
        ...

    def enter_thread(self) -> None:
        """Must be called first in a thread that uses the GPU."""
        ...

    def locked(self, n_bytes: int) -> torch.Tensor:
        """Page-locked memory of the host, uint8."""
        ...

    def spare_bytes(self) -> int:
        """Free memory in bytes, minus a reserve."""
        ...

    def send(self, host: torch.Tensor) -> tuple[torch.Tensor, Event]:
        """Starts a copy into its memory on a separate stream; the event marks its end."""
        ...

    def use(self, there: torch.Tensor, event: Event) -> None:
        """Makes later work on the GPU wait for an event, and keeps `there` alive until then."""
        ...

    def mark(self) -> Event:
        """An event after all work submitted to the GPU so far; `synchronize` waits for it."""
        ...


class CudaGpu:
    """A GPU through CUDA or ROCm."""

    def __init__(self, device: torch.device) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        self._device = torch.device("cuda", index)
        stream: Any = torch.cuda.Stream
        self._stream = stream(self._device)

    @property
    def peers(self) -> int:
        """Number of GPUs that torch sees."""
        return int(torch.cuda.device_count())

    def enter_thread(self) -> None:
        """Makes the GPU this thread's current one, which is initially GPU 0."""
        torch.cuda.set_device(self._device)

    def locked(self, n_bytes: int) -> torch.Tensor:
        """Page-locked memory of the host, uint8."""
        return torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True)

    def spare_bytes(self) -> int:
        """Free memory in bytes according to the driver, minus a share of the total."""
        free, total = torch.cuda.mem_get_info(self._device)
        return free - int(SPARE_SHARE * total)

    def send(self, host: torch.Tensor) -> tuple[torch.Tensor, Event]:
        """Starts a copy on a dedicated stream; the event marks its end."""
        with torch.cuda.stream(self._stream):
            there = host.to(self._device, non_blocking=True)
            return there, self._stream.record_event()

    def use(self, there: torch.Tensor, event: Event) -> None:
        """Makes the current stream wait for an event; the memory of `there` is not reused before that."""
        stream: Any = torch.cuda.current_stream(self._device)
        stream.wait_event(event)
        there.record_stream(stream)

    def mark(self) -> Event:
        """An event on the current stream."""
        return torch.cuda.current_stream(self._device).record_event()


@dataclass
class _Pending:
    """A checkpoint that is being read ahead: the requested tensors, and the state of reading them."""

    hashed: Hashed
    header: Header
    names: frozenset[str]
    thread: threading.Thread | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    host: torch.Tensor | None = None
    there: tuple[torch.Tensor, Event] | None = None
    whole: bool = False


class Prefetch:
    """Reads one checkpoint ahead at a time; page-locked memory is reused for the next one of the same shapes."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._pending: _Pending | None = None
        self._host: torch.Tensor | None = None
        self._consumed: Event | None = None
        self._two_sets = True

    def begin(self, hashed: Hashed, header: Header, names: Collection[str]) -> None:
        """Starts to read the tensors `names` of a model whose files have `header`; an earlier reading is cancelled."""
        self._drop()
        pending = _Pending(hashed, header, frozenset(names))
        pending.thread = threading.Thread(target=self._run, args=(pending,), name="read ahead", daemon=True)
        self._pending = pending
        pending.thread.start()

    @contextlib.contextmanager
    def taken(self, hashed: Hashed) -> Iterator[Tensors | None]:
        """Context with the tensors of a checkpoint, or None if it was not read ahead completely.

        They may be copied on the GPU's current stream inside the context, which does not wait for those copies.
        """
        pending, self._pending = self._pending, None
        if pending is None or pending.hashed != hashed:
            self._end(pending)
            yield None
            return
        assert pending.thread is not None
        pending.thread.join()
        if not pending.whole or pending.host is None:
            yield None
            return
        source = pending.host
        if pending.there is not None:
            source, sent = pending.there
            self._gpu.use(source, sent)
        try:
            yield _views(source, pending.header, pending.names)
        finally:
            self._consumed = self._gpu.mark()

    def give_way(self) -> None:
        """Frees the second set of weights on the GPU, because its memory is short."""
        self._two_sets = False
        pending = self._pending
        if pending is not None and pending.there is not None:
            pending.there[1].synchronize()
            pending.there = None

    def release(self) -> None:
        """Stops reading and frees all memory."""
        self._drop()
        self._wait_for_copies()
        self._host = None

    def _drop(self) -> None:
        pending, self._pending = self._pending, None
        self._end(pending)

    def _end(self, pending: _Pending | None) -> None:
        """Cancels a reading and waits for its thread."""
        if pending is not None and pending.thread is not None:
            pending.cancelled.set()
            pending.thread.join(END_WITHIN_S)
            if pending.thread.is_alive():
                self._host = None  # the file system hangs: the thread keeps its memory
            pending.there = None

    def _wait_for_copies(self) -> None:
        """Waits until the tensors that `taken` yielded last have been copied."""
        if self._consumed is not None:
            self._consumed.synchronize()
            self._consumed = None

    def _run(self, pending: _Pending) -> None:
        try:
            self._gpu.enter_thread()
            self._wait_for_copies()
            self._read(pending)
        except Exception as error:
            # Errors in the files are reported when the checkpoint is read again for scoring.
            log.debug("%s was not read ahead", pending.hashed.folder, exc_info=error)

    def _read(self, pending: _Pending) -> None:
        """Reads a checkpoint's tensors and, if there is enough memory, copies them to the GPU."""
        if any(pending.header[name][0] not in _DTYPES for name in pending.names):
            return
        n_bytes = _layout(pending.header, pending.names)[1]
        host = self._host_memory(n_bytes)
        if host is None:
            return
        with Reading(pending.hashed) as reading:
            if not _read_files(pending, host):
                return
            reading.check()
        pending.host, pending.whole = host, True
        if self._two_sets and not pending.cancelled.is_set() and n_bytes <= self._gpu.spare_bytes():
            there = self._gpu.send(host)
            if self._two_sets:
                pending.there = there

    def _host_memory(self, n_bytes: int) -> torch.Tensor | None:
        """Page-locked memory of `n_bytes`: that of the last checkpoint, or new if the machine has enough; otherwise None."""
        if self._host is not None and len(self._host) == n_bytes:
            return self._host
        self._host = None
        # torch allocates page-locked memory in powers of two; the workers of all GPUs may do so at the same time
        limit = HOST_SHARE / self._gpu.peers * available_bytes()
        if not n_bytes or 1 << (n_bytes - 1).bit_length() > limit:
            return None
        self._host = self._gpu.locked(n_bytes)
        return self._host


def prefetch_for(device: torch.device) -> Prefetch | None:
    """A Prefetch for a GPU; None for a CPU, which gains nothing because it is busy scoring."""
    return Prefetch(CudaGpu(device)) if device.type == "cuda" else None


def available_bytes() -> int:
    """Bytes of memory that this process could still allocate, 0 if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        return 0
    return max(0, min([*found[:1], *_left_in_container()])) if found else 0


def _left_in_container() -> list[int]:
    """[bytes that the control group still allows], or [] if it has no limit."""
    here = Path("/sys/fs/cgroup")
    try:
        return [int((here / "memory.max").read_text()) - int((here / "memory.current").read_text())]
    except (OSError, ValueError):  # no such group, or "max"
        return []


def _layout(header: Header, names: Collection[str]) -> tuple[dict[str, int], int]:
    """({name: offset} of the tensors in one block of memory, its size), in bytes."""
    places, at = {}, 0
    for name in sorted(names):
        places[name] = at
        at += -(-_n_bytes(header, name) // ALIGNMENT) * ALIGNMENT
    return places, at


def _n_bytes(header: Header, name: str) -> int:
    dtype, shape = header[name]
    return math.prod(shape) * BITS[dtype] // 8


def _views(memory: torch.Tensor, header: Header, names: Collection[str]) -> dict[str, torch.Tensor]:
    """{name: tensor}, views of `memory` by `_layout`."""
    found = {}
    for name, at in _layout(header, names)[0].items():
        dtype, shape = header[name]
        found[name] = memory[at : at + _n_bytes(header, name)].view(_DTYPES[dtype]).view(shape)
    return found


def _read_files(pending: _Pending, host: torch.Tensor) -> bool:
    """Reads the files of a checkpoint into `host`; whether all tensors were found with the expected header.

    They are not memory-mapped, because a mapped file that becomes shorter would kill the process.
    """
    places, _ = _layout(pending.header, pending.names)
    array: Any = host.numpy()
    memory, seen = memoryview(array), set()
    for path in weight_files(pending.hashed.folder):
        entries, start = read_header(path)
        with path.open("rb", buffering=0) as file:
            for name in sorted(
                pending.names & entries.keys(), key=lambda n: int(entries[n]["data_offsets"][0])
            ):
                begin, end = entries[name]["data_offsets"]
                foreseen = (entries[name]["dtype"], tuple(entries[name]["shape"])) == pending.header[name]
                part = memory[places[name] : places[name] + end - begin]
                file.seek(start + begin)
                if not foreseen or not _is_filled(part, file, pending.cancelled):
                    return False
                seen.add(name)
    return seen == pending.names


def _is_filled(part: memoryview, file: FileIO, cancelled: threading.Event) -> bool:
    """Fills `part` with a file's next bytes, some at a time; False if the file is too short or reading was cancelled."""
    while part:
        n = 0 if cancelled.is_set() else file.readinto(part[:PIECE_BYTES])
        if not n:
            return False
        part = part[n:]
    return True
