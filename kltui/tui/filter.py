"""The filter language: `run:pythia-*|gpt2 step>=1000 -quant:8bit seed:2 words`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import reduce
from typing import TYPE_CHECKING

from kltui.errors import UsageError

if TYPE_CHECKING:
    from kltui.store.rows import CheckpointRow

Mask = list[bool]
Test = Callable[["Columns"], Mask]

COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "=": operator.eq,
            ":": operator.eq}  # fmt: skip
NUMBER_FIELDS: dict[str, Callable[[CheckpointRow], float | None]] = {
    "step": lambda r: r.checkpoint.step,
    "seed": lambda r: r.checkpoint.seed,
    "layers": lambda r: r.layers,
    "loglik": lambda r: r.mean_loglik,
}
_COMPARISON = re.compile(r"^([A-Za-z]+)(>=|<=|>|<|=|:)(.*)$")
_NUMBER = re.compile(r"^(-?\d+(?:\.\d+)?)([kM]?)$")
TEXT_FIELDS: dict[str, Callable[[CheckpointRow], str]] = {
    "run": lambda r: r.checkpoint.run,
    "quant": lambda r: r.checkpoint.quantization,
    "size": lambda r: r.checkpoint.size,
    "type": lambda r: r.checkpoint.type,
    "tag": lambda r: " ".join(r.checkpoint.tags),
    "parent": lambda r: r.checkpoint.parent,
    "status": lambda r: r.status,
    "source": lambda r: str(r.checkpoint.source),
    "name": lambda r: r.name,
}


class Columns:
    """The fields of rows as columns, each made when it is first needed and cached.

    A test then examines each distinct text once, instead of every row.
    """

    def __init__(self, rows: Sequence[CheckpointRow]) -> None:
        self._rows = rows
        self._texts: dict[str, tuple[list[str], list[int]]] = {}
        self._numbers: dict[str, list[float | None]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def texts(self, field: str) -> tuple[list[str], list[int]]:
        """(the distinct texts of a field in lower case, for each row the index of its text)."""
        if field not in self._texts:
            places: dict[str, int] = {}
            which = [places.setdefault(text, len(places)) for text in map(TEXT_FIELDS[field], self._rows)]
            self._texts[field] = [text.lower() for text in places], which
        return self._texts[field]

    def numbers(self, field: str) -> list[float | None]:
        """Each row's number in a field, or None."""
        if field not in self._numbers:
            self._numbers[field] = list(map(NUMBER_FIELDS[field], self._rows))
        return self._numbers[field]

    def where(self, field: str, passing: Callable[[list[str]], Mask]) -> Mask:
        """Whether each row passes, where `passing` tests the distinct texts of a field."""
        different, which = self.texts(field)
        return list(map(passing(different).__getitem__, which))


@dataclass(frozen=True, slots=True)
class Term:
    """One word of a filter as typed, and its test."""

    word: str
    test: Test


@dataclass(frozen=True, slots=True)
class Filter:
    """A row passes if it passes all terms of at least one alternative; every row passes the empty filter."""

    text: str
    alternatives: tuple[tuple[Term, ...], ...] = ((),)

    def __call__(self, row: CheckpointRow) -> bool:
        return self.passing(Columns([row]))[0]

    def passing(self, columns: Columns) -> Mask:
        """Whether each row passes."""
        every = [[term.test(columns) for term in terms] for terms in self.alternatives]
        return _any([_all(masks) if masks else [True] * len(columns) for masks in every])

    def unmatched(self, columns: Columns) -> list[str]:
        """The terms, as typed, that match no row, each once: most often they are misspelt."""
        terms = [term for terms in self.alternatives for term in terms]
        return list(dict.fromkeys(t.word for t in terms if len(columns) and not any(t.test(columns))))


EVERY = Filter("")


def _all(masks: Sequence[Mask]) -> Mask:
    return reduce(lambda one, two: list(map(operator.and_, one, two)), masks)


def _any(masks: Sequence[Mask]) -> Mask:
    return reduce(lambda one, two: list(map(operator.or_, one, two)), masks)


def parse_filter(text: str) -> Filter:
    """The parsed filter. Raises UsageError with the invalid term.

    Terms are joined by "and", ` | ` between terms by "or"; a leading `-` negates; `field:text` looks for text in a
    field, with `*` and `?` as a glob over the whole of it; `step>=1000` compares and `seed:2` equals; a bare word is
    searched in the name; `a|b` within a term matches either, the second with the first's field if it names none.
    """
    groups: list[list[Term]] = [[]]
    for word in text.split():
        if word == "|":
            groups.append([])
        else:
            groups[-1].append(Term(word, _term(word)))
    if len(groups) > 1 and not all(groups):
        raise UsageError("one side of | is empty in the filter", "For example run:a | run:b step>=1000.")
    return Filter(text, tuple(map(tuple, groups)))


def _term(word: str) -> Test:
    if word.startswith("-") and len(word) > 1:
        test = _term(word[1:])
        return lambda columns: list(map(operator.not_, test(columns)))
    first, *others = word.split("|")
    if not others:
        return _single(word)
    head = _COMPARISON.match(first)
    field = head[1] + ":" if head and head[2] == ":" and head[3] else ""
    if not first or not all(others):
        raise UsageError(f"one side of | is empty in {word!r}", "For example run:a|b.")
    tests = [_single(first), *(_single(o if _COMPARISON.match(o) else field + o) for o in others)]
    return lambda columns: _any([test(columns) for test in tests])


def _single(word: str) -> Test:
    found = _COMPARISON.match(word)
    if found is None:
        return _text_test("name", word)
    field, sign, value = found.groups()
    if field in NUMBER_FIELDS:
        return _number_test(word, field, sign, value)
    if sign == ":" and field in TEXT_FIELDS:
        return _text_test(field, value)
    if field in TEXT_FIELDS:
        raise UsageError(
            f"{field} is a text field in filter term {word!r}", f"For example {field}:{value.lstrip('=')}"
        )
    known = [*TEXT_FIELDS, *NUMBER_FIELDS]
    near = get_close_matches(field, known, 1)
    hint = f"Did you mean {near[0]}?" if near else f"Fields: {', '.join(known)}."
    raise UsageError(f"unknown field {field!r} in filter term {word!r}", hint)


def _text_test(field: str, wanted: str) -> Test:
    needle = wanted.lower()
    if "*" not in needle and "?" not in needle:
        return lambda columns: columns.where(field, lambda texts: [needle in text for text in texts])
    # Not fnmatch, because brackets are literal: names of variants contain them.
    glob = re.compile(re.escape(needle).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)
    return lambda columns: columns.where(field, lambda texts: [bool(glob.fullmatch(text)) for text in texts])


def _number_test(word: str, field: str, sign: str, digits: str) -> Test:
    number = _NUMBER.match(digits)
    if number is None:
        raise UsageError(f"not a number in filter term {word!r}", f"For example {field}{sign}1000.")
    bound = float(number[1]) * {"": 1.0, "k": 1e3, "M": 1e6}[number[2]]
    compare = COMPARISONS[sign]
    return lambda columns: [n is not None and compare(n, bound) for n in columns.numbers(field)]
