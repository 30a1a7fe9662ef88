"""Textual's private names: in one file of the interface, and each of them still there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import textual
from textual._compositor import Compositor
from textual._xterm_parser import XTermParser
from textual.app import App
from textual.driver import Driver
from textual.drivers.linux_driver import LinuxDriver
from textual.message_pump import MessagePump
from textual.screen import Screen
from textual.widget import Widget

import kltui.tui
from kltui.tui.terminal import textual_private

FOLDER = Path(kltui.tui.__file__).parent
THE_FILE = Path(textual_private.__file__)
OTHERS = [path for path in sorted(FOLDER.rglob("*.py")) if path != THE_FILE]
USED: dict[str, type] = {
    "_display": App,
    "_driver": App,
    "_running": App,
    "_closed": App,
    "_batch_count": App,
    "_sync_available": App,
    "_handle_exception": App,
    "_set_pointer_shape": App,
    "_fatal_error": App,
    "_close_messages_no_wait": App,
    "_exit": App,
    "_close_all": App,
    "_disable_tooltips": App,
    "_disable_notifications": App,
    "_compositor": Screen,
    "_on_screen_resume": Screen,
    "_on_resize": Screen,
    "_nodes": Widget,
    "_compositor_refresh": Screen,
    "_render_chops": Compositor,
    "_dirty_regions": Compositor,
    "_sequence_to_key_events": XTermParser,
    "_app": Driver,
    "_loop": Driver,
    "_debug": Driver,
    "_auto_restart": Driver,
    "_file": LinuxDriver,
    "_get_terminal_size": LinuxDriver,
    "_must_signal_resume": LinuxDriver,
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@cache
def set_in(module: str) -> frozenset[str]:
    """Private names that the methods of a module's classes set or ask for."""
    source = Path(str(import_module(module).__file__)).read_text(encoding="utf-8")
    return frozenset(re.findall(r"self\.(_[a-z]\w*)", source))


@cache
def private_names(cls: type) -> frozenset[str]:
    """Private names of a class and its bases, as far as they are Textual's."""
    bases = [base for base in cls.__mro__ if base.__module__.startswith("textual")]
    named = {name for base in bases for name in vars(base) if is_private(name)}
    return frozenset(named).union(*(set_in(base.__module__) for base in bases))


@cache
def private_of_textual() -> frozenset[str]:
    classes = (App, Widget, Screen, LinuxDriver, XTermParser, Compositor)
    return frozenset().union(*map(private_names, classes))


def uses_in(path: Path) -> Iterator[str]:
    """Every use in a file of a name that Textual keeps to itself."""
    module = ".".join(("kltui.tui", *path.relative_to(FOLDER).with_suffix("").parts))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("textual"):
            names = [*str(node.module).split("."), *(alias.name for alias in node.names)]
            yield from (f"line {node.lineno}: {name}" for name in names if is_private(name))
        elif isinstance(node, ast.Attribute) and node.attr in private_of_textual():
            of = node.value.id if isinstance(node.value, ast.Name) else ""
            if of not in ("self", "os"):
                yield f"line {node.lineno}: {ast.unparse(node)}"
    for cls in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        made = getattr(import_module(module), cls.name)
        if not issubclass(made, (MessagePump, Driver, XTermParser)):
            continue
        for node in ast.walk(cls):
            name = getattr(node, "attr", "") or getattr(node, "name", "") or ""
            if isinstance(
                node, ast.Attribute | ast.FunctionDef | ast.AsyncFunctionDef
            ) and name in private_names(made):
                yield f"line {node.lineno}: {name} in {cls.name}"


def test_no_other_file_names_what_textual_keeps_to_itself() -> None:
    assert {str(path.relative_to(FOLDER)): found for path in OTHERS if (found := list(uses_in(path)))} == {}


@pytest.mark.parametrize("name", USED)
def test_textual_still_has_the_name(name: str) -> None:
    owner = USED[name]
    assert name in private_names(owner), (
        f"Textual {textual.__version__} has no {owner.__name__}.{name} any more, which"
        f" {THE_FILE.relative_to(FOLDER.parent.parent)} uses"
    )


def test_every_name_that_the_file_uses_is_looked_up() -> None:
    tree = ast.parse(THE_FILE.read_text(encoding="utf-8"))
    own = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    methods = {n.name for c in tree.body if isinstance(c, ast.ClassDef) for n in c.body if hasattr(n, "name")}
    assert {name for name in (used | methods) - own if is_private(name)} == USED.keys()
