"""Planted signals in benchmarks, and the arithmetic of weight interpolation."""

from __future__ import annotations

import statistics
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from kltui.analysis.benchmark import leakage, predict
from kltui.analysis.interpolation import (
    from_float64,
    grid,
    interpolate,
    interpolated,
)
from kltui.analysis.kl import double_centre
from kltui.analysis.weights import as_float64
from kltui.errors import KltuiError
from kltui.registry.tensors import open_tensors, write_tensors


def planted(K: int = 60, N: int = 150, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(K, 3))
    L = latent @ rng.normal(size=(3, N)) * 30 + rng.normal(size=(K, N)) * 3 + rng.normal(-2000, 200, (K, 1))
    score = np.clip(50 + 12 * latent[:, 0] + rng.normal(0, 1, K), 0, 100)
    return double_centre(L), L.mean(1), score, [f"type{k % 10}" for k in range(K)]


def test_a_planted_signal_is_found_and_the_mean_alone_does_not_find_it() -> None:
    found = predict(*planted(), seeds=[0, 1])
    assert found.pearson > 0.95
    assert found.spearman > 0.9
    assert found.pearson_mean < 0.5
    assert found.predicted.shape == (2, 60)
    assert (found.predicted >= 0).all()
    assert (found.predicted <= 100).all()
    assert (found.n_models, found.n_groups) == (60, 10)


def test_ridge_is_sklearns_with_its_choice_of_penalty() -> None:
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GroupKFold

    Q, mean, score, groups = planted()
    found = predict(Q, mean, score, groups, seeds=[3])
    folds = list(GroupKFold(5, shuffle=True, random_state=3).split(Q, score, groups))
    train, test = folds[1]
    assert not {groups[k] for k in train} & {groups[k] for k in test}
    fitted = RidgeCV(alphas=[10.0**i for i in range(1, 10)], cv=5).fit(Q[train], score[train])
    np.testing.assert_allclose(found.predicted[0, test], np.clip(fitted.predict(Q[test]), 0, 100), atol=1e-6)


def test_noise_is_not_predicted() -> None:
    Q, mean, _, groups = planted()
    score = np.random.default_rng(1).uniform(0, 100, 60)
    assert abs(predict(Q, mean, score, groups, seeds=[0]).pearson) < 0.45


def test_no_model_is_predicted_from_its_own_type() -> None:
    """Scores that only the type explains, with types unlike each other, cannot be predicted across types."""
    rng = np.random.default_rng(2)
    groups = [f"type{k % 10}" for k in range(60)]
    centre, score = rng.normal(0, 50, (10, 150)), rng.uniform(0, 100, 10)
    L = np.array([centre[k % 10] + rng.normal(size=150) for k in range(60)])
    y = np.array([score[k % 10] for k in range(60)])
    assert predict(double_centre(L), L.mean(1), y, groups, seeds=[0]).pearson < 0.5


def test_models_without_a_score_are_left_out() -> None:
    Q, mean, score, groups = planted()
    score[[3, 30]] = np.nan
    found = predict(Q, mean, score, groups, seeds=[0])
    assert found.n_models == 58
    assert np.isnan(found.predicted[0, [3, 30]]).all()
    with pytest.raises(KltuiError, match="of 1 type "):
        predict(Q, mean, score, ["same"] * 60)


def test_a_model_that_has_seen_the_corpus_stands_out() -> None:
    rng = np.random.default_rng(3)
    score = rng.uniform(20, 80, 40)
    mean = -2500 + 5 * score + rng.normal(0, 10, 40)
    mean[17] += 200
    mean[5] = np.nan
    rows = leakage([f"m{k}" for k in range(40)], mean, score)
    assert rows[0].name == "m17"
    assert rows[0].z > 8
    assert rows[1].z < 4
    assert len(rows) == 39
    assert rows[3].expected == pytest.approx(-2500 + 5 * rows[3].benchmark, abs=20)
    with pytest.raises(KltuiError, match="2 models"):
        leakage(["a", "b"], [1, 2], [1, 2])


