"""`kltui --import`: stores vectors that were scored elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from kltui.errors import KltuiError, UsageError
from kltui.importers.imported import Imported, ImportedVector
from kltui.importers.naming import released
from kltui.importers.read import read_paths
from kltui.jobs.declared_settings import as_declared, incomparable_notes, settings_of
from kltui.jobs.import_corpus import Placing, values_digest
from kltui.jobs.names import given_names, renamed_parents, renamed_runs
from kltui.jobs.side_files import put_side_files
from kltui.registry.checkpoint import Checkpoint, LocalSource
from kltui.registry.names import plain_run
from kltui.registry.parents import parent_notes, without_itself
from kltui.sanitize import is_there, safe_text
from kltui.store import CheckpointRow, Store

_IMPORT = "import:"
TASKS_SHOWN = 8
UNKNOWN_COUNT = -1  # number of scored tokens of a vector that was imported without them


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What the user states about files that do not record it: what numbers in names count (`numbered`: "steps", "layers"),
    their corpus in the workspace (`over`), and how the vectors were scored (`declared`, such as {"bos": "auto"}).
    """

    numbered: str = ""
    over: str = ""
    declared: Mapping[str, str] = field(default_factory=dict)


def import_files(
    paths: Sequence[Path], workspace: Path, notify: Callable[[str], None], asked: ImportRequest | None = None
) -> int:
    """The exit code of `kltui --import`: 0, or 1 if some files could not be imported, which are then listed."""
    found = read_all(paths, asked)
    store_all(found, paths, workspace, notify, asked)
    if found.left:
        notify(f"{len(found.left)} could not be imported:")
        for reason in found.left:
            notify(f"  {reason}")
    return int(bool(found.left))


def import_vectors(
    paths: Sequence[Path], workspace: Path, notify: Callable[[str], None], asked: ImportRequest | None = None
) -> int:
    """Imports the vectors of `paths` into `workspace` and returns their number; see `store_all`."""
    return store_all(read_all(paths, asked), paths, workspace, notify, asked)


def store_all(
    found: Imported,
    paths: Sequence[Path],
    workspace: Path,
    notify: Callable[[str], None],
    asked: ImportRequest | None = None,
) -> int:
    """Stores the vectors of `found` in `workspace` in one transaction; returns their number.

    Their texts are in the same file, in another of the paths, or in the workspace. Raises UsageError if there are none, if
    they do not fit the vectors, or if a vector has the name of a checkpoint that was scored here.
    """
    for note in found.notes:
        notify(f"note: {note}")
    _check_not_empty(found, paths)
    found = as_declared(found, asked.declared if asked else {}, notify)
    store = Store.write(workspace)
    try:
        with store.atomic():
            now = given_names(store)
            placing = Placing(store, found, asked.over if asked else "", notify)
            called = _as_called_here(found, now)
            _check_free(store, [checkpoint for _, checkpoint in called])
            placed = placing.placed()
            replaced = _replaced(store, placed, [checkpoint for _, checkpoint in called])
            first = _first_of_each(placed)
            _drop_older(store, [(*placed[i], called[i][1]) for i in first])
            for i in first:
                _put(store, *placed[i], *called[i])
            incomparable = incomparable_notes(store.vectors.rows())
            distances = _put_distances(store, found, now)
            scores = _scores(store, found, now)
            store.benchmark_scores.put(scores)
            beside = put_side_files(store, found.side)
            strangers = _unknown(store, scores)
            known = [row.checkpoint for row in store.checkpoints.all()]
    except UsageError as error:
        raise _with_what_was_left(error, found) from None
    finally:
        store.close()
    _report_duplicates(placed, first, replaced, notify)
    for note in parent_notes([c for _, c in called], known):
        notify(f"note: {note}")
    for line in beside:
        notify(line)
    if found.vectors or distances:
        over = {corpus_id: len(vector.loglik) for corpus_id, vector in placed}
        texts = " and ".join(str(n) for n in over.values()) or "0"
        notify(f"{len(first)} vectors over {texts} texts, {distances} weight distances")
    for note in incomparable:
        notify(f"note: {note}")
    _report_scores(found, strangers, notify)
    return len(first)


def _report_scores(found: Imported, strangers: Sequence[str], notify: Callable[[str], None]) -> None:
    if found.scores:
        notify(f"benchmark scores of {len(found.scores)} models")
        notify(f"  {tasks_text(found.tasks)}")
    if strangers:
        notify(f"note: {len(strangers)} of them match no checkpoint or run here, such as {strangers[0]}")


