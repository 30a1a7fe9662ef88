"""A scorer that needs neither torch nor time: numbers drawn from hashes, and any misbehaviour a test asks for.

A file `behaviour` in a model folder tells what happens when it is scored, one word and its argument:
raise, error, memory, segfault, bus, abort, kill, device, half, hold (until the file is gone), once WORD.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kltui.errors import KltuiError
from kltui.registry.reading import Hashed, Reading
from kltui.scoring.device import DeviceInUse
from kltui.scoring.settings import DtypeCost, Progress, ScoreResult, ScoringSettings, Vector


def loglik(weights: bytes, text: str, layer: int | None = None) -> float:
    """The value that stands for log p(text): the same in every process, different for everything that differs."""
    seed = hashlib.sha256(f"{layer}\0{text}\0".encode() + weights).digest()
    return -100.0 - float(np.random.default_rng(list(seed)).standard_normal())


class Scorer:
    """Stands where kltui.scoring.scorer.Scorer stands."""

    def __init__(
        self,
        texts: Sequence[str],
        corpus_sha256: str,
        settings: ScoringSettings,
        cache_dir: Path | None = None,
        tell_cost: Callable[[DtypeCost], None] | None = None,
        prompts: Sequence[object] = (),
    ) -> None:
        if "KLTUI_LIGHT_NO_DEVICE" in os.environ:
            raise KltuiError("device 'cuda' was asked for, but there is none", 'use device = "cpu"')
        self.texts, self.corpus_sha256, self.settings = texts, corpus_sha256, settings
        self.in_use = DeviceInUse("cpu", "a light processor", 1 << 33, "", "0.0", "")
        if "KLTUI_LIGHT_GPU" in os.environ:
            self.in_use = replace(self.in_use, device="cuda:0", name="a light GPU")
            if tell_cost is not None:
                tell_cost(DtypeCost("bfloat16", 3.25))

    def expect(self, hashed: Hashed, quantization: str) -> None:
        """Notes what is to be read ahead in the file that KLTUI_LIGHT_GPU names."""
        self._note(f"expects {hashed.folder.name}")

    def close(self) -> None:
        """Notes the end of what goes on in the background."""
        self._note("closes")

    def _note(self, words: str) -> None:
        if "KLTUI_LIGHT_GPU" in os.environ:
            with Path(os.environ["KLTUI_LIGHT_GPU"]).open("a") as file:
                file.write(f"{words}\n")

    def score(
        self,
        folder: Path,
        quantization: str,
        weights_key: str,
        progress: Callable[[Progress], None],
        reading: Reading,
    ) -> ScoreResult:
        self._note(f"scores {folder.name}")
        progress(Progress("load", texts_total=len(self.texts)))
        script = folder / "behaviour"
        if script.exists():
            behave(script)
        pause = float(os.environ.get("KLTUI_LIGHT_SECONDS", "0")) / 4
        for quarter in range(4):
            time.sleep(pause)
            progress(Progress("score", len(self.texts) * (quarter + 1) // 4, len(self.texts)))
        weights = (folder / "model.safetensors").read_bytes()
        reading.check()
        vectors = tuple(self._vector(weights, layer) for layer in self._layers())
        tokens = None
        if self.settings.tokens:
            tokens = tuple(np.full(len(t), -1.5, np.float32) for t in self.texts)
        key = {"weights": weights_key, "corpus": self.corpus_sha256, "dtype": self.settings.dtype}
        return ScoreResult(vectors, key, {"tokens": 1.0, "seconds_score": 0.1}, token_logprobs=tokens)

    def _layers(self) -> tuple[int | None, ...]:
        return (None, 0, 1) if self.settings.layers == "all" else (None,)

    def _vector(self, weights: bytes, layer: int | None) -> Vector:
        values: NDArray[np.float64] = np.array([loglik(weights, t, layer) for t in self.texts])
        return Vector(layer, values, np.array([len(t) for t in self.texts], np.int32))


def behave(script: Path) -> None:
    """Does what the script says; "once" strikes itself out first."""
    word, _, argument = script.read_text().strip().partition(" ")
    if word == "once":
        script.unlink()
        word = argument
    if word == "hold":
        script.with_name("held").touch()
        while script.exists():
            time.sleep(0.01)
    if word == "raise":
        raise ValueError("something the scorer did not expect")
    if word == "error":
        raise KltuiError("this checkpoint is broken", "mend it")
    if word == "memory":
        raise MemoryError
    if word == "segfault":
        ctypes.string_at(0)
    if word == "bus":
        os.kill(os.getpid(), signal.SIGBUS)
    if word == "abort":
        os.abort()
    if word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "device":
        try:
            raise RuntimeError("CUDA error: device-side assert triggered")
        except RuntimeError as error:
            raise KltuiError("the model failed", "does it run elsewhere?") from error
    if word == "half":
        # The batch process gets the head of a message whose rest never comes.
        os.write(int(sys.argv[1]), struct.pack("!i", 1 << 20) + b"half a message")
        os._exit(1)
