"""Colours of the xterm-256 cube: series, shades by step, heat and difference ramps.

Every colour is an index of the 256-colour table, so that a terminal over SSH, tmux and a local
emulator show the same picture. Series are distinguishable with protanopia, deuteranopia and tritanopia,
the first five, which most workspaces have, more than the others; all are readable on their background
(tests/tui/test_palette.py computes both). `MARKERS` distinguish them by shape as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

LEVELS = (0, 95, 135, 175, 215, 255)
SHADES = 4
PALEST = 0.55  # chroma of a run's first step relative to its last
READABLE, VISIBLE = 4.5, 3.0  # contrasts of text and of dots and lines (WCAG 2.1, 1.4.3 and 1.4.11)

MARKERS = "●▲■◆★▼○△□☆▽▷"
# Without the characters that lists and plots have for other things in ASCII: @ cursor, + selected, v and > folded, ! spike.
MARKERS_ASCII = "ox#*$^%&n=sz"
# The shapes are twelve and the colours eight, so a pair of them repeats after 24 series; then the shapes are shifted.
_PAIRS = math.lcm(len(MARKERS), 8)
# Without colour, runs are distinguished by letters; A and B are reserved for the marked pair.
LETTERS = "abcdefghijklmnopqrstuvwxyzCDEFGHIJKLMNOPQRSTUVWXYZ"

# From dark to light in luminance, so that a heat map is readable without colour vision.
HEAT = (17, 53, 89, 125, 161, 203, 209, 215, 222, 230)
# For scores shown as dots and markers, by rising value; all are visible on their background, the highest most clearly.
RAMPS = {
    "dark": (161, 167, 203, 209, 215, 221, 228, 230),
    "light": (168, 197, 161, 125, 89, 54, 53, 17),
}
# Below, equal, above: blue to orange through grey, for differences.
DIFFERENCE = (25, 67, 110, 250, 216, 173, 130)


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of one theme as xterm-256 indices: backgrounds, texts, and eight series."""

    name: str
    ground: int
    raised: int
    cursor: int
    text: int
    muted: int
    faint: int
    rule: int
    accent: int
    good: int
    warning: int
    bad: int
    series: tuple[int, ...]


DARK = Palette(
    name="dark",
    ground=234,
    raised=236,
    cursor=24,
    text=254,
    muted=250,
    faint=247,
    rule=243,
    accent=117,
    good=114,
    warning=179,
    bad=210,
    series=(48, 219, 198, 33, 136, 148, 143, 211),
)
LIGHT = Palette(
    name="light",
    ground=231,
    raised=254,
    cursor=153,
    text=235,
    muted=238,
    faint=241,
    rule=245,
    accent=25,
    good=22,
    warning=94,
    bad=124,
    series=(53, 130, 29, 88, 98, 23, 91, 21),
)
PALETTES = (DARK, LIGHT)


def rgb(index: int) -> tuple[int, int, int]:
    """Red, green and blue (0 to 255) of an xterm-256 index from 16 on.

    >>> rgb(208)
    (255, 135, 0)
    """
    assert 16 <= index <= 255
    if index >= 232:
        grey = 8 + 10 * (index - 232)
        return grey, grey, grey
    red, rest = divmod(index - 16, 36)
    green, blue = divmod(rest, 6)
    return LEVELS[red], LEVELS[green], LEVELS[blue]


def linear(channel: int) -> float:
    """Linear light 0 to 1 of one sRGB channel 0 to 255 (IEC 61966-2-1)."""
    value = channel / 255
    return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)


def oklab(red: float, green: float, blue: float) -> tuple[float, float, float]:
    """Oklab lightness, a and b of linear-light RGB 0 to 1 (Ottosson 2020)."""
    long = (0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue) ** (1 / 3)
    medium = (0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue) ** (1 / 3)
    short = (0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
    )


@cache
def _lab(index: int) -> tuple[float, float, float]:
    red, green, blue = rgb(index)
    return oklab(linear(red), linear(green), linear(blue))


def luminance(index: int) -> float:
    """Relative luminance 0 to 1 of an xterm-256 index from 16 on (WCAG 2.1)."""
    red, green, blue = (linear(c) for c in rgb(index))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@cache
def contrast(one: int, two: int) -> float:
    """Contrast 1 to 21 of two xterm-256 indices from 16 on (WCAG 2.1).

    >>> contrast(231, 16)
    21.0
    """
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


def marker_of(number: int, *, ascii_only: bool = False, colour: bool = True) -> str:
    """The marker of series `number`: a shape, or a letter without colours.

    A shape with its colour, `series[number % 8]`, is of one series alone among the first 96, a letter among the first 50.
    """
    if not colour:
        return LETTERS[number % len(LETTERS)]
    shapes = MARKERS_ASCII if ascii_only else MARKERS
    return shapes[(number + number // _PAIRS) % len(shapes)]


@cache
def shades(palette: Palette) -> tuple[tuple[int, ...], ...]:
    """The `SHADES` colours of each series, from that of the first step (near the background) to that of the last.

    All are visible on the background.
    """
    return tuple(_shades_of(base, palette.ground) for base in palette.series)


def _shades_of(base: int, ground: int) -> tuple[int, ...]:
    _, a, b = _lab(base)
    full = contrast(base, ground)
    seen = [i for i in range(16, 232) if VISIBLE <= contrast(i, ground) <= full]
    found = []
    for level in range(SHADES - 1):
        share = level / (SHADES - 1)
        pale = PALEST + (1 - PALEST) * share
        strong = math.log(VISIBLE) * (1 - share) + math.log(full) * share
        found.append(min(seen, key=lambda i: _strangeness(i, ground, strong, pale * a, pale * b)))
    return (*found, base)


def _strangeness(index: int, ground: int, strong: float, a: float, b: float) -> float:
    """Distance of a colour from a hue (Oklab a, b) and from a contrast with the background, given as its logarithm."""
    # Contrast has a lower weight, so that the hue of the run is preserved in the coarse colour cube.
    _, own_a, own_b = _lab(index)
    slip = 0.2 * (math.log(contrast(index, ground)) - strong)
    return slip * slip + (own_a - a) ** 2 + (own_b - b) ** 2


def heat(value: float) -> int:
    """Colour of `value` in 0 to 1 on the heat ramp; values outside are clipped."""
    return HEAT[max(0, min(len(HEAT) - 1, int(value * len(HEAT))))]


def difference(value: float) -> int:
    """Colour of `value` in -1 to 1 on the difference ramp; 0 is grey."""
    middle = len(DIFFERENCE) // 2
    return DIFFERENCE[max(0, min(len(DIFFERENCE) - 1, middle + round(value * middle)))]


def ink_on(index: int) -> int:
    """Black or white (as an xterm index), whichever reads better on colour `index`."""
    return max((16, 231), key=lambda ink: contrast(ink, index))
