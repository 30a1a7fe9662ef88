"""The CUDA kernels compiled as plain C++ over the emulation beside this file, as a module that tests import."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CUDA = ROOT / "csrc" / "cuda"
BINDING = ROOT / "csrc" / "bindings" / "module_cuda.cpp"
# Kernels look at floats through 16-byte loads, as CUDA allows. One compiler flag more or less changes no value.
FLAGS = (
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
)


def emulated() -> ModuleType:
    """The module made of the kernels in csrc/cuda, compiled once for each state of the sources."""
    place = ROOT / "build" / "emulated"
    place.mkdir(parents=True, exist_ok=True)
    sources = sorted([*CUDA.iterdir(), *HERE.glob("*.?pp"), BINDING])
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    folder = place / digest
    with (place / "lock").open("w") as lock:  # test processes side by side want one module, not one each
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "whole").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _compile(folder)
            (folder / "whole").touch()
    return _load(_name(folder), _module(folder))


def _module(folder: Path) -> Path:
    return folder / f"{_name(folder)}{sysconfig.get_config_var('EXT_SUFFIX')}"


def _name(folder: Path) -> str:
    """A name for each state of the sources: Python keeps one extension of a name per process."""
    return f"_cuda_emulated_{folder.name}"


def _compile(folder: Path) -> None:
    """Two compilers side by side, then the linker."""
    import pybind11

    folder.mkdir()
    compiler = shutil.which("c++") or "g++"
    python = sysconfig.get_paths()["include"]
    includes = [f"-I{path}" for path in (CUDA, HERE, pybind11.get_include(), python)]
    flags = [
        *FLAGS,
        "-U_FORTIFY_SOURCE",
        "-fPIC",
        "-fvisibility=hidden",
        f"-DKLTUI_CUDA_MODULE={_name(folder)}",
        *includes,
    ]
    kernels = ["-x", "c++", *sorted(str(path) for path in CUDA.glob("*.cu"))]
    binding = [
        "-O0",
        "-std=c++17",
        str(BINDING),
    ]  # by the standard of the extension, which takes less time to compile
    parts = (["-O1", "-std=c++20", *kernels, str(HERE / "cuda_emulation.cpp")], binding)
    running = [subprocess.Popen([compiler, *flags, "-c", *part], cwd=folder) for part in parts]
    statuses = [process.wait() for process in running]
    if any(statuses):
        raise RuntimeError("the emulated kernels do not compile")
    objects = sorted(str(path) for path in folder.glob("*.o"))
    subprocess.run([compiler, "-shared", *objects, "-o", str(_module(folder))], check=True)


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
