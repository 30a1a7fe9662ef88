"""Writes a real workspace of any size: `python big_workspace.py FOLDER CHECKPOINTS TEXTS`."""

from __future__ import annotations

import sys
from pathlib import Path

from kltui.bench.generated import write_workspace as write_workspace

if __name__ == "__main__":
    write_workspace(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
