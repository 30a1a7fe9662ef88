"""--reproduce on a copy of the papers' repository: every number against numpy, loops and scikit-learn written here."""

from __future__ import annotations

import json
import os
import pickle
import random
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_release import SIZES, STEPS, write_repository
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold, KFold

from kltui.cli import main

pytestmark = pytest.mark.slow  # all figures of the papers are made once

LN2 = float(np.log(2.0))
ALPHAS = [10.0**i for i in range(1, 10)]
Numbers = dict[str, dict[str, Any]]


def load(path: Path) -> Any:
    return json.loads(path.read_text()) if path.suffix == ".json" else pickle.loads(path.read_bytes())


class Repository:
    """What the released files say, computed on without kltui."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "kl-scale" / "data"
        self.size = np.array([len(t.encode()) for t in load(self.data / "texts.json")])
        self.names = load(self.data / "model_info/model_list.json")
        self.kinds = load(self.data / "model_info/modelname2type.json")
        self.siblings = load(self.data / "model_info/sibling_info.json")
        self.L = load(self.data / "logp/oyama2025_logp.pkl").astype(np.float64)
        self.runs = load(self.data / "logp/pretraining_logp.pkl")

    def kl(self, a: np.ndarray, b: np.ndarray, size: np.ndarray) -> float:
        return float(np.var(np.float64(a) - np.float64(b)) / (2 * size.mean() * LN2))

    def prepared(self, runs: list[str]) -> tuple[dict[str, dict[int, np.ndarray]], np.ndarray]:
        """Runs after exclusions, clipping and removal of outlier texts; the bytes of the texts left."""
        kept = {
            r: {s: v.astype(np.float64) for s, v in self.runs[r].items() if (r, s) != ("1b", 116_000)}
            for r in runs
        }
        low = np.quantile(np.concatenate([v for of in kept.values() for v in of.values()]), 0.02)
        kept = {r: {s: np.maximum(v, low) for s, v in of.items()} for r, of in kept.items()}
        score = np.zeros(len(self.size))
        for run, of in kept.items():
            late = [s for s in sorted(self.runs[run]) if s >= 2000]
            for a, b in pairwise(late):
                if a in of and b in of:
                    score = np.maximum(score, np.abs(of[b] - of[a]))
        gone = np.argsort(-score, kind="stable")[: round(0.03 * len(score))]
        left = np.setdiff1d(np.arange(len(score)), gone)
        return {r: {s: v[left] for s, v in of.items()} for r, of in kept.items()}, self.size[left]

    def scale(self) -> dict[str, list[float]]:
        main_runs, size = self.prepared(list(SIZES))
        seeds, seed_size = self.prepared([r for r in self.runs if "seed" in r and r[-1] not in "34"])
        found: dict[str, list[float]] = {"early pretraining": [], "later pretraining": []}
        for of in main_runs.values():
            steps = sorted(of)
            kl = [self.kl(of[a], of[b], size) for a, b in pairwise(steps) if b - a == 1000 and b > 2000]
            n = min(50, len(kl) // 2)
            found["early pretraining"] += kl[:n]
            found["later pretraining"] += kl[-n:]
        end = max(set.intersection(*(set(of) for of in main_runs.values())))
        found["size"] = [
            self.kl(main_runs[a][end], main_runs[b][end], size) for a, b in combinations(SIZES, 2)
        ]
        last = max(set.intersection(*(set(of) for of in seeds.values())))
        found["seed"] = [
            self.kl(a[last], b[last], seed_size) for a, b in combinations(list(seeds.values()), 2)
        ]
        for bits in (8, 4):
            moved = load(self.data / f"logp/{bits}bit_quantization_logp.pkl")
            found[f"{bits}-bit"] = [
                self.kl(self.L[self.names.index(n)], v, self.size) for n, v in moved.items() if v is not None
            ]
        layers = load(self.data / "logp/layer_logp.pkl")
        found["adjacent layers"] = [
            self.kl(of[a], of[b], self.size) for of in layers.values() for a, b in pairwise(sorted(of))
        ]
        return found | {
            k: [self.kl(self.L[a], self.L[b], self.size) for a, b in v] for k, v in self.drawn().items()
        }

    def drawn(self) -> dict[str, list[tuple[int, int]]]:
        """(child, parent) and random pairs as the paper draws them, by Python's random with seed 0."""
        by_kind: dict[str, list[tuple[int, int]]] = {}
        for child, of in self.siblings.items():
            parent = of if isinstance(of, str) else of[0] if len(of) == 1 else None
            if child in self.names and parent in self.names and child in self.kinds:
                pair = (self.names.index(child), self.names.index(parent))
                by_kind.setdefault(self.kinds[child], []).append(pair)
        rng, within, pool = random.Random(), [], []
        for pairs in by_kind.values():
            held = list({k for pair in pairs for k in pair})
            pool += held
            rng.seed(0)
            within += [tuple(rng.sample(held, 2)) for _ in pairs]
        related = [pair for pairs in by_kind.values() for pair in pairs]
        held = list(set(pool))
        return {
            "fine-tuning": related,
            "within type": within,
            "random": [tuple(rng.sample(held, 2)) for _ in related],
        }  # type: ignore[dict-item]

    def exponents(self, run: str) -> tuple[float, float, float]:
        """Medians over starts of (c_w, c_q, alpha), each slope by polyfit."""
        runs, size = self.prepared(list(SIZES))
        of, band = runs[run], load(self.data / "weight_distance/weight_distance.pkl")[run]
        saved = sorted(self.runs[run])
        rows = []
        for i, start in enumerate(saved[: len(saved) - 10]):
            if start < 1000 or start not in of:
                continue
            later = [(j, s) for j, s in enumerate(saved[i + 1 : i + 11], i + 1) if s in of]
            tau = np.log([s - start for _, s in later])
            c_q = np.polyfit(tau, np.log([self.kl(of[start], of[s], size) for _, s in later]), 1)[0]
            c_w = np.polyfit(tau, np.log([band[STEPS.index(start), j] for j, _ in later]), 1)[0]
            rows.append((c_w, c_q, c_q / c_w))
        return tuple(float(v) for v in np.median(rows, axis=0))  # type: ignore[return-value]

    def prediction(self, folder: Path, task: str, grouped: bool, centred: bool) -> tuple[float, float]:
        """(Pearson mean, and its standard deviation) over five seeds, by ridge regression as scikit-learn's RidgeCV has it."""
        records = load(folder / "1000models/data/model-metadata/model-data-1018.pkl")
        keys = [key for key in records[0] if key.startswith("score_v1_")]
        known = [r for r in records if not any(np.isnan(r[k]) for k in keys)]
        L = np.array([r["log-likelihood-10k"] for r in known])
        x = L - L.mean(axis=1, keepdims=True) if centred else L
        x = x - x.mean(axis=0)
        u, length, _ = np.linalg.svd(x, full_matrices=False)
        x = u * length  # turned: ridge regression does not see it, and is quicker for it
        y = np.array([r[f"score_v1_{task}"] for r in known])
        names = np.array([r["model_name"] for r in known])
        groups = [r["model_type"] or r["model_name"] for r in known]
        found = []
        for seed in range(5):
            folds: Any = (GroupKFold if grouped else KFold)(5, shuffle=True, random_state=seed)
            parts = folds.split(x, groups=groups) if grouped else folds.split(x)
            fold = np.zeros(len(known), dtype=int)
            for k, (_, test) in enumerate(parts):
                fold[test] = k
            order = np.argsort(names)
            out = np.zeros(len(known))
            for k in range(5):
                train, test = order[fold[order] != k], order[fold[order] == k]
                predicted = ridge_by_folds(x[train], y[train], x[test])
                if (seed, k) == (0, 0):
                    model = RidgeCV(alphas=ALPHAS, cv=5).fit(x[train], y[train])
                    assert predicted == pytest.approx(model.predict(x[test]), rel=1e-8)
                out[test] = np.clip(predicted, 0, 100)
            found.append(np.corrcoef(out, y)[0, 1])
        return float(np.mean(found)), float(np.std(found))


