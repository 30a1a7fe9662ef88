"""A Ray cluster whose head is killed under a job: `python tests/faults/ray_head.py FOLDER [--patience 30] [--nodes 2]`.

Prints one JSON object: the batch's exit code, the seconds that it took to end after the kill, and what it said. Exit
code 1 where it had to be killed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import ray_nodes  # noqa: F401  (sets what the nodes and the job need in the environment)
from fault_kit import behave, light_env, write_job

os.environ |= light_env(KLTUI_LIGHT_SECONDS="1")
STORE_BYTES = 80 << 20
MAX_S = 100.0
BATCH = """\
import sys
from kltui.cli import main
from kltui.jobs.executors import ray as ray_executor
ray_executor.HEAD_LOST_S = float(sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""


def lose_the_head(folder: Path, patience_s: float, n_nodes: int) -> dict[str, object]:
    """What becomes of a job when the head of its cluster is killed after the first checkpoint."""
    from ray.cluster_utils import Cluster

    job = write_job(folder, checkpoints=12)
    behave(job, 6, "hold")  # however long it takes to kill the head, the job is not done by then
    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(n_nodes - 1):
            cluster.add_node(**node)
        cluster.wait_for_nodes()
        settings = ("kind=ray", f"workers={n_nodes}", f"address={json.dumps(cluster.address)}")
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", BATCH, str(patience_s), "--batch", str(job), "--json"]
            + [word for s in settings for word in ("--set", f"engine.{s}")],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if '"checkpoint"' in line:
                break
        cluster.remove_node(cluster.head_node, allow_graceful=False)
        (job.parent / "run" / "step6" / "behaviour").unlink()
        return _end(process)
    finally:
        cluster.shutdown()


def _end(process: subprocess.Popen[str]) -> dict[str, object]:
    started = time.monotonic()
    try:
        _, said = process.communicate(timeout=MAX_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {"code": None, "seconds": MAX_S, "said": ""}
    return {"code": process.returncode, "seconds": time.monotonic() - started, "said": said}


def main() -> int:
    parser = argparse.ArgumentParser(description="A job on a Ray cluster whose head is killed.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--patience", type=float, default=30.0)
    parser.add_argument("--nodes", type=int, default=2)
    arguments = parser.parse_args()
    ended = lose_the_head(arguments.folder, arguments.patience, arguments.nodes)
    print(json.dumps(ended))
    return int(ended["code"] is None)


if __name__ == "__main__":
    sys.exit(main())
