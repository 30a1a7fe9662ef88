"""The result of reproducing one figure or table of a paper: figures, numbers with the published ones, or what is missing."""

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
    """One number of an item: its value `here`, quartiles or spread `low` and `high` of `n` values, and as published (NaN: not published)."""

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
        """The value here minus the published one."""
        return self.here - self.published

    @property
    def ratio(self) -> float:
        """The value here divided by the published one; NaN if that is 0 or not known."""
        return self.here / self.published if self.published else math.nan


@dataclass(frozen=True)
class Result:
    """The result of an item: its figures (none for a table) and numbers; `lacks` states the missing data, "" if none."""

    pictures: tuple[PaperFigure, ...] = ()
    numbers: tuple[Number, ...] = ()
    lacks: str = ""


@dataclass(frozen=True)
class ReproducedItem:
    """One figure or table: a short name for its files, the arXiv number, its name in the paper, and the function that makes it."""

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
    """The median of the finite values with its quartiles; NaN if there are none."""
    known = np.array([v for v in values if math.isfinite(v)])
    if not len(known):
        return Number(quantity, math.nan, published, unit=unit, note=note)
    low, middle, high = (float(v) for v in np.quantile(known, [0.25, 0.5, 0.75]))
    return Number(quantity, middle, published, low, high, len(known), unit, note)
