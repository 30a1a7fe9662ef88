"""Makes `tiny_models` importable from these tests, however pytest was started, and torch on one thread: the models are tiny."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
