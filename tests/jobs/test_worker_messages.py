"""A run's output and log are kltui's: what libraries log and warn of while models are trained or scored does not reach them."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from pathlib import Path

import pytest

from kltui.cli import main
from kltui.demo import worker_pool
from kltui.demo.suite import full_suite
from kltui.jobs import fork_server
from kltui.scoring.third_party_messages import LIBRARIES, silence_libraries


@pytest.fixture
def talkative(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process whose libraries log and warn; as it was afterwards."""
    import transformers

    for name in ("TRANSFORMERS_VERBOSITY", "TRANSFORMERS_NO_ADVISORY_WARNINGS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    levels = {name: logging.getLogger(name).level for name in LIBRARIES}
    transformers.utils.logging.set_verbosity_warning()
    for name in levels:
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def silenced(talkative: None) -> None:
    """A process as a worker's is."""
    silence_libraries()


def heard() -> list[str]:
    """What is printed in this process of what libraries say to programmers."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.warn("a warning", FutureWarning, stacklevel=1)
    logged = logging.getLogger("huggingface_hub").isEnabledFor(logging.WARNING)
    return [str(one.message) for one in seen] + ["a log"] * logged


@pytest.mark.parametrize(
    ("arguments", "work"),
    [
        (["--batch", "job.toml"], "kltui.jobs.batch.run_batch"),
        (["--watch", "job.toml"], "kltui.watch.run.run_watch"),
        (["--demo"], "kltui.demo.run.run_demo"),
    ],
)
def test_what_libraries_say_is_no_output_of_a_command(
    talkative: None, monkeypatch: pytest.MonkeyPatch, arguments: list[str], work: str
) -> None:
    printed = []

    def works(*_: object, **__: object) -> int | tuple[int, None]:
        printed.append(heard())
        return (1, None) if work.endswith("run_batch") else 1

    monkeypatch.setattr(work, works)
    assert main(arguments) == 1
    assert printed == [[]]


def worker_of_the_demo(folder: Path) -> None:
    """A worker of the demo to whom nobody speaks."""
    ours, theirs = Pipe()
    ours.close()
    with theirs:
        worker_pool._worker(theirs, folder, full_suite())


def server_of_forks(_: Path) -> None:
    """A server of forks that nobody asks for one."""
    ours, theirs = Pipe()
    ours.close()
    sys.argv[1:] = [str(os.dup(theirs.fileno()))]
    theirs.close()
    fork_server.main()


@pytest.mark.parametrize("process", [worker_of_the_demo, server_of_forks])
def test_what_libraries_say_is_no_output_of_a_process(
    talkative: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, process: Callable[[Path], None]
) -> None:
    assert heard() == ["a warning", "a log"]
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", [""])
    monkeypatch.setattr("kltui.demo.pretrain.set_up_process", lambda: None)  # allocation, for good
    process(tmp_path)
    assert heard() == []


def test_libraries_log_errors_alone_and_do_not_warn(silenced: None) -> None:
    for name in ("transformers.models.mamba.modeling_mamba", "peft.tuners", "accelerate.big_modeling"):
        logger = logging.getLogger(name)
        assert not logger.isEnabledFor(logging.WARNING) and logger.isEnabledFor(logging.ERROR)
    assert logging.getLogger("kltui.scoring.tokens").isEnabledFor(logging.WARNING)
    with warnings.catch_warnings(record=True) as seen:
        for kind in (FutureWarning, DeprecationWarning, UserWarning, RuntimeWarning):
            warnings.warn("said", kind, stacklevel=1)
    assert [one.category for one in seen] == [
        RuntimeWarning
    ]  # of a computation, not of how a program is written
