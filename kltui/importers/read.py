"""One door to all importers: what a path is, is told from its name and content."""

from __future__ import annotations

from pathlib import Path

from kltui.corpus.load import load_corpus
from kltui.importers import harness, modelmap
from kltui.importers.imported import Imported, ImportFormatError
from kltui.importers.npz import read_npz
from kltui.importers.scores import read_json_scores, read_scores_csv
from kltui.safe import safe_text

KNOWN = (
    "a modelmap folder, texts.json, a JSONL corpus or per-model log-likelihoods, a pickle of vectors, "
    "weight_distance.pkl, kltui's own loglik.npz or logp.npz, samples_*.jsonl of lm-evaluation-harness, or a .csv or .json of benchmark scores"
)


def read(path: Path) -> Imported:
    """Everything that can be imported from `path`, a file or a folder."""
    if path.is_dir():
        samples = sorted(path.glob("samples_*.jsonl")) or sorted(path.glob("*/samples_*.jsonl"))
        if samples:
            return _joined([harness.read_samples(p) for p in samples])
        models = [p for p in sorted(path.glob("*.jsonl")) if _first_keys(p) >= {"index", "log-likelihood"}]
        if models:
            return _models(path, models)
        return modelmap.read_release(path)
    if not path.exists():
        raise ImportFormatError(f"there is nothing at {safe_text(str(path))}", f"give {KNOWN}")
    return _read_file(path)


def _read_file(path: Path) -> Imported:
    suffix = path.suffix.lower()
    if suffix in (".pkl", ".pickle"):
        if path.stem == "weight_distance":
            return modelmap.read_weight_distances(path)
        beside = [path.parent / "model_list.json", path.parent.parent / "model_info" / "model_list.json"]
        names: list[object] = next((modelmap.read_json(p, list) for p in beside if p.is_file()), [])
        return modelmap.read_vectors_pickle(path, [str(n) for n in names])
    if suffix == ".npz":
        return read_npz(path)
    if suffix in (".csv", ".tsv"):
        return read_scores_csv(path)
    if suffix == ".json":
        return read_json_scores(path) or Imported(corpus=load_corpus(path))
    if suffix == ".jsonl":
        keys = _first_keys(path)
        if "doc_id" in keys:
            return harness.read_samples(path)
        if keys >= {"index", "log-likelihood"}:
            return modelmap.read_model_jsonl(path)
        return Imported(corpus=load_corpus(path))
    raise ImportFormatError(f"{safe_text(str(path))} is in no format that can be imported", f"give {KNOWN}")


def _models(folder: Path, paths: list[Path]) -> Imported:
    """Per-model JSONL files of one folder over one corpus: N is the corpus', else the largest of all."""
    corpora = [p for p in sorted(folder.glob("*.jsonl")) if p not in paths] + sorted(
        folder.glob("texts*.json")
    )
    corpus = load_corpus(corpora[0]) if corpora else None
    found = [modelmap.read_model_jsonl(p) for p in paths]
    n = len(corpus) if corpus else max(f.n_texts for f in found)
    found = [
        f if f.n_texts == n else modelmap.read_model_jsonl(p, n) for f, p in zip(found, paths, strict=True)
    ]
    return Imported(corpus=corpus).joined(_joined(found)).checked()


def _joined(parts: list[Imported]) -> Imported:
    result = parts[0]
    for part in parts[1:]:
        result = result.joined(part)
    return result.checked()


def _first_keys(path: Path) -> set[str]:
    for _, row in modelmap.json_lines(path):
        return set(row)
    return set()
