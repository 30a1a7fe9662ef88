"""Pretrains one run of the demo on one thread and saves its checkpoints; a run that was killed resumes at the last one."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as fn
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from kltui.demo.gguf_model import KIND, write_gguf
from kltui.demo.prepared import Prepared, batches
from kltui.demo.suite import TRAINING_LOSS, PlannedRun, Suite, checkpoint_folder, llama_run
from kltui.scoring.quantize import options

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trained:
    """A run after an update: `step` updates are done; `loss` is that of the last batch, in nats per token."""

    step: int
    loss: float


@dataclass
class _State:
    """Model and optimizer after `step` updates, and the loss of every update so far, in nats per token."""

    model: GPTNeoXForCausalLM | LlamaForCausalLM
    optimizer: torch.optim.AdamW
    step: int = 0
    losses: list[float] = field(default_factory=list)


def set_up_process() -> None:
    """Makes this process compute on one thread, and turns off the libraries' messages and progress bars.

    With one thread the order of sums, and so every weight, does not depend on the number of cores; runs are trained in
    parallel instead.
    """
    torch.set_num_threads(1)
    libraries: Any = transformers_logging
    libraries.set_verbosity_error()
    libraries.disable_progress_bar()
    if sys.platform == "linux":
        # New memory pages for the logits of every step take a tenth of the time: freed memory is reused instead
        # (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD).
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(-3, 1 << 30)
            mallopt(-1, (1 << 31) - 1)


def initial_model(suite: Suite, run: PlannedRun) -> GPTNeoXForCausalLM:
    """A GPT-NeoX of the run's size with random weights from its seed."""
    config = GPTNeoXConfig(**_shape(suite, run), use_parallel_residual=True)
    torch.manual_seed(run.seed)
    return GPTNeoXForCausalLM(config)


def _shape(suite: Suite, run: PlannedRun) -> dict[str, Any]:
    """The arguments of transformers' configurations that state a run's size and are the same for all families."""
    return {
        "vocab_size": suite.vocabulary,
        "hidden_size": run.size.hidden,
        "num_hidden_layers": run.size.layers,
        "num_attention_heads": run.size.heads,
        "intermediate_size": 4 * run.size.hidden,
        "max_position_embeddings": suite.context,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
        "dtype": "float32",
    }


def train(workspace: Path, prepared: Prepared, suite: Suite, run: PlannedRun) -> Iterator[Trained]:
    """Trains `run` to its end, from where an earlier start stopped; yields after every update."""
    tokens_n = prepared.finetuning if run.parent else prepared.pretraining
    starts_SB = batches(tokens_n, suite, run)
    state = _resumed(workspace, prepared, suite, run) or _fresh(workspace, suite, run)
    if state.step in run.steps:
        _save_checkpoint(workspace, prepared, run, state)
    while state.step < run.last_step:
        window_BT = starts_SB[state.step][:, None] + np.arange(suite.length + 1)
        ids_BT = torch.from_numpy(tokens_n[window_BT].astype(np.int64))
        state.losses.append(_update(state, ids_BT, suite, run))
        state.step += 1
        if state.step in run.steps:
            _save_state(_state_file(prepared, run), state)
            _save_checkpoint(workspace, prepared, run, state)
        yield Trained(state.step, state.losses[-1])
    _state_file(prepared, run).unlink(missing_ok=True)


def writes_gguf(workspace: Path, prepared: Prepared, suite: Suite) -> bool:
    """Trains a small Llama, and saves it as a model folder and a GGUF file; False, without training, if gguf is not installed."""
    if find_spec("gguf") is None or find_spec("accelerate") is None:
        return False
    run = llama_run(suite)
    folder = checkpoint_folder(workspace, run, run.last_step)
    path = folder.parent / f"{run.name}-{KIND}.gguf"
    if folder.is_dir() and path.is_file():
        return True
    model = _llama(suite, run).train()
    state, starts_SB = _State(model, _optimizer(model, suite)), batches(prepared.pretraining, suite, run)
    while state.step < run.last_step:
        window_BT = starts_SB[state.step][:, None] + np.arange(suite.length + 1)
        ids_BT = torch.from_numpy(prepared.pretraining[window_BT].astype(np.int64))
        state.losses.append(_update(state, ids_BT, suite, run))
        state.step += 1
    shutil.rmtree(folder, ignore_errors=True)
    _save_checkpoint(workspace, prepared, run, state)
    write_gguf({n: t.detach().numpy() for n, t in model.state_dict().items()}, model.config, path)
    return True


