"""Starts a process of which kltui's processes are forks; see warm/."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

WARM = Path(__file__).parent / "warm"
KLTUI = (
    "kltui.cli", "kltui.jobs.batch", "kltui.jobs.shard", "kltui.jobs.worker", "kltui.jobs.device_probe",
    "kltui.scoring.device", "kltui.scoring.scorer", "kltui.store", "kltui.workspace", "kltui.analysis.map",
    "kltui.view.report", "kltui.view.sections.catalogue", "kltui.view.export", "kltui.analysis.weights",
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
