"""Rotary embedding in place against the expression on whole tensors, bit by bit, and angles in float64."""

import numpy as np
import pytest
import torch

from kltui.kernels import native, reference


def by_torch(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """transformers' expression: halves of the first R entries turned, the others passed on."""
    R = cos.shape[-1]
    turned, passed = x[..., :R], x[..., R:]
    half = torch.cat((-turned[..., R // 2 :], turned[..., : R // 2]), dim=-1)
    return torch.cat((turned * cos[:, None] + half * sin[:, None], passed), dim=-1)


def angles(B: int, T: int, R: int) -> tuple[torch.Tensor, torch.Tensor]:
    frequency = 1e4 ** (-torch.arange(0, R, 2).double() / R)
    angle = (torch.arange(T)[None, :, None] + torch.arange(B)[:, None, None]) * frequency
    whole = torch.cat((angle, angle), dim=-1)
    return whole.cos().float(), whole.sin().float()


@pytest.mark.parametrize(("D", "R"), [(64, 16), (40, 40), (6, 2), (24, 22)])
@pytest.mark.parametrize("layout", ["heads first", "positions first", "one tensor"])
@pytest.mark.parametrize("shared", [True, False])
def test_bits_are_those_of_whole_tensors(D: int, R: int, layout: str, shared: bool) -> None:
    torch.manual_seed(0)
    B, H, T = 2, 3, 19
    if layout == "one tensor":
        x = torch.randn(B, T, H, 3 * D).transpose(1, 2).chunk(3, dim=-1)[1]
    else:
        x = torch.randn(B, H, T, D) if layout == "heads first" else torch.randn(B, T, H, D).transpose(1, 2)
    cos, sin = angles(1 if shared else B, T, R)
    before, expected = x.clone(), by_torch(x, cos, sin)
    around = x._base.clone() if x._base is not None else None
    native.rotate(x, cos, sin)
    assert torch.equal(x, expected)
    if around is not None and layout == "one tensor":  # what lies between the rows is as it was
        whole = x._base.view(B, T, H, 3, D)
        assert torch.equal(whole[..., 0, :], around.view(B, T, H, 3, D)[..., 0, :])
    array = before.numpy().copy()
    reference.rotate(array, cos.numpy(), sin.numpy())
    np.testing.assert_array_equal(array, expected.numpy())


def test_lengths_are_kept_and_angles_add_up() -> None:
    torch.manual_seed(1)
    x = torch.randn(1, 2, 50, 8)
    turned, (cos, sin) = x.clone(), angles(1, 50, 8)
    native.rotate(turned, cos, sin)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-6)
    complex_x = torch.complex(x[..., :4].double(), x[..., 4:].double())
    angle = torch.arange(50)[:, None] * 1e4 ** (-torch.arange(0, 8, 2).double() / 8)
    truth = complex_x * torch.polar(torch.ones_like(angle), angle)
    assert (turned.double() - torch.cat((truth.real, truth.imag), -1)).abs().max() < 1e-6


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("x", (zeros(2, 3, 8), zeros(1, 3, 4), zeros(1, 3, 4))),
        ("x", (zeros(2, 3, 5, 8).double(), zeros(1, 5, 4), zeros(1, 5, 4))),
        ("x", (zeros(2, 1, 5, 8).expand(2, 3, 5, 8), zeros(1, 5, 4), zeros(1, 5, 4))),
        ("x", (zeros(2, 3, 8, 5).transpose(2, 3), zeros(1, 5, 4), zeros(1, 5, 4))),
        ("cosine", (zeros(2, 3, 5, 8), zeros(1, 4, 4), zeros(1, 4, 4))),
        ("cosine", (zeros(2, 3, 5, 8), zeros(3, 5, 4), zeros(3, 5, 4))),
        ("cosine", (zeros(2, 3, 5, 8), zeros(1, 5, 3), zeros(1, 5, 3))),
        ("cosine", (zeros(2, 3, 5, 8), zeros(1, 5, 10), zeros(1, 5, 10))),
        ("sine", (zeros(2, 3, 5, 8), zeros(1, 5, 4), zeros(1, 5, 2))),
        ("sine", (zeros(2, 3, 5, 8), zeros(2, 5, 4), zeros(1, 5, 4))),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(name: str, arguments: tuple[torch.Tensor, ...]) -> None:
    with pytest.raises(ValueError, match=name):
        native.rotate(*arguments)