def tasks_text(tasks: Sequence[str]) -> str:
    """The number of tasks of imported scores and their names, of many only the first.

    >>> tasks_text(["arc", "mmlu"])
    '2 tasks: arc, mmlu'
    """
    more = f" and {len(tasks) - TASKS_SHOWN} more" if len(tasks) > TASKS_SHOWN else ""
    named = ", ".join(safe_text(task, 40) for task in tasks[:TASKS_SHOWN])
    return f"{len(tasks)} task{'s' * (len(tasks) != 1)}: {named}{more}"


def _check_not_empty(found: Imported, paths: Sequence[Path]) -> None:
    """Raises UsageError if there is nothing to store."""
    if found.vectors or found.weight_sqdist or found.scores or found.side:
        return
    names = ", ".join(map(str, paths))
    nothing = UsageError(f"no vectors in {names}", "kltui --import --help lists what can be imported.")
    raise _with_what_was_left(nothing, found)


def _report_duplicates(
    placed: Sequence[tuple[int, ImportedVector]],
    first: Sequence[int],
    replaced: Sequence[str],
    notify: Callable[[str], None],
) -> None:
    """Reports which vectors were duplicates, and which replaced stored ones."""
    if len(first) < len(placed):
        again = next(vector.point.name for i, (_, vector) in enumerate(placed) if i not in set(first))
        notify(
            f"note: {len(placed) - len(first)} vectors are duplicates and were skipped, such as {safe_text(again, 80)}"
        )
    if replaced:
        notify(
            f"note: {len(replaced)} replace vectors with the same name, such as {safe_text(replaced[0], 80)}"
        )


def _first_of_each(placed: Sequence[tuple[int, ImportedVector]]) -> list[int]:
    """Indices of the vectors that are the first with their name, source and corpus."""
    seen: dict[tuple[int, str, str], int] = {}
    for i, (corpus_id, vector) in enumerate(placed):
        seen.setdefault((corpus_id, vector.point.name, vector.source), i)
    return list(seen.values())


def _replaced(
    store: Store, placed: Sequence[tuple[int, ImportedVector]], called: Sequence[Checkpoint]
) -> list[str]:
    """Names of the vectors that replace a different vector of the workspace with the same name, corpus and source."""
    ids = {row.name: row.id for row in store.checkpoints.all()}
    held = {
        (v.checkpoint_id, v.corpus_id, v.layer, v.key_fields.get("source")): v.key_fields.get("values")
        for v in store.vectors.rows()
    }
    found = []
    for (corpus_id, vector), checkpoint in zip(placed, called, strict=True):
        key = (ids.get(checkpoint.name, -1), corpus_id, vector.point.layer, vector.source)
        if key in held and held[key] != values_digest(vector.loglik):
            found.append(vector.point.name)
    return found


def _drop_older(store: Store, put: Sequence[tuple[int, ImportedVector, Checkpoint]]) -> None:
    """Removes earlier imported vectors with the same names, corpora and sources, which may have been declared differently."""
    ids = {row.name: row.id for row in store.checkpoints.all()}
    coming = {(ids.get(c.name, -1), corpus_id, v.point.layer, v.source) for corpus_id, v, c in put}
    store.vectors.drop(
        row.id
        for row in store.vectors.rows()
        if row.is_imported
        and (row.checkpoint_id, row.corpus_id, row.layer, row.key_fields.get("source")) in coming
    )


def _with_what_was_left(error: UsageError, found: Imported) -> KltuiError:
    """The error, extended by the files that could not be read, which may contain the missing texts."""
    if not found.left:
        return error
    return UsageError("\n".join((error.message, "the following could not be read:", *found.left)), error.hint)


def read_all(paths: Sequence[Path], asked: ImportRequest | None = None) -> Imported:
    """The contents of all paths, joined. Raises UsageError or ImportFormatError."""
    missing = [str(p) for p in paths if not is_there(p)]
    if missing:
        raise UsageError(f"nothing to import at {', '.join(missing)}", "Check the path and its permissions.")
    return read_paths(paths, asked.numbered if asked else "")


def _as_called_here(found: Imported, now: Mapping[str, CheckpointRow]) -> list[tuple[Checkpoint, Checkpoint]]:
    """(checkpoint of each vector as named in the file, the same under its present name if it was renamed here by hand)."""
    imported = [without_itself(_checkpoint(vector)) for vector in found.vectors]
    asked = {c.name for c in imported}
    called = []
    for checkpoint in imported:
        row = now.get(checkpoint.name)
        if row and row.name not in asked and row.weights == _weights(checkpoint.name):
            checkpoint = replace(checkpoint, run=row.checkpoint.run, step=row.checkpoint.step)
        called.append(checkpoint)
    own = {c.name for c in called}
    renamed = {name: row.name for name, row in now.items() if name not in own}
    called = [replace(c, parent=renamed_parents(c.parent, renamed)) for c in called]
    return list(zip(imported, called, strict=True))


