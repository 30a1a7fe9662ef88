"""What tests and their processes put into the system's temporary folder goes when the run ends."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path


def test_temporary_files_lie_in_the_run_s_own_folder(tmp_path: Path) -> None:
    own = Path(tempfile.gettempdir())
    assert own.parent.name.startswith("kltui-tests-") and own not in tmp_path.parents
    code = "import tempfile; print(tempfile.gettempdir())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(own)
