"""Causal attention against its float64 twin, torch's own, and itself on prefixes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kltui.kernels import native, reference


def heads(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    B, H, T, _ = query.shape
    out = query.new_full((B, T, H, value.shape[-1]), float("nan"))
    native.causal_attention(query, key, value, out, scale)
    return out


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 150),
    st.sampled_from([1, 3, 8, 16, 40, 64, 80]),
    st.sampled_from([1, 5, 16, 64, 72, 130]),
    st.floats(0.01, 3.0),
    st.integers(0, 10**6),
)
def test_it_equals_the_float64_twin(
    B: int, G: int, share: int, T: int, D: int, E: int, scale: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    query, key, value = heads(rng, B, G * share, T, D), heads(rng, B, G, T, D), heads(rng, B, G, T, E)
    out = np.full((B, T, G * share, E), np.nan, np.float32)
    native.causal_attention(query, key, value, out, scale)
    expected = reference.causal_attention(query, key, value, scale)
    scores = scale * np.einsum("bhtd,bhsd->bhts", query, key.repeat(share, 1), dtype=np.float64)
    rounding = (
        2.0**-23 * (4 + np.abs(scores).max()) * np.abs(value).max()
    )  # of scores in float32, in exponents
    np.testing.assert_allclose(out, expected, rtol=0, atol=rounding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["heads first", "positions first", "one tensor"])
def test_any_layout_gives_what_torch_gives(dtype: torch.dtype, layout: str) -> None:
    torch.manual_seed(0)
    if layout == "one tensor":
        query, key, value = torch.randn(2, 37, 4, 3 * 24).to(dtype).transpose(1, 2).chunk(3, dim=-1)
    elif layout == "positions first":
        query, key, value = (torch.randn(2, 37, 4, 24).to(dtype).transpose(1, 2) for _ in range(3))
    else:
        query, key, value = (torch.randn(2, 4, 37, 24).to(dtype) for _ in range(3))
    ours = attend(query, key, value, 24**-0.5)
    double = (x.double() for x in (query, key, value))
    truth = torch.nn.functional.scaled_dot_product_attention(*double, is_causal=True).transpose(1, 2)
    assert (ours - truth).abs().max() <= (2e-6 if dtype == torch.float32 else 2**-7)


def test_a_position_sees_its_own_prefix_alone_to_the_last_bit() -> None:
    torch.manual_seed(1)
    query, key, value = (torch.randn(2, 3, 101, 20) for _ in range(3))
    whole = attend(query, key, value, 0.3)
    for T in (1, 2, 6, 7, 63, 64, 65, 100):
        part = attend(*(x[:1, :, :T].clone() for x in (query, key, value)), 0.3)
        assert torch.equal(part, whole[:1, :T])
    native.set_threads(1)
    try:
        assert torch.equal(attend(query, key, value, 0.3), whole)
    finally:
        native.set_threads(None)


def test_large_scores_neither_overflow_nor_vanish() -> None:
    query, value = torch.full((1, 1, 5, 16), 30.0), torch.arange(5.0).reshape(1, 1, 5, 1)
    key = torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0])[None, None, :, None].expand(1, 1, 5, 16).contiguous()
    assert attend(query, key, value, 1.0).flatten().tolist() == [0.0, 1.0, 2.0, 2.0, 2.0]


def test_nan_reaches_only_the_positions_that_see_it() -> None:
    torch.manual_seed(2)
    query, key, value = (torch.randn(1, 2, 30, 16) for _ in range(3))
    key[0, 0, 20, 3] = float("nan")
    spoilt = attend(query, key, value, 0.25).isnan().any(-1)
    assert spoilt[0, 20:, 0].all() and not spoilt[0, :20, 0].any() and not spoilt[0, :, 1].any()


GOOD = {
    "query": torch.zeros(2, 4, 5, 8),
    "key": torch.zeros(2, 2, 5, 8),
    "value": torch.zeros(2, 2, 5, 6),
    "out": torch.zeros(2, 5, 4, 6),
}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("query", torch.zeros(2, 4, 5)),
        ("query", torch.zeros(2, 4, 5, 8, dtype=torch.float64)),
        ("query", torch.zeros(2, 4, 0, 8)),
        ("query", torch.zeros(2, 4, 8, 5).transpose(2, 3)),
        ("query", torch.zeros(2, 4, 5, 8, requires_grad=True)),
        ("key", torch.zeros(2, 3, 5, 8)),
        ("key", torch.zeros(2, 2, 5, 7)),
        ("key", torch.zeros(2, 2, 4, 8)),
        ("key", torch.zeros(2, 2, 5, 8, dtype=torch.bfloat16)),
        ("value", torch.zeros(2, 1, 5, 6)),
        ("value", torch.zeros(2, 2, 5, 12)[..., ::2]),
        ("out", torch.zeros(2, 4, 5, 6)),
        ("out", torch.zeros(2, 4, 5, 6).transpose(1, 2)),
        ("out", torch.zeros(2, 5, 4, 6, dtype=torch.bfloat16)),
    ],
)
def test_a_wrong_argument_is_named(name: str, wrong: torch.Tensor) -> None:
    arguments = {**GOOD, name: wrong}
    with pytest.raises(ValueError, match=f"{name}|key and value"):
        native.causal_attention(*arguments.values(), 1.0)


def test_what_is_good_is_taken() -> None:
    out = torch.full_like(GOOD["out"], float("nan"))
    native.causal_attention(*(GOOD | {"out": out, "value": torch.ones_like(GOOD["value"])}).values(), 1.0)
    assert torch.equal(out, torch.ones_like(out)), "equal scores of values of 1"
