"""On the path of a test's subprocesses: the light scorer and torch in place of the real ones, kltui's core hidden if asked.

Python imports a module of this name at start; nothing in kltui knows of it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType


class Finder:
    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "kltui.scoring.scorer" and "KLTUI_LIGHT" in os.environ:
            return importlib.util.spec_from_file_location(name, Path(__file__).with_name("light_scorer.py"))
        if name == "kltui.scoring.ahead" and "KLTUI_LIGHT" in os.environ:
            return importlib.util.spec_from_file_location(name, Path(__file__).with_name("light_ahead.py"))
        if name == "torch" and "KLTUI_LIGHT" in os.environ:
            return importlib.util.spec_from_file_location(name, Path(__file__).with_name("light_torch.py"))
        if name == "kltui.kernels._core" and "KLTUI_NO_CORE" in os.environ:
            raise ModuleNotFoundError("hidden by a test", name=name)
        return None


sys.meta_path.insert(0, Finder)  # type: ignore[arg-type]
if "KLTUI_TEST_WARM" in os.environ:
    import hand_over

    hand_over.where_asked()
