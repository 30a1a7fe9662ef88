"""Explains errors of transformers that are not due to damaged files: missing libraries, or tensor names with a prefix."""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kltui.errors import KltuiError
from kltui.sanitize import safe_text

# {prefix in the names of a model's tensors: the wrapper that adds it}
PREFIXES = {
    "_orig_mod.": "torch.compile",
    "module.": "DistributedDataParallel, DataParallel or DeepSpeed",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "_forward_module.": "Lightning",
    "base_model.model.": "PEFT",
    "language_model.": "a model of text and images",
}
_PIP = re.compile(r"pip install ([^`\n]+)")
_EXTRAS = {"bitsandbytes": "'.[quant]'", "accelerate": "'.[large]'"}
_SENTENCEPIECE = ("*.model", "*.spm")


def quantised_by(config: Any) -> str:
    """The quantisation method of a folder's weights according to its configuration; "" for none."""
    stated = getattr(config, "quantization_config", None)
    method = stated.get("quant_method") if isinstance(stated, dict) else getattr(stated, "quant_method", None)
    return safe_text(str(getattr(method, "value", method)), 60) if method else ""


def package_error(folder: Path, config: Any, error: Exception) -> KltuiError | None:
    """The KltuiError for a loading error that is due to a missing package or GPU; None if it has another cause."""
    text, method = str(error), quantised_by(config)
    who = f"the model in {folder}" + (f" is quantised by {method}, which" if method else "")
    if method and re.search(r"GPU|CUDA|XPU|mps devices", text):
        return KltuiError(f"{who} runs only on a GPU", "score it on a GPU, or score the unquantised model")
    if not isinstance(error, ImportError):
        return None
    wanted = _PIP.search(text)
    named = wanted[1].rstrip(" .')") if wanted else (error.name or "")
    if not named:
        return KltuiError(
            f"{who} needs a package that is not installed here", safe_text(" ".join(text.split()), 300)
        )
    package = _package(named)
    command = _EXTRAS.get(package.lower(), _quoted(named))
    return KltuiError(
        f"{who} needs {safe_text(package, 80)}, not installed here", f"pip install {safe_text(command, 120)}"
    )


def _package(arguments: str) -> str:
    """The first package in the arguments of a pip command, without its version and extras."""
    words = [word.strip("\"'") for word in arguments.split() if not word.startswith("-")]
    return re.split(r"[\[<>=!~;]", words[0])[0] if words else arguments


def _quoted(arguments: str) -> str:
    """Arguments of a pip command for a shell: those with <, > or [ in quotes."""
    words = [word.strip("\"'") for word in arguments.split()]
    return " ".join(f"'{word}'" if re.search(r"[<>\[]", word) else word for word in words)


def tokenizer_error(folder: Path) -> KltuiError | None:
    """The error if a folder's tokenizer file needs a library that is not installed, with its name; otherwise None."""
    for path in sorted(p for pattern in _SENTENCEPIECE for p in folder.glob(pattern)):
        if not _is_tiktoken(path):
            return _library(
                folder,
                path,
                "a SentencePiece model",
                {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"},
            )
        return _library(folder, path, "a tiktoken file", {"tiktoken": "tiktoken"})
    for path in sorted(folder.glob("*.tiktoken")):
        return _library(folder, path, "a tiktoken file", {"tiktoken": "tiktoken"})
    if (folder / "tekken.json").is_file():
        return _library(folder, folder / "tekken.json", "a Tekken file", {"mistral_common": "mistral-common"})
    return None


def _library(folder: Path, path: Path, what: str, packages: dict[str, str]) -> KltuiError | None:
    missing = [package for module, package in packages.items() if not _is_installed(module)]
    if not missing:
        return None
    return KltuiError(
        f"the tokenizer in {safe_text(str(folder))} is {what} ({safe_text(path.name)}), which needs "
        f"{' and '.join(missing)}, not installed here",
        f"pip install {' '.join(missing)}, or put its tokenizer.json next to it",
    )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def _is_tiktoken(path: Path) -> bool:
    """Whether a vocabulary file is tiktoken's, with lines of a token in base64 and its rank; SentencePiece's is binary."""
    with path.open("rb") as file:
        return re.match(rb"[A-Za-z0-9+/=]+ [0-9]+\r?\n", file.read(400)) is not None


def prefix_of(missing: Collection[str], unused: Collection[str]) -> str:
    """The prefix that the tensor names in the files have in addition to those of the model; "" if there is none.

    It is the common beginning of all names, or one of PREFIXES inside the names.
    """
    wanted, maximum = set(missing), 0.8 * len(missing)
    for name in sorted(wanted)[:: max(1, len(wanted) // 5)]:
        for prefix in sorted({u.removesuffix(name) for u in unused if u != name and u.endswith(f".{name}")}):
            if sum(prefix + m in unused for m in wanted) > maximum:
                return prefix
    for prefix in PREFIXES:
        if len(wanted & {_without(prefix, name) for name in unused}) > maximum:
            return prefix
    return ""


def _without(prefix: str, name: str) -> str:
    """The name without a prefix, at its beginning or before any module's name; for PEFT, also without `base_layer`."""
    bare = re.sub(rf"(^|\.){re.escape(prefix)}", r"\1", name)
    return bare.replace(".base_layer.", ".") if prefix == "base_model.model." else bare


def prefix_error(folder: Path, prefix: str, example: str) -> KltuiError:
    """The error for a folder whose tensor names have a wrapper's prefix, with a way to remove it."""
    shown = safe_text(repr(prefix), 120)
    cause = ", ".join(who for part, who in PREFIXES.items() if part in prefix) or "a wrapper"
    return KltuiError(
        f"the weights in {folder} have names with {shown} in them ({cause} adds it), first "
        f"{safe_text(example, 120)}, so they do not match the model's",
        "save the model that was wrapped with save_pretrained, or rename the tensors: "
        f"{{name.replace({shown}, ''): tensor for name, tensor in load_file(...).items()}}",
    )


def not_finite_error(text: int, dtype: str) -> KltuiError:
    """The error for a model that gives no finite number for a token of a text (counted from 0), with a hint based on `dtype`."""
    hint = "the weights are damaged, or training had diverged: check the training loss at that step"
    if dtype == "float16":
        hint = 'float16 overflows in many models: try dtype = "bfloat16" or "float32"; otherwise the weights are damaged'
    return KltuiError(
        f"the model gave a NaN or infinite log-probability in text {text} (dtype {dtype})", hint
    )
