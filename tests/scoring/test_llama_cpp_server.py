"""llama.cpp's own Python server over a tiny model, where it is installed: right values, or words.

    CMAKE_ARGS=-DGGML_NATIVE=OFF pip install --no-binary llama-cpp-python 'llama-cpp-python[server]'
    pytest tests/scoring/test_llama_cpp_server.py

It is built from its source distribution (a C++ compiler, some ten minutes on two cores) in an environment of the tests.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf_files import write_gguf
from tiny_models import TEXTS, write_model

from kltui.errors import KltuiError, TryAgainError
from kltui.registry.checkpoint import ServedSource
from kltui.scoring.scorer import Scorer
from kltui.scoring.served import score_served
from kltui.scoring.settings import ScoringSettings

pytest.importorskip("llama_cpp", reason="llama-cpp-python[server] is not installed: see the docstring")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A model folder, and the address under which the same weights are served in float32."""
    folder = write_model(tmp_path / "model", "llama", prepend_bos=True)
    file = write_gguf(tmp_path / "model-F32.gguf", folder, "F32")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "llama_cpp.server",
        "--model",
        str(file),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    command += ["--logits_all", "true", "--n_ctx", "256", "--model_alias", "tiny"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"{url}/models", timeout=1.0).close()
                break
            except (OSError, urllib.error.URLError):
                time.sleep(0.2)
        yield folder, url
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
def test_its_values_are_those_scored_here_or_it_is_refused_at_once(served: tuple[Path, str]) -> None:
    """llama-cpp-python 0.3.36 takes no token ids; one that does has to give every token's log-probability."""
    folder, url = served
    settings, source = ScoringSettings(), ServedSource(url, "tiny", concurrency=1)
    try:
        theirs = score_served(source, folder, "served:x", TEXTS, "sha", settings, None, lambda _: None)
    except KltuiError as error:
        assert not isinstance(error, TryAgainError)
        assert "does not return log-probabilities of prompt tokens" in error.message
        assert "echo, 1 generated" in error.message
        return
    ours = Scorer(TEXTS, "sha", settings).score(folder, "none", "w", lambda _: None)
    # llama.cpp keeps keys and values in float16
    np.testing.assert_allclose(theirs.vectors[0].loglik_N, ours.vectors[0].loglik_N, atol=0.05)
