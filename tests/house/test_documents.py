"""What the documents point to is there."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from kltui.command_options import build_parser
from kltui.jobs.jobfile import parse_job

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", ["docs/reliability.md", "docs/gpu.md", "SECURITY.md", "csrc/README.md"])
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    named = set(re.findall(r"`((?:tests|kltui|csrc)/[\w/.]*?)(?:::\w+)?`", text))
    named |= {str(Path(page).parent / link) for link in re.findall(r"\]\(((?!https?:)[\w./]+)\)", text)}
    missing = sorted(path for path in named if not (ROOT / path).exists())
    assert named and missing == []


PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def blocks(kinds: str) -> list[tuple[str, str]]:
    """(page, text) of every fenced block of these languages."""
    fence = re.compile(rf"^```(?:{kinds})\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [(page.name, text) for page in PAGES for text in fence.findall(page.read_text())]


@pytest.mark.parametrize(("page", "text"), blocks("toml"))
def test_every_job_file_that_is_shown_can_be_meant(page: str, text: str) -> None:
    """A block that shows one table is completed; each key is one of the job file's."""
    data = tomllib.loads(text)
    data.setdefault("workspace", "ws")
    data.setdefault("corpus", {"source": "demo"})
    data.setdefault("models", [{"path": "runs/tiny"}])
    assert parse_job(data, page).models


@pytest.mark.parametrize(("page", "text"), blocks("sh|bash|console"))
def test_every_command_that_is_shown_is_understood(page: str, text: str) -> None:
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words[:1] == ["kltui"]:
            parser = build_parser()
            asked = parser.parse_args([word.replace("...", "x") for word in words[1:]])
            assert asked is not None
