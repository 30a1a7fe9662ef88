"""`--device cuda` of report and export: the CPU's figures from a GPU's products, and words where there is no GPU."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kltui.cli import main
from kltui.errors import KltuiError, UsageError
from kltui.scoring import centring, loading
from kltui.workspace import Workspace

GPU = torch.cuda.is_available()


@pytest.fixture
def gpu(emulated_cuda: object, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """A "GPU" of CPU tensors and emulated kernels that takes maps of every size; the shapes that it has centred."""
    shapes: list[tuple[int, ...]] = []
    centred = centring._centred
    monkeypatch.setattr(centring, "WORTH", 0)
    monkeypatch.setattr(centring, "_centred", lambda x: shapes.append(tuple(x.shape)) or centred(x))
    monkeypatch.setattr(loading, "pick_device", lambda asked: torch.device("cpu"))
    return shapes


def test_an_export_from_the_device_has_the_cpu_s_figures(
    suite: Workspace, gpu: list[tuple[int, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kltui.view.sections.context.PERPLEXITY", 10_000)  # no t-SNE: seconds
    assert main(["--export", str(tmp_path / "cpu"), str(suite.path)]) == 0
    assert not gpu
    assert main(["--export", str(tmp_path / "gpu"), str(suite.path), "--device", "cuda"]) == 0
    assert (len(suite.map()), len(suite.texts())) in gpu
    for name, tolerance in (("kl.csv", 1e-12), ("coordinates.csv", 1e-9)):
        ours, exact = (table(tmp_path / place / name) for place in ("gpu", "cpu"))
        assert [row[:2] for row in ours] == [row[:2] for row in exact]
        found, truth = (np.array([[float(v or "nan") for v in row[2:]] for row in t]) for t in (ours, exact))
        np.testing.assert_allclose(found, truth, rtol=0, atol=tolerance * np.nanmax(np.abs(truth)))


def table(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def test_a_notebook_s_map_is_centred_there(suite: Workspace, gpu: list[tuple[int, ...]]) -> None:
    there, here = suite.map(device="cuda"), suite.map()
    np.testing.assert_allclose(there.kl(), here.kl(), rtol=0, atol=1e-12 * here.kl().max())
    assert gpu == [here.loglik_KN.shape]


@pytest.mark.skipif(GPU, reason="there is a GPU here")
@pytest.mark.parametrize("command", [["--report"], ["--report", "--json"], ["--export", "out"]])
def test_without_a_gpu_nothing_is_computed(
    suite: Workspace, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command, str(suite.path), "--device", "cuda"]) == 1
    said = capsys.readouterr()
    assert "device 'cuda' was asked for, but torch finds no CUDA device" in said.err
    assert not said.out and not list(tmp_path.iterdir())
    with pytest.raises(KltuiError, match="torch finds no CUDA device"):
        suite.map(device="cuda")


def test_a_device_that_is_none_and_a_job_s_device_are_refused(suite: Workspace, capsys) -> None:
    with pytest.raises(UsageError, match="cannot be centred on 'gpu'"):
        suite.map(device="gpu")
    assert main(["--report", str(suite.path), "--device", "gpu"]) == 2
    assert main(["--batch", "job.toml", "--device", "cuda:1"]) == 2
    assert "--set scoring.device=cuda:1" in capsys.readouterr().err


def test_the_cpu_is_named_without_torch(suite: Workspace, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.delitem(sys.modules, "kltui.scoring.centring")
    for device in ("cpu", "auto", "mps"):
        assert suite.map(device=device).gram is None
        assert main(["--report", "--section", "overview", str(suite.path), "--device", device]) == 0
    assert "kltui.scoring.centring" not in sys.modules
    assert capsys.readouterr().out
