"""Starts a process of which kltui's processes are forks; see warm/."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

WARM = Path(__file__).parent / "warm"
FAULTS = Path(__file__).parent / "faults"
KLTUI = (
    "kltui.cli", "kltui.jobs.batch", "kltui.jobs.shard", "kltui.jobs.worker", "kltui.jobs.device_probe",
    "kltui.scoring.device", "kltui.scoring.scorer", "kltui.store", "kltui.workspace", "kltui.analysis.map",
    "kltui.view.report", "kltui.view.sections.catalogue", "kltui.view.export", "kltui.analysis.weights",
    "kltui.view.summary", "kltui.workspace.weight_process", "kltui.workspace.weight_sweep",
    "kltui.registry.parameters", "kltui.registry.gguf_tensors",
)  # fmt: skip
# What a report, an export and a job's findings import when they come to their maps: a second for each process.
MAPS = ("sklearn.manifold", "sklearn.model_selection", "scipy.cluster.hierarchy", "scipy.stats", "plotext")
TORCH = (
    "transformers.models.gpt_neox.modeling_gpt_neox",
    "transformers:AutoModelForCausalLM",
    "transformers:AutoTokenizer",
    *(["peft"] if find_spec("peft") else []),
)


@contextmanager
def warm_process(socket: Path, modules: tuple[str, ...], env: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """What to add to the environment of kltui, or of what starts it, so that its processes are forks; nothing off Linux."""
    if sys.platform != "linux":
        yield {}
        return
    with subprocess.Popen(
        [sys.executable, "-P", str(WARM / "server.py"), str(socket), *modules],
        env={**env, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        paths = os.pathsep.join(filter(None, [str(WARM), env.get("PYTHONPATH", "")]))
        yield {"KLTUI_TEST_WARM": str(socket), "PYTHONPATH": paths}


@contextmanager
def light_process(folder: Path, root: str, env: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """What names, in the environment, the warm process of the tests of faults: without torch, with a light scorer in its place.

    Where there is a C compiler the library that breaks the disk (faults/fault_shim.c) is preloaded into it. `root` is where
    kltui lies.
    """
    shim = _shim(folder) if sys.platform == "linux" else None
    paths = os.pathsep.join([str(FAULTS / "light"), str(FAULTS), root])
    own = {n: v for n, v in env.items() if not n.startswith("KLTUI_TEST_WARM")}
    own |= {"PYTHONPATH": paths, "KLTUI_LIGHT": "1"} | ({"LD_PRELOAD": str(shim)} if shim else {})
    with warm_process(folder / "light", (*KLTUI, *MAPS, "lives"), own) as found:
        named = {"KLTUI_TEST_LIGHT": found["KLTUI_TEST_WARM"]} if found else {}
        yield named | ({"KLTUI_TEST_SHIM": str(shim)} if shim else {})


def _shim(folder: Path) -> Path | None:
    """The compiled fault_shim.c, to be preloaded; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library, source = folder / "fault_shim.so", FAULTS / "fault_shim.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return library