@pytest.mark.parametrize("n", [4, 7, 12])
def test_what_leaks_is_measured_from_the_line_of_theil_and_sen(n: int) -> None:
    rng = np.random.default_rng(n)
    score, mean = np.round(rng.uniform(0, 10, n)), rng.normal(-2500, 100, n)  # some scores are equal
    slopes = [
        (mean[j] - mean[i]) / (score[j] - score[i])
        for i, j in combinations(range(n), 2)
        if score[i] != score[j]
    ]
    slope = statistics.median(slopes)
    line = slope * score + statistics.median(mean - slope * score)
    off = mean - line
    spread = 1.4826 * statistics.median(np.abs(off - statistics.median(off)))
    rows = {r.name: r for r in leakage([str(k) for k in range(n)], mean, score)}
    assert [rows[str(k)].expected for k in range(n)] == pytest.approx(line)
    assert [rows[str(k)].z for k in range(n)] == pytest.approx(off / spread)


def test_grid_order() -> None:
    assert grid([0, 1], [0, 0.5]) == [(0, 0), (1, 0), (0, 0.5), (1, 0.5)]
    assert len(grid()) == 36


def models(tmp_path: Path, dtype: str) -> list[Path]:
    rng = np.random.default_rng(4)
    out = []
    for k in range(3):
        folder = tmp_path / str(k)
        folder.mkdir()
        raw = {
            n: from_float64(rng.normal(size=s).ravel(), dtype)
            for n, s in (("a.weight", (7, 5)), ("b.bias", (3,)))
        }
        entries = [
            ("a.weight", dtype, (7, 5), lambda r=raw: r["a.weight"]),
            ("b.bias", dtype, (3,), lambda r=raw: r["b.bias"]),
        ]
        write_tensors(folder / "model.safetensors", entries)
        out.append(folder)
    return out


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_interpolated_weights(tmp_path: Path, dtype: str) -> None:
    opened = [open_tensors(f) for f in models(tmp_path, dtype)]
    one = [o["a.weight"] for o in opened]
    theta = [as_float64(t.data, t.dtype) for t in one]
    np.testing.assert_array_equal(interpolate(one, 0.0, 0.0), one[0].data)
    np.testing.assert_array_equal(as_float64(interpolate(one, 1.0, 0.0), dtype), theta[1])
    mixed = as_float64(interpolate(one, 0.2, 0.4), dtype)
    want = 0.4 * theta[0] + 0.2 * theta[1] + 0.4 * theta[2]
    half_step = {"F64": 1e-15, "F32": 6e-8, "F16": 5e-4, "BF16": 4e-3}[dtype]
    np.testing.assert_allclose(mixed, want, atol=half_step, rtol=half_step)


def test_interpolated_files(tmp_path: Path) -> None:
    opened = [open_tensors(f) for f in models(tmp_path, "F32")]
    for a, b in ((0.0, 0.0), (0.2, 0.6)):
        folder = tmp_path / f"{a}_{b}"
        folder.mkdir()
        write_tensors(folder / "model.safetensors", interpolated(*opened, a, b))
        found = open_tensors(folder)
        assert found.keys() == opened[0].keys()
        for name, t in found.items():
            parts = [as_float64(o[name].data, "F32") for o in opened]
            want = (1 - a - b) * parts[0] + a * parts[1] + b * parts[2]
            np.testing.assert_array_equal(as_float64(t.data, "F32"), want.astype(np.float32))
            assert t.shape == opened[0][name].shape


def test_bfloat16_rounds_to_nearest_even() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-7, -3.14159, np.inf, np.nan])
    back = as_float64(from_float64(values, "BF16"), "BF16")
    np.testing.assert_array_equal(back[:4], [1.0, 1.0, 1 + 2**-6, 1 + 2**-7])
    assert back[4] == -3.140625
    assert np.isinf(back[5])
    assert np.isnan(back[6])
