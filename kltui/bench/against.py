"""Other programs that score texts, measured with the same model and texts as kltui, if they are installed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kltui.bench.loops import Logliks
from kltui.bench.parts import RIVALS
from kltui.bench.shapes import START, as_words, random_texts, word_tokenizer
from kltui.errors import KltuiError
from kltui.scoring.batching import Ids
from kltui.scoring.loading import first_line

Score = Callable[[list[Ids]], Logliks]

# Batch size of the harness: 1 is fastest on two cores (no padding, small logits).
HARNESS_TEXTS = {"cpu": 1, "cuda": 32}
_CONTEXT = 1024


def lacking(name: str) -> str:
    """What to install to measure this program, in one line; "" if it is installed."""
    rival = RIVALS[name]
    for module in rival.modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken installation can raise anything
            why = (
                "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be used ({error})"
            )
            return f"{rival.title} is left out: {module} {why}: {rival.install}"
    return ""


def version(name: str) -> str:
    """The program's version; "" if it has none."""
    module: Any = importlib.import_module(name)
    return str(getattr(module, "__version__", ""))


def make_rival(name: str, model: Any, device: torch.device, stack: ExitStack) -> Score:
    """The program's scoring function, warmed up; `stack` releases what it uses. Raises KltuiError if the program fails."""
    try:
        score = {"lm_eval": _harness, "llama_cpp": _llama}[name](model, device, stack)
        score([row[:20] for row in random_texts(2, seed=1)])
    except (KltuiError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a version with another interface can raise anything
        raise KltuiError(
            f"{RIVALS[name].title} {version(name)} did not score a random model: {first_line(error)}",
            f"Leave out --against {name}, or install another version: {RIVALS[name].install}",
        ) from error
    return score


def _harness(model: Any, device: torch.device, stack: ExitStack) -> Score:
    """lm-evaluation-harness's rolling log-likelihood, with logits in float32; its time includes tokenisation."""
    instances: Any = importlib.import_module("lm_eval.api.instance")
    models: Any = importlib.import_module("lm_eval.models.huggingface")
    harness = models.HFLM(
        pretrained=model,
        tokenizer=word_tokenizer(),
        backend="causal",
        device=str(device),
        batch_size=HARNESS_TEXTS.get(device.type, 1),
        prefix_token_id=START,
        softmax_dtype="float32",
    )

    def score(ids: list[Ids]) -> Logliks:
        requests = [
            instances.Instance(
                request_type="loglikelihood_rolling", doc={}, arguments=(as_words(row[1:]),), idx=at
            )
            for at, row in enumerate(ids)
        ]
        with contextlib.redirect_stderr(io.StringIO()):  # it shows a progress bar per batch
            return np.array([harness.loglikelihood_rolling(requests, disable_tqdm=True)], np.float64)

    return score


def _llama(model: Any, device: torch.device, stack: ExitStack) -> Score:
    """llama.cpp with the model as a GGUF file; it evaluates one text at a time and returns all logits."""
    from kltui.bench.gguf_neox import write_neox

    library: Any = importlib.import_module("llama_cpp")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kltui-bench-")))
    write_neox(folder / "model.gguf", model)
    llama = library.Llama(
        str(folder / "model.gguf"),
        n_ctx=_CONTEXT,
        n_batch=_CONTEXT,
        n_ubatch=_CONTEXT,
        n_threads=torch.get_num_threads(),
        n_threads_batch=torch.get_num_threads(),
        n_gpu_layers=0 if device.type == "cpu" else -1,
        type_k=0,  # keys and values in float32
        type_v=0,
        logits_all=True,
        verbose=False,
    )
    stack.callback(llama.close)
    return lambda ids: np.array([[_by_llama(llama, row) for row in ids]])


def _by_llama(llama: Any, row: Ids) -> float:
    """Log-likelihood of one text in nats."""
    llama.reset()
    llama.eval(row[:-1].tolist())
    logits_nV = torch.from_numpy(llama.scores[: len(row) - 1])
    if len(logits_nV) != len(row) - 1:
        raise KltuiError(
            "llama.cpp returned fewer logits than tokens", "Install another version of llama-cpp-python."
        )
    nats_n = torch.nn.functional.cross_entropy(logits_nV, torch.from_numpy(row[1:]), reduction="none")
    return -float(nats_n.double().sum())