def _check_free(store: Store, checkpoints: Sequence[Checkpoint]) -> None:
    """Raises UsageError if a vector has the name of a checkpoint that was scored here."""
    scored = {r.name for r in store.checkpoints.all() if r.weights and not r.weights.startswith(_IMPORT)}
    taken = [c.name for c in checkpoints if c.name in scored]
    if taken:
        raise UsageError(
            f"{len(taken)} of the vectors have the same name as a checkpoint that was scored here, such as {taken[0]}",
            "Change the run of that checkpoint first (E in the Registry), or import into another workspace.",
        )


def _checkpoint(vector: ImportedVector) -> Checkpoint:
    p = vector.point
    return Checkpoint(
        p.run,
        LocalSource(_storable(vector.origin)),
        p.step,
        p.quantization,
        p.seed,
        p.size,
        p.type,
        p.parent,
        p.tags,
    )


def _storable(origin: Path) -> Path:
    """The absolute path, with bytes that are not UTF-8 escaped, because SQLite cannot store these as text."""
    whole = str(origin.resolve())
    return Path(whole if whole.isprintable() else safe_text(whole))


def _put(
    store: Store, corpus_id: int, vector: ImportedVector, imported: Checkpoint, checkpoint: Checkpoint
) -> None:
    assert isinstance(imported.source, LocalSource)
    p, origin = vector.point, imported.source.path
    cid = store.checkpoints.upsert(checkpoint, kind="import")
    weights = _weights(imported.name)
    store.checkpoints.set_weights(cid, weights)
    digest = values_digest(vector.loglik)
    own = {"weights": weights, "source": vector.source, "values": digest, "file": safe_text(origin.name)}
    key = {**vector.key, **own}
    if scored := vector.key.get("of_weights") or vector.key.get("weights"):
        key["of_weights"] = scored
    if p.layer is not None:
        key |= {"layer": str(p.layer), "layers": "some"}
    n_scored = vector.n_scored
    if n_scored is None:
        n_scored = np.full(len(vector.loglik), UNKNOWN_COUNT, np.int32)
    store.vectors.put(cid, corpus_id, p.layer, key, settings_of(vector), vector.loglik, n_scored, None)


def _unknown(store: Store, names: Iterable[str]) -> list[str]:
    """Those of `names` that are neither a checkpoint nor a run of the workspace."""
    rows = store.checkpoints.all()
    known = {row.name for row in rows} | {row.checkpoint.run for row in rows}
    return [name for name in names if name not in known]


def _scores(
    store: Store, found: Imported, now: Mapping[str, CheckpointRow]
) -> dict[str, Mapping[str, float]]:
    """{name here: {task: score}}: the benchmark scores by the present names of their checkpoints and runs."""
    rows = store.checkpoints.all()
    renamed = renamed_runs(now, rows) | {name: row.name for name, row in now.items()}
    for name in {row.name for row in rows} | {row.checkpoint.run for row in rows}:
        renamed.pop(name, None)
    taken = {row.name for row in rows} | {row.checkpoint.run for row in rows}
    for name in found.scores:  # by the name that a vector of that name gets when it is imported
        if name not in taken and name not in renamed:
            others = (plain_run(name), released(name).name)
            renamed[name] = next((other for other in others if other in taken), others[-1])
    own = {name: scores for name, scores in found.scores.items() if name not in renamed}
    moved = {renamed[name]: scores for name, scores in found.scores.items() if name in renamed}
    return {name: {**moved.get(name, {}), **own.get(name, {})} for name in [*own, *moved]}


def _put_distances(store: Store, found: Imported, now: Mapping[str, CheckpointRow]) -> int:
    """Stores weight distances between checkpoints that the workspace knows, and returns how many."""
    known = {name: row.weights for name, row in now.items()}
    known |= {row.name: row.weights for row in store.checkpoints.all()}
    pairs = {
        (known[a], known[b]): value
        for (run, step_a, step_b), value in found.weight_sqdist.items()
        if (a := f"{plain_run(run)}@{step_a}") in known and (b := f"{plain_run(run)}@{step_b}") in known
    }
    store.weight_distances.put(pairs, 0)
    return len(pairs)


def _weights(name: str) -> str:
    """A placeholder for weights that are not available; equal names mean equal models."""
    return f"{_IMPORT}{name}"
