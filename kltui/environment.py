"""kltui's own environment variables, checked before anything else is done, and whether this installation can score."""

from __future__ import annotations

import difflib
import io
import os
import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from kltui.errors import KltuiError, UsageError
from kltui.sanitize import safe_text

KNOWN = {
    "KLTUI_ISA": "the instruction set of the compiled core",
    "KLTUI_NATIVE": "OFF leaves the core out when kltui is installed",
    "KLTUI_LOG": "the log file of a job that runs in the background",
}
SCORING = (
    "torch",
    "transformers",
    "safetensors",
    "huggingface-hub",
)  # packages that reading a workspace can do without
SCORING_INSTALL = "pip install . in kltui's folder installs what scoring needs (docs/reading-only.md)."


def scoring_packages_missing() -> list[str]:
    """Those of torch and transformers that are not installed; if one is missing, kltui can read workspaces but not score."""
    return [name for name in ("torch", "transformers") if find_spec(name) is None]


def check_scoring() -> None:
    """Raises KltuiError that says what to install, if this installation cannot score."""
    if missing := scoring_packages_missing():
        raise KltuiError(f"scoring needs {' and '.join(missing)}, not installed here", SCORING_INSTALL)


def prepare_output() -> None:
    """Prepares stdout and stderr for any text: a closed stream is replaced by a null device, and characters that cannot be encoded by \\x escapes.

    Also removes COLUMNS and LINES from the environment if they are not small numbers.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open to the end
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    for name in ("COLUMNS", "LINES"):
        # rich and Textual would read any value as a number, of any size.
        if not re.fullmatch(r"[0-9]{0,4}", os.environ.get(name, "")):
            del os.environ[name]


def check_environment(environment: Mapping[str, str] = os.environ) -> None:
    """Raises UsageError for an invalid value of a variable of kltui; the hint lists the valid ones."""
    _check_isa(environment.get("KLTUI_ISA", ""))
    if not environment.get("KLTUI_LOG", "set"):
        raise UsageError("KLTUI_LOG is empty", "Unset it: kltui sets it for jobs that it starts itself.")


def _check_isa(asked: str) -> None:
    if not asked:
        return
    from kltui.kernels import native

    allowed = native.instruction_sets()
    if allowed and asked not in allowed:
        raise UsageError(
            f"KLTUI_ISA={safe_text(asked, 80)} is not an instruction set of this processor and build",
            f"Unset it to use the fastest, or choose one of: {', '.join(allowed)}.",
        )


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """For every KLTUI_ variable that kltui does not know: its name, and a similar known one if there is one."""
    return [_described(n) for n in sorted(environment) if n.startswith("KLTUI_") and n not in KNOWN]


def _described(name: str) -> str:
    close = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.75)
    return safe_text(name, 80) + (f" (did you mean {close[0]}?)" if close else "")
