"""A job over a hub repository: twelve revisions by pattern, every fault with its own outcome, offline afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command import Cli
from hub_server import FakeHub
from tiny_models import write_run

import kltui

STEPS = (0, 1, 2, 4, 8, 16, 100, 200, 300, 400, 500, 600)
JOB = """\
workspace = "ws"
[corpus]
source = "texts.json"
[[models]]
repo = "org/tiny"
revisions = ["step{0,1,2,4,8,16}", "step{100..600..100}"]
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_run(tmp_path_factory.mktemp("hub") / "tiny", steps=STEPS)


@pytest.fixture
def hub(folders: list[Path]) -> Iterator[FakeHub]:
    with FakeHub() as server:
        for step, folder in zip(STEPS, folders, strict=True):
            server.add_folder("org/tiny", f"step{step}", folder)
        yield server


@pytest.fixture
def hub_job(tmp_path: Path) -> Path:
    (tmp_path / "texts.json").write_text(json.dumps([f"a text of number {i}" for i in range(12)]))
    path = tmp_path / "job.toml"
    path.write_text(JOB)
    return path


def outcomes(stdout: str) -> dict[str, dict[str, object]]:
    lines = [json.loads(line) for line in stdout.splitlines()]
    return {str(e["name"]): e for e in lines if e["event"] == "checkpoint"}


def test_twelve_revisions_by_pattern_through_faults_then_offline(
    cli: Cli, hub: FakeHub, hub_job: Path, folders: list[Path]
) -> None:
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(hub_job.parent / "hf"), "HF_HUB_OFFLINE": ""}
    hub.fail("resolve", status=503, times=1)
    hub.fail("resolve", status=429, times=1, **{"Retry-After": "0"})
    hub.cut("model.safetensors", after=2000, times=1)
    done = cli("--batch", str(hub_job), "--json", **env)
    assert done.returncode == 0, done.stderr
    assert {n: e["status"] for n, e in outcomes(done.stdout).items()} == {f"tiny@{s}": "done" for s in STEPS}

    local = hub_job.with_name("local.toml")
    local.write_text(
        JOB.replace('"ws"', '"local"')
        .replace('repo = "org/tiny"', f'path = "{folders[0].parent}"')
        .split("revisions")[0]
    )
    assert cli("--batch", str(local), "--json").returncode == 0
    with kltui.open(hub_job.parent / "ws") as far, kltui.open(hub_job.parent / "local") as near:
        assert far.map().names == near.map().names
        np.testing.assert_array_equal(far.map().loglik_KN, near.map().loglik_KN)
        commits = {r.checkpoint.source.commit for r in far.checkpoints()}  # type: ignore[union-attr]
        assert len(commits) == 12 and all(len(c) == 40 for c in commits)

    hub.stop()
    offline = cli(
        "--batch", str(hub_job), "--json", "--set", "workspace=off", **(env | {"HF_HUB_OFFLINE": "1"})
    )
    assert offline.returncode == 0, offline.stderr
    with kltui.open(hub_job.parent / "ws") as far, kltui.open(hub_job.parent / "off") as cached:
        np.testing.assert_array_equal(far.map().loglik_KN, cached.map().loglik_KN)


def test_each_refusal_has_its_own_words_and_the_others_go_on(
    cli: Cli, hub: FakeHub, hub_job: Path, folders: list[Path]
) -> None:
    hub.add_folder("org/gated", "main", folders[0])
    hub.repos["org/gated"].gated = True
    hub.add_folder("org/short", "main", folders[0])
    hub.serve_instead("org/short/resolve", b"cut")
    hub_job.write_text(
        JOB.replace('"step{0,1,2,4,8,16}", "step{100..600..100}"', '"step1", "step77"')
        + '[[models]]\nrepo = "org/gated"\n[[models]]\nrepo = "org/short"\n[[models]]\nrepo = "org/none"\n'
    )
    env = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(hub_job.parent / "hf"),
        "HF_HUB_OFFLINE": "",
        "HF_TOKEN": "hf_secretsecret",
    }
    done = cli("--batch", str(hub_job), "--json", **env)
    assert done.returncode == 1, done.stderr
    reported = outcomes(done.stdout)
    assert reported["tiny@1"]["status"] == "done"
    errors = {n: str(e["error"]) for n, e in reported.items() if e["status"] == "failed"}
    assert set(errors) == {"tiny@77", "gated", "short", "none"}
    assert len(set(errors.values())) == 4
    assert "step77" in errors["tiny@77"]
    assert "secretsecret" not in done.stdout + done.stderr


