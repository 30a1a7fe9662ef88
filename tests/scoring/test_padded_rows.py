"""Products over padded rows: the same rows come back, and only few different numbers of rows are multiplied."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kltui.scoring.padded_rows import STEP, as_dtype, over_padded_rows

K, D = 5, 3
Make = Callable[[int], torch.Tensor]


def numbers(M: int) -> torch.Tensor:
    """(M, K) different whole numbers, exact in every dtype."""
    return (torch.arange(M * K) % 97).reshape(M, K).float()


MAKERS: dict[str, Make] = {
    "alone": numbers,
    "within a longer tensor": lambda M: torch.cat([numbers(4), numbers(M), torch.full((STEP, K), torch.nan)])[4 : 4 + M],
    "at the end of a longer tensor": lambda M: torch.cat([torch.full((9, K), torch.nan), numbers(M)])[9:],
    "transposed": lambda M: numbers(M).T.contiguous().T,
    "made with room": lambda M: as_dtype(numbers(M), torch.bfloat16),
}  # fmt: skip


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_rows_are_those_of_the_product_itself(make: Make) -> None:
    """Whatever lies behind a tensor, NaN even, the rows are right; numbers of rows are multiples of the step."""
    weight_DK = (torch.arange(D * K) % 4).reshape(D, K).float()
    seen: set[int] = set()

    def product(x: torch.Tensor) -> torch.Tensor:
        seen.add(x.numel() // K)
        return x.float() @ weight_DK.T

    padded = over_padded_rows(product)
    for M in (0, 1, STEP - 1, STEP, STEP + 1, 3 * STEP + 7):
        result = padded(make(M))
        assert result.shape == (M, D)
        assert torch.equal(result, numbers(M) @ weight_DK.T)
    assert seen == {0, STEP, 2 * STEP, 4 * STEP}


def test_batches_of_texts_keep_their_shape() -> None:
    """(B, T, K) gives (B, T, D), and all numbers of tokens between 1,000 and 1,500 are 17 shapes."""
    seen: set[int] = set()

    def product(x: torch.Tensor) -> torch.Tensor:
        seen.add(x.numel() // K)
        return x[..., :D].clone()

    padded = over_padded_rows(product)
    for T in range(200, 301):
        x = torch.rand(5, T, K)
        assert torch.equal(padded(x), x[..., :D])
    assert len(seen) <= 500 // STEP + 2


def test_memory_with_room_is_not_copied() -> None:
    """What `as_dtype` made is multiplied where it lies, its further rows zero."""
    x = as_dtype(numbers(7), torch.bfloat16)
    assert x.dtype == torch.bfloat16
    read = []
    over_padded_rows(lambda y: read.append(y) or y)(x)  # type: ignore[func-returns-value]
    assert read[0].data_ptr() == x.data_ptr()
    assert read[0].shape == (STEP, K)
    assert not read[0][7:].any()
