"""What kltui's code must not have: circles of imports, private names of Textual here and there, one name for two classes."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # metrics

import metrics
import pytest

pytestmark = pytest.mark.slow  # every file of kltui is parsed


def test_no_import_comes_back_to_where_it_began() -> None:
    assert metrics.circles(metrics.module_graph()) == []


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"f"}}
    assert metrics.circles(graph) == [["a", "b", "c"]]


def test_one_name_is_one_class() -> None:
    assert metrics.duplicate_classes() == {}


def test_private_names_of_textual_are_in_one_file() -> None:
    assert metrics.private_textual_imports() == []
    assert metrics.PRIVATE_FILE in metrics.trees()


def test_functions_are_short_annotated_and_counted() -> None:
    assert max(map(metrics.lines, metrics.functions())) <= 60
    assert all(map(metrics.annotated, metrics.functions()))
    assert dict(metrics.table())["import circles"] == "0"
