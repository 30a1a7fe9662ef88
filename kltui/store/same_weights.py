"""Which of a workspace's checkpoints have the same weights, from their digests and vectors, and a description in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kltui.analysis.point import FILES, Point
from kltui.registry.checkpoint import Checkpoint, layer_name

if TYPE_CHECKING:
    from kltui.analysis.repeats import Repeats
    from kltui.store import CheckpointRow, Store, VectorRow

KIND = (
    "weight_files"  # kind of the records {identity of the weights in a key: digest of the weight files alone}
)
_IMPORT = "import:"
STEPS_NAMED = 12


def point_of(
    checkpoint: Checkpoint, layer: int | None, weights: str = "", files: Mapping[str, str] | None = None
) -> Point:
    """The point of a checkpoint's vector; `files` gives the digest of the weight files for `weights`, if on record."""
    digest = (files or {}).get(weights, "")
    known = "" if weights.startswith(_IMPORT) else weights
    return Point(
        name=layer_name(checkpoint.name, layer),
        run=checkpoint.run,
        step=checkpoint.step,
        quantization=checkpoint.quantization,
        layer=layer,
        seed=checkpoint.seed,
        size=checkpoint.size,
        type=checkpoint.type,
        parent=checkpoint.parent,
        tags=checkpoint.tags,
        weights=f"{FILES}{digest}" if digest else known,
    )


def files_on_record(store: Store) -> dict[str, str]:
    """{identity of the weights in a key: digest of the weight files only}."""
    return {weights: str(value.get("sha256", "")) for weights, value in store.records.all(KIND).items()}


def in_store(
    store: Store,
    rows: Sequence[CheckpointRow] | None = None,
    vectors: Sequence[VectorRow] | None = None,
) -> list[tuple[Point, ...]]:
    """Groups of scored checkpoints that have the same weights. Vectors are loaded only if their means or digests are equal.

    `rows` and `vectors` are those of the whole store, if the caller has read them already.
    """
    files, found = files_on_record(store), []
    rows = store.checkpoints.all() if rows is None else rows
    for corpus_id, scored in _by_map(rows, store.vectors.rows() if vectors is None else vectors).items():
        points = [point_of(row.checkpoint, None, v.weights, files) for row, v in scored]
        means = Counter(v.mean_loglik for _, v in scored)
        weights = Counter(p.weights for p in points if p.weights)
        maybe = [
            k for k, (_, v) in enumerate(scored) if means[v.mean_loglik] > 1 or weights[points[k].weights] > 1
        ]
        if len(maybe) > 1:
            from kltui.analysis.repeats import same_weights

            n = next(c.n for c in store.corpora.all() if c.id == corpus_id[0])
            loglik, _ = store.vectors.load([scored[k][1].id for k in maybe], n)
            chosen = [points[k] for k in maybe]
            found += [tuple(chosen[k] for k in group) for group in same_weights(chosen, loglik)]
    return list(dict.fromkeys(found))


def _by_map(
    rows: Sequence[CheckpointRow], vectors: Sequence[VectorRow]
) -> dict[tuple[int, str], list[tuple[CheckpointRow, VectorRow]]]:
    """{(corpus id, settings): [(checkpoint, its newest final vector)]}."""
    of = {row.id: row for row in rows}
    newest = {(v.checkpoint_id, v.corpus_id, v.settings): v for v in vectors if v.layer is None}
    found: dict[tuple[int, str], list[tuple[CheckpointRow, VectorRow]]] = {}
    for (checkpoint, corpus, settings), v in newest.items():
        if checkpoint not in of:  # it was added between the two queries
            continue
        found.setdefault((corpus, settings), []).append((of[checkpoint], v))
    return found


def sentences(groups: Sequence[Sequence[Point]]) -> list[str]:
    """One sentence per group; runs that are identical step by step are described once."""
    said: dict[tuple[str, ...], list[Sequence[Point]]] = {}
    for group in groups:
        labels = [_label(p) for p in group]
        alone = len(set(labels)) == len(labels) and len({p.step for p in group}) == 1
        said.setdefault(tuple(labels) if alone else tuple(p.name for p in group), []).append(group)
    return [_sentence(labels, alike) for labels, alike in said.items()]


def _sentence(labels: tuple[str, ...], alike: list[Sequence[Point]]) -> str:
    if len(alike) > 1:
        steps = [str(group[0].step) for group in alike]
        return f"{_listed(labels)} {_verb(alike[0])} at each of {len(alike)} steps, {_listed(steps)}"
    of: dict[str, list[Point]] = {}
    for p in alike[0]:
        of.setdefault(_label(p), []).append(p)
    parts = [
        f"{label} at steps {_listed([str(p.step) for p in own])}" if len(own) > 1 else own[0].name
        for label, own in of.items()
    ]
    return f"{_listed(parts)} {_verb(alike[0])}"


def _verb(alike: Sequence[Point]) -> str:
    """The verb phrase for a group: its files are known to be equal, or only its vectors are."""
    if alike[0].weights and len({p.weights for p in alike}) == 1:
        return "have the same weights"
    return "have equal vectors and therefore probably the same weights"


def _listed(words: Sequence[str]) -> str:
    """`a, b and c`; of many words, those in the middle are counted."""
    if len(words) > STEPS_NAMED:
        half = STEPS_NAMED // 2
        words = [*words[:half], f"{len(words) - STEPS_NAMED} more", *words[-half:]]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _label(p: Point) -> str:
    return p.run if p.quantization == "none" else f"{p.run}+{p.quantization}"


def left_out_words(points: Sequence[Point], r: Repeats) -> list[str]:
    """One sentence for each run and set of weights that the run contains more than once: the steps left out of its analyses."""
    found = []
    for group in r.groups:
        for label in dict.fromkeys(_label(points[k]) for k in group):
            own = [points[k] for k in group if _label(points[k]) == label and points[k].step is not None]
            gone = [p for p in own if any(points[k] is p for k in r.left_out)]
            kept = [p.name for p in own if p not in gone]
            if gone:
                found.append(
                    f"left out of {label}: steps {_listed([str(p.step) for p in gone])}, which {_verb(own)} as"
                    f" {kept[0]}; each set of weights is used once, at the step that lies nearest to its neighbours"
                )
    return found
