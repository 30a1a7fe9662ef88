"""Which vectors may share a map, decided by their settings.

Settings are words such as `bos=auto dtype=float32 overlong=error`. Imported vectors have them too if it was declared how
they were scored; otherwise their only word is `source=imported`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kltui.store import VectorRow

DECLARABLE: Mapping[str, tuple[str, ...]] = {
    "bos": ("auto", "always", "never"),
    "dtype": ("float32", "float16", "bfloat16", "float64", "auto"),
    "overlong": ("error", "window", "truncate"),
    "tokenizer": (),
}
BY_RELEASE, BY_USER, BY_FILE = (
    "by the release",
    "by the user",
    "by the file",
)  # who stated how imported vectors were scored
UNCONDITIONAL = "values=unconditional"  # the word for responses scored without their prompts
FROM_ELSEWHERE = (
    "from_elsewhere"  # in a map's record: how many of its vectors were imported, and how many scored here
)
NOTED = (
    "dtype",
    "attention",
    "torch",
    "transformers",
)  # may differ between vectors of one map; the difference is then shown
RULES = ("bos", "overlong")  # decide which tokens are scored; a dtype changes only the last digits
DECLARE_HINT = "kltui --import FILE --declare bos=auto --declare dtype=float16 WORKSPACE"


def words(settings: str) -> dict[str, str]:
    """{name: value} of settings.

    >>> words("bos=auto dtype=float16")
    {'bos': 'auto', 'dtype': 'float16'}
    """
    return dict(part.split("=", 1) for part in settings.split(" ") if "=" in part)


def declared_settings(key: Mapping[str, str]) -> str:
    """The settings that a vector's key or a declaration states; "" if it does not state the BOS rule.

    If it states no rule for texts longer than the context, there were no such texts: overlong=error.
    """
    if "bos" not in key:
        return ""
    pairs = "".join(
        f" {name}={key[name]}" for name in ("kind", "template", "values") if "kind" in key and name in key
    )
    return f"bos={key['bos']} dtype={key.get('dtype', 'auto')} overlong={key.get('overlong', 'error')}{pairs}"


def unconditional_settings(settings: str) -> str:
    """The settings of the same responses scored without their prompts."""
    return f"{settings} {UNCONDITIONAL}"


def is_unconditional(settings: str) -> bool:
    """Whether vectors of these settings are of responses without their prompts."""
    return settings.endswith(f" {UNCONDITIONAL}")


def conditional_settings(settings: str) -> str:
    """The settings of the same responses scored given their prompts."""
    return settings.removesuffix(f" {UNCONDITIONAL}")


def settings_apart(a: str, b: str) -> str:
    """The settings that differ between two groups, each as `name: this or that`."""
    left, right = words(a), words(b)
    differing = [
        f"{k} is {left.get(k, '-')} or {right.get(k, '-')}"
        for k in sorted({*left, *right})
        if left.get(k) != right.get(k)
    ]
    return "; ".join(differing)


def says_how(settings: str) -> bool:
    """Whether the settings record how their vectors were scored."""
    return "bos" in words(settings)


def differing(target: str, settings: str) -> dict[str, tuple[str, str]]:
    """{name: (value of `target`, value of `settings`)} of the words that prevent sharing a map; {} if nothing does.

    Different dtypes may share a map. Vectors scored with overlong=error can join any map: none of their texts is longer
    than the context, so every rule for long texts gives the same values.
    """
    ours, theirs = words(target), words(settings)
    out = {
        name: (ours.get(name, "-"), theirs.get(name, "-"))
        for name in sorted({*ours, *theirs} - {"dtype"})
        if ours.get(name) != theirs.get(name)
    }
    if "overlong" in ours and theirs.get("overlong") == "error":
        out.pop("overlong", None)
    return out


def difference_words(target: str, settings: str) -> str:
    """The differences that prevent vectors of these settings from sharing a map, each as `name is this or that`; "" if there are none."""
    found = differing(target, settings)
    return "; ".join(f"{name} is {ours} or {theirs}" for name, (ours, theirs) in found.items())


def remedy(target: str, settings: str) -> str:
    """What to do if vectors of these settings cannot share the map of those."""
    found = differing(target, settings)
    if "source" in found:
        return f"Import the vectors again and declare how they were scored: {DECLARE_HINT}"
    sets = " ".join(f"--set scoring.{name}={ours}" for name, (ours, _) in found.items() if name in RULES)
    if {"kind", "template"} & found.keys():
        return "Pairs and texts, or pairs with different templates, never share a map: score them separately."
    if sets:
        return (
            f"Score them with the map's settings: kltui --batch JOB {sets}"
            " (or, if the declaration is wrong, import again with another --declare)."
        )
    return "Score them with the same [scoring] settings and corpus, or choose others."


def groups(rows: Iterable[VectorRow]) -> dict[tuple[int, str], str]:
    """{(corpus id, settings): settings of the map they belong to} for all settings of `rows`.

    Vectors scored here share a map if their settings are equal. Imported vectors with known settings share one with all
    vectors that `differing` allows.
    """
    imported: dict[int, Counter[str]] = defaultdict(Counter)
    every: dict[int, set[str]] = defaultdict(set)
    for row in rows:
        every[row.corpus_id].add(row.settings)
        if row.is_imported and says_how(row.settings):
            imported[row.corpus_id][row.settings] += 1
    return {
        (corpus_id, settings): _target(imported[corpus_id], settings)
        for corpus_id, stored in every.items()
        for settings in stored
    }


def dtypes_of(record: Mapping[str, object]) -> list[str]:
    """The dtypes in which a map's vectors were scored, from its record; "" for unknown ones.

    For released vectors it is "float16 throughout": their sums, too, are in half precision.
    """
    declared = record.get("declared", "")
    released = BY_RELEASE in (declared if isinstance(declared, list) else [declared])
    return ["float16 throughout" if d == "float16" and released else d for d in _values(record, "dtype")]


def standing_note(record: Mapping[str, object]) -> str:
    """The note shown with every number of a map that mixes imported and own vectors; "" for other maps."""
    found = record.get(FROM_ELSEWHERE)
    if not isinstance(found, Mapping):
        return ""
    differ = [
        f"{name} ({', '.join(value or 'not on record' for value in _values(record, name))})"
        for name in NOTED
        if len(_values(record, name)) > 1
    ]
    what = f", which differ in {', '.join(differ)}: part of their KL may come from that" if differ else ""
    return f"; {found['imported']} imported vectors and {found['scored_here']} scored here{what}"


def joined_record(
    record: Mapping[str, object], key: Mapping[str, str], imported: int, scored_here: int
) -> dict[str, object]:
    """The record of a map after adding a vector scored here, given its key, to so many imported ones and own ones."""
    more = {name: sorted({*_values(record, name), key.get(name, "")}) for name in NOTED}
    mixed = {"imported": imported, "scored_here": scored_here + 1}
    return {**record, **more, **({FROM_ELSEWHERE: mixed} if imported else {})}


def _values(record: Mapping[str, object], name: str) -> list[str]:
    value = record.get(name, "")
    return [str(v) for v in value] if isinstance(value, list) else [str(value)]


def fullest(rows: Iterable[VectorRow], drawn: Collection[int] = ()) -> list[tuple[int, str, int]]:
    """(corpus, settings, number of checkpoints) of each map, the fullest (then newest) first; those on `drawn` texts last."""
    every = list(rows)
    of = groups(every)
    final = [
        (r.corpus_id, of[r.corpus_id, r.settings], r)
        for r in every
        if r.layer is None and not is_unconditional(r.settings)
    ]
    counts = Counter((corpus, group) for corpus, group, _ in {(c, g, r.checkpoint_id) for c, g, r in final})
    newest = {(corpus, group): r.id for corpus, group, r in final}
    order = sorted(counts, key=lambda g: (g[0] not in drawn, counts[g], newest[g]), reverse=True)
    return [(corpus, settings, counts[corpus, settings]) for corpus, settings in order]


class Comparable:
    """`groups` and `fullest` of a list of vectors, computed once for each list object and set of corpora."""

    def __init__(self) -> None:
        self._groups: tuple[object, dict[tuple[int, str], str]] = (None, {})
        self._fullest: tuple[object, frozenset[int], list[tuple[int, str, int]]] = (None, frozenset(), [])

    def groups(self, rows: Sequence[VectorRow]) -> dict[tuple[int, str], str]:
        """The result of `groups`; do not modify it."""
        if self._groups[0] is not rows:
            self._groups = rows, groups(rows)
        return self._groups[1]

    def fullest(self, rows: Sequence[VectorRow], drawn: Collection[int]) -> list[tuple[int, str, int]]:
        """The result of `fullest`; do not modify it."""
        of, corpora, found = self._fullest
        if of is not rows or corpora != frozenset(drawn):
            found = fullest(rows, drawn)
            self._fullest = rows, frozenset(drawn), found
        return found


def _target(imported: Counter[str], settings: str) -> str:
    fitting = [s for s in imported if not differing(s, settings)]
    return max(fitting, key=lambda s: (imported[s], s), default=settings)
