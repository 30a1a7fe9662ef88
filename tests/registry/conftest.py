"""Makes `model_folders` and `hub_server` importable from these tests, however pytest was started."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
