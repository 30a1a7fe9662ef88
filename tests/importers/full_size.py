"""A synthetic release in modelmap's file formats, of any size: `python tests/importers/full_size.py FOLDER`.

At full size: 12 pretraining runs (five sizes, seven seeds) of 154 checkpoints over 10,000 texts, quantised variants and
layers, 60 downloaded models of six types with parents and benchmark scores, weight distances. The numbers are random
walks on a falling loss: their shape is that of the real thing, their values mean nothing.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
STEPS = (0, *(2**k for k in range(10)), *range(1000, 144_000, 1000))
RUNS = ("410m", "1b", "1.4b", "2.8b", "6.9b", *(f"410m-seed{s}" for s in (1, 2, 5, 6, 7, 8, 9)))
TASKS = ("arc", "hellaswag", "mmlu", "truthfulqa", "winogrande", "gsm8k")
TYPES = ("gpt_neox", "llama", "mistral", "qwen2", "gemma", "opt")


def write_release(folder: Path, n_texts: int = 10_000, n_steps: int = 154, n_models: int = 60) -> Path:
    """The folder of the release, made; `n_steps` checkpoints a run, evenly thinned."""
    rng = np.random.default_rng(0)
    steps = [STEPS[i] for i in np.linspace(0, len(STEPS) - 1, n_steps).round().astype(int)]
    texts = [f"text {i} " * int(k) for i, k in enumerate(rng.integers(60, 100, n_texts))]
    base = -2.3 * np.array([len(t) for t in texts]) * rng.uniform(0.8, 1.2, n_texts)
    runs = {run: _walk(base, steps, rng) for run in RUNS}
    _json(folder / "texts.json", texts)
    _pickle(folder / "logp" / "pretraining_logp.pkl", runs)
    models = _records(base, n_models, rng)
    _pickle(folder / "logp" / "models.pkl", models)
    for bits, noise in ((8, 25.0), (4, 27.0)):
        changed = {str(m["model_name"]): m["log-likelihood-10k"] for m in models[::3]}
        moved = {
            name: np.array(value) + noise * rng.standard_normal(n_texts) for name, value in changed.items()
        }
        _pickle(folder / "logp" / f"{bits}bit_quantization_logp.pkl", moved)
    layers = {k: base * (1 + 0.2 * (24 - k)) + 30 * rng.standard_normal(n_texts) for k in range(25)}
    _pickle(folder / "logp" / "layer_logp.pkl", {"models/0": layers})
    _pickle(folder / "weight_distance" / "weight_distance.pkl", {run: _band(rng) for run in RUNS[:5]})
    return folder


def _walk(base: Values, steps: list[int], rng: np.random.Generator) -> dict[int, Values]:
    walk, found, before = np.zeros(len(base)), {}, 0
    for step in steps:
        walk = walk + 0.6 * np.sqrt(step - before) * rng.standard_normal(len(base)) / (1 + step / 30_000)
        found[step] = base * (1 + 1.5 / (1 + step / 100)) + walk
        before = step
    return found


def _records(base: Values, n: int, rng: np.random.Generator) -> list[dict[str, object]]:
    """Models of six types, every second one tuned from the one before; what is good at two directions scores high."""
    directions = 20.0 * rng.standard_normal((len(TYPES) + 1, len(base)))
    made: list[dict[str, object]] = []
    for i in range(n):
        skill, kind = float(rng.standard_normal()), i // 2 % len(TYPES)
        vector = base + skill * directions[-1] + directions[kind] + 15 * rng.standard_normal(len(base))
        tags = [f"base_model:models/{i - 1}"] if i % 2 else []
        scores = {f"score_v1_{t}": 50 + 12 * skill + float(rng.normal(0, 2)) for t in TASKS}
        record = {"model_name": f"models/{i}", "model_type": TYPES[kind], "tags": tags}
        made.append({**record, "log-likelihood-10k": vector.tolist(), **scores})
    return made


def _band(rng: np.random.Generator) -> Values:
    out = np.zeros((len(STEPS), len(STEPS)))
    for i, a in enumerate(STEPS):
        for j in range(i + 1, min(i + 11, len(STEPS))):
            out[i, j] = (STEPS[j] - a) ** 0.9 * rng.uniform(0.95, 1.05)
    return out


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _pickle(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        pickle.dump(value, file, protocol=4)


if __name__ == "__main__":
    print(write_release(Path(sys.argv[1])))
