"""Scores a transformers model that is already in memory, with its tokenizer, and restores its state afterwards."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from kltui.errors import KltuiError, UsageError
from kltui.registry.layout import TOKENIZER_JSON
from kltui.sanitize import expanded
from kltui.scoring import families, prepacked_linear, quantize
from kltui.scoring.loading import Loaded
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoreResult, ScoringSettings
from kltui.scoring.tokens import Tokenized, tokenize

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def score_in_memory(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    corpus_sha256: str,
    settings: ScoringSettings,
    asked: frozenset[str],
) -> ScoreResult:
    """All vectors of a model object, scored on its device and in its dtype; `asked` names the settings given by the caller.

    Raises UsageError for an object that cannot be scored, and for a device or dtype that is not the model's.
    """
    check_model(model)
    device = _device_of(model)
    settings = _as_it_is(settings, asked, model.dtype, device)
    with _as_scored(model):
        made = _tokenized(tokenizer, model.config, settings.bos, texts, corpus_sha256)
        attention = str(getattr(model.config, "_attn_implementation", None) or "eager")
        notes = families.notes_of(model.config)
        loaded = Loaded(model, model.config, attention, model.dtype, notes)
        scorer = Scorer(texts, corpus_sha256, settings)
        try:
            return scorer.score_loaded(loaded, made, weights_digest(model), type(model).__name__)
        finally:
            scorer.close()


def check_model(model: Any) -> None:
    """Raises UsageError unless the object is a causal language model of transformers that can be scored in its present form."""
    kind = f"{type(model).__module__.partition('.')[0]}.{type(model).__name__}"
    if hasattr(model, "peft_config"):
        raise UsageError(
            f"a model object with peft adapters cannot be scored ({kind})",
            "Give the adapter's folder, or the result of merge_and_unload().",
        )
    if not isinstance(model, PreTrainedModel):
        raise UsageError(
            f"model is of the type {kind}, which is not a path, a hub repository or a transformers model",
            "Give a folder, OWNER/NAME, or what AutoModelForCausalLM.from_pretrained returned (not compiled or wrapped).",
        )
    if _head_of(model) is None:
        raise UsageError(
            f"{kind} has no language-model head", "Load it with AutoModelForCausalLM.from_pretrained."
        )
    if stored := quantize.stored(model.config):
        raise UsageError(
            f"a quantised model ({stored}) cannot be scored from memory",
            "Give its folder, so that the quantisation is recorded in the key.",
        )
    if model.dtype not in DTYPES:
        raise UsageError(
            f"the model is in {str(model.dtype).removeprefix('torch.')}",
            "Convert it to float32: model.float()",
        )


def _head_of(model: Any) -> Any:
    return model.get_output_embeddings()


def _device_of(model: Any) -> torch.device:
    """The device of the model. Raises UsageError if it is on several devices, or has no data."""
    devices: set[torch.device] = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    if len(devices) != 1 or next(iter(devices)).type == "meta":
        where = ", ".join(sorted(map(str, devices)))
        raise UsageError(
            f"the model is not on one device (it is on {where})",
            "Move it: model.to(DEVICE). To score a model larger than one GPU, use a job with engine.device_map.",
        )
    return devices.pop()


def _as_it_is(
    settings: ScoringSettings, asked: frozenset[str], dtype: torch.dtype, device: torch.device
) -> ScoringSettings:
    """The settings with the model's own dtype and device. Raises UsageError if others were requested."""
    own = str(dtype).removeprefix("torch.")
    if "dtype" in asked and settings.dtype not in ("auto", own):
        raise UsageError(
            f'dtype="{settings.dtype}" was asked for, but the model in memory is in {own}',
            f"Omit dtype, or convert the model first: model.to(torch.{settings.dtype})",
        )
    if own == "float16" and device.type == "cpu":
        raise UsageError(
            "the model in memory is in float16 on a CPU, where kltui does not compute in float16",
            "Convert it to float32 first: model.float()",
        )
    kind, _, index = settings.device.partition(":")
    if settings.device != "auto" and (kind != device.type or (index and int(index) != (device.index or 0))):
        raise UsageError(
            f'device="{settings.device}" was asked for, but the model in memory is on {device}',
            f'Omit device, or move the model first: model.to("{settings.device}")',
        )
    return replace(settings, device=str(device), dtype=own)  # type: ignore[arg-type]  # one of DTYPES


@contextmanager
def _as_scored(model: Any) -> Iterator[None]:
    """Context with the model in evaluation mode and without a cache; modules and settings are restored at the end."""
    training = [module for module in model.modules() if module.training]
    use_cache = getattr(model.config, "use_cache", None)
    model.eval()
    model.config.use_cache = False
    try:
        yield
    finally:
        prepacked_linear.unpack(model)
        for module in training:
            module.training = True
        if use_cache is None:
            del model.config.use_cache
        else:
            model.config.use_cache = use_cache


def weights_digest(model: Any) -> str:
    """`memory:` plus the hex SHA-256 over the model's tensors by name, with their dtypes and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"memory:{digest.hexdigest()}"


def _tokenized(tokenizer: Any, config: Any, bos: str, texts: Sequence[str], corpus_sha256: str) -> Tokenized:
    """The texts tokenised by the tokenizer in a folder, or by a tokenizer object, which is saved to a folder for that."""
    if isinstance(tokenizer, str | Path):
        folder = expanded(tokenizer)
        if not folder.is_dir():
            raise UsageError(
                f"there is no tokenizer in {folder}",
                "Give its folder, or the result of AutoTokenizer.from_pretrained.",
            )
        return tokenize(folder, config, bos, texts, corpus_sha256, None)
    with tempfile.TemporaryDirectory(prefix="kltui-") as name:
        _save(tokenizer, Path(name))
        try:
            return tokenize(Path(name), config, bos, texts, corpus_sha256, None)
        except KltuiError as error:
            said = error.message.replace(f"the tokenizer in {name}", "the tokenizer in memory")
            raise type(error)(said, error.hint) from error


def _save(tokenizer: Any, folder: Path) -> None:
    """Writes a tokenizer of the tokenizers library, bare or in a class of transformers, as tokenizer.json."""
    from tokenizers import Tokenizer

    if tokenizer is None:
        raise UsageError(
            "a model object needs a tokenizer, and none was given",
            "kltui.score(model, texts, tokenizer=AutoTokenizer.from_pretrained(...)), or the folder of its files.",
        )
    if isinstance(tokenizer, Tokenizer):
        tokenizer.save(str(folder / TOKENIZER_JSON))
        return
    if not isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer):
        kind = f"{type(tokenizer).__module__.partition('.')[0]}.{type(tokenizer).__name__}"
        raise UsageError(
            f"a tokenizer of the type {kind} is not supported: it is not from the tokenizers library",
            "Give a PreTrainedTokenizerFast, or the folder of the tokenizer's files.",
        )
    tokenizer.save_pretrained(folder)
