"""A `[[models]]` entry of a job file, and the checkpoints it names."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from kltui.errors import UsageError
from kltui.registry.checkpoint import Checkpoint, HubSource, LocalSource, ServedSource, Source
from kltui.registry.discover import discover
from kltui.registry.gguf_entry import FoundGGUF, hub_ggufs, local_ggufs, names_ggufs
from kltui.registry.names import check_repo, check_revision, check_run
from kltui.registry.revisions import expand_revisions, is_step_name, parse_step, step_label
from kltui.registry.tokenizer import check_named
from kltui.sanitize import safe_text


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One `[[models]]` table (SPEC section 11): an absolute `path`, a hub `repo` with revision patterns, or an `endpoint`.

    `files` are patterns of GGUF files in the folder or repository; `model` to `api_key_env` go with the endpoint.
    """

    path: Path | None = None
    repo: str = ""
    revisions: tuple[str, ...] = ()
    quantization: tuple[str, ...] = ("none",)
    run: str = ""
    seed: int | None = None
    size: str = ""
    type: str = ""
    parent: str = ""
    tags: tuple[str, ...] = ()
    tokenizer: str = ""
    base: str = ""
    files: tuple[str, ...] = ()
    endpoint: str = ""
    model: str = ""
    concurrency: int = 16
    api_key_env: str = ""


def checkpoints_from_entry(entry: ModelEntry, ask_hub: bool = False) -> list[Checkpoint]:
    """Checkpoints of one entry, by step, the variants of one step together.

    Uses the network only for `files` of a repository and, with `ask_hub`, to find out whether it contains a model or adapters.
    Default `run`: the repository's last part or the folder's name; for a single folder whose name is only a step
    (`runs/tiny/step500`), its parent folder. Default `type`: `model_type` of a local config. Raises KltuiError if nothing
    is found there, and UsageError for an invalid entry.
    """
    if [entry.path is not None, bool(entry.repo), bool(entry.endpoint)].count(True) != 1:
        raise UsageError("A [[models]] entry needs path, repo or endpoint", "Give one of them.")
    if not entry.quantization:
        raise UsageError("quantization = [] is empty", 'Omit it, or write ["none"].')
    if entry.tokenizer:
        check_named(entry.tokenizer)
    adapters = _hub_adapters(entry) if entry.repo and ask_hub else []
    if entry.endpoint:
        plain = [_served(entry)]
    elif adapters:
        plain = adapters
    elif (entry.repo and entry.files) or (entry.path is not None and names_ggufs(entry.path, entry.files)):
        plain = _ggufs(entry)
    else:
        plain = _local(entry, entry.path) if entry.path is not None else _hub(entry)
    found = [_variant(c, q) for c in plain for q in dict.fromkeys(entry.quantization)]
    _check_names(found)
    return found


def _local(entry: ModelEntry, path: Path) -> list[Checkpoint]:
    assert path.is_absolute(), path
    _check_no_revisions(entry, path)
    found = discover(path)
    lone_step = len(found) == 1 and found[0].path == path and is_step_name(path.name)
    folder = path.parent if lone_step else path
    run = entry.run or folder.name or "model"
    check_run(run, "run =" if entry.run else "the folder's name")
    return [_checkpoint(entry, run, LocalSource(f.path), f.step, entry.type or f.type) for f in found]


def _hub(entry: ModelEntry) -> list[Checkpoint]:
    check_repo(entry.repo)
    run = entry.run or entry.repo.rpartition("/")[2]
    check_run(run, "run =" if entry.run else "the repository's name")
    revisions = expand_revisions(entry.revisions or ("main",))
    for revision in revisions:
        check_revision(revision)
    steps = [parse_step(revision) for revision in revisions]
    distinguished = len(set(steps)) < len(steps)
    found = [
        _checkpoint(
            entry,
            _labelled(run, step_label(r)) if distinguished else run,
            HubSource(entry.repo, r),
            step,
            entry.type,
        )
        for r, step in zip(revisions, steps, strict=True)
    ]
    return sorted(found, key=lambda c: -1 if c.step is None else c.step)


