"""Defaults of a job from the workspace's map: its texts, and the settings of its imported vectors."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kltui.corpus.corpus import Corpus
from kltui.errors import KltuiError, StoreError, UsageError
from kltui.registry.names import is_map_source
from kltui.sanitize import expanded
from kltui.store import Store, comparable

TAKEN = ("bos", "dtype", "overlong")  # keys of [scoring] that are part of a map's settings
_DTYPES = ("float32", "float16", "bfloat16", "auto")  # those that a model can be scored in
_SHORT = 16  # digits of a hash


@dataclass(frozen=True, slots=True)
class WorkspaceMap:
    """The map that a workspace shows: its texts' hash, the settings of its vectors, and how many of them were imported."""

    sha256: str
    settings: str
    n_imported: int

    @property
    def source(self) -> str:
        """The value of `[corpus] source` that means its texts."""
        return f"map:{self.sha256[:_SHORT]}"

    @property
    def scoring(self) -> dict[str, str]:
        """The `[scoring]` keys with which its imported vectors were scored; empty without imported vectors."""
        if not self.n_imported:
            return {}
        found = {name: v for name, v in comparable.words(self.settings).items() if name in TAKEN}
        return {name: v for name, v in found.items() if name != "dtype" or v in _DTYPES}


def map_of(workspace: Path) -> WorkspaceMap | None:
    """The map of the workspace in that folder; None if it has no vectors or cannot be read."""
    try:
        store = Store.read(workspace)
    except StoreError:
        return None
    try:
        rows = store.vectors.rows()
        corpora = {c.id: c.sha256 for c in store.corpora.all()}
        drawn = {str(r.get("corpus", "")) for r in store.records.all("draw").values()}
        found = comparable.fullest(rows, {i for i, sha in corpora.items() if sha in drawn})
        if not found:
            return None
        corpus_id, settings, _ = found[0]
        of = comparable.groups(rows)
        n = sum(
            r.is_imported
            and r.layer is None
            and (r.corpus_id, of[r.corpus_id, r.settings]) == (corpus_id, settings)
            for r in rows
        )
        return WorkspaceMap(corpora[corpus_id], settings, n)
    except KltuiError:  # a damaged workspace is reported when the job opens it
        return None
    finally:
        store.close()


def with_map_defaults(data: dict[str, Any], base: Path) -> dict[str, Any]:
    """A job's tables, completed with the texts and settings of its workspace's map.

    Raises UsageError for `source = "map"` if the workspace has no vectors.
    """
    corpus, scoring, named = data.get("corpus", {}), data.get("scoring", {}), data.get("workspace")
    if not (isinstance(corpus, dict) and isinstance(scoring, dict) and isinstance(named, str) and named):
        return data
    try:
        shown = map_of((base / expanded(named)).resolve())
    except (
        OSError,
        RuntimeError,
        ValueError,
    ):  # what cannot be a path is reported by the job file's own checks
        return data
    if shown is None:
        if corpus.get("source") == "map":
            raise UsageError(
                'source = "map" under [corpus] means the texts of the workspace\'s map, but the workspace has no vectors',
                "Name a file of texts, or first import vectors with their texts.",
            )
        return data
    source = corpus.get("source", "map")
    of_map = {"source": shown.source, **pairs_keys(shown.settings)}
    tables = {"corpus": {**of_map, **corpus, "source": shown.source} if source == "map" else {**corpus}}
    return {**data, **tables, "scoring": {**shown.scoring, **scoring}}


def pairs_keys(settings: str) -> dict[str, str]:
    """The `[corpus]` keys `kind` and `template` of a map of pairs; {} for a map of texts."""
    return {name: v for name, v in comparable.words(settings).items() if name in ("kind", "template")}


def map_texts(workspace: Path, source: str, sample: int | None, seed: int, template: str = "") -> Corpus:
    """The texts that `map:HASH` names, or a random `sample` of them as from a file. Raises UsageError or StoreError.

    `template` is how the prompts of pairs are formatted, and "" for texts.
    """
    store = Store.read(workspace)
    try:
        wanted = source.partition(":")[2]
        found = [row for row in store.corpora.all() if wanted and row.sha256.startswith(wanted)]
        if len(found) != 1:
            raise UsageError(
                f"{source} matches {len(found)} corpora of the workspace",
                'Write source = "map" for the corpus of its map.',
            )
        texts, domains = store.corpora.texts(found[0].id), store.corpora.domains(found[0].id)
        prompts = store.corpora.prompts(found[0].sha256)
    finally:
        store.close()
    kept = (
        range(len(texts))
        if sample is None
        else random.Random(seed).sample(range(len(texts)), min(sample, len(texts)))
    )
    record: dict[str, object] = {"source": source, "sample": sample, "seed": seed}
    if prompts:
        record |= {"kind": "pairs", "template": template}
    if bool(prompts) != bool(template):
        is_of = "pairs" if prompts else "texts"
        raise UsageError(f"the corpus {source} consists of {is_of}", f'Set kind = "{is_of}" under [corpus].')
    chosen = tuple(prompts[i] for i in kept) if prompts else ()
    return Corpus(tuple(texts[i] for i in kept), tuple(domains[i] for i in kept), record, chosen)


def map_notes(workspace: Path, source: str, scoring: Mapping[str, object], settings: str) -> list[str]:
    """Notes on what a job takes from a map with imported vectors, and on settings by which it deviates from that map."""
    shown = map_of(workspace)
    if shown is None or not shown.scoring:
        return []
    same = [f"{name}={v}" for name, v in shown.scoring.items() if scoring.get(name) == v]
    if is_map_source(source):
        same.append("texts")
    notes = [f"taken from the map of {shown.n_imported} imported vectors: {', '.join(same)}"] if same else []
    for name, value in shown.scoring.items():
        if scoring.get(name) != value:
            notes.append(f"the job has {name}={scoring.get(name)}, the map has {name}={value}")
    if differ := comparable.difference_words(shown.settings, settings):
        notes.append(
            f"vectors scored with these settings share no map with the {shown.n_imported} imported vectors: {differ}."
            f" {comparable.remedy(shown.settings, settings)}"
        )
    return notes
