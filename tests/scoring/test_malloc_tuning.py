"""Freed buffers stay with the process while a model runs, and go back afterwards."""

import ctypes
import os
import subprocess
import sys

import pytest

from kltui.scoring import malloc_tuning

GLIBC = hasattr(ctypes.CDLL(None), "gnu_get_libc_version")

FAULTS = """
import resource
import numpy as np
from kltui.scoring import malloc_tuning

def faults_of_twenty_buffers():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.empty(48 << 20, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults_of_twenty_buffers()
usual = faults_of_twenty_buffers()
with malloc_tuning.kept_heap():
    faults_of_twenty_buffers()
    kept = faults_of_twenty_buffers()
print(usual, kept, faults_of_twenty_buffers())
"""


@pytest.mark.skipif(not GLIBC, reason="only glibc has these settings")
def test_large_buffers_are_faulted_in_once_only_within():
    # numpy would ask for huge pages, which hide the faults
    run = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env={"NUMPY_MADVISE_HUGEPAGE": "0", **heap_environment()},
        capture_output=True,
        text=True,
        check=True,
    )
    usual, kept, after = map(int, run.stdout.split())
    assert kept < usual / 10
    assert after > usual / 2


def heap_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(malloc_tuning, "_glibc", lambda name: None)
    with malloc_tuning.kept_heap():
        malloc_tuning.set_thresholds(1, 1)
    malloc_tuning.give_back()
