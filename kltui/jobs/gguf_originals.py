"""Connects the GGUF files of a job with the models that they were made from: name, lineage, tokenizer, and the model itself."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kltui.errors import KltuiError
from kltui.registry.checkpoint import Checkpoint, HubSource, LocalSource
from kltui.registry.gguf_file import is_gguf_variant
from kltui.registry.layout import TOKENIZER_JSON, model_type
from kltui.registry.parents import checkpoints_by_name
from kltui.registry.revisions import is_step_name, parse_step
from kltui.registry.tokenizer import named_source, own_tokenizer, tokenizer_folder
from kltui.sanitize import safe_text

COMPARED_TEXTS = 32


@dataclass(frozen=True)
class Joined:
    """A job's checkpoints, including the originals of GGUF files, and notes."""

    checkpoints: list[Checkpoint]
    notes: list[str]


def with_originals(
    checkpoints: Sequence[Checkpoint],
    stored: Sequence[Checkpoint],
    named: Collection[str],
    texts: Sequence[str],
) -> Joined:
    """`checkpoints` with each GGUF file at the end, as a variant of its parent, which is added if no entry names it.

    The parent is the entry's, or the model in the folder next to the file (`base`). The variant inherits its run and
    step, unless its source is among those `named` by their entry, its type and, where the entry names none, its tokenizer. Tokenizers
    that give `texts` ids different from the parent's are reported.
    """
    if not any(is_gguf_variant(c.quantization) for c in checkpoints):
        return Joined(list(checkpoints), [])
    plain = [c for c in checkpoints if not is_gguf_variant(c.quantization)]
    joined, notes = list(plain), []
    for c in checkpoints:
        if not is_gguf_variant(c.quantization):
            continue
        original = _original(c, [*joined, *stored])
        if original is None:
            joined.append(c)
            continue
        # A model of the same name from elsewhere is a different one; having both is reported as a mistake later.
        if not c.parent and (original.name, _place(original)) not in {(k.name, _place(k)) for k in joined}:
            joined.append(original)
        made = _variant_of(c, original, named=str(c.source) in named)
        joined.append(made)
        if c.tokenizer:
            notes += _other_ids(made, original, texts)
    return Joined(joined, list(dict.fromkeys(notes)))


def _original(c: Checkpoint, known: Sequence[Checkpoint]) -> Checkpoint | None:
    """The checkpoint that a GGUF file was made from, by the name of its parent or the location of its `base`; None if unknown."""
    wanted = [k for k in known if k.quantization == "none"]
    by_name = {k.name: k for k in wanted}
    names = checkpoints_by_name(wanted)
    if c.parent:
        return by_name.get(names.get(c.parent, ""))
    if not c.base:
        return None
    if c.base in names:
        return by_name[names[c.base]]
    source = named_source(c.base)
    here = next((k for k in wanted if _place(k) == _place_of(source)), None)
    return here or _new(c, source)


def _place(c: Checkpoint) -> tuple[str, str]:
    return ("", "") if not isinstance(c.source, LocalSource | HubSource) else _place_of(c.source)


def _place_of(source: LocalSource | HubSource) -> tuple[str, str]:
    if isinstance(source, LocalSource):
        return str(source.path), ""
    return source.repo, source.revision


def _new(c: Checkpoint, source: LocalSource | HubSource) -> Checkpoint:
    """The original as a new checkpoint, named after its folder or repository."""
    shared = replace(c, source=source, quantization="none", base="", parent="", tags=())
    if isinstance(source, HubSource):
        run, step = source.repo.rpartition("/")[2], parse_step(source.revision)
        return replace(shared, run=run, step=step)
    folder, step = source.path, parse_step(source.path.name)
    run = folder.parent.name if is_step_name(folder.name) else folder.name
    return replace(shared, run=run, step=step, type=model_type(folder) or c.type)


def _variant_of(c: Checkpoint, original: Checkpoint, named: bool) -> Checkpoint:
    run, step = (c.run, c.step) if named else (original.run, original.step)
    return replace(
        c, run=run, step=step, base="", parent=c.parent or original.name, seed=original.seed if c.seed is None else c.seed,
        size=c.size or original.size, type=original.type or c.type, tokenizer=c.tokenizer or _tokenizer_of(original),
    )  # fmt: skip


def _tokenizer_of(original: Checkpoint) -> str:
    """The original's tokenizer, as an entry would name it; "" if unknown."""
    source = original.source
    if isinstance(source, LocalSource):
        own = own_tokenizer(source.path)
        return str(own) if own is not None else original.tokenizer
    if isinstance(source, HubSource):
        return original.tokenizer or f"{source.repo}@{source.commit or source.revision}"
    return original.tokenizer


def _other_ids(c: Checkpoint, original: Checkpoint, texts: Sequence[str]) -> list[str]:
    """A note if the entry's tokenizer and the original's give different ids; none unless both can be read here."""
    named = _tokenizer_of(original)
    theirs, ours = (tokenizer_folder(Path(), name) if name else None for name in (named, c.tokenizer))
    if theirs is None or ours is None or theirs == ours:
        return []
    shown = list(texts[:COMPARED_TEXTS])
    a, b = _ids(ours, shown), _ids(theirs, shown)
    if a is None or b is None:
        return []
    differ = sum(x != y for x, y in zip(a, b, strict=True))
    if not differ:
        return []
    return [
        f"{safe_text(c.name, 80)}: its tokenizer gives {differ} of {len(shown)} texts other ids than that of"
        f" {safe_text(original.name, 80)}, so their KL is not due to quantisation alone"
    ]


def _ids(folder: Path, texts: list[str]) -> list[list[int]] | None:
    """Token ids of some texts by the folder's tokenizer.json; None if it has none or it cannot be read."""
    from kltui.registry.tokenizer_json import read_tokenizer_json

    if not (folder / TOKENIZER_JSON).is_file():
        return None
    try:
        core = read_tokenizer_json(folder).core
    except KltuiError:
        return None
    return [core.encode(text, add_special_tokens=False).ids for text in texts]
