"""`kltui --doctor`: checks this installation, this machine and a workspace; the results fit on one screen."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPException
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kltui.environment import KNOWN, SCORING, SCORING_INSTALL, scoring_packages_missing, unknown_variables
from kltui.errors import KltuiError
from kltui.gpus import system_gpus
from kltui.jobs.device_probe import DeviceProbe
from kltui.json_schema import JSON_SCHEMA
from kltui.kernels import native
from kltui.sanitize import safe_text
from kltui.scoring import kernel_choice
from kltui.scoring.device import processor_name
from kltui.store.filesystem import file_system, is_network
from kltui.threads import usable_cores
from kltui.version import __version__

PACKAGES = (
    "torch",
    "transformers",
    "huggingface-hub",
    "numpy",
    "scikit-learn",
    "safetensors",
    "textual",
    "plotext",
)
EXTRAS = {"bitsandbytes": "quant", "accelerate": "large", "ray": "ray", "gguf": "gguf"}
HUB_TIMEOUT_S = 4.0

State = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: its topic, its state, what was found, and what to do about it (or "")."""

    topic: str
    state: State
    found: str
    advice: str = ""


def examine(workspace: Path | None, *, as_json: bool = False) -> int:
    """Prints the findings on stdout; returns 0 if nothing is wrong, else 1."""
    findings = list(look(workspace))
    if as_json:
        print(json.dumps({"schema": JSON_SCHEMA, "findings": [asdict(f) for f in findings]}, indent=2))  # noqa: T201
    else:
        Console(highlight=False).print(_table(findings))
    return int(any(f.state == "wrong" for f in findings))


def look(workspace: Path | None) -> Iterator[Finding]:
    """Runs the checks one by one: versions, native core, devices, the hub, and the workspace if one is named."""
    yield Finding("kltui", "ok", f"{__version__} on Python {platform.python_version()}, {platform.machine()}")
    yield from _packages()
    yield from _environment()
    yield from _core()
    yield from _kernels()
    yield from _devices()
    yield Finding("sqlite", "ok", sqlite3.sqlite_version)
    yield _terminal()
    yield from _keys()
    yield _hub()
    if workspace is not None:
        yield from _workspace(workspace)


def _packages() -> Iterator[Finding]:
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    yield Finding("packages", "ok", ", ".join(found))
    if missing:
        yield _missing(missing)
    absent = [name for name in EXTRAS if not _installed(name)]
    if absent:
        extras = ",".join(dict.fromkeys(EXTRAS[name] for name in absent))
        yield Finding(
            "extras",
            "note",
            f"not installed: {', '.join(absent)}",
            f"For quantised variants, GGUF files, models larger than one GPU, or Ray: pip install '.[{extras}]' in kltui's folder",
        )


def _missing(names: Sequence[str]) -> Finding:
    """The finding for missing packages: a note if only scoring needs them, because workspaces can still be read."""
    said = f"missing: {', '.join(names)}"
    if set(names) <= set(SCORING) and scoring_packages_missing():
        return Finding("packages", "note", f"reading only; {said}", SCORING_INSTALL)
    return Finding("packages", "wrong", said, "Install kltui again with pip.")


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _environment() -> Iterator[Finding]:
    if unknown := unknown_variables():
        advice = f"kltui reads {', '.join(KNOWN)}."
        yield Finding("environment", "note", f"unknown variables: {', '.join(unknown)}", advice)


def _keys() -> Iterator[Finding]:
    from kltui.tui.actions import ACTIONS
    from kltui.tui.keymap import keys_path, load_keymap

    path = keys_path()
    names = ", ".join(a.name for a in ACTIONS)
    found = load_keymap(path).problems
    for n, problem in enumerate(found, 1):
        advice = f"Names of actions: {names}." if n == len(found) else ""
        yield Finding("keys.json", "wrong", f"{path}: {problem}", advice)
    if not found and path.is_file():
        yield Finding("keys.json", "ok", f"{path} in order. Names of actions: {names}")
    elif not found:
        yield Finding("keys.json", "ok", f"none at {path}: default keys are used")


def _core() -> Iterator[Finding]:
    info = native.info()
    described = ", ".join(_reported(name, value) for name, value in info.items() if name != "extension")
    if info.get("extension"):
        yield Finding("native core", "ok", described)
    else:
        yield Finding(
            "native core", "note" if scoring_packages_missing() else "wrong",
            "the compiled part is missing; numpy is used instead, many times slower",
            "Install with a C++17 compiler, without KLTUI_NATIVE=OFF: pip install --force-reinstall . in kltui's folder",
        )  # fmt: skip


def _kernels() -> Iterator[Finding]:
    """The kernels that were fastest on this processor, and the file that records it; no finding if none was timed yet."""
    path = kernel_choice.user_folder() / kernel_choice.FILE_NAME
    stored = [
        choices
        for machine, choices in kernel_choice.read(path).items()
        if machine.startswith(f"{processor_name()};")
    ]
    counts = Counter((what.partition(" ")[0], c.taken) for one in stored for what, c in one.items())
    if not counts:
        return
    summary = ", ".join(
        f"{what} {taken} ({n} shape{'s' * (n > 1)})" for (what, taken), n in sorted(counts.items())
    )
    yield Finding(
        "kernels", "ok", safe_text(f"fastest here: {summary}; stored in {path}", 400),
        "A workspace stores its own copy, so that a resumed job gives the same bits.",
    )  # fmt: skip


