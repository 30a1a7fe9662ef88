"""A checkpoint: the source of its files, its variant, and its place in a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kltui.sanitize import is_there


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A model folder on this machine (config.json and weights), or a GGUF file, as an absolute path."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def exists(self) -> bool:
        """Whether the folder or file is there; False also if this user cannot access it."""
        return is_there(self.path)


@dataclass(frozen=True, slots=True)
class HubSource:
    """A hub repository at one revision; `commit` is the revision's commit hash, "" before it is known.

    `file` is a GGUF file in it, or the folder in it that contains an adapter; "" for a model.
    """

    repo: str
    revision: str = "main"
    commit: str = ""
    file: str = ""

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" + (f"/{self.file}" if self.file else "")


@dataclass(frozen=True, slots=True)
class ServedSource:
    """A model with the name `model` behind an OpenAI-compatible completions API at `endpoint`.

    `concurrency` is the maximum number of open requests; the environment variable `api_key_env` contains the key ("": none).
    """

    endpoint: str
    model: str
    concurrency: int = 16
    api_key_env: str = ""

    def __str__(self) -> str:
        return f"{self.model} at {self.endpoint}"


Source = LocalSource | HubSource | ServedSource


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One model that can be scored: a source in one variant, and its lineage.

    `tokenizer` is used if neither the source nor its run has one: an absolute path, or OWNER/NAME[@REVISION]. `base` is the
    base model of an adapter, if it is not the one that its config names: an absolute path, OWNER/NAME[@REVISION], or the
    name of a checkpoint.
    """

    run: str
    source: Source
    step: int | None = None
    quantization: str = "none"
    seed: int | None = None
    size: str = ""
    type: str = ""
    parent: str = ""
    tags: tuple[str, ...] = ()
    tokenizer: str = ""
    base: str = ""

    @property
    def base_name(self) -> str:
        """Name without the variant: `run@step`, or `run` without a step."""
        return self.run if self.step is None else f"{self.run}@{self.step}"

    @property
    def name(self) -> str:
        """Unique name in a workspace: `base_name`, plus `+quantization` for a quantised variant."""
        return self.base_name if self.quantization == "none" else f"{self.base_name}+{self.quantization}"


def layer_name(name: str, layer: int | None) -> str:
    """Name of a vector: that of the checkpoint, or `name#k` for the layer vector of layer k."""
    return name if layer is None else f"{name}#{layer}"
