"""Shared by all tests: the installed command in its own process, and the tiny models beside this file."""

from __future__ import annotations

import gc
import os
import site
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # workers side by side: threads that wait for each other would spin

sys.path.insert(0, str(Path(__file__).parent))  # tiny_models, hub_server, model_folders
sys.path.insert(0, str(Path(__file__).parent / "kernels" / "emulated"))  # emulated_kernels

import markers
from command import Cli, finished, start
from emulated_kernels import emulated
from warm_process import KLTUI, MAPS, TORCH, light_process, warm_process

import kltui
from kltui.kernels import cuda

# Processes that tests start import the same kltui, not a checkout that the tests happen to be run from.
os.environ["PYTHONSAFEPATH"] = "1"
_root = str(Path(kltui.__file__).resolve().parents[1])
if _root not in site.getsitepackages():
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_root, os.environ.get("PYTHONPATH", "")]))


HERE = Path(__file__).resolve().parent
warm = pytest.StashKey[ExitStack]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full",
        action="store_true",
        help="also the tests marked `full`: whole sweeps, of which every run has a short form",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Scoring processes, and those that run the tests, are forks of one process that has imported torch; see warm/."""
    if markers.only_quick(config):
        sys.addaudithook(_start_none)
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.pop("KLTUI_TEST_WARM_WORKERS", None)
        _begin_elsewhere(config)
        return
    config.stash[warm] = stack = ExitStack()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kltui-tests-")))
    _keep_temporary_files_in(folder / "tmp")
    socket = folder / "socket"
    os.environ |= stack.enter_context(warm_process(socket, (*TORCH, *KLTUI, *MAPS), os.environ))
    if not markers.only_quick(config):  # whose processes need no torch
        os.environ["KLTUI_TEST_WARM_WORKERS"] = "1"
        os.environ |= stack.enter_context(light_process(folder, _root, os.environ))


def _begin_elsewhere(config: pytest.Config) -> None:
    """Has each worker collect all files from another place on, where all are asked for.

    pytest compiles a test file, a second for 6,000 lines, and keeps what it makes: so each compiles a part of them, and the
    order of the tests is made afterwards.
    """
    if [Path(arg).resolve() for arg in config.args] != [HERE] or markers.all_quick(config):
        return
    files = sorted(map(str, HERE.rglob("test_*.py")))
    number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    first = number * len(files) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    config.args[:] = files[first:] + files[:first]


def _keep_temporary_files_in(folder: Path) -> None:
    """What processes that were killed leave behind goes with this folder; pytest's own stay where they are looked for."""
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder.mkdir()
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None


def pytest_unconfigure(config: pytest.Config) -> None:
    if warm in config.stash:
        config.stash[warm].close()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files of which no test is quick are not even imported where those of all files are asked for."""
    return True if markers.all_quick(config) and markers.costs_of_file(collection_path) else None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["all_quick"] = markers.all_quick(node.config)


def pytest_collection_finish(session: pytest.Session) -> None:
    if markers.all_quick(session.config) and "torch" in sys.modules:
        raise pytest.UsageError(
            "a file of quick tests imports torch, which takes seconds: see tests/markers.py"
        )
    gc.collect()
    gc.freeze()  # what was imported is not looked through for garbage again and again


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes more than there are processors: a good part of the tests wait for processes and for silence.

    Quick tests do not wait, and each process takes seconds until it has collected them.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return processors if markers.only_quick(config) else processors + 2


# Files that take a minute or more, most of it waiting for processes of their own: begun first, none runs alone at the end.
LONG = (
    "tui/test_terminal_bytes.py", "tui/test_terminal.py", "faults/test_ray.py", "jobs/test_ray_job.py", "faults/test_disk.py", "tui/test_real_workspace.py",
    "tui/test_random_keys.py", "demo/test_run.py", "faults/test_damage.py", "faults/test_kill.py", "jobs/test_hub_job.py",
    "figures/test_reproduce.py", "jobs/test_batch.py", "bench/test_endtoend.py", "bench/test_sweep.py",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks every test by its cost, and puts long files first, then those of many tests; within a file the order stays.

    Whole sweeps are left out unless they are asked for.
    """
    if not config.getoption("--full"):
        whole = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=whole)
        items[:] = [item for item in items if item not in whole]
    for item in items:
        markers.mark(item)
    counts = Counter(item.path for item in items)
    items.sort(key=lambda item: (_place(item.path), -counts[item.path], str(item.path)))


def _place(path: Path) -> int:
    """The place of a file among the long ones, which is the last for all others."""
    return next((i for i, name in enumerate(LONG) if path.as_posix().endswith(name)), len(LONG))


_STARTS = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn")
_quick: list[str] = []  # the quick test that runs


def _start_none(event: str, _: object) -> None:
    if _quick and event in _STARTS:
        raise RuntimeError(f"{_quick[0]} is marked quick and starts a process: see tests/markers.py")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Where only quick tests run, one that starts a process fails."""
    if markers.only_quick(item.config):
        _quick[:] = [item.nodeid]
    try:
        return (yield)
    finally:
        _quick.clear()


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Runs `kltui ARGUMENTS` in an empty folder and returns the finished process."""

    def run(*arguments: str, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1"}
        read_at_import = [n for n in env if n.startswith(("KLTUI_", "OMP_", "CUDA_", "PYTHON"))]
        if any(not name.startswith("KLTUI_TEST_") for name in read_at_import):
            environment.pop("KLTUI_TEST_WARM", None)
        cold = "engine.kind=ray" in arguments
        return finished(start(*arguments, cwd=tmp_path, env=environment | env, cold=cold), timeout)

    return run


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with rows in every table, to be copied by whoever changes it."""
    from full_store import fill

    folder = tmp_path_factory.mktemp("filled")
    fill(folder)
    return folder


@pytest.fixture
def emulated_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The CUDA kernels on CPU tensors, their threads as fibres: within the test `kltui.kernels.cuda` runs them."""
    module = emulated()
    monkeypatch.setattr(cuda, "_extension", lambda: module)
    monkeypatch.setattr(cuda, "DEVICE_TYPE", "cpu")
    cuda._has_code.cache_clear()
    yield module
    cuda._has_code.cache_clear()
