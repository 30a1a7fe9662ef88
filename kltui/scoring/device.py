"""The device that a job computes on, and the reasons for it. torch is imported only when a function here asks it.

`main`, run in another process, prints the answer as JSON, for processes that should not import torch.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kltui.errors import KltuiError
from kltui.gpus import SystemGpus, system_gpus

# As measured: on a CPU, batches of more than a few thousand tokens exceed the cache; a GPU needs large ones.
START_TOKENS = {"cpu": 1536, "cuda": 32_768}
_OTHER_START_TOKENS = 4096
_HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_INSTALL = "https://pytorch.org/get-started/locally explains how to install torch for this GPU."


@dataclass(frozen=True, slots=True)
class TorchGpu:
    """A GPU as torch sees it: name, bytes of memory, compute capability such as (9, 0)."""

    name: str
    memory_bytes: int
    capability: tuple[int, int]


@dataclass(frozen=True, slots=True)
class TorchFacts:
    """Facts about torch and its GPUs; `complaint` is torch's own reason why it has none.

    `codes` are the GPU architectures that it is compiled for, such as sm_90 and compute_90.
    """

    version: str
    cuda: str = ""
    hip: str = ""
    gpus: tuple[TorchGpu, ...] = ()
    complaint: str = ""
    codes: tuple[str, ...] = ()
    mps: bool = False


@dataclass(frozen=True, slots=True)
class DeviceInUse:
    """The device that torch computes on, such as `cuda:0`, with its properties; `warning` explains why a GPU is unused."""

    device: str
    name: str
    memory_bytes: int
    driver: str
    torch: str
    cuda: str
    warning: str = ""
    hint: str = ""

    def __str__(self) -> str:
        with_cuda = f"CUDA {self.cuda}" if self.cuda else "without CUDA"
        parts = [self.name, f"{self.memory_bytes / (1 << 30):.1f} GiB" if self.memory_bytes else ""]
        parts += [f"driver {self.driver}" if self.driver else "", f"torch {self.torch} {with_cuda}"]
        return f"{self.device}: {', '.join(part for part in parts if part)}"


def start_tokens(device: str) -> int:
    """Padded tokens of the first batch on a device such as "cuda:0", if a job does not set them."""
    return START_TOKENS.get(device.partition(":")[0], _OTHER_START_TOKENS)


def computed_dtype(asked: str, device: str) -> str:
    """The dtype that a device computes in: the requested one ("auto": as stored), except that float16 is float32 on a CPU."""
    return "float32" if asked == "float16" and device == "cpu" else asked


def ask_torch(*, for_gpu: bool = True) -> TorchFacts:
    """The facts about torch on this machine, about GPUs only if `for_gpu`. Importing torch takes seconds."""
    import torch

    version = str(torch.__version__)
    cuda, hip = torch.version.cuda or "", torch.version.hip or ""
    if not for_gpu:
        return TorchFacts(version, cuda, hip)
    mps = torch.backends.mps.is_available()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        complaint = _complaint([str(warning.message) for warning in caught])
        return TorchFacts(version, cuda, hip, complaint=complaint, mps=mps)
    gpus = tuple(_gpu(torch.cuda.get_device_properties(i)) for i in range(torch.cuda.device_count()))
    return TorchFacts(version, cuda, hip, gpus, codes=tuple(torch.cuda.get_arch_list()), mps=mps)


def _complaint(warned: Sequence[str]) -> str:
    """Why torch has no GPU: its first warning, otherwise the error that it raises when CUDA is initialised."""
    import torch

    if warned:
        return _sentence(warned[0])
    begin: Any = torch.cuda.init
    try:
        begin()
    except (RuntimeError, AssertionError) as error:
        return _sentence(str(error))
    return "it finds none"


def _sentence(text: str) -> str:
    """The first sentence of torch's message, without the position in its source code."""
    text = " ".join(text.split("(Triggered internally")[0].split())
    text = text.removeprefix("CUDA initialization: ")
    return re.split(r"(?<=\w)\. ", text)[0].rstrip(".")


def _gpu(properties: Any) -> TorchGpu:
    return TorchGpu(properties.name, properties.total_memory, (properties.major, properties.minor))


def has_code(gpu: TorchGpu, facts: TorchFacts) -> bool:
    """Whether torch has code for the GPU: for its major version and up to its minor, or PTX that the driver compiles."""
    if facts.hip or not facts.codes:
        return True
    major, minor = gpu.capability
    for code in facts.codes:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", code)
        if not found:
            continue
        kind, own = found.group(1), (int(found.group(2)), int(found.group(3)))
        if (own[0] == major and own[1] <= minor) if kind == "sm" else own <= (major, minor):
            return True
    return False


