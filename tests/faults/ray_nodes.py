"""Three Ray nodes on this machine, one killed half-way: `python tests/faults/ray_nodes.py [--checkpoints 24] [--folder DIR]`.

Scores one run of real (small, random) models twice: by a local worker, and on a cluster of three single-CPU nodes of
which one, at work on a checkpoint, is killed when a third of the checkpoints is done. Both workspaces must then
hold the same vectors, bit for bit. Prints what happened; exit code 1 if the vectors differ or the job failed.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1]), str(Path(__file__).parent)]
# The nodes and the job: one thread each, this checkout's kltui, loopback only, a token of their own.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(sys.path[:2]),
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}

from command import kltui_command  # noqa: E402
from fault_kit import vectors  # noqa: E402
from tiny_models import TEXTS, write_run  # noqa: E402

NODES = 3
AGAIN = "trying once more"


def write_job(folder: Path, checkpoints: int, texts: int) -> Path:
    """A job over one run of random models."""
    write_run(folder / "run", steps=tuple(range(checkpoints)))
    corpus = [f"{i}: " + " ".join(TEXTS[(i + j) % len(TEXTS)] for j in range(3)) for i in range(texts)]
    (folder / "texts.json").write_text(json.dumps(corpus))
    job = folder / "job.toml"
    job.write_text('workspace = "local"\n[corpus]\nsource = "texts.json"\n[[models]]\npath = "run"\n')
    return job


def seats(nodes: list[Any]) -> dict[Any, int]:
    """{node: process id of the worker on it that sits under its raylet}, for nodes that have one."""
    found = {}
    for node in nodes:
        for pid in children(node.all_processes["raylet"][0].process.pid):
            name = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").strip()
            if name.startswith(b"ray::Seat"):
                found[node] = pid
    return found


def children(pid: int) -> list[int]:
    """Process ids of a process's children."""
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def run_on_nodes(job: Path, checkpoints: int) -> tuple[int, str, float]:
    """The job on three nodes, one lost on the way: exit code, standard error, seconds."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 << 20},
    )
    try:
        workers = [cluster.add_node(num_cpus=1, object_store_memory=80 << 20) for _ in range(NODES - 1)]
        cluster.wait_for_nodes()
        engine = ["workspace=ray", "engine.kind=ray", f"engine.workers={NODES}"]
        engine.append(f"engine.address={json.dumps(cluster.address)}")
        started = time.monotonic()
        process = subprocess.Popen(
            kltui_command("--batch", str(job), "--json", *(w for e in engine for w in ("--set", e))),
            cwd=job.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        done = 0
        for line in process.stdout:
            done += '"checkpoint"' in line
            if done == checkpoints // 3 and workers:
                at_work = seats(workers)
                victim = next(iter(at_work))
                print(
                    f"{done} checkpoints are done: killing one of {NODES} nodes, worker {at_work[victim]} on it"
                )
                cluster.remove_node(victim, allow_graceful=False)
                workers = []
        assert process.stderr is not None
        said = process.stderr.read()
        return process.wait(60), said, time.monotonic() - started
    finally:
        cluster.shutdown()


def main() -> int:
    parser = argparse.ArgumentParser(description="A job on three Ray nodes, one of which is killed.")
    parser.add_argument("--checkpoints", type=int, default=24)
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="kltui-nodes-"))
    job = write_job(folder, arguments.checkpoints, arguments.texts)
    started = time.monotonic()
    local = subprocess.run(
        kltui_command("--batch", str(job), "--json"), cwd=folder, capture_output=True, text=True
    )
    local_s = time.monotonic() - started
    code, said, ray_s = run_on_nodes(job, arguments.checkpoints)
    print(said)
    truth, found = vectors(folder / "local"), vectors(folder / "ray")
    same = sum(found.get(name) == value for name, value in truth.items())
    print(
        f"local: exit code {local.returncode}, {local_s:.1f} s; three nodes: exit code {code}, {ray_s:.1f} s"
    )
    print(f"{same} of {len(truth)} vectors equal bit for bit; {said.count(AGAIN)} checkpoint tried again")
    if arguments.folder is None:
        shutil.rmtree(folder)
    whole = same == len(truth) == len(found) == arguments.checkpoints
    return int(not (whole and code == local.returncode == 0 and AGAIN in said))


if __name__ == "__main__":
    sys.exit(main())
