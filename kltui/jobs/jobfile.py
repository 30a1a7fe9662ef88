"""Job files: parsing with all mistakes reported at once, and writing a job back."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import tomli_w
from pydantic import Field, ValidationError, model_validator

from kltui.errors import UsageError
from kltui.jobs.job_tables import (
    CorpusTable,
    EngineTable,
    InterpolationTable,
    JobTable,
    Line,
    ModelTable,
    ScoringTable,
    WatchTable,
)
from kltui.jobs.map_defaults import with_map_defaults
from kltui.jobs.path_hint import SHOWN_BY, other_format, path_hint
from kltui.registry.names import is_map_source
from kltui.scoring.settings import ScoringSettings


class JobFile(JobTable):
    """A whole job.

    `folder` is where relative paths start, including those of adapters' bases. It is the folder of the job file, and is
    recorded so that a copy of the job in another folder means the same.
    """

    workspace: Line = Field(
        min_length=1,
        description="The folder for the results, created if missing. Relative paths start at the folder of the job file.",
    )
    corpus: CorpusTable
    models: tuple[ModelTable, ...] = Field(min_length=1)
    interpolations: tuple[InterpolationTable, ...] = ()
    scoring: ScoringTable = ScoringTable()
    engine: EngineTable = EngineTable()
    watch: WatchTable = WatchTable()
    folder: Line = Field(
        default="",
        description="The folder at which relative paths start, for a copy of the job in another folder. Default: the folder of the job file.",
    )

    def __eq__(self, other: object) -> bool:
        """Whether both jobs are the same, regardless of the folder that they were read from."""
        if not isinstance(other, JobFile):
            return False
        return self.model_dump(exclude={"folder"}) == other.model_dump(exclude={"folder"})

    def __hash__(self) -> int:
        return hash(self.digest())

    @model_validator(mode="after")
    def _pairs_alone_have_responses(self) -> JobFile:
        if self.scoring.unconditional and self.corpus.kind != "pairs":
            raise ValueError(
                'scoring.unconditional needs corpus.kind = "pairs": it scores a response without its prompt'
            )
        return self

    @model_validator(mode="after")
    def _a_model_can_be_spread(self) -> JobFile:
        device, spread = self.scoring.device, self.engine.device_map
        if spread == "none":
            return self
        if device not in ("auto", "cuda", "cpu"):
            raise ValueError(
                f'engine.device_map = "{spread}" spreads a model over all GPUs, but scoring.device is "{device}": '
                'use device = "cuda" and choose GPUs by CUDA_VISIBLE_DEVICES'
            )
        if device == "cpu" and any(q != "none" for model in self.models for q in model.quantization):
            raise ValueError(
                f'engine.device_map = "{spread}" on a CPU moves weights to disk, which is impossible for quantised weights: '
                'leave quantization at "none", or device_map'
            )
        return self

    def settings(self) -> ScoringSettings:
        """How its texts are scored, and how a model is spread over devices."""
        template = self.corpus.template if self.corpus.kind == "pairs" else ""
        return replace(self.scoring.settings(), device_map=self.engine.device_map, template=template)

    def resolved(self, base: Path) -> JobFile:
        """The same job with every path absolute; relative ones start at `base`. Raises UsageError for an impossible path."""

        def absolute(path: str) -> str:
            try:
                return str((base / Path(path).expanduser()).resolve()) if path else ""
            except (OSError, RuntimeError) as error:  # too long, an unknown user's home, a loop of links
                reason = error.strerror if isinstance(error, OSError) else str(error)
                raise UsageError(f"{path[:200]} cannot be a path: {reason}") from None

        def model(table: ModelTable) -> ModelTable:
            # What neither looks like a path nor exists as a folder is a repository.
            def named(place: str) -> str:
                folder = absolute(place)
                return folder if place.startswith(("/", ".", "~")) or _is_there(folder) else place

            places = {"tokenizer": named(table.tokenizer), "base": named(table.base)}
            return table.model_copy(update={"path": absolute(table.path), **places})

        source = self.corpus.source
        if source != "demo" and not source.startswith("hf://") and not is_map_source(source):
            source = absolute(source)
        program, *arguments = self.watch.command or ("",)
        if "/" in program:
            program = absolute(program)
        return self.model_copy(
            update={
                "workspace": absolute(self.workspace),
                "corpus": self.corpus.model_copy(update={"source": source}),
                "models": tuple(map(model, self.models)),
                "watch": self.watch.model_copy(update={"command": (program, *arguments) if program else ()}),
                "folder": str(base),
            }
        )

    def to_toml(self) -> str:
        """TOML of this job, defaults left out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_defaults=True, exclude_none=True))

    def digest(self) -> str:
        """Hex SHA-256 of the job's contents: the same job has the same digest when run again."""
        unasked = {
            "engine": True,
            "watch": True,
            "folder": True,
            "scoring": {"device": True, "batch_tokens": True},
        }
        asked = self.model_dump(mode="json", exclude=cast("Any", unasked))
        # Keys added later are left out at their defaults, so that older jobs keep their digest.
        if not self.interpolations:
            del asked["interpolations"]
        for table in (asked["corpus"], asked["scoring"], *asked["models"]):
            for key, default in _LATER.items():
                if key in table and table[key] == default:
                    del table[key]
        for model in asked["models"]:
            model.pop("concurrency", None)
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


