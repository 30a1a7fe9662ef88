"""What the fixture `run` gives."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Run(NamedTuple):
    """A folder of checkpoints step0, step1, step2, their texts, and the workspace that a batch made of both."""

    folder: Path
    texts: list[str]
    workspace: Path
