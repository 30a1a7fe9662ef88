"""The pictures of the README and the documentation were made from the screens as they are."""

from __future__ import annotations

import json
import re
from types import ModuleType

import pytest
from documents import ROOT, program


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return program("make_pictures")


def test_pictures_are_of_todays_screens(script: ModuleType) -> None:
    made, now = json.loads(script.MADE_FROM.read_text(encoding="utf-8")), script.made_from()
    stale = sorted(name for name in now if made.get(name) != now[name])
    assert not stale, f"{', '.join(stale)} changed: kltui --demo && python docs/make_pictures.py"


def test_every_picture_is_shown_and_no_other(script: ModuleType) -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    shown = [
        name for page in pages for name in re.findall(r"pictures/([\w-]+)\.svg", page.read_text("utf-8"))
    ]
    assert sorted(set(shown)) == sorted(script.SCREENS)
    for name in set(shown):
        svg = (script.PICTURES / f"{name}.svg").read_text(encoding="utf-8")
        assert svg.startswith("<svg") and "url(http" not in svg and "&#160;" not in svg
