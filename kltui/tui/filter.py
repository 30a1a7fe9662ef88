"""The filter language: `run:pythia-*|gpt2 step:1000..9k -quant:8bit loss<3 words`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import reduce
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from kltui.errors import UsageError

if TYPE_CHECKING:
    from kltui.store.rows import CheckpointRow
    from kltui.workspace.losses import StoredLoss

Mask = list[bool]
Test = Callable[["Columns"], Mask]

COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "=": operator.eq,
            ":": operator.eq}  # fmt: skip
LOSS = "loss"  # in bits/byte; not a field of the row
NUMBER_FIELDS: dict[str, Callable[[CheckpointRow], float | None]] = {
    "step": lambda r: r.checkpoint.step,
    "seed": lambda r: r.checkpoint.seed,
    "layers": lambda r: r.layers,
    "loglik": lambda r: r.mean_loglik,
}
EXAMPLES = {"step": (1000, 5000), "seed": (1, 3), "layers": (6, 12), "loglik": (-700, -600), "loss": (2, 3)}
_COMPARISON = re.compile(r"^([A-Za-z]+)(>=|<=|!=|==?|>|<|:)(.*)$", re.DOTALL)
_NUMBER = re.compile(r"^(-?\d+(?:[_,]\d{3})*(?:\.\d+)?(?:e\+?\d{1,2})?)([kKMG]?)$")
_FACTORS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}
_QUOTED = re.compile(r'"([^"]*)"(?=[\s|,]|$)')
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

    def __init__(
        self, rows: Sequence[CheckpointRow], losses: Mapping[int, StoredLoss] = MappingProxyType({})
    ) -> None:
        self._rows, self._losses = rows, losses
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
            of_row = self._loss if field == LOSS else NUMBER_FIELDS[field]
            self._numbers[field] = list(map(of_row, self._rows))
        return self._numbers[field]

    def _loss(self, row: CheckpointRow) -> float | None:
        found = self._losses.get(row.id)
        return None if found is None else found.bits_per_byte

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
    field, with `*` and `?` as a glob over the whole of it, and `field=text` is the whole of it; `step>=1000` compares,
    `seed:2` equals and `step:100..9k` includes both ends; a bare word is searched in the name; `a|b` within a term matches
    either, the second with the first's field if it names none; in double quotes, blanks and signs are text.
    """
    groups: list[list[Term]] = [[]]
    for word in filter(None, split_unquoted(text, str.isspace)):
        if word == "|":
            groups.append([])
        else:
            groups[-1].append(Term(word, _term(word)))
    if len(groups) > 1 and not all(groups):
        raise UsageError("one side of | is empty in the filter", "For example run:a | run:b step>=1000.")
    return Filter(text, tuple(map(tuple, groups)))


def split_unquoted(text: str, separates: Callable[[str], bool]) -> list[str]:
    """The parts of a text between separating characters, which in double quotes are text.

    A quote within a name is an ordinary character: only one that a word or a value begins with opens.

    >>> split_unquoted('run:"a b"|c 5"|', str.isspace)
    ['run:"a b"|c', '5"|']
    """
    parts, at = [""], 0
    while at < len(text):
        here = parts[-1]
        quoted = _QUOTED.match(text, at) if here in ("", "-") or here[-1] in ":=|" else None
        if quoted is not None:
            parts[-1] += quoted[0]
        elif separates(text[at]):
            parts.append("")
        else:
            parts[-1] += text[at]
        at = quoted.end() if quoted is not None else at + 1
    return parts


def _term(word: str) -> Test:
    if word.startswith("-") and len(word) > 1:
        return _negated(_term(word[1:]))
    first, *others = split_unquoted(word, "|".__eq__)
    if not others:
        return _single(word)
    if not first or not all(others):
        raise UsageError(f"one side of | is empty in {word!r}", "For example run:a|b.")
    head = _COMPARISON.match(first)
    field = head[1] + head[2] if head and head[2] in (":", "=", "==") and head[3] else ""
    tests = [_single(first), *(_single(o if _COMPARISON.match(o) else field + o) for o in others)]
    return lambda columns: _any([test(columns) for test in tests])


def _negated(test: Test) -> Test:
    return lambda columns: list(map(operator.not_, test(columns)))


def _single(word: str) -> Test:
    found = _COMPARISON.match(word)
    if found is None:
        return _text_test("name", value_of(word))
    field, sign, value = found[1], found[2].replace("==", "="), found[3]
    if sign == "!=":
        return _negated(_single(f"{field}={value}"))
    if (field := field.lower()) in NUMBER_FIELDS or field == LOSS:
        return _number_test(word, field, sign, value)
    if sign in ":=" and field in TEXT_FIELDS:
        return _text_test(field, value_of(value), is_whole=sign == "=")
    if field in TEXT_FIELDS:
        raise UsageError(
            f"{field} is a text field in filter term {word!r}", f"For example {field}:{value.lstrip('=')}"
        )
    known = [*TEXT_FIELDS, *NUMBER_FIELDS, LOSS]
    near = get_close_matches(field, known, 1)
    hint = f"Did you mean {near[0]}?" if near else f"Fields: {', '.join(known)}."
    raise UsageError(f"unknown field {field!r} in filter term {word!r}", hint)


class Value(NamedTuple):
    """A text as it is looked for, without its quotes."""

    text: str
    is_quoted: bool


def value_of(typed: str) -> Value:
    """The text that was typed, perhaps in quotes."""
    quoted = _QUOTED.fullmatch(typed)
    return Value(typed, False) if quoted is None else Value(quoted[1], True)


def _text_test(field: str, wanted: Value, is_whole: bool = False) -> Test:
    needle = wanted.text.lower()
    if wanted.is_quoted or ("*" not in needle and "?" not in needle):
        if is_whole:
            return lambda columns: columns.where(field, lambda texts: [needle == text for text in texts])
        return lambda columns: columns.where(field, lambda texts: [needle in text for text in texts])
    # Not fnmatch, because brackets are literal: names of variants contain them.
    glob = re.compile(re.escape(needle).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)
    return lambda columns: columns.where(field, lambda texts: [bool(glob.fullmatch(text)) for text in texts])


def _number_test(word: str, field: str, sign: str, digits: str) -> Test:
    if sign in ":=" and ".." in digits:
        return _range_test(word, field, digits)
    bound, compare = _number(word, field, sign, digits), COMPARISONS[sign]
    return lambda columns: [n is not None and compare(n, bound) for n in columns.numbers(field)]


def _range_test(word: str, field: str, digits: str) -> Test:
    """The test of `low..high`, which includes both; without one of them there is no limit on its side."""
    low, _, high = digits.partition("..")
    first = _number(word, field, ":", low) if low or not high else -math.inf
    last = _number(word, field, ":", high) if high else math.inf
    return lambda columns: [n is not None and first <= n <= last for n in columns.numbers(field)]


def _number(word: str, field: str, sign: str, digits: str) -> float:
    number = _NUMBER.match(digits)
    if number is None:
        low, high = EXAMPLES[field]
        hint = f"For example {field}{sign}{low}, {field}:{low}..{high} or {field}:{low}|{high}."
        raise UsageError(f"not a number in filter term {word!r}", hint)
    return float(re.sub("[_,]", "", number[1])) * _FACTORS[number[2]]
