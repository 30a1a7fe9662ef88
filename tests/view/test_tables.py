"""Numbers as words: digits, errors, undefined values."""

from __future__ import annotations

import doctest
import io
import math

import pytest
from rich.console import Console

import kltui.view.tables as tables
from kltui.analysis import loss as loss_module
from kltui.view.tables import count, figure, spread, table, with_error, words


def test_the_examples_of_the_docstrings_hold() -> None:
    for module in (tables, loss_module):
        result = doctest.testmod(module)
        assert result.attempted and not result.failed


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (1.0, "1.00"),
        (-0.5, "-0.500"),
        (123456.0, "123456"),
        (1.5e9, "1.5e+09"),
        (9e-5, "9.00e-05"),
        (math.inf, "inf"),
        (math.nan, "undefined"),
    ],
)
def test_figures(value: float, expected: str) -> None:
    assert figure(value) == expected


def test_errors_set_the_digits() -> None:
    assert with_error(0.5, 0.1) == "0.50 ± 0.10"
    assert with_error(123.456, 12.3) == "123 ± 12"
    assert with_error(3e-7, 2.1e-8) == "3.00e-07 ± 2.1e-08"
    assert with_error(0.5, 0.0996) == "0.50 ± 0.10"
    assert with_error(2.5e6, 1.2e3) == "2.5000e+06 ± 1.2e+03"
    assert with_error(0.5, 0.0) == "0.500"
    assert spread(math.nan, 0, 1) == "undefined"
    assert count(1, "vertex", "vertices") == "1 vertex"


def test_nothing_in_a_table_is_markup_or_a_control() -> None:
    console = Console(width=60, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    with console.file:
        console.print(table(["[red]run", "x"], [["[bold]a\x1b[2J\n", "[/]"]]))
        console.print(words("[link=x]b"))
        shown = console.export_text()
    assert "[red]run" in shown and "[bold]a" in shown and "[link=x]b" in shown and "\x1b" not in shown


def test_names_are_cut_where_they_do_not_differ_and_words_at_their_end() -> None:
    out = io.StringIO()
    names = ["small-seed1-finetuned@40", "small-seed1-lora@40", "a sentence of several words"]
    Console(width=28, file=out).print(table(["model", "n"], [[n, "123456789012"] for n in names]))
    shown = [row.split("  ")[0].rstrip() for row in out.getvalue().splitlines()[2:]]
    assert shown == ["small-…uned@40", "small-…lora@40", "a sentence of…"]


@pytest.mark.parametrize("width", [80, 120])
def test_names_give_way_and_numbers_stay_whole(width: int) -> None:
    out = io.StringIO()
    rows = [["very-long-run-name" * 4, "other" * 20, "0.1234 ± 0.0056", "1234567"] for _ in range(3)]
    Console(width=width, file=out).print(table(["a", "b", "KL ± se", "n"], rows, left=(0, 1)))
    lines = out.getvalue().rstrip("\n").split("\n")
    assert len(lines) == 5 and all(len(row.rstrip()) <= width for row in lines)
    assert all("0.1234 ± 0.0056" in row and "1234567" in row and "…" in row for row in lines[2:])


@pytest.mark.parametrize(("width", "gap"), [(60, 3), (48, 2)])
def test_columns_come_closer_before_a_name_is_cut(width: int, gap: int) -> None:
    rows = [["later pretraining", "0.0472", "0.133", "within"], ["size", "2.34e-05", "2.63e-05", "none here"]]
    made = table(["setting", "least", "median", "this KL"], rows)
    console = Console(file=io.StringIO(), width=width, legacy_windows=False)
    console.print(made)
    said = console.file.getvalue()
    assert "later pretraining" in said and f"2.34e-05{' ' * gap}2.63e-05" in said
    assert max(len(line.rstrip()) for line in said.splitlines()) <= width
