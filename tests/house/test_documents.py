"""What the documents point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", ["docs/reliability.md", "SECURITY.md", "csrc/README.md"])
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    named = set(re.findall(r"`((?:tests|kltui|csrc)/[\w/.]*?)(?:::\w+)?`", text))
    named |= {str(Path(page).parent / link) for link in re.findall(r"\]\(((?!https?:)[\w./]+)\)", text)}
    missing = sorted(path for path in named if not (ROOT / path).exists())
    assert named and missing == []
