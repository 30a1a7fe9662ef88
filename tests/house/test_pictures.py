"""The README's pictures were made from the screens as they are."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_pictures", ROOT / "docs" / "make_pictures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pictures_are_of_todays_screens(script: ModuleType) -> None:
    made, now = json.loads(script.MADE_FROM.read_text(encoding="utf-8")), script.made_from()
    stale = sorted(name for name in now if made.get(name) != now[name])
    assert not stale, f"{', '.join(stale)} changed: kltui --demo && python docs/make_pictures.py"


def test_the_readme_shows_every_picture_and_no_other(script: ModuleType) -> None:
    shown = re.findall(r"docs/pictures/([\w-]+)\.svg", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert sorted(set(shown)) == sorted(script.SCREENS)
    for name in shown:
        svg = (script.PICTURES / f"{name}.svg").read_text(encoding="utf-8")
        assert svg.startswith("<svg") and "url(http" not in svg and "&#160;" not in svg
