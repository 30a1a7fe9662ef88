"""Silences log messages and warnings of libraries, because kltui reports problems itself."""

from __future__ import annotations

import os
import sys
import warnings
from logging import ERROR, getLogger
from typing import Any

LIBRARIES = ("transformers", "peft", "accelerate", "huggingface_hub", "bitsandbytes", "torchao")
ADVICE = (FutureWarning, DeprecationWarning, PendingDeprecationWarning, UserWarning)


def silence_libraries() -> None:
    """Makes libraries in this process log only errors, without their advice to programmers.

    Problems with a model raise exceptions or are checked by kltui itself. This does not import torch.
    """
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # it sets its own logger's level when it is imported
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
    for name in LIBRARIES:
        getLogger(name).setLevel(ERROR)
    if "transformers" in sys.modules:  # the process was forked from one that had it
        import transformers

        logging: Any = transformers.utils.logging
        logging.set_verbosity_error()
    for kind in ADVICE:
        warnings.simplefilter("ignore", kind)