def test_what_is_stored_is_not_fetched_again_though_it_was_freed_and_the_cache_stays_small(
    cli: Cli, hub: FakeHub, hub_job: Path, folders: list[Path]
) -> None:
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(hub_job.parent / "hf"), "HF_HUB_OFFLINE": ""}
    freeing = ("--batch", str(hub_job), "--json", "--set", "scoring.keep_cache=false")
    assert cli(*freeing, **env).returncode == 0
    left = [p for p in (hub_job.parent / "hf").rglob("*") if p.is_file() and p.stat().st_size > 50_000]
    assert not left
    with kltui.open(hub_job.parent / "ws") as ws:
        assert len(ws.map()) == 12
    fetched = len(hub.downloads())
    again = cli(*freeing, **env)
    assert again.returncode == 0, again.stderr
    assert all(event["kept"] for event in outcomes(again.stdout).values())
    assert len(hub.downloads()) == fetched

    hub.add_folder("org/tiny", "step1", folders[5])  # the branch has moved: another commit, scored anew
    moved = outcomes(cli(*freeing, **env).stdout)
    assert {name for name, event in moved.items() if "kept" not in event} == {"tiny@1"}
    assert len([path for path in hub.downloads() if path.endswith("model.safetensors")]) == 13

    offline = cli(*freeing, **(env | {"HF_HUB_OFFLINE": "1"}))
    assert offline.returncode == 0, offline.stderr
    assert all(event["kept"] for event in outcomes(offline.stdout).values())


def test_parts_of_a_stored_grid_are_not_fetched_again(cli: Cli, hub: FakeHub, hub_job: Path) -> None:
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(hub_job.parent / "hf"), "HF_HUB_OFFLINE": ""}
    hub_job.write_text(
        JOB.replace('"step{0,1,2,4,8,16}", "step{100..600..100}"', '"step1", "step100"')
        + '[[interpolations]]\nbase = "tiny@1"\nothers = ["tiny@100"]\ngrid = [0.0, 0.5]\n'
    )
    freeing = ("--batch", str(hub_job), "--json", "--set", "scoring.keep_cache=false")
    done = cli(*freeing, **env)
    assert done.returncode == 0, done.stderr
    assert len(outcomes(done.stdout)) == 4
    fetched = len(hub.downloads())
    again = cli(*freeing, **env)
    assert again.returncode == 0, again.stderr
    assert len(hub.downloads()) == fetched


def test_a_commit_is_freed_only_when_every_name_of_it_is_scored(
    cli: Cli, hub: FakeHub, hub_job: Path, folders: list[Path]
) -> None:
    """`main` is often the last step under another name: freeing the one must not take the other's files."""
    hub.repos["org/tiny"].revisions["main"] = hub.repos["org/tiny"].revisions["step600"]
    hub_job.write_text(
        JOB.replace('"step{0,1,2,4,8,16}", "step{100..600..100}"', '"step600", "step1"')
        + '[[models]]\nrepo = "org/tiny"\nrun = "last"\n'
    )
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(hub_job.parent / "hf"), "HF_HUB_OFFLINE": ""}
    done = cli("--batch", str(hub_job), "--json", "--set", "scoring.keep_cache=false", **env)
    assert done.returncode == 0, done.stderr
    assert len(hub.downloads("model.safetensors")) == 2
    left = [p for p in (hub_job.parent / "hf").rglob("*") if p.is_file() and p.stat().st_size > 50_000]
    assert not left
