"""A job on a Ray cluster of its own: the same vectors, the same failures, nothing left behind, nothing open to others."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_kit import Started, behave, check_stored, ends, run_cli, start, truths, vectors, write_job

import kltui
from kltui.errors import KltuiError, TryAgainError, UsageError
from kltui.jobs.executors.ray import RayExecutor, _Head, _options, check_ray
from kltui.jobs.job_tables import EngineTable
from kltui.jobs.messages import Setup, Task
from kltui.jobs.worker import _at_hand
from kltui.registry.checkpoint import HubSource
from kltui.registry.reading import Hashed
from kltui.scoring.settings import ScoringSettings

ENGINE = '[engine]\nkind = "ray"\nworkers = 2\n'
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@needs_ray
def test_checkpoints_fail_alone_and_the_others_have_the_right_bits(tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=9, extra=ENGINE)
    reported = {1: "error", 2: "once kill", 3: "kill", 4: "device", 5: "once device", 6: "raise"}
    for step, what in reported.items():
        behave(job, step, what)
    done = run_cli(
        "--batch", str(job), "--json", cwd=tmp_path, timeout=250, cold=True, HF_TOKEN="hf_not_to_be_told"
    )
    assert done.returncode == 1, done.stderr
    ended = ends(done.stdout)
    failed = {name: (end["error"], end["hint"]) for name, end in ended.items() if end["status"] == "failed"}
    assert failed.keys() == {"run@1", "run@3", "run@4", "run@6"} and len(ended) == 9
    assert failed["run@1"] == ("this checkpoint is broken", "mend it")
    assert (
        failed["run@3"][0]
        == f"the scoring process ended twice (its Ray worker on {socket.gethostname()} died)"
    )
    assert (
        "exit status 70" in failed["run@4"][0] and "The GPU reported a persistent error" in failed["run@4"][1]
    )
    assert failed["run@6"][0] == "ValueError: something the scorer did not expect"
    assert "Traceback" in done.stderr and done.stderr.count("trying once more") == 4
    assert check_stored(job) == 5
    assert all(line.startswith("{") for line in done.stdout.splitlines()), "Ray wrote between the events"
    assert "hf_not_to_be_told" not in done.stdout + done.stderr


@needs_ray
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc for processes and sockets")
def test_ctrl_c_finishes_and_term_stops_with_nothing_left_and_nothing_open(tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=8, extra=ENGINE)
    process, family = started(job, workers=2)
    assert not open_to_others(family)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: Ray's processes get it too
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "press again to stop at once" in err
    assert all(end["status"] == "done" for end in ends(out).values())
    stored = check_stored(job, list(ends(out)))
    assert 2 <= stored < 8
    assert not still_there(family)

    process, family = started(job)
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143 and not still_there(family)
    assert check_stored(job, list(ends(out))) < 8
    assert run_cli("--batch", str(job), "--json", "--set", "engine.kind=local", cwd=tmp_path).returncode == 0
    assert vectors(tmp_path / "ws") == truths(job)


@needs_ray
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc for a process's children")
def test_a_killed_batch_takes_its_cluster_along(tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=8, extra=ENGINE)
    process, family = started(job)
    process.kill()
    process.communicate(timeout=60)
    # Two of Ray's own helpers look for its head for a minute before they give up.
    assert not still_there({pid for pid in family if b"Agent" not in name(pid)})


def started(job: Path, workers: int = 1) -> tuple[Started, set[int]]:
    """A batch of slow checkpoints in a group of its own, one of them stored; it and all its descendants."""
    words = ("--batch", str(job), "--json", "--set", f"engine.workers={workers}")
    process = start(*words, cwd=job.parent, cold=True, session=True, KLTUI_LIGHT_SECONDS="0.5")
    assert process.stdout is not None
    for line in process.stdout:
        if '"checkpoint"' in line and '"kept": true' not in line:
            break
    return process, descendants(process.pid)


def descendants(pid: int) -> set[int]:
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        listed = []
    return {pid, *(d for child in listed for d in descendants(int(child)))}


def still_there(pids: set[int], seconds: float = 20) -> set[int]:
    """Those of the processes that have not ended when the time is up."""
    until = time.monotonic() + seconds
    while (alive := {pid for pid in pids if runs(pid)}) and time.monotonic() < until:
        time.sleep(0.05)
    return alive


def name(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0]
    except OSError:
        return b""


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def open_to_others(pids: set[int]) -> list[str]:
    """Addresses beyond the loopback that one of the processes listens on, as /proc writes them."""
    listening = {}
    for table, loopback in (("tcp", "0100007F"), ("tcp6", "0000000000000000FFFF00000100007F")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # LISTEN
                listening[fields[9]] = fields[1], fields[1].startswith(loopback)
    inodes = {
        str(fd.readlink()).removeprefix("socket:[").removesuffix("]")
        for pid in pids
        if Path(f"/proc/{pid}/fd").exists()
        for fd in Path(f"/proc/{pid}/fd").iterdir()
        if fd.is_symlink()
    }
    ours = [listening[i] for i in inodes & listening.keys()]
    assert ours, "a Ray cluster listens somewhere"
    return [address for address, is_loopback in ours if not is_loopback]


def test_without_ray_the_job_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="not installed") as caught:
        check_ray()
    assert caught.value.hint == "pip install '.[ray]'"


@needs_ray
def test_a_job_whose_cluster_loses_its_head_ends_in_words_and_can_go_on(tmp_path: Path) -> None:
    script = Path(__file__).with_name("ray_head.py")
    asked = [sys.executable, str(script), str(tmp_path), "--patience", "4", "--nodes", "1"]
    lost = subprocess.run(asked, capture_output=True, text=True, timeout=170)
    assert lost.returncode == 0, lost.stderr
    ended = json.loads(lost.stdout.splitlines()[-1])
    assert ended["code"] == 75, ended
    assert "the head of the Ray cluster at" in ended["said"] and "run the job again" in ended["said"]
    assert "Traceback" not in ended["said"]
    job = tmp_path / "job.toml"
    assert 1 <= check_stored(job) < 12
    with kltui.open(tmp_path / "ws") as ws:
        assert [j.status for j in ws.jobs()] == ["failed"]
    assert run_cli("--batch", str(job), "--json", cwd=tmp_path).returncode == 0
    assert vectors(tmp_path / "ws") == truths(job)


def test_a_head_that_comes_back_in_time_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kltui.jobs.executors.ray.HEAD_EVERY_S", 0.0)
    monkeypatch.setattr("kltui.jobs.executors.ray.HEAD_LOST_S", 600.0)
    listening = socket.create_server(("127.0.0.1", 0))
    place = listening.getsockname()
    head = _Head(f"127.0.0.1:{place[1]}")
    assert not head.is_silent()
    listening.close()
    assert head.is_silent() and head.is_silent(at_once=True)
    with socket.create_server(place):
        assert not head.is_silent()
    assert head.is_silent()
    monkeypatch.setattr("kltui.jobs.executors.ray.HEAD_LOST_S", 0.0)
    with pytest.raises(TryAgainError, match="has not answered for 0 s") as caught:
        head.is_silent()
    assert "run the job again" in caught.value.hint


@needs_ray
def test_an_address_where_nothing_is_exits_75_and_the_job_has_failed(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody else gets it, nobody answers
        port = taken.getsockname()[1]
        job = write_job(tmp_path, extra=f'{ENGINE}address = "127.0.0.1:{port}"\n')
        done = run_cli("--batch", str(job), "--json", cwd=tmp_path, cold=True)
    assert done.returncode == 75 and f"no Ray cluster can be reached at '127.0.0.1:{port}'" in done.stderr
    assert "refused" in done.stderr and "Traceback" not in done.stderr
    assert '"status": "failed"' in done.stdout.splitlines()[-1]
    with kltui.open(tmp_path / "ws") as ws:
        assert [j.status for j in ws.jobs()] == ["failed"]


@needs_ray
@pytest.mark.parametrize("address", ["localhost:notaport:1", "nowhere.invalid:6379"])
def test_an_impossible_address_is_told(tmp_path: Path, address: str) -> None:
    before = sys.stdout
    with pytest.raises(TryAgainError, match="no Ray cluster can be reached"):
        RayExecutor(
            Setup(("a",), "sha", ScoringSettings(), tmp_path, 1), 1, EngineTable(kind="ray", address=address)
        )
    assert sys.stdout is before


def test_a_machine_that_does_not_see_a_folder_fetches_it_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(source: HubSource, *, allow_bin: bool) -> tuple[Path, HubSource]:
        asked.append((source, allow_bin))
        return tmp_path, source

    monkeypatch.setattr("kltui.registry.hub.fetch", fetch)
    source = HubSource("org/model", "step1", "c" * 40)
    there = Task(0, Hashed(tmp_path, ""), "none", hub=source)
    (tmp_path / "config.json").write_text("{}")
    assert _at_hand(there, False) == tmp_path and asked.pop() == (source, False)  # half of it is not there
    (tmp_path / "model.safetensors").write_bytes(b"")
    elsewhere = Task(0, Hashed(tmp_path / "missing", ""), "none", hub=source)
    assert _at_hand(there, False) == tmp_path and not asked
    assert _at_hand(elsewhere, True) == tmp_path and asked == [(source, True)]
    local = Task(0, Hashed(tmp_path / "missing", ""), "none")
    assert _at_hand(local, False) == tmp_path / "missing"


@pytest.mark.parametrize(
    ("resources", "device", "takes", "scores_on"),
    [
        ({"CPU": 8.0}, "auto", {"num_cpus": 4}, "cpu"),
        ({"CPU": 8.0}, "cpu", {"num_cpus": 4}, "cpu"),
        ({"CPU": 8.0, "GPU": 2.0}, "auto", {"num_gpus": 1, "num_cpus": 0}, "cuda"),
        ({"CPU": 8.0, "GPU": 2.0}, "cuda:1", {"num_gpus": 1, "num_cpus": 0}, "cuda"),
        ({"CPU": 8.0, "GPU": 2.0}, "cpu", {"num_cpus": 4}, "cpu"),
    ],
)
def test_actors_take_a_gpu_where_one_is_meant(
    resources: dict[str, float], device: str, takes: dict[str, int], scores_on: str
) -> None:
    options, got = _options(resources, device, 4)
    assert got == scores_on and {k: v for k, v in options.items() if k in ("num_cpus", "num_gpus")} == takes


def test_cuda_on_a_cluster_without_one_is_refused() -> None:
    with pytest.raises(KltuiError, match="no machine of the Ray cluster has a GPU"):
        _options({"CPU": 8.0}, "cuda", 1)