def choose(
    asked: str, facts: TorchFacts, system: SystemGpus, environment: Mapping[str, str] = os.environ
) -> DeviceInUse:
    """The device for `asked` ("auto", "cpu", "cuda", "cuda:1", "mps"). Raises KltuiError if it does not exist.

    "auto" is the first GPU that torch can use through CUDA or ROCm, otherwise the CPU, with the reason if the system
    shows a GPU.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,4})?", asked):
        raise KltuiError(f"unknown device {asked!r}", 'device is "auto", "cpu", "cuda", "cuda:1" or "mps"')
    if asked == "cpu":
        return _processor(facts)
    if asked == "mps":
        if not facts.mps:
            raise KltuiError(
                "device 'mps' was asked for, but torch finds none", 'use device = "auto" or "cpu"'
            )
        return DeviceInUse("mps", "Apple GPU", _memory_bytes(), "", facts.version, "")
    why = _unusable(asked, facts, system, environment)
    if not why:
        index = _index(asked)
        gpu = facts.gpus[index]
        return DeviceInUse(
            f"cuda:{index}", gpu.name, gpu.memory_bytes, system.driver, facts.version, facts.cuda or facts.hip
        )
    if asked != "auto":
        lacks = "torch does not find it" if facts.gpus else "torch finds no CUDA device"
        hint = f'{why[1]} Or use device = "auto" or "cpu".'.strip()
        raise KltuiError(f"device {asked!r} was asked for, but {lacks}: {why[0]}", hint)
    if facts.mps:
        return _processor(
            facts, "auto selects the CPU; this machine also has an Apple GPU", 'device = "mps" uses it.'
        )
    if not system:
        return _processor(facts)
    return _processor(facts, f"{system} is available, but the CPU is used: {why[0]}", why[1])


def _index(asked: str) -> int:
    return int(asked.partition(":")[2] or 0)


def _unusable(
    asked: str, facts: TorchFacts, system: SystemGpus, environment: Mapping[str, str]
) -> tuple[str, str] | None:
    """(why torch cannot use the requested GPU, what to do); None if it can."""
    if facts.gpus:
        index = _index(asked)
        if index >= len(facts.gpus):
            return f"there are {len(facts.gpus)}, counted from cuda:0", ""
        gpu = facts.gpus[index]
        if has_code(gpu, facts):
            return None
        capability = f"sm_{gpu.capability[0]}{gpu.capability[1]}"
        has = ", ".join(facts.codes)
        return f"torch {facts.version} has no code for {gpu.name} ({capability}; it has {has})", _INSTALL
    if not facts.cuda and not facts.hip:
        return (
            f"torch {facts.version} was built without {'ROCm' if system.maker == 'AMD' else 'CUDA'}",
            _INSTALL,
        )
    for name in _HIDING:
        value = environment.get(name)
        if value is not None and (not value.strip() or value.strip().startswith("-")):
            return f"{name}={value!r} hides every GPU from torch", f"Unset {name}, or list a GPU in it."
    built = f"CUDA {facts.cuda}" if facts.cuda else f"ROCm {facts.hip}"
    visible = next((f", {n}={environment[n]!r}" for n in _HIDING if n in environment), "")
    hint = "Install a newer driver, or a torch for an older CUDA. " if "driver" in facts.complaint else ""
    return (
        f"torch {facts.version} (built for {built}{visible}) cannot use it: {facts.complaint}",
        hint + _INSTALL,
    )


def _processor(facts: TorchFacts, warning: str = "", hint: str = "") -> DeviceInUse:
    return DeviceInUse("cpu", processor_name(), _memory_bytes(), "", facts.version, facts.cuda, warning, hint)


def processor_name() -> str:
    """The system's name of the processor."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return " ".join(found.group(1).split()) if found else platform.processor() or platform.machine()


def _memory_bytes() -> int:
    """Bytes of this machine's memory, 0 if unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 0


def device_in_use(asked: str) -> DeviceInUse:
    """The device that a scorer in this process uses for the setting `asked`. Raises KltuiError; imports torch."""
    if asked == "cpu":
        return choose(asked, ask_torch(for_gpu=False), SystemGpus())
    return choose(asked, ask_torch(), system_gpus())


def main() -> int:
    """Prints {"device", "gpus"} as JSON: the device for the first argument and the usable GPUs; or {"error", "hint"}."""
    reported: dict[str, object]
    try:
        facts = ask_torch()
        usable = [i for i, gpu in enumerate(facts.gpus) if has_code(gpu, facts)]
        reported = {"gpus": usable, "device": asdict(choose(sys.argv[1], facts, system_gpus()))}
    except KltuiError as error:
        reported = {"error": error.message, "hint": error.hint}
    except Exception as error:  # a broken installation of torch can raise anything
        reported = {
            "error": f"torch cannot be used: {type(error).__name__}: {error}",
            "hint": "Reinstall torch.",
        }
    sys.stdout.write(json.dumps(reported))
    return 0