def _llama(suite: Suite, run: PlannedRun) -> LlamaForCausalLM:
    """A Llama of the run's size with random weights from its seed."""
    config = LlamaConfig(**_shape(suite, run), num_key_value_heads=run.size.heads)
    torch.manual_seed(run.seed)
    return LlamaForCausalLM(config)


def computes_in_eight_bit(workspace: Path, run: PlannedRun) -> bool:
    """Whether bitsandbytes is installed and the run's last checkpoint in LLM.int8 gives finite logits."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        quantized = options("bnb-8bit", torch.float32, device)
        folder = checkpoint_folder(workspace, run, run.last_step)
        model = GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32, **quantized)
        with torch.inference_mode(), warnings.catch_warnings(action="ignore"):
            logits_BTV = model(input_ids=torch.arange(16, device=device)[None]).logits
    except Exception as error:  # whatever the reason, 8-bit variants cannot be scored here
        log.info("no 8-bit variants: %s", error)
        return False
    return bool(torch.isfinite(logits_BTV).all())


def _update(state: _State, ids_BT: torch.Tensor, suite: Suite, run: PlannedRun) -> float:
    """Makes one AdamW update on `ids_BT` (B, T + 1); returns the loss before it, in nats per token."""
    for group in state.optimizer.param_groups:
        group["lr"] = suite.rate(run, state.step)
    logits_BTV = state.model(input_ids=ids_BT[:, :-1], use_cache=False).logits
    loss = fn.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten())
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), suite.clip)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def _optimizer(model: GPTNeoXForCausalLM | LlamaForCausalLM, suite: Suite) -> torch.optim.AdamW:
    """AdamW with weight decay for matrices only, as for Pythia."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": suite.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=suite.betas, fused=True)


def _fresh(workspace: Path, suite: Suite, run: PlannedRun) -> _State:
    if run.parent:
        parent = suite.run(run.parent)
        folder = checkpoint_folder(workspace, parent, parent.last_step)
        model = GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    else:
        model = initial_model(suite, run)
    return _State(model.train(), _optimizer(model, suite))


def _state_file(prepared: Prepared, run: PlannedRun) -> Path:
    return prepared.folder / f"{run.name}.state.safetensors"


def _resumed(workspace: Path, prepared: Prepared, suite: Suite, run: PlannedRun) -> _State | None:
    """The state at the last saved step; None if there is none or an earlier checkpoint is missing."""
    path = _state_file(prepared, run)
    if not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    if not all(checkpoint_folder(workspace, run, k).is_dir() for k in run.steps if k < step):
        return None
    model = initial_model(suite, run).train()
    model.load_state_dict({n.removeprefix("weight."): t for n, t in saved.items() if n.startswith("weight.")})
    optimizer = _optimizer(model, suite)
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {
            "step": torch.tensor(float(step)),
            "exp_avg": saved[f"first.{name}"],
            "exp_avg_sq": saved[f"second.{name}"],
        }
    return _State(model, optimizer, step, saved["losses"].tolist())


def _save_state(path: Path, state: _State) -> None:
    """Saves everything that the rest of the run depends on; batches and learning rates follow from seed and step."""
    tensors = {"losses": torch.tensor(state.losses, dtype=torch.float64)}
    for name, parameter in state.model.named_parameters():
        moments = state.optimizer.state[parameter]
        tensors[f"weight.{name}"] = parameter.detach()
        tensors[f"first.{name}"] = moments["exp_avg"]
        tensors[f"second.{name}"] = moments["exp_avg_sq"]
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, aside, metadata={"step": str(state.step)})
    aside.replace(path)


def _save_checkpoint(workspace: Path, prepared: Prepared, run: PlannedRun, state: _State) -> None:
    """Writes a model folder under a temporary name and renames it; an existing folder is not changed."""
    folder = checkpoint_folder(workspace, run, state.step)
    if folder.is_dir():
        return
    aside = prepared.folder / f".{run.name}.{folder.name}.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    state.model.save_pretrained(aside)
    for file in prepared.tokenizer.iterdir():
        shutil.copyfile(file, aside / file.name)
    losses = {"step": state.step, "nats_per_token": state.losses}
    (aside / TRAINING_LOSS).write_text(json.dumps(losses), encoding="utf-8")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(folder)
