"""The filter language: `run:pythia-410m step>=1000 -quant:8bit words`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kltui.errors import UsageError

if TYPE_CHECKING:
    from kltui.store.rows import CheckpointRow

Test = Callable[["CheckpointRow"], bool]

_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "=": operator.eq}
_NUMBER = re.compile(r"^(step|layers|seed|loglik)(>=|<=|>|<|=)(-?\d+(?:\.\d+)?)([kM]?)$")
_FIELDS: dict[str, Callable[[CheckpointRow], str]] = {
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
class Filter:
    """Keeps a row when every term of `text` holds; the empty filter keeps everything."""

    text: str
    tests: tuple[Test, ...]

    def __call__(self, row: CheckpointRow) -> bool:
        return all(test(row) for test in self.tests)


def parse_filter(text: str) -> Filter:
    """The filter that `text` means. Raises UsageError naming the term that cannot be meant.

    Terms are joined by "and"; a leading `-` negates; `field:text` looks for text in a field; `step>=1000`
    compares; a bare word is looked for in the name.
    """
    return Filter(text, tuple(_term(word) for word in text.split()))


def _term(word: str) -> Test:
    if word.startswith("-") and len(word) > 1:
        test = _term(word[1:])
        return lambda row: not test(row)
    number = _NUMBER.match(word)
    if number:
        return _number_test(*number.groups())
    field, colon, wanted = word.partition(":")
    if colon and field in _FIELDS:
        value, needle = _FIELDS[field], wanted.lower()
        return lambda row: needle in value(row).lower()
    if colon and field.isalpha():
        raise UsageError(f"no field {field!r} in filter term {word!r}", f"Fields: {', '.join(_FIELDS)}.")
    if re.match(r"^(step|layers|seed|loglik)[<>=]", word):
        raise UsageError(f"no number in filter term {word!r}", "For example step>=1000.")
    needle = word.lower()
    return lambda row: needle in row.name.lower()


def _number_test(field: str, sign: str, digits: str, unit: str) -> Test:
    bound = float(digits) * {"": 1.0, "k": 1e3, "M": 1e6}[unit]
    compare = _COMPARE[sign]

    def test(row: CheckpointRow) -> bool:
        value = _number_of(row, field)
        return value is not None and bool(compare(value, bound))

    return test


def _number_of(row: CheckpointRow, field: str) -> float | None:
    if field == "step":
        return row.checkpoint.step
    if field == "seed":
        return row.checkpoint.seed
    return row.layers if field == "layers" else row.mean_loglik
