"""Connects the adapters of a job with their bases: a base becomes the adapter's parent, and is added if no entry names it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kltui.errors import KltuiError
from kltui.registry.adapters import base_source, is_adapter
from kltui.registry.checkpoint import Checkpoint, HubSource, LocalSource
from kltui.registry.entry import ModelEntry, checkpoints_from_entry
from kltui.registry.layout import is_adapter_folder, is_checkpoint_folder, model_type
from kltui.registry.names import MARKS
from kltui.registry.parents import checkpoints_by_name
from kltui.registry.tokenizer import named_source
from kltui.sanitize import safe_text


@dataclass(frozen=True)
class WithBases:
    """A job's checkpoints, with bases before their adapters; mistakes; notes."""

    checkpoints: list[Checkpoint]
    mistakes: list[str]
    notes: list[str]


def with_bases(
    checkpoints: Sequence[Checkpoint], stored: Sequence[Checkpoint], job_folder: Path
) -> WithBases:
    """`checkpoints` with `base` of every adapter set to the location of its base, and `parent` to the name of its base.

    A base among the job's checkpoints or in the workspace keeps its name there, and is
    scored in this job in either case. Any other base is added, named after its folder or repository.
    """
    made = WithBases([], [], [])
    known = list(checkpoints)
    added: set[Checkpoint] = set()

    def put(one: Checkpoint) -> None:
        made.checkpoints.append(one)
        added.add(one)

    for c in checkpoints:
        if not is_adapter(c):
            if c not in added:
                put(c)
            continue
        try:
            base = _base(c, known, stored, job_folder)
        except KltuiError as error:
            made.mistakes.append(f"{safe_text(c.name, 80)}: {error.message} ({error.hint})")
            continue
        if base not in known:
            known.append(base)
            made.notes.append(f"{safe_text(base.name, 80)} is added as the base of {safe_text(c.name, 80)}")
        if base not in added:  # before its first adapter, which then finds it loaded
            put(base)
        put(_joined(c, base))
    return replace(made, mistakes=list(dict.fromkeys(made.mistakes)))


def _joined(c: Checkpoint, base: Checkpoint) -> Checkpoint:
    assert isinstance(base.source, LocalSource | HubSource)
    return replace(
        c, base=_place(base.source), parent=c.parent or base.name, type=c.type or base.type, size=c.size or base.size,
        tokenizer=c.tokenizer or base.tokenizer,
    )  # fmt: skip


def _place(source: LocalSource | HubSource) -> str:
    """The source as a string that `named_source` parses."""
    return (
        str(source.path)
        if isinstance(source, LocalSource)
        else f"{source.repo}@{source.commit or source.revision}"
    )


def _base(
    c: Checkpoint, known: Sequence[Checkpoint], stored: Sequence[Checkpoint], job_folder: Path
) -> Checkpoint:
    """The base of an adapter as a checkpoint in the same variant. Raises KltuiError if it is not found or is no model."""
    in_job = {k.name for k in known}
    everyone = [*known, *(s for s in stored if s.name not in in_job)]
    models = [k for k in everyone if isinstance(k.source, LocalSource | HubSource) and not is_adapter(k)]
    taken = {k.name for k in everyone}
    if not c.base:
        assert isinstance(
            c.source, LocalSource
        )  # the base of an adapter on the hub was read when its repository was listed
        return _at(c, base_source(c.source.path, job_folder), models, taken)
    names = checkpoints_by_name(models)
    if c.base in names:
        plain = next(k for k in models if k.name == names[c.base])
        return _variant(c, plain, models)
    source = named_source(c.base)
    if isinstance(source, LocalSource) and not is_checkpoint_folder(source.path):
        raise KltuiError(
            f'base = "{safe_text(c.base, 120)}" contains no model',
            "Name a model folder, OWNER/NAME on the hub, or a checkpoint of this job.",
        )
    return _at(c, source, models, taken)


def _at(
    c: Checkpoint, source: LocalSource | HubSource, models: Sequence[Checkpoint], taken: Collection[str]
) -> Checkpoint:
    """The checkpoint at `source`: one of `models` if it is among them, otherwise a new one under a name that is not taken."""
    if isinstance(source, LocalSource) and is_adapter_folder(source.path):
        raise KltuiError(
            f"its base {safe_text(str(source.path), 120)} is itself an adapter",
            "Merge that adapter into its own base and name the result.",
        )
    here = next((k for k in models if _same(k, source) and k.quantization == "none"), None)
    return _variant(c, here or _named_apart(_new(c, source), source, taken), models)


def _named_apart(base: Checkpoint, source: LocalSource | HubSource, taken: Collection[str]) -> Checkpoint:
    """The base under a name that no other model has: if necessary prefixed by its parent folder or owner, or numbered."""
    around = source.repo.rpartition("/")[0] if isinstance(source, HubSource) else source.path.parent.name
    before = [f"{around}-{base.run}"] if around and not set(around) & set(MARKS) else []
    tries = (base.run, *before, *(f"{base.run}-{number}" for number in range(2, len(taken) + 3)))
    made = (replace(base, run=run) for run in tries)
    return next(b for b in made if b.name not in taken)


def _same(c: Checkpoint, source: LocalSource | HubSource) -> bool:
    if isinstance(c.source, LocalSource) and isinstance(source, LocalSource):
        return c.source.path.resolve() == source.path.resolve()
    if isinstance(c.source, HubSource) and isinstance(source, HubSource):
        return (c.source.repo, c.source.revision) == (source.repo, source.revision)
    return False


def _variant(c: Checkpoint, base: Checkpoint, models: Sequence[Checkpoint]) -> Checkpoint:
    """The base in the adapter's variant."""
    assert isinstance(base.source, LocalSource | HubSource)
    wanted, source = replace(base, quantization=c.quantization), base.source
    return next((k for k in models if k.name == wanted.name and _same(k, source)), wanted)


def _new(c: Checkpoint, source: LocalSource | HubSource) -> Checkpoint:
    """A base that no entry names, with the properties that an entry of its own would give it."""
    entry = ModelEntry(size=c.size, tokenizer=c.tokenizer)
    if isinstance(source, HubSource):
        return checkpoints_from_entry(replace(entry, repo=source.repo, revisions=(source.revision,)))[0]
    found = checkpoints_from_entry(replace(entry, path=source.path))
    if len(found) != 1:
        raise KltuiError(
            f"its base {safe_text(str(source.path), 120)} is a run of {len(found)} checkpoints",
            'Name one of them in the [[models]] entry: base = "FOLDER/checkpoint-N".',
        )
    return replace(found[0], type=model_type(source.path))
