"""The benchmark of the kernels says in words what it needs."""

from __future__ import annotations

import pytest
import torch

from kltui.bench import native
from kltui.errors import UsageError
from kltui.kernels import cuda


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