# Keys of [corpus], [[models]] and [scoring] that came after the first release, with their defaults as JSON has them.
_LATER: dict[str, object] = {
    **dict.fromkeys(("tokenizer", "preset", "endpoint", "base", "model", "api_key_env", "domain"), ""),
    "files": [], "field": "text", "kind": "texts", "template": "chat", "unconditional": False,
}  # fmt: skip


def _is_there(path: str) -> bool:
    """Whether a file or folder of that name exists; False if no file can have that name."""
    try:
        return bool(path) and Path(path).exists()
    except OSError:
        return False


def load_job(path: Path, overrides: Sequence[str] = ()) -> JobFile:
    """The job in file `path` with `key=value` overrides applied and every path absolute.

    Raises UsageError that lists every mistake with its key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unread(path, error) from None
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _not_toml(path, text, error) from None
    for override in overrides:
        _apply(data, override)
    base = _begin(data, path.parent.resolve())
    return parse_job(with_map_defaults(data, base), str(path)).resolved(base)


def _unread(path: Path, error: OSError | UnicodeDecodeError) -> UsageError:
    """The error for a job file that cannot be read: what is there instead, and what to do."""
    if isinstance(error, FileNotFoundError):
        default = f"Write one ({SHOWN_BY.removesuffix('.')}), or try kltui --demo."
        return UsageError(f"no job file {path}", path_hint(str(path)) or default)
    if isinstance(error, IsADirectoryError):
        return UsageError(f"{path} is a folder, not a job file", path_hint(str(path)) or SHOWN_BY)
    if isinstance(error, OSError):
        hint = "Check the path and its permissions."
        return UsageError(f"cannot read the job file {path}: {error.strerror}", hint)
    hint = path_hint(str(path)) or "TOML files are UTF-8."
    return UsageError(f"{path} is not UTF-8 text (byte {error.start})", hint)


def _not_toml(path: Path, text: str, error: Exception) -> UsageError:
    """The error for a file that is not TOML: what it looks like, and what to do."""
    found = other_format(path, text)
    if found == "texts":
        return UsageError(f"{path} is not a job file", path_hint(str(path)) or SHOWN_BY)
    if found:
        hint = f"Write it as TOML: key = value, below [table] or [[models]]. {SHOWN_BY}"
        return UsageError(f"{path} is not valid TOML: it looks like {found}", hint)
    return UsageError(
        f"{path} is not valid TOML: {error}", "Strings need quotes; tables are written [like.this]."
    )


def _begin(data: dict[str, Any], here: Path) -> Path:
    """Where relative paths start: `here`, the folder of the job file, unless it is a copy that states another `folder`."""
    stated = data.get("folder")
    return (here / Path(stated)).resolve() if isinstance(stated, str) and "\0" not in stated else here


def parse_job(data: dict[str, Any], where: str) -> JobFile:
    """The job that `data` describes. Raises UsageError that lists every mistake with its key."""
    try:
        return JobFile.model_validate(data)
    except ValidationError as error:
        lines = _mistakes([dict(item) for item in error.errors()])
        count = f"{len(lines)} mistake{'s' * (len(lines) > 1)}"
        raise UsageError(f"{where}: {count}\n" + "\n".join(f"  - {line}" for line in lines)) from None


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {override}: expected key=value", "For example --set scoring.dtype=float16")
    *tables, last = key.strip().split(".")
    node: Any = data
    for depth, table in enumerate(tables):
        node = _child(node, table, ".".join(tables[:depth]), override)
    if not isinstance(node, dict):
        raise UsageError(f"--set {override}: {key} does not name a key of a table")
    node[last] = _value(text.strip())


def _child(node: Any, table: str, parent: str, override: str) -> Any:
    """The part of the job named `table` within `node`, whose own name is `parent`; a table that is missing is added."""
    if isinstance(node, list):
        if not table.isdecimal() or int(table) >= len(node):
            entries = "1 entry" if len(node) == 1 else f"{len(node)} entries"
            raise UsageError(
                f"--set {override}: {parent} has {entries}, numbered from 0",
                f"For example --set {parent}.0.KEY=VALUE",
            )
        return node[int(table)]
    if not isinstance(node, dict):
        raise UsageError(f"--set {override}: {table} is not a table")
    return node.setdefault(table, {})


def _value(text: str) -> Any:
    """`text` as a TOML value if it is one, otherwise as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


