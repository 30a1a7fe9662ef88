"""View state stored between sessions in one JSON file, which may be missing, damaged or of another program."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

from kltui.atomic_files import replacing
from kltui.sanitize import safe_text
from kltui.version import __version__

VERSION = 1
MAX_WORKSPACES = 50
MAX_LOG = 200_000  # characters of old tracebacks


class Memory:
    """JSON values by workspace, stored in file `path`; with None, nothing is stored."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def load(self, workspace: Path | None) -> dict[str, object]:
        """The stored values of a workspace; {} if there are none."""
        found = self._all().get(_key(workspace))
        return dict(found) if isinstance(found, dict) else {}

    def workspaces(self) -> list[Path]:
        """The workspaces with stored values, the latest first."""
        return [Path(key) for key in reversed(self._all()) if key]

    def save(self, workspace: Path | None, values: dict[str, object]) -> None:
        """Stores the values of a workspace; if the file cannot be written, they are lost without a message."""
        if self._path is None or workspace is None:
            return
        everything = self._all()
        everything.pop(_key(workspace), None)
        kept = dict(list(everything.items())[1 - MAX_WORKSPACES :])
        kept[_key(workspace)] = values
        with suppress(OSError), replacing(self._path) as file:
            file.write(json.dumps({"version": VERSION, "workspaces": kept}).encode())

    def keep_traceback(self, traceback: str) -> Path | None:
        """Appends a bug's traceback to a log next to the file; returns its path, or None if it could not be written."""
        if self._path is None:
            return None
        log = self._path.with_name("interface.log")
        lines = [f"{time.strftime('%Y-%m-%d %H:%M:%S')} kltui {__version__}", *traceback.splitlines(), ""]
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            before = log.read_text(encoding="utf-8") if log.is_file() else ""
            text = before[-MAX_LOG:] + "".join(f"{safe_text(line)}\n" for line in lines)
            log.write_text(text, encoding="utf-8")
        except (OSError, ValueError):
            return None
        return log

    def _all(self) -> dict[str, object]:
        if self._path is None:
            return {}
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(data, dict) or data.get("version") != VERSION:
            return {}
        workspaces = data.get("workspaces")
        return workspaces if isinstance(workspaces, dict) else {}


def _key(workspace: Path | None) -> str:
    return str(workspace.resolve()) if workspace else ""
