"""What one figure or table of a paper comes to: pictures, numbers beside the published ones, or what it lacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kltui.figures.picture import PaperFigure
from kltui.figures.reproduce.release import Release

KISHINO, OYAMA = "2505.15353", "2502.16173"


@dataclass(frozen=True)
class Number:
    """One number of an item: here, its quartiles or spread, how many values it rests on, and as published (NaN: not)."""

    quantity: str
    here: float
    published: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    unit: str = "bits/byte"
    note: str = ""

    @property
    def deviation(self) -> float:
        """Here less published."""
        return self.here - self.published

    @property
    def ratio(self) -> float:
        """Here over published."""
        return self.here / self.published if self.published else math.nan


@dataclass(frozen=True)
class Result:
    """What came of an item: its picture (None: a table alone) and its numbers; `lacks` says what could not be had."""

    pictures: tuple[PaperFigure, ...] = ()
    numbers: tuple[Number, ...] = ()
    lacks: str = ""


@dataclass(frozen=True)
class ReproducedItem:
    """One figure or table: a short name for its files, the paper, what it is there, and what makes it of a release."""

    name: str
    paper: str
    what: str
    make: Callable[[Release], Result]


def medians(
    quantity: str,
    values: Sequence[float],
    published: float = math.nan,
    unit: str = "bits/byte",
    note: str = "",
) -> Number:
    """The median of values with its quartiles; NaN of none."""
    known = np.array([v for v in values if math.isfinite(v)])
    if not len(known):
        return Number(quantity, math.nan, published, unit=unit, note=note)
    low, middle, high = (float(v) for v in np.quantile(known, [0.25, 0.5, 0.75]))
    return Number(quantity, middle, published, low, high, len(known), unit, note)
