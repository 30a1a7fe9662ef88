"""The compiled core missing, or built for another machine: the same results, slower, and the doctor says so."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fault_kit import ROOT, Lives, light_env, run_cli, write_job

import kltui
from kltui.kernels import native

needs_core = pytest.mark.skipif(not native.info()["extension"], reason="the core is not built here")


@pytest.fixture
def workspace(lives: Lives, tmp_path: Path) -> Path:
    job = write_job(tmp_path, checkpoints=8, texts=40)
    assert lives.run("--batch", str(job), "--json").code == 0
    return tmp_path / "ws"


@needs_core
def test_without_the_core_every_export_has_the_same_numbers(workspace: Path, tmp_path: Path) -> None:
    for name, env in (("with", {}), ("without", {"KLTUI_NO_CORE": "1"})):
        done = run_cli("--export", name, str(workspace), cwd=tmp_path, **env)
        assert done.returncode == 0, done.stderr
    compared = 0
    for path in sorted((tmp_path / "with").glob("*.csv")):
        compared += compare(path.read_text(), (tmp_path / "without" / path.name).read_text())
    assert compared > 50
    with np.load(tmp_path / "with" / "loglik.npz") as a, np.load(tmp_path / "without" / "loglik.npz") as b:
        assert a["loglik"].tobytes() == b["loglik"].tobytes()


def compare(ours: str, theirs: str) -> int:
    """How many numbers two CSV texts share to twelve digits; everything else in them is equal."""
    count = 0
    for left, right in zip(ours.splitlines(), theirs.splitlines(), strict=True):
        for a, b in zip(left.split(","), right.split(","), strict=True):
            try:
                np.testing.assert_allclose(float(a), float(b), rtol=1e-9, atol=1e-12)
                count += 1
            except ValueError:
                assert a == b
    return count


def test_the_doctor_finds_the_core_missing(tmp_path: Path) -> None:
    done = run_cli("--doctor", "--json", cwd=tmp_path, KLTUI_NO_CORE="1", HF_HUB_OFFLINE="1")
    core = [f for f in json.loads(done.stdout)["findings"] if f["topic"] == "native core"]
    assert done.returncode == 1 and [f["state"] for f in core] == ["wrong"] and core[0]["advice"]


@needs_core
@pytest.mark.parametrize("kind", ["empty", "no library", "of another machine"])
def test_a_core_that_cannot_be_loaded_is_as_good_as_none(tmp_path: Path, kind: str) -> None:
    package = tmp_path / "kltui"
    shutil.copytree(Path(kltui.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (core,) = (p for p in (package / "kernels").glob("_core*") if p.suffix != ".pyi")
    sound = core.read_bytes()
    machine = bytes([sound[18] ^ 0xFF, sound[19]])  # e_machine of the ELF header
    broken = {"empty": b"", "no library": b"\x7fELF", "of another machine": sound[:18] + machine + sound[20:]}
    core.write_bytes(broken[kind])
    code = (
        "import numpy as np; from kltui.kernels import native; print(native.info()['extension'],"
        " native.double_centre(np.eye(2))[0, 0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env=light_env(PYTHONPATH=str(tmp_path)), capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["False", "0.5"], done.stderr
    assert "kltui.kernels._core is not built" in done.stderr
    assert str(ROOT) not in done.stderr or ROOT in tmp_path.parents
