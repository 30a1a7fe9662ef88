"""Colours of the xterm-256 cube: series, shades by step, heat and difference ramps.

Every colour is an index of the 256-colour table, so that a terminal over SSH, tmux and a local
emulator show the same picture. Series are told apart under protanopia, deuteranopia and tritanopia
(tests/tui/test_palette.py simulates all three), and `MARKERS` repeats by shape what colour says.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

LEVELS = (0, 95, 135, 175, 215, 255)
SHADES = 4

MARKERS = "●▲■◆★▼○△"
MARKERS_ASCII = "ox#*+v%&"
# Without colour a run is known by its letter alone; A and B are the marks of a pair.
LETTERS = "abcdefghijklmnopqrstuvwxyzCDEFGHIJKLMNOPQRSTUVWXYZ"

# Dark to light by luminance alone, so that a heat map reads the same without colour vision.
HEAT = (17, 53, 89, 125, 161, 203, 209, 215, 222, 230)
# Below, equal, above: blue to orange through grey, for differences.
DIFFERENCE = (25, 67, 110, 250, 216, 173, 130)


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of one theme as xterm-256 indices: grounds and texts, and eight series."""

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
    text=252,
    muted=248,
    faint=244,
    rule=239,
    accent=117,
    good=114,
    warning=179,
    bad=210,
    series=(39, 222, 168, 142, 153, 32, 100, 211),
)
LIGHT = Palette(
    name="light",
    ground=255,
    raised=253,
    cursor=153,
    text=235,
    muted=239,
    faint=242,
    rule=249,
    accent=25,
    good=22,
    warning=94,
    bad=124,
    series=(25, 168, 94, 53, 32, 125, 100, 88),
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


@cache
def shades(palette: Palette) -> tuple[tuple[int, ...], ...]:
    """For each series its `SHADES` colours, from the first step's (near the ground) to the last's (the base)."""
    return tuple(_shades_of(base, palette.ground) for base in palette.series)


def _shades_of(base: int, ground: int) -> tuple[int, ...]:
    light, a, b = _lab(base)
    ground_light = _lab(ground)[0]
    found = []
    for level in range(SHADES - 1):
        share = 0.42 + 0.58 * level / (SHADES - 1)
        wanted = (ground_light + (light - ground_light) * share, a * share, b * share)
        found.append(min(range(16, 232), key=lambda i: _squared_distance(_lab(i), wanted)))
    return (*found, base)


def _squared_distance(one: tuple[float, float, float], two: tuple[float, float, float]) -> float:
    # Lightness is allowed to slip a little so that the hue of the run survives the coarse cube.
    return (one[0] - two[0]) ** 2 + 3 * (one[1] - two[1]) ** 2 + 3 * (one[2] - two[2]) ** 2


def heat(value: float) -> int:
    """Colour of `value` in 0 to 1 on the heat ramp; outside it is held at the ends."""
    return HEAT[max(0, min(len(HEAT) - 1, int(value * len(HEAT))))]


def difference(value: float) -> int:
    """Colour of `value` in -1 to 1 on the difference ramp; 0 is grey."""
    middle = len(DIFFERENCE) // 2
    return DIFFERENCE[max(0, min(len(DIFFERENCE) - 1, middle + round(value * middle)))]


def ink_on(index: int) -> int:
    """Black or white (as an xterm index), whichever reads better on colour `index`."""
    return 16 if _lab(index)[0] > 0.6 else 231
