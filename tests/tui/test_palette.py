"""Series are told apart with normal and with all three kinds of two-colour vision."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest

from kltui.view.palette import (
    HEAT,
    PALETTES,
    SHADES,
    Palette,
    heat,
    ink_on,
    linear,
    oklab,
    rgb,
    shades,
)
from kltui.view.plot_data import shades_of

# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
VISION = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}  # fmt: skip
TOLD_APART = 0.08  # Oklab distance; neighbouring xterm greys are 0.03 to 0.04 apart


def seen(index: int, vision: str) -> tuple[float, float, float]:
    light = [linear(c) for c in rgb(index)]
    return oklab(
        *(min(1.0, max(0.0, sum(m * c for m, c in zip(row, light, strict=True)))) for row in VISION[vision])
    )


def luminance(index: int) -> float:
    red, green, blue = (linear(c) for c in rgb(index))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: int, two: int) -> float:
    a, b = sorted((luminance(one), luminance(two)), reverse=True)
    return (a + 0.05) / (b + 0.05)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("palette", PALETTES, ids=lambda p: p.name)
def test_series_are_told_apart(palette: Palette, vision: str) -> None:
    for one, two in combinations(palette.series, 2):
        a, b = seen(one, vision), seen(two, vision)
        distance = sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5
        assert distance >= TOLD_APART, (one, two, distance)


@pytest.mark.parametrize("palette", PALETTES, ids=lambda p: p.name)
def test_text_is_readable_on_its_grounds(palette: Palette) -> None:
    for ground in (palette.ground, palette.raised, palette.cursor):
        assert contrast(palette.text, ground) >= 4.5, ground
    assert contrast(palette.muted, palette.ground) >= 6.0
    assert contrast(palette.faint, palette.ground) >= 4.0, "tick labels are data"
    assert contrast(palette.faint, palette.raised) >= 3.0
    for ink in (palette.accent, palette.good, palette.warning, palette.bad, *palette.series):
        assert contrast(ink, palette.ground) >= 3.0, ink


def test_heat_rises_in_luminance() -> None:
    assert all(luminance(a) < luminance(b) for a, b in pairwise(HEAT))
    assert (heat(-1), heat(0), heat(1), heat(9)) == (HEAT[0], HEAT[0], HEAT[-1], HEAT[-1])


@pytest.mark.parametrize("index", HEAT)
def test_ink_on_heat_is_readable(index: int) -> None:
    assert contrast(ink_on(index), index) >= 4.0


@pytest.mark.parametrize("palette", PALETTES, ids=lambda p: p.name)
def test_shades_lead_from_the_ground_to_the_base(palette: Palette) -> None:
    for base, family in zip(palette.series, shades(palette), strict=True):
        assert len(family) == SHADES and family[-1] == base
        contrasts = [contrast(i, palette.ground) for i in family]
        assert contrasts[0] < contrasts[-1]
        assert min(contrasts) >= 1.25


def test_shade_of_runs_from_first_to_last() -> None:
    assert shades_of(8).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert shades_of(1).tolist() == [SHADES - 1] and not len(shades_of(0))
