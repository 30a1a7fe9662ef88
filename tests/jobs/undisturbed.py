"""What a whole run of the tiny suite's job left behind, for tests that disturb theirs."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Undisturbed:
    """A whole run of the job by one worker, made once: its process, and the workspace that it left."""

    process: subprocess.CompletedProcess[str]
    workspace: Path

    def copy_to(self, folder: Path) -> None:
        """The same workspace in another folder, to be changed there."""
        shutil.copytree(self.workspace, folder)
