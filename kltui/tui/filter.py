"""The filter language: `run:pythia-*|gpt2 step>=1000 -quant:8bit seed:2 words`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from kltui.errors import UsageError

if TYPE_CHECKING:
    from kltui.store.rows import CheckpointRow

Test = Callable[["CheckpointRow"], bool]

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


@dataclass(frozen=True, slots=True)
class Term:
    """One word of a filter as written, and whether a row passes it."""

    word: str
    test: Test


@dataclass(frozen=True, slots=True)
class Filter:
    """Keeps a row when every term of one of its alternatives holds; the empty filter keeps everything."""

    text: str
    alternatives: tuple[tuple[Term, ...], ...] = ((),)

    def __call__(self, row: CheckpointRow) -> bool:
        return any(all(term.test(row) for term in terms) for terms in self.alternatives)

    def unmatched(self, rows: Iterable[CheckpointRow]) -> list[str]:
        """The terms as written that not one of `rows` passes, each once: most often misspelt."""
        rows = list(rows)
        terms = [term for terms in self.alternatives for term in terms]
        return list(dict.fromkeys(t.word for t in terms if rows and not any(map(t.test, rows))))


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
        return lambda row: not test(row)
    first, *others = word.split("|")
    if not others:
        return _single(word)
    head = _COMPARISON.match(first)
    field = head[1] + ":" if head and head[2] == ":" and head[3] else ""
    if not first or not all(others):
        raise UsageError(f"one side of | is empty in {word!r}", "For example run:a|b.")
    tests = [_single(first), *(_single(o if _COMPARISON.match(o) else field + o) for o in others)]
    return lambda row: any(test(row) for test in tests)


def _single(word: str) -> Test:
    found = _COMPARISON.match(word)
    if found is None:
        return _text_test(TEXT_FIELDS["name"], word)
    field, sign, value = found.groups()
    if field in NUMBER_FIELDS:
        return _number_test(word, field, sign, value)
    if sign == ":" and field in TEXT_FIELDS:
        return _text_test(TEXT_FIELDS[field], value)
    if field in TEXT_FIELDS:
        raise UsageError(
            f"{field} is a text field in filter term {word!r}", f"For example {field}:{value.lstrip('=')}"
        )
    known = [*TEXT_FIELDS, *NUMBER_FIELDS]
    near = get_close_matches(field, known, 1)
    hint = f"Did you mean {near[0]}?" if near else f"Fields: {', '.join(known)}."
    raise UsageError(f"unknown field {field!r} in filter term {word!r}", hint)


def _text_test(value_of: Callable[[CheckpointRow], str], wanted: str) -> Test:
    needle = wanted.lower()
    if "*" not in needle and "?" not in needle:
        return lambda row: needle in value_of(row).lower()
    # Brackets are themselves: names of variants hold them.
    glob = re.compile(re.escape(needle).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)
    return lambda row: glob.fullmatch(value_of(row).lower()) is not None


def _number_test(word: str, field: str, sign: str, digits: str) -> Test:
    number = _NUMBER.match(digits)
    if number is None:
        raise UsageError(f"not a number in filter term {word!r}", f"For example {field}{sign}1000.")
    bound = float(number[1]) * {"": 1.0, "k": 1e3, "M": 1e6}[number[2]]
    compare, value_of = COMPARISONS[sign], NUMBER_FIELDS[field]

    def test(row: CheckpointRow) -> bool:
        value = value_of(row)
        return value is not None and bool(compare(value, bound))

    return test
