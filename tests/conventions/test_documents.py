"""What the documents show works, what they point to is there, and pages made from the program are of today."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from argparse import ArgumentParser
from pathlib import Path
from types import ModuleType

import pytest
from documents import FENCE, PAGES, ROOT, blocks, commands, program, words_of

import kltui
from kltui.command_options import build_parser
from kltui.errors import KltuiError
from kltui.jobs.jobfile import parse_job
from kltui.option_use import check_options

LANGUAGES = {"toml", "sh", "python", "json", "text"}
LINK = re.compile(r"(?<=\]\()(?!https?:)([^)\s]+)(?=\))")


def test_every_file_that_a_page_names_is_there() -> None:
    """Files and folders of the repository, those below kltui/ with or without that name."""
    missing = []
    for page in [*PAGES, ROOT / "csrc" / "README.md"]:
        text = FENCE.sub("", page.read_text())
        named = set(re.findall(r"`((?:tests|kltui|csrc|docs)/[\w/.]*?(?:/|\.\w+))(?:::[\w.]+)?`", text))
        named |= set(re.findall(r"`(\w+/[\w/]+\.(?:py|cpp|hpp|cu|sh))`", text))
        near = (ROOT, ROOT / "kltui", page.parent)
        missing += [
            (page.name, path) for path in named if not any((folder / path).exists() for folder in near)
        ]
    assert sorted(missing) == []


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as mkdocs and forges make them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"\s", "-", heading) for heading in plain} | {
        re.sub(r"[\s-]+", "-", heading) for heading in plain
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{link}: there is no such file"
        assert not anchor or anchor in slugs(target), f"{link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    """A block without a language would be looked at by none of these tests."""
    assert {kind for _, kind, _ in FENCE.findall(page.read_text())} <= LANGUAGES


@pytest.mark.parametrize(("page", "text"), blocks("toml"))
def test_every_job_file_that_is_shown_can_be_meant(page: str, text: str) -> None:
    """A block that shows some tables is completed; each key is one of the job file's."""
    data = tomllib.loads(text)
    data.setdefault("workspace", "ws")
    data.setdefault("corpus", {"source": "demo"})
    data.setdefault("models", [{"path": "runs/tiny"}])
    assert parse_job(data, page).models


def test_every_command_that_is_shown_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    parser = build_parser()
    for page, command in commands():
        try:
            understand(parser, words_of(command))
        except (KltuiError, SystemExit) as error:
            pytest.fail(f"{page}: {command}: {error} {capsys.readouterr().err}")


def understand(parser: ArgumentParser, words: list[str]) -> None:
    """Raises SystemExit or KltuiError for words that are no command line."""
    if len(words) == 1 and words[0].startswith("--"):  # an option by its name, its value left out
        assert words[0] in parser._option_string_actions
        return
    try:
        asked = parser.parse_args(words)
    except SystemExit as ended:
        if ended.code != 0:
            raise
        return  # --help and --version
    check_options(parser, asked)


@pytest.mark.parametrize(("page", "text"), blocks("python"))
def test_every_python_example_compiles(page: str, text: str) -> None:
    compile(text, page, "exec")


@pytest.mark.parametrize(("page", "text"), blocks("json"))
def test_every_json_example_is_json(page: str, text: str) -> None:
    assert json.loads(text)


@pytest.fixture(scope="module")
def make_pages() -> ModuleType:
    return program("make_pages")


@pytest.mark.parametrize("name", ["job-file.md", "commands.md", "keys.md", "kltui.1"])
def test_pages_made_from_the_program_are_of_today(make_pages: ModuleType, name: str) -> None:
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert page == make_pages.PAGES[name](), "python docs/make_pages.py writes them anew"


def test_the_man_page_has_every_option_and_the_exit_codes() -> None:
    page = (ROOT / "docs" / "kltui.1").read_text(encoding="utf-8").replace("\\-", "-")
    for action in build_parser()._actions:
        for option in action.option_strings:
            assert f"\\fB{option}\\fR" in page, option
    for section in ("EXAMPLES", "JOB FILE", "ENVIRONMENT", "EXIT STATUS"):
        assert f".SH {section}\n.nf\n" in page


def test_every_key_of_a_job_file_is_described(make_pages: ModuleType) -> None:
    assert "None" not in make_pages.job_page()


def test_the_newest_version_is_the_same_everywhere() -> None:
    (newest, *_) = re.findall(
        r"^## (\S+) \(\d{4}-\d\d-\d\d\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    (cited,) = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    installed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert newest == cited == installed == kltui.__version__


def test_the_readme_is_short_and_its_two_commands_stand_in_it() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert "pip install . && kltui --demo" in lines
    assert "pip install '.[test]' && pytest -n auto --dist loadfile" in lines


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_packages_are_installed_from_here(page: Path) -> None:
    """kltui is no name on PyPI: an extra is installed from the sources."""
    text = page.read_text()
    assert not re.search(r"pip install [^`\n]*\bkltui\[", text)
    named = {name for names in re.findall(r"'\.\[([\w,]+)\]'", text) for name in names.split(",")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert named <= project["optional-dependencies"].keys()


def test_every_message_in_a_heading_is_one_of_the_program() -> None:
    """Its parts between dots and numbers, N, stand in strings of the program."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    headings = re.findall(r'^## "(.*)"$', page, re.MULTILINE)
    trees = [ast.parse(path.read_text()) for path in (ROOT / "kltui").rglob("*.py")]
    strings = [
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    parts = [part.strip() for heading in headings for part in re.split(r"\.\.\.|N vectors", heading)]
    assert len(headings) > 3
    assert [part for part in parts if not any(part in string for string in strings)] == []


def test_every_step_of_the_architecture_is_there() -> None:
    """`path::name` in the page names a function or class of that file, `Class.method` one of a class."""
    steps = re.findall(
        r"`((?:kltui|csrc)/[\w/.]+)::([\w.]+)`", (ROOT / "docs" / "architecture.md").read_text()
    )
    missing = [f"{path}::{name}" for path, name in steps if not _defines(ROOT / path, name)]
    assert len(steps) > 30 and missing == []


def _defines(path: Path, name: str) -> bool:
    text = path.read_text() if path.is_file() else ""
    if path.suffix != ".py":
        return bool(re.search(rf"\b{name}\(", text))
    body: list[ast.stmt] = ast.parse(text).body
    for part in name.split("."):
        found = [node for node in body if part in _names(node)]
        if not found:
            return False
        body = getattr(found[0], "body", [])
    return True


def _names(node: ast.stmt) -> set[str]:
    """What a statement defines: a function, a class or variables."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}
