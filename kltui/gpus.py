"""The GPUs of this machine, found without torch, by nvidia-smi and by files of the Linux kernel."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import which

SMI_QUERY = ("--query-gpu=name,driver_version", "--format=csv,noheader")
SMI_PATIENCE_S = 10.0
_DISPLAY, _NVIDIA = "0x03", "0x10de"  # PCI class of display controllers, and a vendor


@dataclass(frozen=True, slots=True)
class SystemGpus:
    """The GPUs that the system reports; falsy if there are none.

    `seen_by` is how they were found, `driver` the driver's version ("" if unknown).
    """

    seen_by: str = ""
    names: tuple[str, ...] = ()
    driver: str = ""
    maker: str = ""  # "NVIDIA", "AMD" or ""

    def __bool__(self) -> bool:
        return bool(self.seen_by)

    def __str__(self) -> str:
        named = ", ".join(dict.fromkeys(self.names)) or f"a GPU of {self.maker}"
        return named + (f", driver {self.driver}" if self.driver else "")


def system_gpus(root: Path = Path("/")) -> SystemGpus:
    """The GPUs of this machine; falsy if none is found. `root` is the folder that contains proc, dev and sys."""
    driver = _kernel_driver(root)
    if reported := _from_smi():
        return reported
    for seen_by, names in _nvidia_places(root):
        if names:
            return SystemGpus(seen_by, tuple(n for n in names if n), driver, "NVIDIA")
    nodes = _amd_nodes(root)
    return SystemGpus("/dev/kfd", tuple(nodes), "", "AMD") if nodes else SystemGpus()


def _from_smi() -> SystemGpus:
    """The GPUs that nvidia-smi lists; falsy if it is missing or reports none."""
    program = which("nvidia-smi")
    if program is None:
        return SystemGpus()
    try:
        done = subprocess.run(
            [program, *SMI_QUERY], stdin=subprocess.DEVNULL, capture_output=True, timeout=SMI_PATIENCE_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return SystemGpus()
    lines = done.stdout.decode(errors="replace").splitlines()
    rows = [[part.strip() for part in line.split(",")] for line in lines if line.count(",") == 1]
    if done.returncode or not any(lines) or "No devices" in lines[0]:
        return SystemGpus()
    if not rows:
        return SystemGpus("nvidia-smi", maker="NVIDIA")
    return SystemGpus("nvidia-smi", tuple(row[0] for row in rows), rows[0][1], "NVIDIA")


def _kernel_driver(root: Path) -> str:
    """Version of NVIDIA's kernel module, "" if it is not loaded."""
    found = re.search(r"Kernel Module\D*?(\d+(?:\.\d+)+)", _text(root / "proc/driver/nvidia/version"))
    return found.group(1) if found else ""


def _nvidia_places(root: Path) -> Iterator[tuple[str, list[str]]]:
    """(place, names of the NVIDIA GPUs found there) for every place to look, the best first; "" for a GPU without a name."""
    known = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    yield "/proc/driver/nvidia", [_model(path) for path in known]
    yield "/dev/nvidia*", ["" for path in (root / "dev").glob("nvidia[0-9]*")]
    yield "the PCI bus", ["" for path in (root / "sys/bus/pci/devices").glob("*") if _is_nvidia(path)]


def _model(path: Path) -> str:
    found = re.search(r"^Model:\s*(.+?)\s*$", _text(path), re.MULTILINE)
    return found.group(1) if found else ""


def _is_nvidia(device: Path) -> bool:
    return _text(device / "vendor").strip() == _NVIDIA and _text(device / "class").startswith(_DISPLAY)


def _amd_nodes(root: Path) -> list[str]:
    """Names of the GPUs that AMD's compute driver offers; its nodes without SIMD units are processors."""
    if not (root / "dev/kfd").exists():
        return []
    nodes = sorted((root / "sys/class/kfd/kfd/topology/nodes").glob("*"))
    gpus = [n for n in nodes if re.search(r"^simd_count [1-9]", _text(n / "properties"), re.MULTILINE)]
    return [_text(n / "name").strip() or "AMD GPU" for n in gpus]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
