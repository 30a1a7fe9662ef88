"""Styles of the interface's apps, apart from conftest.py: tests that run no app are no slower for it, and marked so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from textual.css.stylesheet import Stylesheet


def parsing_once() -> Callable[..., Any]:
    """What may stand for `Stylesheet._parse_rules`: every app has the same styles, which are parsed for the first one alone."""
    parse, known = Stylesheet._parse_rules, {}

    def parsed(sheet: Stylesheet, *given: Any, **named: Any) -> Any:
        key = (given, *sorted(named.items()), *sorted(sheet._variables.items()))
        if key not in known:
            known[key] = parse(sheet, *given, **named)
        return known[key]

    return parsed


@pytest.fixture(scope="session", autouse=True)
def one_reading_of_styles() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stylesheet, "_parse_rules", parsing_once())
        yield
