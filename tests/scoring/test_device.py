"""The device that a job computes on: chosen from what torch and the system say, with the reason told, without a GPU."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from kltui.errors import KltuiError
from kltui.gpus import SystemGpus, system_gpus
from kltui.jobs.device_probe import Answer, DeviceProbe
from kltui.jobs.machine_usage import gpu_names
from kltui.jobs.process import python_command
from kltui.scoring.device import (
    TorchFacts,
    TorchGpu,
    ask_torch,
    choose,
    computed_dtype,
    device_in_use,
    has_code,
    start_tokens,
)
from kltui.scoring.loading import pick_device

H100 = TorchGpu("NVIDIA H100 80GB HBM3", 85_000_000_000, (9, 0))
OLD = TorchGpu("Tesla K80", 12_000_000_000, (3, 7))
CODES = ("sm_75", "sm_80", "sm_90", "compute_90")
SEES = TorchFacts("2.13.0+cu128", "12.8", gpus=(H100, H100), codes=CODES)
WITHOUT = TorchFacts("2.13.0+cpu", complaint="Torch not compiled with CUDA enabled")
TOO_OLD = TorchFacts(
    "2.13.0+cu128", "12.8", complaint="The NVIDIA driver on your system is too old (found version 11040)"
)
NVIDIA = SystemGpus("nvidia-smi", ("NVIDIA H100 80GB HBM3",), "550.54.15", "NVIDIA")
NONE = SystemGpus()


def test_auto_is_the_first_gpu_with_its_memory_driver_and_cuda() -> None:
    for asked, device in (("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")):
        found = choose(asked, SEES, NVIDIA, {})
        assert (found.device, found.name, found.memory_bytes) == (device, H100.name, H100.memory_bytes)
        assert (found.driver, found.cuda, found.torch) == ("550.54.15", "12.8", "2.13.0+cu128")
        assert found.warning == ""
        for part in (device, "H100", "79.2 GiB", "driver 550.54.15", "CUDA 12.8"):
            assert part in str(found)


def test_auto_without_any_gpu_is_the_cpu_without_a_warning() -> None:
    for facts in (WITHOUT, TOO_OLD):
        found = choose("auto", facts, NONE, {})
        assert (found.device, found.warning) == ("cpu", "") and found.name and found.memory_bytes > 0


@pytest.mark.parametrize(
    ("facts", "environment", "reason"),
    [
        (WITHOUT, {}, "torch 2.13.0+cpu was built without CUDA"),
        (WITHOUT, {"CUDA_VISIBLE_DEVICES": ""}, "torch 2.13.0+cpu was built without CUDA"),
        (TOO_OLD, {}, "driver on your system is too old (found version 11040)"),
        (TOO_OLD, {"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES='' hides every GPU"),
        (TOO_OLD, {"CUDA_VISIBLE_DEVICES": "-1"}, "CUDA_VISIBLE_DEVICES='-1' hides every GPU"),
        (TOO_OLD, {"CUDA_VISIBLE_DEVICES": "7"}, "CUDA_VISIBLE_DEVICES='7'"),
        (TorchFacts("2.13", "12.8", gpus=(OLD,), codes=CODES), {}, "no code for Tesla K80 (sm_37"),
    ],
)
def test_a_gpu_that_stays_unused_is_told_with_the_reason(
    facts: TorchFacts, environment: dict[str, str], reason: str
) -> None:
    found = choose("auto", facts, NVIDIA, environment)
    assert found.device == "cpu" and reason in found.warning and "NVIDIA H100" in found.warning
    assert found.hint
    with pytest.raises(KltuiError, match="was asked for") as caught:
        choose("cuda", facts, NVIDIA, environment)
    assert reason in caught.value.message
    assert choose("cpu", facts, NVIDIA, environment).warning == "", "the CPU was asked for"


def test_rocm_is_named() -> None:
    amd = SystemGpus("/dev/kfd", ("gfx90a",), "", "AMD")
    assert "without ROCm" in choose("auto", WITHOUT, amd, {}).warning
    facts = TorchFacts(
        "2.13+rocm6.4", hip="6.4", gpus=(TorchGpu("AMD Instinct MI250X", 1 << 36, (9, 0)),), codes=("gfx90a",)
    )
    found = choose("auto", facts, amd, {})
    assert (found.device, found.cuda, found.warning) == ("cuda:0", "6.4", "")


def test_devices_that_are_not_there() -> None:
    for asked, said in (("cuda:2", "there are 2, counted from cuda:0"), ("mps", "finds none")):
        with pytest.raises(KltuiError, match=said):
            choose(asked, SEES, NVIDIA, {})
    for asked in ("toaster", "cuda:", "cuda:-1", "cuda:x", "xpu", ""):
        with pytest.raises(KltuiError, match="unknown device"):
            choose(asked, SEES, NVIDIA, {})


@pytest.mark.parametrize(
    ("capability", "codes", "runs"),
    [
        ((9, 0), CODES, True),
        ((8, 6), CODES, True),  # sm_80 runs on 8.6
        ((7, 0), CODES, False),
        ((12, 0), CODES, True),  # compute_90 is translated
        ((12, 0), ("sm_80", "sm_90"), False),
        ((9, 0), ("sm_90a",), True),
        ((10, 3), ("sm_100", "sm_120"), True),
        ((5, 0), (), True),  # not told: not refused
    ],
)
def test_code_for_a_gpu(capability: tuple[int, int], codes: tuple[str, ...], runs: bool) -> None:
    assert has_code(TorchGpu("g", 1, capability), TorchFacts("2", "12", codes=codes)) is runs


def test_dtype_and_first_batch_follow_the_device() -> None:
    assert computed_dtype("float16", "cpu") == "float32" and computed_dtype("float16", "cuda:0") == "float16"
    assert start_tokens("cuda:3") == start_tokens("cuda") == 32_768 and start_tokens("cpu") == 1536


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_system_s_gpus_are_found_by_any_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert not system_gpus(tmp_path)
    write(tmp_path / "sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
    write(tmp_path / "sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n")
    assert system_gpus(tmp_path).seen_by == "the PCI bus" and system_gpus(tmp_path).maker == "NVIDIA"
    write(tmp_path / "dev/nvidia0", "")
    assert system_gpus(tmp_path).seen_by == "/dev/nvidia*"
    write(
        tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t NVIDIA A100-SXM4\nIRQ: 4\n"
    )
    write(
        tmp_path / "proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n",
    )
    found = system_gpus(tmp_path)
    assert (found.names, found.driver) == (("NVIDIA A100-SXM4",), "550.54.15")
    assert str(found) == "NVIDIA A100-SXM4, driver 550.54.15"


def test_network_cards_of_the_same_maker_and_processors_are_no_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    write(tmp_path / "sys/bus/pci/devices/a/vendor", "0x10de\n")
    write(tmp_path / "sys/bus/pci/devices/a/class", "0x020000\n")
    write(tmp_path / "dev/kfd", "")
    write(tmp_path / "dev/nvidiactl", "")
    write(tmp_path / "sys/class/kfd/kfd/topology/nodes/0/properties", "cpu_cores_count 64\nsimd_count 0\n")
    assert not system_gpus(tmp_path)
    write(tmp_path / "sys/class/kfd/kfd/topology/nodes/1/properties", "cpu_cores_count 0\nsimd_count 416\n")
    write(tmp_path / "sys/class/kfd/kfd/topology/nodes/1/name", "gfx90a\n")
    assert (system_gpus(tmp_path).names, system_gpus(tmp_path).maker) == (("gfx90a",), "AMD")


def fake_smi(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder / "nvidia-smi", f"#!/bin/sh\n{body}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_nvidia_smi_is_asked_and_its_failures_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_smi(tmp_path / "bin", "echo 'NVIDIA L4, 550.54'; echo 'NVIDIA L4, 550.54'", monkeypatch)
    found = system_gpus(tmp_path)
    assert (found.names, found.driver) == (("NVIDIA L4", "NVIDIA L4"), "550.54")
    fake_smi(tmp_path / "bin", "echo 'GPU 0: NVIDIA L4 (UUID: GPU-1)'", monkeypatch)
    assert system_gpus(tmp_path) and str(system_gpus(tmp_path)) == "a GPU of NVIDIA"
    for body in ("exit 9", "echo 'No devices were found'", "echo 'a, b' ; exit 1"):
        fake_smi(tmp_path / "bin", body, monkeypatch)
        assert not system_gpus(tmp_path)


def test_a_hanging_nvidia_smi_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kltui.gpus.SMI_PATIENCE_S", 0.1)
    fake_smi(tmp_path / "bin", "exec sleep 60", monkeypatch)
    assert not system_gpus(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU here")
def test_this_torch_with_a_gpu_that_only_the_system_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real torch and a stand-in for nvidia-smi, through a process of its own."""
    fake_smi(tmp_path / "bin", "echo 'NVIDIA L4, 550.54'", monkeypatch)
    answer = DeviceProbe("auto").answer()
    assert answer.device is not None and answer.device.device == "cpu" and answer.gpus == ()
    assert answer.device.torch == torch.__version__
    assert "NVIDIA L4" in answer.device.warning and answer.device.torch in answer.device.warning
    assert device_in_use("auto").warning == answer.device.warning
    assert device_in_use("cpu").warning == "" and pick_device("auto").type == "cpu"
    with pytest.raises(KltuiError, match="no CUDA device"):
        pick_device("cuda:1")