_TABLES: dict[str, type[JobTable]] = {
    "corpus": CorpusTable,
    "models": ModelTable,
    "interpolations": InterpolationTable,
    "scoring": ScoringTable,
    "engine": EngineTable,
    "watch": WatchTable,
}


def _mistakes(errors: list[dict[str, Any]]) -> list[str]:
    """One line per key. Alternatives for one value are joined; the length of a list is reported only if its items are valid."""
    by_key: dict[str, str] = {}
    for error in errors:
        where = _where(error["loc"])
        if error["type"] == "too_short" and any(
            e["loc"][:1] == error["loc"][:1] and e is not error for e in errors
        ):
            continue
        said = _said(error, where)
        by_key[where] = f"{by_key[where]}, or: {said}" if where in by_key else said
    return [f"{where or 'job'}: {said}" for where, said in by_key.items()]


def _where(loc: Sequence[str | int]) -> str:
    where = ""
    for part in loc:
        if isinstance(part, int):
            where += f"[{part}]"
        elif "[" not in part:  # pydantic's own names for alternatives look like literal['none','all']
            where += f".{part}" if where else part
    return where


# What a value should be, by the beginning of pydantic's type of error, in the words of docs/job-file.md.
_SHOULD_BE = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string_type": "text in quotes",
}


def _said(error: dict[str, Any], where: str) -> str:
    """What is wrong with one value, with the value found and, for an unknown key, the most similar known one."""
    if error["type"] == "extra_forbidden":
        return _unknown(error)
    if error["type"] == "missing":
        return _missing(error["loc"])
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    wanted = next((words for kind, words in _SHOULD_BE.items() if error["type"].startswith(kind)), "")
    if wanted:
        message = f"should be {wanted}"
    if error["type"] in ("model_type", "dict_type", "model_attributes_type"):
        named = str(error["loc"][0])
        message = (
            f"should be a table below a line {f'[[{named}]]' if len(error['loc']) > 1 else f'[{named}]'}"
        )
    if error["type"] == "tuple_type":
        message = _should_be_listed(error["loc"])
    if error["type"] == "too_short" and not error["input"]:
        return "empty: give at least one"
    if where == "scoring.device":
        message = "should be 'auto', 'cpu', 'mps', 'cuda' or 'cuda:1'"
    seen = error["input"]
    return message if isinstance(seen, dict) else f"{message} (found {seen!r})"


def _unknown(error: dict[str, Any]) -> str:
    """The message for an unknown key: the key that was probably meant, or all keys of its table."""
    table = _TABLES.get(str(error["loc"][0]), JobFile) if len(error["loc"]) > 1 else JobFile
    key, known = str(error["loc"][-1]), list(table.model_fields)
    elsewhere = [f"{name}.{key}" for name, other in _TABLES.items() if key in other.model_fields]
    # a table with a similar name, such as [[model]], is not meant for the key `model` of another table
    is_table = isinstance(error["input"], dict | list)
    close = difflib.get_close_matches(key, known, n=1)
    if close and (is_table or not elsewhere):
        return f"unknown key, did you mean {close[0]!r}?"
    if key in JobFile.model_fields and table is not JobFile:
        return "unknown key here: it belongs at the top of the file, before all tables"
    if elsewhere:
        return f"unknown key, did you mean {' or '.join(map(repr, elsewhere))}?"
    listed = ", ".join(name for name in known if name != "folder")
    return f"unknown key (known here: {listed})"


def _missing(loc: Sequence[str | int]) -> str:
    """The message for a missing key or table, with what it is for."""
    key, table = str(loc[-1]), _TABLES.get(str(loc[0]), JobFile) if len(loc) > 1 else JobFile
    if len(loc) == 1 and key in _TABLES:
        return f"missing: {_WRITTEN[key]}" if key in _WRITTEN else "missing"
    field = table.model_fields.get(key)
    said = re.split(r"[;.:(]", (field.description or "") if field else "", maxsplit=1)[0].strip()
    return f"missing: {said[:1].lower()}{said[1:]}" if said else "missing"


# How a required table is written, by its name.
_WRITTEN = {
    "corpus": 'write [corpus] with source = "texts.jsonl", or another source of texts',
    "models": 'write [[models]] with path = "FOLDER", repo, preset or endpoint',
}


def _should_be_listed(loc: Sequence[str | int]) -> str:
    """The message for a value where a list is needed."""
    if loc in (("models",), ("interpolations",)):
        return f"each must be a separate table below a line [[{loc[0]}]], with double brackets"
    key = next((part for part in reversed(loc) if isinstance(part, str) and "[" not in part), "")
    return f"should be a list: {key} = [...]"