def _reported(name: str, value: object) -> str:
    words = "yes" if value is True else "no" if value is False else value
    return f"{name.replace('_', ' ')} {' '.join(value) if isinstance(value, list) else words}"


def _devices() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    usable = usable_cores({})
    quota = f", of which this process's CPU quota allows {usable}" if cores and usable < cores else ""
    yield Finding("cores", "ok", f"{cores}{quota}")
    yield _gpus()
    yield from _torch_device()


def _gpus() -> Finding:
    """The GPUs that the system reports, and how many of them the core's kernels can use."""
    system, info = system_gpus(), native.info()
    found = f"{system} (by {system.seen_by})" if system else "none found by the system"
    built = info.get("cuda_extension")
    kernels = f"{info.get('cuda_devices', 0)} for the core's kernels" if built else "core built without CUDA"
    if system and not built:
        return Finding("GPUs", "note", f"{found}; {kernels}", "Scoring on them still works, with torch.")
    return Finding("GPUs", "ok", f"{found}; {kernels}")


def _torch_device() -> Iterator[Finding]:
    """The device that `device = "auto"` selects, determined with torch in a separate process."""
    if missing := scoring_packages_missing():
        yield Finding("device", "note", f"reading only: scoring needs {' and '.join(missing)}")
        return
    answer = DeviceProbe("auto").answer()
    if answer.device is None:
        yield Finding("device", "wrong", safe_text(answer.error, 300), safe_text(answer.hint, 300))
        return
    yield Finding("device", "ok", safe_text(f"auto is {answer.device}", 300))
    if answer.device.warning:
        yield Finding(
            "device", "note", safe_text(answer.device.warning, 400), safe_text(answer.device.hint, 300)
        )


def _terminal() -> Finding:
    size = shutil.get_terminal_size()
    found = f"{os.environ.get('TERM', 'no TERM')}, {size.columns}x{size.lines}, {sys.stdout.encoding}"
    if "utf" not in (sys.stdout.encoding or "").lower():
        return Finding("terminal", "note", found, "Without UTF-8, use kltui --ascii.")
    return Finding("terminal", "ok", found)


def _hub() -> Finding:
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return Finding(
            "hub", "note", "offline mode is on (HF_HUB_OFFLINE)", "Only cached revisions can be scored."
        )
    try:
        with urllib.request.urlopen(f"{endpoint}/api/models?limit=1", timeout=HUB_TIMEOUT_S):
            return Finding("hub", "ok", safe_text(endpoint))
    except (OSError, ValueError, HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        reason = getattr(error, "reason", error)
        reason = getattr(reason, "strerror", None) or reason
        return Finding(
            "hub", "note", f"{safe_text(endpoint)} cannot be reached: {safe_text(str(reason), 120)}",
            "Local folders can still be scored.",
        )  # fmt: skip


def _workspace(folder: Path) -> Iterator[Finding]:
    from kltui.store import Store

    kind = file_system(folder)
    note = "its journal mode is DELETE: readers wait while a vector is written" if is_network(kind) else ""
    yield Finding("file system", "note" if note else "ok", safe_text(kind or "unknown"), note)
    try:
        store = Store.read(folder)
    except KltuiError as error:
        yield Finding("workspace", "wrong", safe_text(error.message), safe_text(error.hint))
        return
    try:
        yield from _health(store.db)
        writer = store.writer()
        if writer is not None:
            state = "alive" if writer.alive else "ended: its lock will be taken over"
            yield Finding("writer", "ok", f"process {writer.pid} on {safe_text(writer.host)}, {state}")
        scored = sum(row.scored for row in store.checkpoints.all())
        over = len(store.corpora.all())
        yield Finding("scored", "ok", f"{scored} checkpoints, {over} {'corpus' if over == 1 else 'corpora'}")
    except KltuiError as error:
        yield Finding("workspace", "wrong", safe_text(error.message), safe_text(error.hint))
    finally:
        store.close()
    if not os.access(folder, os.W_OK):
        yield Finding(
            "workspace",
            "note",
            "read-only for you",
            "Open it with --read-only; jobs cannot write to it.",
        )
    free = shutil.disk_usage(folder).free
    yield Finding(
        "disk",
        "ok" if free > 1 << 30 else "wrong",
        f"{free / (1 << 30):.1f} GiB free",
        "" if free > 1 << 30 else "Free some space.",
    )


def _health(db: sqlite3.Connection) -> Iterator[Finding]:
    try:
        problems = [row[0] for row in db.execute("PRAGMA quick_check(5)") if row[0] != "ok"]
    except KltuiError as error:
        problems = [error.message]
    if problems:
        yield Finding(
            "store", "wrong", safe_text("; ".join(problems), 300), "Restore kltui.sqlite from a copy."
        )
    else:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (journal,) = db.execute("PRAGMA journal_mode").fetchone()
        yield Finding("store", "ok", f"sound, schema {version}, journal {journal}")


def _table(findings: list[Finding]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    styles = {"ok": "green", "note": "yellow", "wrong": "bold red"}
    for f in findings:
        table.add_row(
            Text(f.state, styles[f.state]),
            Text(f.topic),
            Text(f.found + (f"\n{f.advice}" if f.advice else "")),
        )
    return table