def test_torch_is_not_asked_for_gpus_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> bool:
        raise AssertionError

    monkeypatch.setattr(torch.cuda, "is_available", asked)
    assert ask_torch(for_gpu=False).version == torch.__version__
    assert device_in_use("cpu").device == "cpu"


def probe_with(folder: Path, torch_source: str, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """The answer of a process that finds this module in place of torch."""
    write(folder / "torch.py", torch_source)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return DeviceProbe("auto").answer()


def test_whatever_torch_does_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source, said in (
        ("raise ImportError('libcudart.so.12: cannot open shared object file')", "libcudart.so.12"),
        ("import os; os.abort()", "torch cannot be used"),
        ("import sys; sys.exit(3)", "torch cannot be used"),
        ("print('hello')", "torch cannot be used: AttributeError"),
    ):
        answer = probe_with(tmp_path, source, monkeypatch)
        assert answer.device is None and said in answer.error, answer
    monkeypatch.setattr("kltui.jobs.device_probe.PATIENCE_S", 0.2)
    assert "did not respond" in probe_with(tmp_path, "import time; time.sleep(60)", monkeypatch).error


def test_workers_share_out_the_gpus_that_torch_can_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kltui.jobs.machine_usage.system_gpus", lambda: NONE)
    assert gpu_names() == ()
    monkeypatch.setattr("kltui.jobs.machine_usage.system_gpus", lambda: NVIDIA)
    write(tmp_path / "torch.py", FAKE_TORCH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert gpu_names() == ("cuda:0", "cuda:2"), "the one without code is left out"


FAKE_TORCH = """
from types import SimpleNamespace as N
__version__ = "9.9+cu128"
version = N(cuda="12.8", hip=None)
backends = N(mps=N(is_available=lambda: False))
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 3)
    get_arch_list = staticmethod(lambda: ["sm_80", "sm_90"])
    @staticmethod
    def get_device_properties(i):
        return N(name=f"GPU {i}", total_memory=1 << 30, major=(9, 3, 8)[i], minor=0)
"""


def test_the_program_prints_one_json_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "torch.py", FAKE_TORCH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = subprocess.run(
        python_command("kltui.scoring.device", "main", "cuda:2"), capture_output=True, text=True, check=True
    )
    reported = json.loads(done.stdout)
    assert (
        reported["gpus"] == [0, 2]
        and reported["device"]["device"] == "cuda:2"
        and reported["device"]["name"] == "GPU 2"
    )
