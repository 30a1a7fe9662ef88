"""A synthetic copy of the papers' repository, of any size: python tests/figures/published_release.py FOLDER.

kl-scale/data has the matrix of models with its JSON files, runs, variants, layers, weight distances and t-SNE coordinates;
1000models/data the records with scores and the texts as JSONL. Values are random walks: their layout is the real one.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np

STEPS = (0, *(2**k for k in range(10)), *range(1000, 144_000, 1000))
SIZES = ("410m", "1b", "1.4b", "2.8b", "6.9b")
SEEDS = tuple(f"410m-seed{s}" for s in range(1, 10))
TASKS = ("ARC", "HellaSwag", "MMLU", "TruthfulQA", "Winogrande", "GSM8K")
TYPES = ("llama-2", "mistral", "gpt_neox", "gemma", "opt", "falcon", "others")


def write_repository(
    folder: Path, n_texts: int = 10_000, n_steps: int = 154, n_models: int = 1018, n_tasks: int = 6
) -> Path:
    """The folder, made: `n_steps` first checkpoints of every run, `n_models` models with scores of `n_tasks`."""
    rng = np.random.default_rng(7)
    data = folder / "kl-scale" / "data"
    texts = [f"text {i} é" * int(k) for i, k in enumerate(rng.integers(30, 100, n_texts))]
    base = -2.0 * np.array([len(t.encode()) for t in texts]) * rng.uniform(0.8, 1.2, n_texts)
    _json(data / "texts.json", texts)
    _pickle(data / "logp/pretraining_logp.pkl", {run: _walk(base, n_steps, rng) for run in (*SIZES, *SEEDS)})
    names, kinds, parents, L, skill = _models(base, n_models, rng)
    _pickle(data / "logp/oyama2025_logp.pkl", L.astype(np.float32))
    for name, value in (("model_list", names), ("modelname2type", kinds), ("sibling_info", parents)):
        _json(data / f"model_info/{name}.json", value)
    for bits, noise in ((8, 20.0), (4, 24.0)):
        moved = {
            n: (L[i] + noise * (rng.standard_normal(n_texts) + 2 * np.sin(base))).astype(np.float32)
            for i, n in enumerate(names[:: max(1, n_models // 300)])
        }
        _pickle(data / f"logp/{bits}bit_quantization_logp.pkl", {**moved, names[-1]: None})
    _pickle(data / "logp/layer_logp.pkl", {n: _layers(base, rng) for n in names[:3]})
    _pickle(data / "weight_distance/weight_distance.pkl", {run: _band(rng) for run in SIZES})
    _tsne(data / "tsne", names, parents, n_steps, rng)
    _records(folder / "1000models" / "data", texts, names, kinds, parents, L, skill, n_tasks, rng)
    return folder


def _walk(base: np.ndarray, n_steps: int, rng: np.random.Generator) -> dict[int, np.ndarray]:
    walk, found, before = np.zeros(len(base)), {}, 0
    for step in STEPS[:n_steps]:
        walk = walk + 0.3 * np.sqrt(step - before) * rng.standard_normal(len(base))
        found[step] = (base * (1 + 1.5 / (1 + step / 100)) + walk).astype(np.float32)
        before = step
    return found


def _models(base: np.ndarray, n: int, rng: np.random.Generator) -> tuple[Any, ...]:
    names = [f"org{i % 5}/model-{i}" for i in range(n)]
    kinds = {name: TYPES[i // 3 % len(TYPES)] for i, name in enumerate(names) if i != 5}
    parents: dict[str, Any] = {}
    for i in rng.permutation(n):
        if i % 3 == 1:
            parents[names[i]] = [names[i - 1]]
        elif i % 3 == 2:
            parents[names[i]] = names[i - 2] if i % 2 else [names[i - 2], names[i - 1]]
    parents["gone/model"] = ["org0/model-0"]
    direction = 25.0 * rng.standard_normal((len(TYPES) + 1, len(base)))
    skill = rng.standard_normal(n)
    L = np.array(
        [
            base
            + skill[i] * direction[-1]
            + direction[i // 3 % len(TYPES)]
            + 20 * rng.standard_normal(len(base))
            for i in range(n)
        ]
    )
    return names, kinds, parents, L, skill


def _layers(base: np.ndarray, rng: np.random.Generator, n: int = 33) -> dict[int, np.ndarray]:
    return {
        k: (base * (1 + 0.1 * (n - k)) + 30 * rng.standard_normal(len(base))).astype(np.float32)
        for k in range(n)
    }


def _band(rng: np.random.Generator) -> np.ndarray:
    out = np.zeros((len(STEPS), len(STEPS)))
    for i, a in enumerate(STEPS):
        for j in range(i + 1, min(i + 11, len(STEPS))):
            out[i, j] = (STEPS[j] - a) ** 0.9 * rng.uniform(0.95, 1.05)
    return out


def _tsne(
    folder: Path, names: list[str], parents: dict[str, Any], n_steps: int, rng: np.random.Generator
) -> None:
    order = [s for s in SEEDS if s not in ("410m-seed3", "410m-seed4")] + list(SIZES)
    lengths = {run: n_steps - (run == "1b" and 116_000 in STEPS[:n_steps]) for run in order}
    metadata = {"model_names": order, "model_lengths": lengths, "init": "pca"}
    embedding = rng.standard_normal((sum(lengths.values()), 2)).astype(np.float32).cumsum(axis=0)
    _pickle(folder / "pretraining_tsne_2d.pkl", {"embedding": embedding, "metadata": metadata})
    pairs = {n: {"original": rng.standard_normal(2), "quantized": rng.standard_normal(2)} for n in names[:20]}
    _pickle(folder / "8bit_quantization_tsne.pkl", pairs)
    _pickle(folder / "ft_tsne.pkl", {n: rng.standard_normal(2) for n in parents if n in names})
    _pickle(folder / "layer_tsne.pkl", {n: rng.standard_normal((33, 2)) for n in names[:3]})


def _records(
    folder: Path,
    texts: list[str],
    names: list[str],
    kinds: dict[str, str],
    parents: dict[str, Any],
    L: np.ndarray,
    skill: np.ndarray,
    n_tasks: int,
    rng: np.random.Generator,
) -> None:
    rows = [
        {"index": i, "text": t, "pile_set_name": ("Pile-CC", "Github")[i % 2], "pile_idx": i, "chunk_idx": 0}
        for i, t in enumerate(texts)
    ]
    (folder / "text").mkdir(parents=True)
    (folder / "text/texts-10k-pile.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    clipped = np.maximum(L, np.quantile(L, 0.02))
    records = []
    for i, name in enumerate(names):
        scores = {
            f"score_v1_{t}": float(np.clip(50 + 12 * skill[i] + rng.normal(0, 4), 0, 100))
            for t in TASKS[:n_tasks]
        }
        scores["score_v1_6-taskmean"] = float(np.mean(list(scores.values())))
        if i == 4:
            scores["score_v1_ARC"] = float("nan")
        of = parents.get(name, [])
        tags = [f"base_model:{p}" for p in ([of] if isinstance(of, str) else of)]
        row = {
            "model_name": name,
            "model_type": kinds.get(name),
            "tags": tags,
            "mean_logp": float(L[i].mean()),
        }
        records.append({**row, "log-likelihood-10k": clipped[i].tolist(), **scores})
    _pickle(folder / "model-metadata/model-data-1018.pkl", records)
    _pickle(
        folder / "log-likelihood/log-likelihood_1018.pkl", dict(zip(names, L.astype(np.float32), strict=True))
    )


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _pickle(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        pickle.dump(value, file, protocol=4)


if __name__ == "__main__":
    print(write_repository(Path(sys.argv[1])))
