"""The demo's LoRA run: a few adapters of a run's last checkpoint, trained on the fine-tuning text."""

from __future__ import annotations

import os
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as fn
from transformers import GPTNeoXForCausalLM

from kltui.demo.prepared import Prepared, batches
from kltui.demo.suite import PlannedRun, Suite, adapter_run, checkpoint_folder, is_finished

RANK = 4
LEARNING_RATE = 5e-3


def writes_adapters(workspace: Path, prepared: Prepared, suite: Suite) -> bool:
    """Trains and saves the adapters of `adapter_run`, unless they exist; False, without training, if peft is not installed."""
    run = adapter_run(suite)
    if find_spec("peft") is None:
        return False
    if not is_finished(workspace, run):
        _train(workspace, prepared, suite, run)
    return True


def _train(workspace: Path, prepared: Prepared, suite: Suite, run: PlannedRun) -> None:
    import peft

    parent = suite.run(run.parent)
    base = checkpoint_folder(workspace, parent, parent.last_step)
    plain: Any = GPTNeoXForCausalLM.from_pretrained(base, dtype=torch.float32, use_safetensors=True)
    torch.manual_seed(run.seed)
    settings = peft.LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules=["query_key_value", "dense_h_to_4h"],
        task_type="CAUSAL_LM",
    )
    model: Any = peft.get_peft_model(plain, settings).train()
    # relative to the adapters' folders, because the demo's folder may be moved
    own = checkpoint_folder(workspace, run, run.last_step)
    model.peft_config["default"].base_model_name_or_path = os.path.relpath(base, own)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)
    starts_SB = batches(prepared.finetuning, suite, run)
    for step in range(run.last_step):
        window_BT = starts_SB[step][:, None] + np.arange(suite.length + 1)
        ids_BT = torch.from_numpy(prepared.finetuning[window_BT].astype(np.int64))
        logits_BTV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits
        torch.autograd.backward(fn.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten()))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step + 1 in run.steps:
            _save(model, prepared, checkpoint_folder(workspace, run, step + 1))


def _save(model: Any, prepared: Prepared, folder: Path) -> None:
    """Writes an adapter folder under a temporary name and renames it; an existing folder is not changed."""
    if folder.is_dir():
        return
    aside = prepared.folder / f".{folder.parent.name}.{folder.name}.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    with warnings.catch_warnings(action="ignore"):
        # "auto" would query the hub for the size of the base's vocabulary
        model.save_pretrained(aside, save_embedding_layers=False)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(folder)
