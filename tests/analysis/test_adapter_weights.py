"""Distances of adapters from their factors against merged weights in float64, by peft itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_folders import merged_float64, write_adapter
from tiny_models import write_model

from kltui.analysis.adapter_weights import _difference, product_sqnorm, sqdist
from kltui.errors import KltuiError
from kltui.registry.adapter_tensors import base_tensor, read_change

pytest.importorskip("peft")

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("llama", {"target_modules": ["q_proj", "down_proj"]}),
    "rslora": (
        "llama",
        {"target_modules": ["q_proj", "v_proj"], "use_rslora": True, "rank_pattern": {"v_proj": 2},
         "alpha_pattern": {"layers.1.self_attn.q_proj": 32}},
    ),
    "dora": ("llama", {"target_modules": ["q_proj", "o_proj"], "use_dora": True}),
    "saved": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
    "embeddings": ("llama", {"target_modules": ["embed_tokens", "lm_head"]}),
    "transposed": ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "biases": ("gpt_neox", {"target_modules": ["query_key_value"], "bias": "lora_only", "lora_bias": False}),
}  # fmt: skip


def test_a_products_norm_is_that_of_the_product() -> None:
    rng = np.random.default_rng(0)
    B, A = rng.normal(size=(7, 3)), rng.normal(size=(3, 5))
    assert product_sqnorm(B, A) == pytest.approx(np.sum((B @ A) ** 2), rel=1e-12)


def test_the_difference_of_similar_adapters_loses_no_digits() -> None:
    """B and A of integers and B's last bits: every product here is exact, that of B_b A_b - B_a A_a would not be."""
    rng = np.random.default_rng(1)
    B, A = rng.integers(1, 1 << 20, (7, 3)).astype(float), rng.integers(1, 1 << 20, (3, 5)).astype(float)
    change = rng.integers(-4, 5, (7, 3)) * 2.0**-30
    exact = np.sum((change @ A) ** 2)
    assert product_sqnorm(*_difference((B, A), (B + change, A))) == pytest.approx(exact, rel=1e-6)
    ours = product_sqnorm(*_difference((B, A), (B[:, :2], A[:2])))  # of another rank
    assert ours == pytest.approx(np.sum((B[:, 2:] @ A[2:]) ** 2), rel=1e-12)
    for one, other in ((None, (B, A)), ((B, A), None)):
        assert product_sqnorm(*_difference(one, other)) == pytest.approx(np.sum((B @ A) ** 2), rel=1e-12)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{family: a model's folder}."""
    root = tmp_path_factory.mktemp("bases")
    return {
        f: write_model(root / f, f, seed=3) for f in dict.fromkeys(family for family, _ in KINDS.values())
    }


@pytest.fixture(scope="module")
def plains(bases: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """{family: the parameters of its model in float64}."""
    return {family: merged_float64(base, None) for family, base in bases.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_distances_are_those_of_the_merged_weights(
    bases: dict[str, Path], plains: dict[str, dict[str, Any]], tmp_path: Path, kind: str
) -> None:
    family, config = KINDS[kind]
    base, plain = bases[family], plains[family]
    folders = [write_adapter(base, tmp_path / f"a{seed}", seed=seed, **dict(config)) for seed in (1, 2)]
    first, second = (merged_float64(base, f) for f in folders)
    a, b = (read_change(folder) for folder in folders)

    def truth(x: dict[str, Any], y: dict[str, Any]) -> float:
        return sum(float(np.sum((y[name] - x[name]) ** 2)) for name in x)

    def tensor(name: str) -> Any:
        return base_tensor(base, name)

    assert sqdist(None, b, tensor) == pytest.approx(truth(plain, second), rel=1e-6)
    assert sqdist(a, b, tensor) == pytest.approx(truth(first, second), rel=1e-6)
    assert sqdist(a, a, tensor) == 0.0


def test_other_methods_are_refused_by_name(bases: dict[str, Path], tmp_path: Path) -> None:
    method = {"kind": "LoHaConfig", "task_type": "CAUSAL_LM", "target_modules": ["q_proj"]}
    made = write_adapter(bases["llama"], tmp_path / "a", seed=1, **method)
    with pytest.raises(KltuiError, match="weight distances of LOHA adapters are not computed"):
        read_change(made)


IMAGE_TEXT_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "every linear layer": ("llava", {"target_modules": "all-linear"}),
    "qwen": ("qwen2_vl", {"target_modules": ["q_proj", "qkv", "down_proj"], "use_rslora": True}),
    "dora": ("llava", {"target_modules": ["q_proj", "fc1"], "use_dora": True}),
    "saved": ("llava", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
    "head": ("llava", {"target_modules": ["lm_head"], "use_dora": True}),
}


@pytest.mark.parametrize("kind", IMAGE_TEXT_KINDS)
def test_distances_of_models_of_images_and_text_are_of_the_language_model(tmp_path: Path, kind: str) -> None:
    """The adapter's factors for the image encoder change no likelihood of a text; the files have other names than the modules."""
    from image_text_models import write_model as write_image_text

    family, config = IMAGE_TEXT_KINDS[kind]
    base = write_image_text(tmp_path / "base", family, seed=3, tie_word_embeddings=False)
    folders = [write_adapter(base, tmp_path / f"a{seed}", seed=seed, **dict(config)) for seed in (1, 2)]
    plain, first, second = (merged_float64(base, f) for f in (None, *folders))
    a, b = (read_change(folder) for folder in folders)

    def truth(x: dict[str, Any], y: dict[str, Any]) -> float:
        text = [name for name in x if "language_model" in name or name.startswith("lm_head")]
        assert any(not np.array_equal(x[name], y[name]) for name in x)
        return sum(float(np.sum((y[name] - x[name]) ** 2)) for name in text)

    def tensor(name: str) -> Any:
        return base_tensor(base, name)

    assert sqdist(None, b, tensor) == pytest.approx(truth(plain, second), rel=1e-6)
    assert sqdist(a, b, tensor) == pytest.approx(truth(first, second), rel=1e-6)
