"""Reads any file or folder that can be imported; its format is recognised by name and contents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from kltui.corpus.files import open_regular
from kltui.corpus.load import load_corpus
from kltui.corpus.pairs import are_pairs
from kltui.corpus.read import Fields
from kltui.errors import KltuiError
from kltui.importers import harness, modelmap
from kltui.importers.harness_names import date_of
from kltui.importers.harness_results import is_results, read_results
from kltui.importers.imported import Gathering, Imported, ImportedVector, ImportFormatError, naming
from kltui.importers.naming import plainly_named
from kltui.importers.npz import read_npz
from kltui.importers.scores import are_scores, read_scores_csv, read_scores_json
from kltui.importers.side_files import kind_of
from kltui.sanitize import safe_text

KNOWN = (
    "a modelmap folder, texts.json, a JSONL corpus or per-model log-likelihoods, a pickle or JSON of vectors, "
    "weight_distance.pkl, kltui's own loglik.npz or logp.npz, samples_*.jsonl, results_*.json or the output folder of lm-evaluation-harness, or a .csv or .json of benchmark scores"
)
_OF_A_MODEL = {"index", "log-likelihood"}


def read_paths(paths: Sequence[Path], numbered: str = "") -> Imported:
    """Everything that can be imported from `paths`, files and folders; files that cannot be read are listed in `left`.

    `numbered` ("steps" or "layers") is the meaning of the numbers of a run's vectors if a file does not state it. Raises
    UsageError if it is unknown, ImportFormatError if nothing can be read.
    """
    parts = Gathering()
    models = [path for path in paths if _is_model_lines(path)]
    texts = [path for path in paths if path.suffix.lower() == ".jsonl" and path not in models]
    for path in paths:
        parts.take(path, partial(_one_with_origin, path, models, texts, numbered))
    return plainly_named(_with_numbers(parts.result()))


def read(path: Path, numbered: str = "") -> Imported:
    """Everything that can be imported from `path`, a file or a folder; see `read_paths`."""
    return read_paths([path], numbered)


def _with_numbers(found: Imported) -> Imported:
    """The import with sums over no token as unscored, and without vectors in which every value is missing, as of a model that
    failed; these are listed in `left`.
    """
    vectors = tuple(map(_without_empty_sums, found.vectors))
    gone = [v.point.name for v in vectors if not np.isfinite(v.loglik).any()]
    kept = tuple(v for v in vectors if np.isfinite(v.loglik).any())
    notes = (*found.notes, *_zero_notes(found.vectors, vectors), *_gaps(kept))
    found = replace(found, vectors=kept, notes=notes)
    if not gone:
        return found
    said = f"{len(gone)} vectors contain no number, such as {safe_text(gone[0], 80)}"
    return replace(found, left=(*found.left, said))


def _without_empty_sums(vector: ImportedVector) -> ImportedVector:
    """The vector with NaN for values of 0 that are, or may be, sums over no token; a preprocessed one as it is.

    A file that counts the scored tokens says which they are: over one or more of them, 0 is a log-likelihood, of a probability that
    rounds to 1.
    """
    empty = vector.loglik == 0
    if vector.n_scored is not None:
        empty &= vector.n_scored == 0
    if not vector.is_raw or not empty.any():
        return vector
    return replace(vector, loglik=np.where(empty, np.nan, vector.loglik))


def _zero_notes(before: Sequence[ImportedVector], after: Sequence[ImportedVector]) -> list[str]:
    """Notes on values of exactly 0: those that became unscored because nothing counts their tokens, and those that were kept."""
    unknown = kept = 0
    for old, new in zip(before, after, strict=True):
        if not old.is_raw:
            continue
        if old.n_scored is None:
            unknown += int((old.loglik == 0).sum())
        kept += int((new.loglik == 0).sum())
    notes = []
    if unknown:
        notes.append(
            f"{unknown:,} value{'s' * (unknown > 1)} of exactly 0 without a count of scored tokens: a sum over no token, or a"
            " probability that rounds to 1; treated as unscored"
        )
    if kept:
        notes.append(
            f"{kept:,} value{'s' * (kept > 1)} of exactly 0 over counted tokens, of a probability that rounds to 1, kept"
        )
    return notes


def _gaps(vectors: Sequence[ImportedVector]) -> list[str]:
    """A note on missing values of vectors, except for those of the harness, whose reader has its own; [] if there are none."""
    lacking = [v for v in vectors if v.source != harness.SOURCE and not np.isfinite(v.loglik).all()]
    n = sum(int((~np.isfinite(v.loglik)).sum()) for v in lacking)
    if not n:
        return []
    where = f"{len(lacking)} vector{'s' * (len(lacking) > 1)}, such as {safe_text(lacking[0].point.name, 80)}"
    return [f"{n:,} value{'s' * (n > 1)} of {where}: infinite, NaN or missing, treated as unscored"]


def _one_with_origin(path: Path, models: Sequence[Path], texts: Sequence[Path], numbered: str) -> Imported:
    found = _one(path, models, texts, numbered)
    return replace(found, vectors=tuple(replace(v, origin=path) for v in found.vectors))


def _one(path: Path, models: Sequence[Path], texts: Sequence[Path], numbered: str) -> Imported:
    if path in models:
        corpora = [p for p in texts if _first_keys(p) >= {"index", "text"}]
        return _models([path], corpora, named=False)
    if not path.is_dir():
        if not path.exists():
            raise ImportFormatError(f"there is no file {safe_text(str(path))}", f"give {KNOWN}")
        return _read_file(path, numbered)
    samples = sorted(path.glob("samples_*.jsonl")) or sorted(path.glob("*/samples_*.jsonl"))
    results = sorted(path.glob("results_*.json")) or sorted(path.glob("*/results_*.json"))
    if samples or results:
        return _harness(samples, results)
    lines = [p for p in sorted(path.glob("*.jsonl")) if _is_model_lines(p)]
    if lines:
        others = [p for p in sorted(path.glob("*.jsonl")) if p not in lines] + sorted(
            path.glob("texts*.json")
        )
        return _models(lines, others)
    return modelmap.read_release(path, numbered)


def _read_file(path: Path, numbered: str) -> Imported:
    suffix = path.suffix.lower()
    if suffix in (".pkl", ".pickle"):
        if path.stem == "weight_distance":
            return modelmap.read_weight_distances(path)
        if kind_of(path):
            return modelmap.read_side_file(path)
        beside = [path.parent / "model_list.json", path.parent.parent / "model_info" / "model_list.json"]
        names: list[object] = next((modelmap.read_json(p, list) for p in beside if p.is_file()), [])
        return modelmap.read_vectors_pickle(path, [str(n) for n in names], numbered)
    if suffix == ".npz":
        return read_npz(path, numbered)
    if suffix in (".csv", ".tsv"):
        return read_scores_csv(path)
    if path.name in ("modelname2type.json", "sibling_info.json", "type2color.json"):
        return modelmap.read_side_json(path)
    if suffix == ".json":
        return _read_json(path, numbered)
    if suffix == ".jsonl":
        if "doc_id" in _keys(path):
            return harness.read_samples(path)
        return _texts(path, pairs=are_pairs(_first_keys(path)))
    raise ImportFormatError(
        f"{safe_text(str(path))} does not have a format that can be imported", f"give {KNOWN}"
    )


def _read_json(path: Path, numbered: str) -> Imported:
    """Scores, vectors in one of the layouts of released pickles, or texts."""
    with open_regular(path) as file:
        head = file.read(64).decode("utf-8-sig", errors="replace").lstrip()
    if not (head.startswith("[") and head[1:].lstrip().startswith('"')):
        try:
            data = modelmap.read_json(path, object)
        except ImportFormatError:
            if not head.startswith("["):  # the corpus reader reports what is wrong in a list of texts
                raise
            data = []
        if is_results(data):
            return read_results([path])
        if _are_vectors(data):
            return modelmap.read_vectors(path, data, numbered=numbered)
        if are_scores(data):
            return read_scores_json(path, data)
        if isinstance(data, list) and data and isinstance(data[0], dict):
            return _texts(path, pairs=are_pairs(data[0]))
    return _texts(path)


def _are_vectors(data: object) -> bool:
    """Whether a JSON value is {name: vector}, {run: {number: vector}}, or a list of records with a vector each."""
    if isinstance(data, dict):
        first = next((v for v in data.values() if v is not None), None)
        inner = next((v for v in first.values() if v is not None), None) if isinstance(first, dict) else first
        return isinstance(inner, list)
    first = data[0] if isinstance(data, list) and data else None
    return (
        isinstance(first, dict) and "model_name" in first and any(f in first for f in modelmap.VECTOR_FIELDS)
    )


def _harness(paths: Sequence[Path], results: Sequence[Path]) -> Imported:
    """Samples and results of several models and tasks, each task over its own texts; samples of other tasks are skipped."""
    parts, others = Gathering(), []
    for path in sorted(paths, key=date_of, reverse=True):  # of several runs of a task the newest counts

        def read(path: Path = path) -> Imported:
            try:
                return harness.read_samples(path)
            except harness.OtherTaskError:
                others.append(path.name)
                return Imported()

        parts.take(path, read)
    if results:
        parts.take(results[0].parent, partial(read_results, results))
    found = parts.result()
    if not found.vectors and not found.scores and others:
        return harness.read_samples(paths[0])  # raises the error for its kind of task
    note = f"{len(others)} files of tasks that are not rolling log-likelihoods are skipped, such as "
    return replace(found, notes=(*found.notes, note + safe_text(others[0], 80))) if others else found


def _texts(path: Path, *, pairs: bool = False) -> Imported:
    return Imported(named=(load_corpus(path, fields=Fields(pairs=pairs)),))


def _models(paths: Sequence[Path], corpora: Sequence[Path], *, named: bool = True) -> Imported:
    """Per-model JSONL files over one corpus. N is that of the corpus, otherwise the largest of all files.

    If the rows of the corpus state an index, it determines to which text a value belongs.
    """
    parts = Gathering()
    for path in corpora:
        parts.take(path, partial(_texts, path))
    texts = parts.gathered()
    n, places = 0, None
    if len(texts.named) == 1:
        n = len(texts.named[0])
        read = [
            p for p in corpora if str(p) == texts.named[0].record["source"] and p.suffix.lower() == ".jsonl"
        ]
        places = modelmap.places_of(read[0]) if read else None
    found = Gathering()
    for path in paths:
        found.take(path, partial(modelmap.read_model_jsonl, path, n, places))
    vectors = _padded(found.result())
    return (texts.joined(vectors) if named else vectors).checked()


def _padded(found: Imported) -> Imported:
    """The vectors padded with NaN to the length of the longest, because files do not list unscored texts at their end."""
    n = max(len(v.loglik) for v in found.vectors)
    made = []
    for v in found.vectors:
        more = n - len(v.loglik)
        scored = None if v.n_scored is None else np.pad(v.n_scored, (0, more))
        loglik = np.pad(v.loglik, (0, more), constant_values=np.nan)
        made.append(replace(v, loglik=loglik, n_scored=scored))
    return replace(found, vectors=tuple(made))


def _is_model_lines(path: Path) -> bool:
    """Whether a file has one line per text with its index and log-likelihood."""
    return path.suffix.lower() == ".jsonl" and _first_keys(path) >= _OF_A_MODEL


def _first_keys(path: Path) -> set[str]:
    """Keys of a JSONL file's first object; empty if it cannot be read, which the file's reader then reports."""
    try:
        with naming(path):
            return _keys(path)
    except KltuiError:
        return set()


def _keys(path: Path) -> set[str]:
    return next((set(row) for _, row in modelmap.json_lines(path)), set())