def ridge_by_folds(x: np.ndarray, y: np.ndarray, x_new: np.ndarray) -> np.ndarray:
    """What RidgeCV(alphas=ALPHAS, cv=5) predicts for `x_new`, its 45 fits by five decompositions."""
    scores = []
    for fit, held in KFold(5).split(x):
        error = y[held] - ridge(x[fit], y[fit], x[held])
        scores.append(1 - (error**2).sum(axis=1) / ((y[held] - y[held].mean()) ** 2).sum())
    return ridge(x, y, x_new)[np.mean(scores, axis=0).argmax()]


def ridge(x: np.ndarray, y: np.ndarray, x_new: np.ndarray) -> np.ndarray:
    """For each of ALPHAS, what ridge regression of y on x predicts for `x_new`."""
    u, length, v = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    shrunk = np.array([length / (length**2 + alpha) for alpha in ALPHAS]) * (u.T @ (y - y.mean()))
    return y.mean() + shrunk @ v @ (x_new - x.mean(axis=0)).T


def run(folder: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Numbers, dict[str, Any]]:
    assert main(["--reproduce", str(folder), "--out", str(out), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    return {row["quantity"]: row for row in made["numbers"]}, made


def check(folder: Path, numbers: Numbers) -> None:
    """Every number of the kinds that the papers have, against the computation above."""
    truth = Repository(folder)
    for setting, values in truth.scale().items():
        row = numbers[setting]
        q25, median, q75 = np.quantile(values, [0.25, 0.5, 0.75])
        assert row["n"] == len(values), setting
        assert (row["here"], row["low"], row["high"]) == pytest.approx((median, q25, q75), rel=1e-9), setting
        assert row["deviation"] == pytest.approx(median - row["published"])
    for size in SIZES:
        found = [numbers[f"pythia-{size}: {part}"]["here"] for part in ("c_w", "c_q", "alpha")]
        assert found == pytest.approx(truth.exponents(size), rel=1e-7), size
    for task in ("ARC", "6-taskmean"):
        for centred, grouped in ((True, True), (False, False)):
            what = f"{'Q' if centred else 'L'}, {'grouped' if grouped else 'random'} folds"
            row = numbers[f"{task}: Pearson, {what}"]
            mean, sd = truth.prediction(folder, task, grouped, centred)
            assert (row["here"], row["high"] - row["here"]) == pytest.approx((mean, sd), rel=1e-5), what
    mean_l = np.maximum(truth.L, np.quantile(truth.L, 0.02)).mean(axis=1)
    assert numbers["ARC: Pearson with mean log-likelihood"]["n"] == len(mean_l) - 1


@pytest.fixture(scope="module")
def made(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that --reproduce wrote of the small repository, its JSON beside it."""
    import contextlib
    import io

    out = tmp_path_factory.mktemp("papers") / "out"
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        assert main(["--reproduce", str(repository), "--out", str(out), "--json"]) == 0
    (out / "made.json").write_text(stream.getvalue())
    return out


def numbers_of(out: Path) -> Numbers:
    return {row["quantity"]: row for row in json.loads((out / "made.json").read_text())["numbers"]}


def test_numbers_of_a_small_copy(made: Path, repository: Path) -> None:
    check(repository, numbers_of(made))


@pytest.mark.skipif(
    os.environ.get("KLTUI_FULL_SIZE") != "1",
    reason="1,018 models by 10,000 texts take 6 to 12 minutes: set KLTUI_FULL_SIZE=1 to run it",
)
@pytest.mark.timeout(3600)
def test_numbers_of_a_copy_of_full_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_repository(tmp_path / "repo")
    numbers, _ = run(folder, tmp_path / "out", capsys)
    assert numbers["models"]["here"] == 1018 and numbers["outlier texts removed"]["here"] == 300
    assert numbers["early pretraining"]["n"] == numbers["later pretraining"]["n"] == 250
    check(folder, numbers)


def test_every_figure_is_there_with_its_csv_and_what_is_not_is_named(made: Path) -> None:
    items = json.loads((made / "made.json").read_text())["items"]
    assert [i["lacks"] for i in items] == [""] * len(items)
    for item in items:
        stem = f"{item['paper']}-{item['item']}"
        assert item["figures"] == 0 or all(
            (made / f"{stem}{end}").is_file() for end in (".pdf", ".csv", ".py")
        ), stem
    readme = (made / "README.txt").read_text()
    assert "interpolated models" in readme and "Figure 3: the scale of KL" in readme
    head, *rows = (made / "summary.csv").read_text().splitlines()
    assert head.startswith("paper,item,what,quantity,unit,here") and len(rows) == len(numbers_of_all(made))


def numbers_of_all(out: Path) -> list[Any]:
    return list(json.loads((out / "made.json").read_text())["numbers"])


def test_released_coordinates_are_drawn_as_they_are(made: Path, repository: Path) -> None:
    import csv

    data = load(repository / "kl-scale/data/tsne/8bit_quantization_tsne.pkl")
    with (made / "2505.15353-fig2a-quantisation.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["panel"] == "released coordinates" and r["mark"]]
    held = {r["name"]: (float(r["x"]), float(r["y"])) for r in rows if r["x"]}
    for name, both in data.items():
        assert held[name] == pytest.approx(tuple(both["original"]))
        assert held[f"{name}+bnb-8bit"] == pytest.approx(tuple(both["quantized"]))


def test_a_part_of_the_files_makes_a_part_of_the_figures(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "part"
    (part / "logp").mkdir(parents=True)
    for name in ("texts.json", "logp/layer_logp.pkl"):
        (part / name).write_bytes((repository / "kl-scale/data" / name).read_bytes())
    assert main(["--reproduce", str(part), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "adjacent layers" in said
    assert (
        "Figure 4: KL during pretraining: not reproduced: no pretraining runs (logp/pretraining_logp.pkl)"
        in said
    )


def test_without_matplotlib_figures_are_text_with_the_same_csv(
    repository: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kltui.figures.draw import FigureStyle
    from kltui.figures.reproduce import command, kishino
    from kltui.figures.reproduce.release import read_releases

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (picture,) = kishino.settings(read_releases(repository)[0]).pictures
    text, points = command._figure(picture, tmp_path / "fig.pdf", FigureStyle())
    assert "The scale of KL" in text.read_text() and "KL, bits/byte" in text.read_text()
    assert points.read_bytes() == (made / "2505.15353-fig3-scale.csv").read_bytes()


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["--reproduce", str(tmp_path / "none"), "--out", "x"], "the folder does not exist"),
        (["--reproduce", str(tmp_path), "--out", "x"], "kl-scale/data"),
        (["--reproduce", str(tmp_path)], "Add --out DIR"),
        (["--reproduce", str(tmp_path), "--out", "x", "workspace"], "not a workspace"),
    ):
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
