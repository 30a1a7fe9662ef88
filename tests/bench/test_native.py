"""The benchmark of the kernels says in words what it needs."""

from __future__ import annotations

import pytest
import torch

from kltui.bench import native
from kltui.errors import UsageError
from kltui.kernels import cuda
from kltui.kernels.native import NativeHead


def test_kernels_without_a_torch_for_cuda_are_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no kernels for cuda:0") as refused:
        native.run("cuda:0")
    assert "a torch for CUDA" in refused.value.hint


def test_auto_is_the_cpu_where_torch_has_no_cuda(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(native, "cpu_ratios", lambda parts: iter(()))
    assert native.run("auto", as_json=True) == 0
    assert '"ratios": []' in capsys.readouterr().out


@pytest.mark.parametrize("taken", ["native", "tiles"])
def test_the_head_that_scoring_takes_is_timed_first_and_the_other_one_named(
    taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "HEAD_ROWS", 3)
    monkeypatch.setattr(NativeHead, "fast", taken == "native")
    other = {"native": "tiles", "tiles": "native"}[taken]
    rows = list(native._head(16, 40, torch.bfloat16))
    assert [row.operation for row in rows] == [
        f"head bfloat16, D = 16: {taken}",
        f"head bfloat16, D = 16: {other}, not taken",
    ]
    assert all(row.seconds > 0 and row.floor == "mm" for row in rows)