def _hub_adapters(entry: ModelEntry) -> list[Checkpoint]:
    """The adapters in a repository, a run of its revisions or of the folders in it; [] if it contains something else."""
    from kltui.registry.adapter_hub import hub_adapters

    found: list[Checkpoint] = []
    of_revisions = _hub(entry)
    for plain in of_revisions:
        assert isinstance(plain.source, HubSource)
        here = hub_adapters(plain.source, entry.files, with_base=not entry.base)
        if not here and not found:
            return []
        several = any(a.source.file for a in here) and len(of_revisions) > 1
        run = _labelled(plain.run, plain.source.revision) if several else plain.run
        found += [
            replace(plain, run=run, source=a.source, step=a.step, base=entry.base or a.base) for a in here
        ]
        if not here:  # its download reports what it contains instead
            found.append(replace(plain, base=found[0].base))
    return found


def _labelled(run: str, label: str) -> str:
    """The name of the run of one branch, if several branches of a repository have the same steps, such as OLMo's stages."""
    named = f"{run}-{label.replace('/', '-')}" if label else run
    check_run(named, "the run of that branch")
    return named


def _ggufs(entry: ModelEntry) -> list[Checkpoint]:
    """GGUF files, each a variant of the model from which it was made; `base` is that model's folder, if it is known."""
    if entry.quantization != ("none",):
        raise UsageError(
            "quantization cannot be used with GGUF files, which are already quantised", "Leave it out."
        )
    if entry.path is not None:
        _check_no_revisions(entry, entry.path)
        found: list[tuple[FoundGGUF, int | None]] = [(f, None) for f in local_ggufs(entry.path, entry.files)]
    else:
        check_repo(entry.repo)
        sources = [HubSource(entry.repo, r) for r in expand_revisions(entry.revisions or ("main",))]
        found = [(f, parse_step(s.revision)) for s in sources for f in hub_ggufs(s, entry.files)]
    return [_gguf(entry, f, step) for f, step in found]


def _gguf(entry: ModelEntry, found: FoundGGUF, step: int | None) -> Checkpoint:
    run = entry.run or found.stem
    check_run(run, "run =" if entry.run else "the file's name")
    made = _checkpoint(entry, run, found.source, step, entry.type or found.architecture)
    base = entry.base or ("" if entry.parent or found.original is None else str(found.original))
    return replace(made, quantization=found.variant, base=base)


def _check_no_revisions(entry: ModelEntry, path: Path) -> None:
    if entry.revisions:
        raise UsageError(
            f"revisions are given for the folder {safe_text(str(path))}",
            "Only a hub repo has revisions: remove them.",
        )


def _served(entry: ModelEntry) -> Checkpoint:
    run = entry.run or entry.model.rstrip("/").rpartition("/")[2]
    check_run(run, "run =" if entry.run else "the served model's name")
    source = ServedSource(entry.endpoint, entry.model, entry.concurrency, entry.api_key_env)
    return _checkpoint(entry, run, source, None, entry.type)


def _checkpoint(entry: ModelEntry, run: str, source: Source, step: int | None, model_type: str) -> Checkpoint:
    return Checkpoint(
        run=run, source=source, step=step, seed=entry.seed, size=entry.size, type=model_type,
        parent=entry.parent, tags=entry.tags, tokenizer=entry.tokenizer, base=entry.base,
    )  # fmt: skip


def _variant(checkpoint: Checkpoint, quantization: str) -> Checkpoint:
    return checkpoint if quantization == "none" else replace(checkpoint, quantization=quantization)


def _check_names(checkpoints: list[Checkpoint]) -> None:
    twice = [name for name, count in Counter(c.name for c in checkpoints).items() if count > 1]
    if not twice:
        return
    sources = [str(c.source) for c in checkpoints if c.name == twice[0]]
    raise UsageError(
        f"{safe_text(' and '.join(sources[:2]), 200)} would both have the name {safe_text(twice[0])}",
        "Put them in [[models]] entries with different run names.",
    )
