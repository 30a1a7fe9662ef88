"""What the documents show: their pages, fenced blocks and commands."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^( *)```(.*?)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, text) of every fenced block of a language."""
    found = [(page.name, kind, text) for page in PAGES for _, kind, text in FENCE.findall(page.read_text())]
    return [(name, text) for name, kind, text in found if kind == language]


def commands() -> list[tuple[str, str]]:
    """(page, command) of every kltui command that a page shows, in a block or in a sentence, each once a page."""
    found = []
    for page in PAGES:
        text = page.read_text()
        lines = [
            line for _, kind, block in FENCE.findall(text) if kind == "sh" for line in block.splitlines()
        ]
        lines += re.findall(r"(?<!`)`(kltui [^`]*)`(?!`)", FENCE.sub("", text))
        for line in lines:
            for command in re.split(r"&&| \| ", line):
                if command.split()[:1] == ["kltui"]:
                    found.append((page.name, command.strip()))
    return list(dict.fromkeys(found))


def program(name: str) -> ModuleType:
    """A program of docs/ as a module, not run."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words_of(command: str) -> list[str]:
    """What stands behind `kltui`."""
    return [word.replace("...", "x") for word in shlex.split(command, comments=True)[1:]]
