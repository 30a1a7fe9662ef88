"""The tables of a job file: every key with its type, its default and what it means."""

from __future__ import annotations

import unicodedata
import urllib.parse
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from kltui.registry.names import Quantization
from kltui.scoring.settings import ScoringSettings


def _without_controls(value: str) -> str:
    if any(unicodedata.category(c) == "Cc" for c in value):
        raise ValueError("control characters are not allowed")
    return value


Line = Annotated[str, AfterValidator(_without_controls)]


class JobTable(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_is_true(cls, value: object, info: ValidationInfo) -> object:
        """The value unchanged. Raises ValueError for a boolean that is not allowed, because `sample = true` would be read as 1."""
        listed = value if isinstance(value, list) else [value]
        if any(isinstance(v, bool) for v in listed) and not _is_yes_or_no(cls, info.field_name):
            raise ValueError("true and false are not allowed here")
        return value


def _is_yes_or_no(table: type[BaseModel], key: str | None) -> bool:
    return key is not None and table.model_fields[key].annotation is bool


class CorpusTable(JobTable):
    """`[corpus]`: where the texts come from and how many are drawn."""

    source: Line = Field(
        min_length=1,
        description="The texts: a `.json` list, `.jsonl` (also `.gz`, `.zst`), `.csv`, `.tsv`, `.parquet`, `.txt`, a folder, a pattern such as `data/*.jsonl`, `hf://datasets/OWNER/NAME@REV/*.parquet`, `demo` (texts that come with kltui), or `map` (the texts that the workspace already has).",
    )
    chunk: bool = Field(
        default=False,
        description="Cut documents into chunks of at most `max_bytes`, never inside a character, and drop chunks of `min_bytes` or less. If false, every item is one text.",
    )
    max_bytes: int = Field(
        default=1024, ge=4, description="With `chunk`: the maximum length of a chunk, in bytes of UTF-8."
    )
    min_bytes: int = Field(
        default=256,
        ge=0,
        description="With `chunk`: a chunk is kept only if it is longer than this, in bytes.",
    )
    sample: int | None = Field(
        default=None, ge=1, description="The number of texts to draw, without replacement. Default: all."
    )
    seed: int = Field(
        default=42, description="The random seed for `sample`: the same seed gives the same texts."
    )
    field: Line = Field(default="text", description="The field of a row that contains its text.")
    domain: Line = Field(
        default="",
        description="The field of a row that contains its domain, for analyses by domain; dots lead into nested fields (`meta.set`).",
    )
    kind: Literal["texts", "pairs"] = Field(
        default="texts",
        description="`pairs`: every row has a prompt and a response, and only the response is scored.",
    )
    template: Literal["chat", "none"] = Field(
        default="chat",
        description='With `kind = "pairs"`: how the prompt is formatted: with the tokenizer\'s chat template, or (`none`) as it is.',
    )

    @model_validator(mode="after")
    def _pairs_are_whole(self) -> CorpusTable:
        if self.kind == "texts" and self.template != "chat":
            raise ValueError('template needs kind = "pairs"')
        if self.kind == "pairs" and self.chunk:
            raise ValueError('chunk cannot be used with kind = "pairs": a response is never cut')
        if self.kind == "pairs" and self.field != "text":
            raise ValueError('field is for texts: rows of pairs have "prompt" and "response", or "messages"')
        if self.kind == "pairs" and self.source == "demo":
            raise ValueError(
                'the demo has texts but no pairs: name a file of rows with "prompt" and "response"'
            )
        return self


class ModelTable(JobTable):
    """One `[[models]]` entry: a folder or GGUF file (`path`), a hub repository (`repo`), a `preset`, or an `endpoint`.

    `files` are patterns of GGUF files in the folder or repository. `base` is the model that an adapter is for.
    """

    path: Line = Field(
        default="",
        description="A model folder, a GGUF file, or a folder of checkpoints such as `step500` or `checkpoint-1000`.",
    )
    repo: Line = Field(default="", description="A repository of the Hugging Face hub, `OWNER/NAME`.")
    preset: Line = Field(
        default="",
        description="A public training run that kltui knows, such as `pythia-410m`: its repository, revisions, size and type.",
    )
    endpoint: Line = Field(
        default="",
        description="The address of a server with OpenAI's completions API, such as `http://127.0.0.1:8000/v1`.",
    )
    revisions: tuple[Line, ...] = Field(
        default=(),
        description="Branches or tags of the repository. `step{1000..3000..1000}` is expanded; `all` and patterns with `*` are matched against the hub's list. Default: the main branch, or all revisions of the preset.",
    )
    files: tuple[Line, ...] = Field(
        default=(),
        description="File name patterns that select GGUF files, or adapter folders of a repository.",
    )
    quantization: tuple[Quantization, ...] = Field(
        default=("none",), description="The variants to score: `none` is the model as it is stored."
    )
    run: Line = Field(
        default="", description="The name of the training run. Default: the name of the folder or repository."
    )
    seed: int | None = Field(
        default=None,
        ge=-(2**63),
        lt=2**63,
        description="The random seed of the training run; runs that differ only in seed are compared as seeds.",
    )
    size: Line = Field(
        default="",
        description="The size of the model, such as `410m`; runs that differ only in size are compared as sizes.",
    )
    type: Line = Field(
        default="", description="The family of the model. Default: the model type in its configuration."
    )
    parent: Line = Field(
        default="",
        description="The name of the checkpoint from which this model was made, such as `pythia-410m@143000`.",
    )
    tags: tuple[Line, ...] = Field(default=(), description="Your own labels, for filtering and colouring.")
    tokenizer: Line = Field(
        default="",
        description="A folder or repository with the tokenizer, for models without one.",
    )
    base: Line = Field(
        default="",
        description="For adapters: the base model, as a folder, a repository, or a checkpoint of this job. Default: the one named in the adapter's configuration.",
    )
    model: Line = Field(default="", description="With `endpoint`: the name of the model on the server.")
    concurrency: int = Field(
        default=16, ge=1, le=1024, description="With `endpoint`: the number of concurrent requests."
    )
    api_key_env: Annotated[Line, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")] = Field(
        default="",
        description="With `endpoint`: the name of an environment variable that contains the API key. The key itself is never stored.",
    )

    @field_validator("quantization", "revisions", "files", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> ModelTable:
        if [bool(s) for s in (self.path, self.repo, self.preset, self.endpoint)].count(True) != 1:
            raise ValueError(
                "give one of path (a folder or a GGUF file), repo (on the hub), preset and endpoint (a server)"
            )
        if self.revisions and not (self.repo or self.preset):
            raise ValueError("revisions need repo or preset")
        if self.files and not (self.path or self.repo):
            raise ValueError("files need path or repo")
        if self.endpoint:
            self._check_served()
        elif self.model or self.api_key_env or self.concurrency != 16:
            raise ValueError("model, concurrency and api_key_env need endpoint")
        if not self.quantization:
            raise ValueError('quantization is an empty list; leave it out or write ["none"]')
        return self

    def _check_served(self) -> None:
        url = urllib.parse.urlsplit(self.endpoint)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("endpoint must be the address of a server, such as http://127.0.0.1:8000/v1")
        if url.username or url.password:
            raise ValueError(
                "endpoint must not contain a password: put it in an environment variable and name that as api_key_env"
            )
        if not self.model:
            raise ValueError("an endpoint needs model: its name on the server")
        if not self.tokenizer:
            raise ValueError("an endpoint needs tokenizer (a folder or repo), because kltui sends token ids")
        if self.quantization != ("none",) or self.base:
            raise ValueError(
                "quantization and base cannot be used with endpoint, because the server loads the model"
            )


class InterpolationTable(JobTable):
    """One `[[interpolations]]` entry: models between a base and one or two others, all named as in this job.

    At (a, b) of the grid the weights are (1 - a - b) base + a others[0] + b others[1].
    """

    base: Line = Field(
        min_length=1, description="The name in this job of the checkpoint at (0, 0) of the grid."
    )
    others: tuple[Line, ...] = Field(
        min_length=1, max_length=2, description="The names in this job of one or two other checkpoints."
    )
    grid: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = Field(
        default=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        min_length=1,
        description="The values of a and, with two others, of b.",
    )
    run: Line = Field(
        default="",
        description="The name of the run formed by these models. Default: made from the other names.",
    )

    @field_validator("others", mode="before")
    @classmethod
    def _one_or_two(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class ScoringTable(JobTable):
    """`[scoring]`: how texts are scored."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = Field(
        default="auto",
        description="The device: `cpu`, `cuda`, `cuda:1`, `mps`, or `auto`, which is a GPU if torch can use one.",
    )
    dtype: Literal["float32", "float16", "bfloat16", "auto"] = Field(
        default="float32",
        description="The precision in which models compute; `auto`: as stored. Log-probabilities are always float32 and their sums float64.",
    )
    bos: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Whether a text begins with the beginning-of-sequence token; `auto`: the tokenizer's default.",
    )
    overlong: Literal["error", "window", "truncate"] = Field(
        default="error",
        description="The treatment of texts with more tokens than the model's context: `error`; `window`, sliding windows that score each token once; or `truncate`.",
    )
    layers: Literal["none", "all"] | tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default="none",
        description="The layers for which vectors are computed too, by applying the model's output head to the layer's hidden states (logit lens): `none`, `all`, or a list such as `[0, 4, 8]`.",
    )
    tokens: bool = Field(default=False, description="Also store the log-probability of every token.")
    batch_tokens: int = Field(
        default=0, ge=0, description="The number of tokens per batch, including padding; 0: found by trial."
    )
    allow_bin: bool = Field(
        default=False, description="Allow weights that are stored as pickles (`pytorch_model.bin`)."
    )
    keep_cache: bool = Field(
        default=True,
        description="Keep files downloaded from the hub after scoring; `false` deletes each revision's files.",
    )
    unconditional: bool = Field(
        default=False, description="For pairs: also score the response without its prompt."
    )

    def settings(self) -> ScoringSettings:
        """These settings as `ScoringSettings`, layers sorted and without duplicates."""
        fields = self.model_dump(exclude={"keep_cache"})
        if isinstance(self.layers, tuple):
            fields["layers"] = tuple(sorted(set(self.layers)))
        return ScoringSettings(**fields)


class EngineTable(JobTable):
    """`[engine]`: where the work runs.

    With Ray, `address` is "" (a new cluster on this machine for this job), "auto" (the one running on this machine) or
    HOST:PORT, and `cpus` is the number of CPUs of a worker without a GPU (0: its share of this machine, or 1).
    `device_map` spreads a model that is larger than one GPU over all GPUs of this machine.
    """

    kind: Literal["local", "ray"] = Field(
        default="local", description="`local`: processes on this machine; `ray`: workers on a Ray cluster."
    )
    workers: int = Field(
        default=1, ge=1, le=1024, description="The number of processes that score in parallel."
    )
    address: Line = Field(
        default="",
        description="With Ray: `auto` for the cluster running on this machine, or `HOST:PORT`. Default: a new cluster on this machine for this job.",
    )
    cpus: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="With Ray: the number of CPUs of a worker without a GPU; 0: its share of this machine, or 1.",
    )
    niceness: int = Field(
        default=5,
        ge=0,
        le=19,
        description="The least niceness of processes that score on a CPU of this machine (Linux): reports and the interface are "
        "then served first. With 0 they have no lower priority than other programs.",
    )
    device_map: Literal["none", "auto", "balanced", "sequential"] = Field(
        default="none",
        description="How to spread a model that is larger than one GPU over all GPUs, memory and disk of this machine.",
    )

    @model_validator(mode="after")
    def _ray_alone_has_an_address(self) -> EngineTable:
        if self.kind != "ray" and (self.address or self.cpus):
            raise ValueError('address and cpus need kind = "ray"')
        if self.address.startswith("ray://"):
            raise ValueError(
                'ray:// is not supported: run kltui on a machine of the cluster, with address = "auto"'
            )
        return self

    @model_validator(mode="after")
    def _one_process_spreads_a_model(self) -> EngineTable:
        if self.device_map != "none" and self.kind == "ray":
            raise ValueError('device_map needs kind = "local": a worker on Ray has one GPU')
        if self.device_map != "none" and self.workers > 1:
            raise ValueError(
                f"device_map gives all GPUs to one worker, but workers = {self.workers}: set workers to 1 "
                "(to divide the GPUs: CUDA_VISIBLE_DEVICES=0,1 kltui --batch JOB --shard 0/2, and 2,3 for 1/2)"
            )
        return self


class WatchTable(JobTable):
    """`[watch]`: when `--watch` raises an alert, and the `command` to run for each, with the alert in KLTUI_* variables."""

    alert_loss_se: float = Field(
        default=5.0,
        gt=0,
        allow_inf_nan=False,
        description="Alert if the loss rises by more than this many standard errors.",
    )
    alert_kl_ratio: float = Field(
        default=5.0,
        gt=1,
        allow_inf_nan=False,
        description="Alert if the KL to the previous checkpoint is more than this many times the median of the earlier ones.",
    )
    settled_below: float = Field(
        default=0.01,
        ge=0,
        allow_inf_nan=False,
        description="A run counts as settled from the step after which the KL between neighbouring checkpoints stays below this value, in bits per byte.",
    )
    command: tuple[Line, ...] = Field(
        default=(),
        description="A program and its arguments, run for each alert, which is passed in environment variables `KLTUI_...`.",
    )
