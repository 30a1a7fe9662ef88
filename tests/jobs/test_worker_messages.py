"""The log of a job is kltui's: what libraries log and warn of while a model is scored does not reach it."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator

import pytest

from kltui.scoring.third_party_messages import LIBRARIES, silence_libraries


@pytest.fixture
def silenced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process as a worker's is; as it was afterwards."""
    transformers = pytest.importorskip("transformers")
    for name in ("TRANSFORMERS_VERBOSITY", "TRANSFORMERS_NO_ADVISORY_WARNINGS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    levels = {name: logging.getLogger(name).level for name in LIBRARIES}
    transformers.utils.logging.set_verbosity_warning()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        silence_libraries()
        yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


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
