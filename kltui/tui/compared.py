"""The comparison of two checkpoints as rows for CSV and as lines of text: names, KL, and every text with its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kltui.analysis.number_text import figure, fixed
from kltui.sanitize import safe_text
from kltui.tui.number_format import with_error

if TYPE_CHECKING:
    from kltui.analysis.drivers import Drivers
    from kltui.analysis.map import Map

COLUMNS = (
    "text",
    "kl_bits_per_byte",
    "difference_nats",
    "domain",
    "share",
    "a",
    "b",
    "loglik_a_nats",
    "loglik_b_nats",
    "content",
)


@dataclass(frozen=True)
class TextComparison:
    """Checkpoints A and B on a map: each text's part of their KL, and the texts.

    `order` lists indices of the map's texts in the order to write them.
    """

    a: str
    b: str
    found: Map
    drivers: Drivers
    order: Sequence[int]
    texts: Sequence[str]
    domains: Sequence[str]
    numbers: Sequence[int]  # place of each text in the corpus

    def rows(self) -> list[list[object]]:
        """A row of titles, then a row for each text: its part of the KL, both log-likelihoods (nats) and its content."""
        return [list(COLUMNS), *(self._row(s) for s in self.order)]

    def _row(self, s: int) -> list[object]:
        a, b = self._logliks(s)
        part, total = float(self.drivers.bits_per_byte[s]), self.drivers.kl.value
        share = part / total if total > 0 else math.nan
        difference = float(self.drivers.difference[s])
        return [
            self.numbers[s],
            part,
            difference,
            self._domain(s),
            share,
            self.a,
            self.b,
            a,
            b,
            self._text(s),
        ]

    def lines(self) -> list[str]:
        """Lines of text: names and KL first, then each text below its numbers."""
        kl = self.drivers.kl
        made = [
            f"A  {safe_text(self.a)}",
            f"B  {safe_text(self.b)}",
            f"KL {with_error(kl.value, kl.se)}, over {kl.n_texts} texts; one standard error over texts",
            "texts by their order on screen; A - B in nats, less its mean",
        ]
        for s in self.order:
            a, b = self._logliks(s)
            share = float(self.drivers.bits_per_byte[s]) / kl.value if kl.value > 0 else math.nan
            domain = f", {safe_text(self._domain(s))}" if self._domain(s) else ""
            made += [
                "",
                f"text {self.numbers[s]}{domain}: {100 * share:.2f}% of the KL, A - B {fixed(float(self.drivers.difference[s]), 2, '+')};"
                f" log-likelihood A {figure(a, 6)}, B {figure(b, 6)} nats",
                *(f"    {safe_text(line)}" for line in self._text(s).split("\n")),
            ]
        return made

    def _logliks(self, s: int) -> tuple[float, float]:
        rows = (self.found.row(self.a), self.found.row(self.b))
        a, b = (float(self.found.loglik_KN[row, s]) for row in rows)
        return a, b

    def _domain(self, s: int) -> str:
        return self.domains[s] if s < len(self.domains) else ""

    def _text(self, s: int) -> str:
        return self.texts[s] if s < len(self.texts) else ""
