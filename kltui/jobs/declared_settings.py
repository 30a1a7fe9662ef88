"""How imported vectors were scored, according to their release, their file or the user, and which map they then belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from kltui.errors import UsageError
from kltui.importers.imported import Imported, ImportedVector
from kltui.sanitize import safe_text
from kltui.store import VectorRow, comparable
from kltui.store.comparable import BY_FILE, BY_RELEASE, BY_USER


def parse_declared(words: Sequence[str]) -> dict[str, str]:
    """{name: value} of `--declare NAME=VALUE`. Raises UsageError that lists what can be declared."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = (part.strip() for part in word.partition("="))
        allowed = comparable.DECLARABLE.get(name)
        if not equals or allowed is None or not value or any(c.isspace() for c in value):
            known = ", ".join(comparable.DECLARABLE)
            raise UsageError(
                f"--declare {safe_text(word, 80)}: expected NAME=VALUE, NAME one of {known}",
                f"For example {comparable.DECLARE_HINT}",
            )
        if allowed and value not in allowed:
            raise UsageError(
                f"--declare {safe_text(word, 80)}: {name} is one of {', '.join(allowed)}",
                "It states how the vectors were originally scored.",
            )
        if found.setdefault(name, value) != value:
            raise UsageError(f"--declare {name} is both {found[name]} and {value}", "Give it once.")
    return found


def as_declared(found: Imported, declared: Mapping[str, str], notify: Callable[[str], None]) -> Imported:
    """The import with every vector's key as far as it is known; prints the assumed settings.

    Raises UsageError if a file records the keys of its vectors and the user declares a different value.
    """
    vectors = tuple(_declared(vector, declared) for vector in found.vectors)
    taken = Counter((v.key["declared"], settings_of(v)) for v in vectors if "declared" in v.key)
    for (by, settings), n in taken.items():
        if comparable.says_how(settings):
            notify(f"note: {n} vectors were scored with {settings}, declared {by}")
        elif by == BY_USER:
            notify(
                f"note: {n} vectors share no map with others, despite the declared settings: {_what_lacks(vectors, settings)}"
            )
    return replace(found, vectors=vectors)


def _what_lacks(vectors: Sequence[ImportedVector], settings: str) -> str:
    if all(v.is_raw for v in vectors if settings_of(v) == settings):
        return "add --declare bos=auto, always or never"
    return "they are already preprocessed"


def _declared(vector: ImportedVector, declared: Mapping[str, str]) -> ImportedVector:
    if not vector.on_record:
        by = BY_USER if declared else BY_RELEASE
        key = {**vector.key, **declared}
        return replace(vector, key={**key, "declared": by} if key else key)
    said = comparable.words(vector.settings)
    for name, value in declared.items():
        here = said.get(name) or vector.key.get(name, value)
        if here != value:
            raise UsageError(
                f"{safe_text(str(vector.origin))} says of {safe_text(vector.point.name, 80)} that its {name} is {here}, "
                f"and --declare says {value}",
                "Omit it: the file itself records how its vectors were scored.",
            )
    return replace(vector, key={"declared": BY_FILE, **vector.key})


def settings_of(vector: ImportedVector) -> str:
    """The settings that determine which vectors an imported vector shares a map with."""
    if not vector.is_raw:
        return f"source={vector.source}"
    if vector.on_record:
        return vector.settings
    return comparable.declared_settings(vector.key) or f"source={vector.source}"


def incomparable_notes(rows: Sequence[VectorRow]) -> list[str]:
    """Sentences on imported vectors that share no map with others over the same texts: which setting differs, and the remedy."""
    of = comparable.groups(rows)
    n = Counter((r.corpus_id, of[r.corpus_id, r.settings]) for r in rows if r.layer is None)
    imported = {(r.corpus_id, of[r.corpus_id, r.settings]) for r in rows if r.is_imported}
    said = []
    for (corpus_id, target), _ in n.most_common():
        for (other_corpus, other), count in n.items():
            later = (count, other) < (n[corpus_id, target], target)
            if other_corpus == corpus_id and later and {(corpus_id, target), (corpus_id, other)} & imported:
                differ = comparable.difference_words(target, other)
                said.append(
                    f"{count} vectors share no map with {n[corpus_id, target]} over the same texts: {differ}."
                    f" {comparable.remedy(target, other)}"
                )
    return said
