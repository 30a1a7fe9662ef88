"""`[[interpolations]]`: models between checkpoints, made as they are needed and scored like any other."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from command import Cli
from tiny_models import write_model

import kltui
from kltui.errors import KltuiError, UsageError
from kltui.jobs.interpolation import Mix, materialised, mixed_weights, write_mix
from kltui.jobs.jobfile import load_job
from kltui.jobs.plan import make_plan
from kltui.registry.digest import fingerprint
from kltui.registry.reading import Hashed, hash_files
from kltui.registry.tensors import open_tensors

GRID = """
[[interpolations]]
base = "alpha@4"
others = ["alpha@0", "beta@4"]
grid = [0.0, 0.5, 1.0]
run = "mid"
"""


def with_text(job: Path, text: str) -> Path:
    job.write_text(job.read_text() + text)
    return job


def test_corners_are_the_models_and_all_of_it_resumes(cli: Cli, job: Path) -> None:
    done = cli("--batch", str(with_text(job, GRID)), "--json")
    assert done.returncode == 0, done.stderr
    with kltui.open(job.parent / "ws") as ws:
        m = ws.map()
        row = {name: m.loglik_KN[k] for k, name in enumerate(m.names)}
        assert len(row) == 8 + 9
        np.testing.assert_array_equal(row["mid_a0_b0"], row["alpha@4"])
        np.testing.assert_array_equal(row["mid_a1_b0"], row["alpha@0"])
        np.testing.assert_array_equal(row["mid_a0_b1"], row["beta@4"])
        assert m.pair("mid_a0.5_b0", "alpha@4").value > 0
        point = m.points[m.row("mid_a0.5_b1")]
        assert (point.size, point.parent) == ("small", "alpha@4,alpha@0,beta@4")
        assert {"interpolation", "of=mid", "a=0.5", "b=1.0", "part=beta@4"} <= set(point.tags)
    assert not list((job.parent / "ws" / "interpolated").iterdir())

    again = cli("--batch", str(job), "--json")
    ends = [json.loads(line) for line in again.stdout.splitlines()]
    assert [e["kept"] for e in ends if e["event"] == "checkpoint"] == [True] * 17


def test_one_other_is_a_line(job: Path) -> None:
    text = GRID.replace(', "beta@4"', "").replace("[0.0, 0.5, 1.0]", "[-1.0, 0.0, 0.25, 0.25]")
    plan = make_plan(load_job(with_text(job, text)))
    assert [c.name for c in plan.checkpoints[8:]] == ["mid_a-1", "mid_a0", "mid_a0.25"]
    assert [(m.a, m.b) for m in plan.mixes.values()] == [(-1.0, 0.0), (0.0, 0.0), (0.25, 0.0)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("alpha@4", "gamma@4"), "'gamma@4' is not a checkpoint of this job"),
        (("others = [", 'others = ["alpha@1", '), "interpolations.others"),
        (('base = "alpha@4"', ""), "interpolations[0].base: missing"),
        (("0.5", "nan"), "interpolations[0].grid[1]"),
        (("grid", "gird"), "did you mean 'grid'"),
    ],
)
def test_mistakes_are_named(job: Path, change: tuple[str, str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_plan(load_job(with_text(job, GRID.replace(*change))))
    assert said.replace("interpolations.", "interpolations[0].") in str(caught.value)


OF_BEFORE = """
workspace = "/w/ws"
[corpus]
source = "/w/texts.json"
chunk = true
sample = 100
[[models]]
path = "/w/alpha"
run = "alpha"
quantization = ["none", "bnb-8bit"]
[[models]]
repo = "org/beta"
revisions = ["step0", "main"]
seed = 3
[scoring]
layers = [0, 2]
"""


def test_jobs_without_them_keep_their_digest(tmp_path: Path) -> None:
    """That which kltui gave this job before there were interpolations, or any key since: resumed, it is the same job."""
    plain = tmp_path / "job.toml"
    plain.write_text(OF_BEFORE)
    before = load_job(plain).digest()
    assert before == "a42b741b922ee8997c7185e47635222d67446561e6a0e51c23d5fc158536a21d"
    assert load_job(with_text(plain, GRID)).digest() != before


def test_weights_are_named_without_being_made() -> None:
    made = {
        mixed_weights(parts, a, b)
        for parts in (("x", "y"), ("y", "x"), ("x", "y", "z"))
        for a, b in ((0.0, 0.5), (0.5, 0.0))
    }
    assert len(made) == 6


def test_the_corner_is_the_base_folder_again(suite: Path, tmp_path: Path) -> None:
    base, other = suite / "alpha" / "step4", suite / "alpha" / "step0"
    write_mix(tmp_path / "m", Mix((Hashed(base, ""), Hashed(other, "")), 0.0, 0.0))
    tensors, before = open_tensors(tmp_path / "m"), open_tensors(base)
    assert tensors.keys() == before.keys()
    assert all(np.array_equal(t.data, before[name].data) for name, t in tensors.items())
    write_mix(tmp_path / "m", Mix((Hashed(base, ""), Hashed(other, "")), 0.5, 0.0))
    assert fingerprint(tmp_path / "m") != fingerprint(base)


def test_models_of_two_architectures_are_refused_with_what_to_change(suite: Path, tmp_path: Path) -> None:
    base, wider = suite / "alpha" / "step4", write_model(tmp_path / "wider", "llama", intermediate_size=64)
    with pytest.raises(KltuiError) as caught:
        write_mix(tmp_path / "m", Mix((Hashed(base, ""), Hashed(wider, "")), 0.5, 0.0))
    assert "[[interpolations]]" in caught.value.hint and "weight distances" not in caught.value.hint


def test_a_job_with_grids_is_written_back_as_it_was(job: Path, tmp_path: Path) -> None:
    first = load_job(with_text(job, GRID))
    again = tmp_path / "again.toml"
    again.write_text(first.to_toml())
    assert load_job(again) == first and load_job(again).digest() == first.digest()


def test_parts_of_a_job_agree_on_the_grid(job: Path) -> None:
    from kltui.jobs.shard import select_shard

    plan = make_plan(load_job(with_text(job, GRID)))
    parts = [select_shard(plan, k, 3) for k in range(3)]
    assert sorted(c.name for p in parts for c in p.checkpoints) == sorted(c.name for c in plan.checkpoints)
    assert all(p.mixes == plan.mixes for p in parts)
    grid_point = next(i for i, c in enumerate(parts[0].checkpoints) if c.name in plan.mixes)
    assert len(parts[0].sources(grid_point)) == 3


def test_models_are_made_within_the_workspace_and_what_a_killed_worker_left_is_removed(
    job: Path, suite: Path, tmp_path: Path
) -> None:
    plan = make_plan(load_job(with_text(job, GRID.replace('"mid"', '"../../org/mid"'))))
    (source,) = {c.source.path.parent for c in plan.checkpoints if c.name in plan.mixes}  # type: ignore[union-attr]
    assert source == job.parent / "ws" / "interpolated"
    folder = tmp_path / "interpolated" / "m"
    old, young = (folder.parent / f"m.{name}" for name in ("old", "young"))
    for left in (old, young):
        left.mkdir(parents=True)
    os.utime(old, (0, 0))
    with materialised(
        folder, Mix((Hashed(suite / "alpha" / "step4", ""), Hashed(suite / "alpha" / "step0", "")), 0.5, 0.0)
    ) as made:
        assert (made / "model.safetensors").is_file() and made.parent == folder.parent
        assert not old.exists() and young.exists()
    assert not made.exists()


def test_a_full_disk_leaves_no_half_model(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, _tensors: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("kltui.jobs.interpolation.write_tensors", fail)
    folder = tmp_path / "interpolated" / "m"
    mix = Mix((Hashed(suite / "alpha" / "step4", ""), Hashed(suite / "alpha" / "step0", "")), 0.5, 0.0)
    with pytest.raises(KltuiError, match="No space left"), materialised(folder, mix):
        pytest.fail("it was not written")
    assert list(folder.parent.iterdir()) == []


def test_a_grid_reads_each_of_its_models_once(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kltui.jobs.prepare import Preparer

    read: list[Path] = []

    def counting(folder: Path, tokenizer: Path | None = None) -> Hashed:
        read.append(folder)
        return hash_files(folder, tokenizer)

    monkeypatch.setattr("kltui.jobs.prepare.hash_files", counting)
    plan = make_plan(load_job(with_text(job, GRID)))
    preparer = Preparer(list(enumerate(plan.checkpoints)), lambda *_: "", mixes=plan.mixes)
    for _ in plan.checkpoints:
        assert not hasattr(preparer.take(60), "error")
    assert len(read) == len(set(read))
