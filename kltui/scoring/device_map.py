"""Models larger than one device, which are spread over all GPUs, then main memory, then disk.

transformers creates the layout (accelerate's `device_map`) and the hooks that move hidden states between devices. Parts
in main memory or on disk are copied to a GPU again for every batch.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kltui.errors import KltuiError
from kltui.scoring import hooks, quantize

if TYPE_CHECKING:
    import torch

_LOCK = ".held"  # a file in a scratch folder, locked while the folder is in use
DEVICE_MAPS = ("none", "auto", "balanced", "sequential")


@dataclass(frozen=True)
class DeviceLayout:
    """The layout of a model over devices, and the folder for weights that must be converted before they are used from disk."""

    device_map: str
    scratch: Path | None = None

    def options(self, quantization: str, device: torch.device) -> dict[str, Any]:
        """Arguments of `from_pretrained` for this layout; {} if the model is not spread. Raises KltuiError if it is impossible."""
        if self.device_map == "none":
            return {}
        if quantize.is_quantized(quantization) and device.type == "cpu":
            raise KltuiError(
                f"{quantization} cannot be used with device_map = {self.device_map!r} on a CPU, because quantised weights cannot be kept on disk",
                'use device_map = "none", or score the model without quantization',
            )
        return {
            "device_map": self.device_map,
            "max_memory": max_memory(device),
            "offload_folder": self.scratch,
        }


def check(device_map: str, device: str) -> None:
    """Raises KltuiError if models cannot be spread in this way on this machine."""
    if device_map not in DEVICE_MAPS:
        raise KltuiError(f"unknown device_map {device_map!r}", f"one of: {', '.join(DEVICE_MAPS)}")
    if device_map == "none":
        return
    if device not in ("auto", "cuda", "cpu"):
        raise KltuiError(
            f"device_map = {device_map!r} spreads a model over all GPUs, but the device is {device!r}",
            'use device = "cuda" and choose GPUs by CUDA_VISIBLE_DEVICES, or device_map = "none"',
        )
    if find_spec("accelerate") is None:
        raise KltuiError(
            f"device_map = {device_map!r} needs accelerate, not installed here", "pip install '.[large]'"
        )


def memory_hint(device_map: str) -> str:
    """The hint if a model, or a single text, does not fit in memory: to spread the model, unless that is done already."""
    if device_map != "none":
        return f"device_map = {device_map!r} already uses all memory: free some, or use a larger machine"
    return (
        'device_map = "auto" in [engine] spreads a model over all GPUs, memory and disk '
        '(one local worker; device = "auto", "cuda" or "cpu")'
    )


def max_memory(device: torch.device) -> dict[int | str, int] | None:
    """{device: maximum bytes of weights}; None lets transformers use the free memory of GPUs and machine."""
    if device.type != "cpu":
        return None
    from accelerate.utils import get_max_memory

    return {"cpu": int(0.9 * get_max_memory()["cpu"])}


@contextlib.contextmanager
def spreading(device_map: str, cache_dir: Path | None) -> Iterator[DeviceLayout]:
    """Context with the layout for loading; its scratch folder (in `cache_dir` if given) is deleted at the end."""
    if device_map == "none":
        yield DeviceLayout(device_map)
        return
    scratch = _scratch(cache_dir)
    try:
        with _locked(scratch):
            yield DeviceLayout(device_map, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _scratch(cache_dir: Path | None) -> Path:
    """A new empty folder; those of killed processes of this machine are removed."""
    if cache_dir is None:
        return Path(tempfile.mkdtemp(prefix="kltui-offload-"))
    mine = f"offload-{socket.gethostname()}-"
    for folder in cache_dir.glob(f"{mine}*"):
        if not _is_alive(folder.name.removeprefix(mine).partition("_")[0]) and not _is_locked(folder):
            shutil.rmtree(folder, ignore_errors=True)
    cache_dir.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{mine}{os.getpid()}_", dir=cache_dir))


@contextlib.contextmanager
def _locked(scratch: Path) -> Iterator[None]:
    """Context with a lock on the folder, for processes in other containers with the same host name, which cannot see this one."""
    with (scratch / _LOCK).open("w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _is_locked(scratch: Path) -> bool:
    try:
        with (scratch / _LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _is_alive(pid: str) -> bool:
    if not pid.isdigit():  # a machine whose name begins with this one's
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def is_spread(model: Any) -> bool:
    """Whether the model is on more than one device, or partly on disk."""
    places = set(getattr(model, "hf_device_map", {}).values())
    return len(places) > 1 or "disk" in places


def is_offloaded(model: Any) -> bool:
    """Whether some of its weights are copied to a device only while they are used."""
    return any(p.is_meta for p in model.parameters())


def input_device(model: Any) -> torch.device:
    """The device for the model's input ids: that of its embeddings, or the one that these are copied to when used."""
    return hooks.device_of(model.get_input_embeddings())


def engine_device(model: Any, device: torch.device) -> torch.device:
    """The device that batches are sent to: for a spread model, that of its input; otherwise the one that it is on.

    This differs from `device` if the model did not fit there.
    """
    if is_spread(model):
        return input_device(model)
    lies: torch.device = next(model.parameters()).device
    return device if lies.type == device.type else lies


def note(model: Any) -> tuple[str, ...]:
    """A note on the layout of a spread model: its devices, and whether that is slow."""
    if not is_spread(model):
        return ()
    places = sorted({_name(place) for place in model.hf_device_map.values()})
    said = f"the model is spread over {', '.join(places)}"
    if is_offloaded(model):
        said += "; parts in main memory or on disk are read for every batch, which is slow"
    return (said,)


def _name(place: object) -> str:
    return f"cuda:{place}" if isinstance(place, int) else str(place)
