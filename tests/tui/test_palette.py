"""Series are told apart with normal and with all three kinds of two-colour vision."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from rich.cells import cell_len

from kltui.tui.theme import Theme
from kltui.view import textplot
from kltui.view.palette import (
    DARK,
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
# CIEDE2000 between any two series, and between any two of the first five.
APART_ALL, APART_FIRST = {"normal": 13, "protanopia": 9.5, "deuteranopia": 10, "tritanopia": 12}, {
    "normal": 25, "protanopia": 14, "deuteranopia": 18, "tritanopia": 16}  # fmt: skip
XYZ = np.array(
    ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
)


def seen(index: int, vision: str) -> tuple[float, float, float]:
    light = [linear(c) for c in rgb(index)]
    return oklab(
        *(min(1.0, max(0.0, sum(m * c for m, c in zip(row, light, strict=True)))) for row in VISION[vision])
    )


def lab(index: int, vision: str) -> tuple[float, float, float]:
    """CIELAB (D65) of an index as it is seen."""
    light = np.clip(np.array(VISION[vision]) @ [linear(c) for c in rgb(index)], 0, 1)
    x, y, z = (
        t ** (1 / 3) if t > (6 / 29) ** 3 else t * (29 / 6) ** 2 / 3 + 4 / 29
        for t in XYZ @ light / XYZ.sum(axis=1)
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def ciede2000(one: tuple[float, float, float], two: tuple[float, float, float]) -> float:
    """Sharma, Wu and Dalal 2005."""
    (l1, a1, b1), (l2, a2, b2) = one, two
    mean = (math.hypot(a1, b1) + math.hypot(a2, b2)) / 2
    g = 1.5 - 0.5 * math.sqrt(mean**7 / (mean**7 + 25**7))
    c1, c2 = math.hypot(g * a1, b1), math.hypot(g * a2, b2)
    h1, h2 = (math.degrees(math.atan2(b, g * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0.0
    lm, cm, hm = (l1 + l2) / 2, (c1 + c2) / 2, (h1 + turn / 2 if c1 * c2 else h1 + h2)
    t = 1 - 0.17 * cos(hm - 30) + 0.24 * cos(2 * hm) + 0.32 * cos(3 * hm + 6) - 0.2 * cos(4 * hm - 63)
    dl = (l2 - l1) / (1 + 0.015 * (lm - 50) ** 2 / math.sqrt(20 + (lm - 50) ** 2))
    dc = (c2 - c1) / (1 + 0.045 * cm)
    dh = 2 * math.sqrt(c1 * c2) * math.sin(math.radians(turn / 2)) / (1 + 0.015 * cm * t)
    rotation = math.sin(math.radians(60 * math.exp(-((((hm % 360) - 275) / 25) ** 2))))
    return math.sqrt(dl**2 + dc**2 + dh**2 - 2 * math.sqrt(cm**7 / (cm**7 + 25**7)) * rotation * dc * dh)


def cos(degrees: float) -> float:
    return math.cos(math.radians(degrees))


def test_ciede2000_is_that_of_its_paper() -> None:
    published = [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0),
        ((50, 2.5, 0), (61, -5, 29), 22.8977),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((22.7233, 20.0904, -46.694), (23.0331, 14.973, -42.5619), 2.0373),
        ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
    ]
    for one, two, distance in published:
        assert ciede2000(one, two) == pytest.approx(distance, abs=1e-4)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("palette", PALETTES, ids=lambda p: p.name)
def test_the_first_series_are_the_farthest_apart(palette: Palette, vision: str) -> None:
    for (i, one), (j, two) in combinations(enumerate(palette.series), 2):
        distance = ciede2000(lab(one, vision), lab(two, vision))
        assert distance >= (APART_FIRST if j < 5 else APART_ALL)[vision], (i, j, distance)


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
    for ink in ("muted", "faint", "accent", "good", "warning", "bad"):
        assert contrast(getattr(palette, ink), palette.ground) >= 4.5, ink
        assert contrast(getattr(palette, ink), palette.raised) >= 4.5, ink
    assert contrast(palette.rule, palette.ground) >= 3.0
    for ink in palette.series:
        assert contrast(ink, palette.ground) >= 4.5 and contrast(ink, palette.raised) >= 3.0, ink


def test_heat_rises_in_luminance() -> None:
    assert all(luminance(a) < luminance(b) for a, b in pairwise(HEAT))
    assert (heat(-1), heat(0), heat(1), heat(9)) == (HEAT[0], HEAT[0], HEAT[-1], HEAT[-1])


@pytest.mark.parametrize("index", HEAT)
def test_ink_on_heat_is_readable(index: int) -> None:
    assert contrast(ink_on(index), index) >= 4.5


@pytest.mark.parametrize("palette", PALETTES, ids=lambda p: p.name)
def test_shades_lead_from_the_ground_to_the_base(palette: Palette) -> None:
    for base, family in zip(palette.series, shades(palette), strict=True):
        assert len(family) == SHADES and family[-1] == base
        contrasts = [contrast(i, palette.ground) for i in family]
        assert contrasts[0] < contrasts[-1] and min(contrasts) >= 3.0


def test_shade_of_runs_from_first_to_last() -> None:
    assert shades_of(8).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert shades_of(1).tolist() == [SHADES - 1] and not len(shades_of(0))


@pytest.mark.parametrize("ascii_only", [False, True])
def test_a_run_looks_the_same_on_every_screen_and_in_reports(ascii_only: bool) -> None:
    look, style = Theme(DARK, ascii_only=ascii_only), textplot.Style(colour=True, ascii_only=ascii_only)
    seen = [(look.marker(n), look.series(n)) for n in range(96)]
    assert seen == [(textplot.marker_of(n, style), textplot.colour_of(n)) for n in range(96)]
    assert len(set(seen)) == 96
    assert len({marker for marker, _ in seen[:12]}) == 12
    assert all(cell_len(marker) == 1 for marker, _ in seen)


@pytest.mark.parametrize("ascii_only", [False, True])
def test_a_run_without_colours_has_its_letter_in_reports_too(ascii_only: bool) -> None:
    look, style = Theme(DARK, color=False, ascii_only=ascii_only), textplot.Style(ascii_only=ascii_only)
    series = [textplot.Series(f"run {n}", [n, n + 1.0], [0, n]) for n in range(50)]
    letters = [look.marker(n) for n in range(50)]
    assert len(set(letters)) == 50 and not {"A", "B"} & set(letters)
    legend = textplot.draw(series[:20], textplot.PlotFrame(), style)
    assert all(f"{letter} run {n}" in legend for n, letter in enumerate(letters[:20]))


@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_run_has_the_sign_of_the_cursor_or_of_what_is_selected_or_folded(ascii_only: bool) -> None:
    look = Theme(DARK, ascii_only=ascii_only)
    signs = {look.glyph(*pair) for pair in ("◉@", "◇+", "✓+", "▸>", "▾v", "▌>")} | {"!", "-", "?", "A", "B"}
    assert not signs & {look.marker(n) for n in range(12)}
