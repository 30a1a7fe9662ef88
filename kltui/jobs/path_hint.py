"""What to do with a path that does not fit its place, such as a workspace where a job file is needed."""

from __future__ import annotations

import difflib
import json
import re
import shlex
import tomllib
from itertools import islice
from pathlib import Path

from kltui.corpus.rows import READERS, kind_of
from kltui.corpus.sources import HUB, IN_FOLDERS, TEXT
from kltui.errors import KltuiError, NoWorkspaceError
from kltui.registry.discover import discover_runs
from kltui.registry.gguf_entry import names_ggufs
from kltui.registry.gguf_file import is_gguf
from kltui.registry.layout import CONFIG
from kltui.registry.names import hub_name
from kltui.registry.presets import PRESETS
from kltui.sanitize import expanded, safe_text
from kltui.store.file_name import FILE_NAME

_LOOKED_AT = 2000  # files of a folder whose names are compared
SHOWN_BY = "kltui --batch --help shows a job file."
_YAML = re.compile(r"\s*(#.*\n\s*|---\s*\n\s*)*[\w-]+:(\s|$)")
_JSON = re.compile(r"\s*(\{|\[\s*[{\"])")


def path_hint(named: str) -> str:
    """What is at the path `named`, and the commands that take it; "" if there is nothing to say about it."""
    try:
        return _hint(named)
    except (OSError, ValueError):
        return ""


def no_workspace(named: str, default: NoWorkspaceError, *, python: bool = False) -> NoWorkspaceError:
    """The error for a path that is no workspace: what it is, and what to do, with `python` also what to call there.

    Message and hint are those of `default` where nothing else is known.
    """
    path = expanded(named)
    if "://" in named:
        message = f"{safe_text(named, 200)} is an address, not a workspace"
        return NoWorkspaceError(message, path_hint(named) or default.hint)
    try:
        message = default.message + _kind(path)
        said = [_called(path) if python else "", path_hint(named), _containing(path, python)]
    except (OSError, ValueError):
        return default
    return NoWorkspaceError(message, " ".join(filter(None, said)) or default.hint)


def _kind(path: Path) -> str:
    """What is at a path without a workspace, in words that follow its name; "" for a folder that is not empty."""
    if path.is_dir():
        return "" if any(path.iterdir()) else ", which is an empty folder"
    if path.is_symlink() and not path.exists():
        return ", which is a link that leads nowhere"
    return ", which is a file" if path.exists() else ", which does not exist"


def _called(path: Path) -> str:
    """What to call in Python: with the workspace of a job file or of a file in it, or with a model's folder or file."""
    nearby = path.parent if path.name.startswith(FILE_NAME) else None
    if path.suffix == ".toml" and path.is_file():
        nearby = _results_of(path)
    if nearby is not None:
        return f"kltui.open({safe_text(repr(str(nearby)), 200)}) opens its workspace."
    if (path / CONFIG).is_file() or (path.is_file() and is_gguf(path)):
        return f"kltui.score({safe_text(repr(str(path)), 200)}, texts) scores this model alone, without a workspace."
    return ""


def _containing(path: Path, python: bool) -> str:
    """The workspace that contains a file or folder, and how it is opened; "" if there is none."""
    around = None if path.name.startswith(FILE_NAME) else _around(path)
    if around is None:
        return ""
    shown = safe_text(repr(str(around)) if python else shlex.quote(str(around)), 200)
    return f"The workspace around it is opened by {f'kltui.open({shown})' if python else f'kltui {shown}'}."


def _around(path: Path) -> Path | None:
    """The workspace that contains the existing `path`, at most three levels up."""
    if not path.exists():
        return None
    return next((p for p in islice(path.absolute().parents, 3) if is_workspace(p)), None)


def is_workspace(path: Path) -> bool:
    """Whether the folder `path` has a workspace; False if it cannot be known."""
    try:
        return (path / FILE_NAME).is_file()
    except (OSError, ValueError):
        return False


def other_format(path: Path, text: str) -> str:
    """`YAML`, `JSON` or `texts` if a file that is not TOML is probably one of these; otherwise ""."""
    kind = kind_of(path)
    if kind in (TEXT, *READERS) and kind != ".json":
        return "texts"
    if kind == ".json" or _JSON.match(text):
        return "JSON"
    return "YAML" if kind in (".yaml", ".yml") or _YAML.match(text) else ""


def _hint(named: str) -> str:
    if repo := hub_name(named):
        return hub_hint(repo)
    if named.startswith(HUB):
        return f"Texts on the hub are named in a job file: source = {safe_text(json.dumps(named), 200)} under [corpus]. {SHOWN_BY}"
    path = expanded(named)
    shown = safe_text(shlex.quote(named), 200)
    if (path / FILE_NAME).is_file():
        return " ".join(
            [
                f"{shown} is a workspace: kltui {shown} opens it, kltui --report {shown} prints its results.",
                *_jobs_in(path),
            ]
        )
    if path.is_dir():
        return _folder(path, shown)
    if path.is_file():
        return _file(path, shown)
    return _missing(named, path)


def hub_hint(repo: str) -> str:
    """How a repository OWNER/NAME[@REVISION] of the hub is scored."""
    name, _, revision = repo.partition("@")
    keys = f'repo = "{name}"' + (f', revisions = ["{revision}"]' if revision else "")
    return (
        f"A model on the hub is scored by a job file with {keys} under [[models]] ({SHOWN_BY.removesuffix('.')}), or"
        f" added to a map that you have by kltui --place {repo} WORKSPACE."
    )


def _jobs_in(folder: Path) -> list[str]:
    jobs = [
        p for place in (folder, folder / "jobs") for p in sorted(islice(place.glob("*.toml"), _LOOKED_AT))
    ]
    return [f"Job files in it: {', '.join(safe_text(str(p), 100) for p in jobs[-3:])}."] if jobs else []


def _folder(path: Path, shown: str) -> str:
    said = _jobs_in(path)
    if _has_models(path):
        entry = safe_text(f"path = {json.dumps(str(path), ensure_ascii=False)}", 200)
        said.append(
            f"{shown} contains models: kltui {shown} offers to score them, and so does a job file with {entry} under"
            f" [[models]]. {SHOWN_BY}"
        )
    inside = next((p for p in islice(path.iterdir(), _LOOKED_AT) if (p / FILE_NAME).is_file()), None)
    if inside and not said:
        said.append(f"A workspace in it: {safe_text(shlex.quote(str(inside)), 200)}.")
    return " ".join(said)


def _has_models(path: Path) -> bool:
    try:
        return names_ggufs(path, ()) or bool(discover_runs(path.resolve()))
    except KltuiError:
        return False


def _file(path: Path, shown: str) -> str:
    kind = kind_of(path)
    if kind == ".toml":
        results = _results_of(path)
        where = (
            f", and kltui --report {safe_text(shlex.quote(str(results)), 200)} prints its results"
            if results
            else ""
        )
        return f"{shown} is a job file: kltui --batch {shown} scores it{where}."
    if kind in IN_FOLDERS:
        return (
            f"{shown} contains texts: kltui {shown} offers to score models on them, and so does a job file with"
            f" source = {safe_text(json.dumps(str(path), ensure_ascii=False), 200)} under [corpus]. {SHOWN_BY}"
        )
    return _hint(str(path.parent)) if path.name.startswith(FILE_NAME) else ""


def _results_of(job: Path) -> Path | None:
    """The workspace that a job file names, if that is there."""
    try:
        workspace = tomllib.loads(job.read_text(encoding="utf-8")).get("workspace")
    except (OSError, ValueError, RecursionError):
        return None
    folder = job.parent / workspace if isinstance(workspace, str) else None
    return folder if folder is not None and (folder / FILE_NAME).is_file() else None


def _missing(named: str, path: Path) -> str:
    """The preset or repository of the hub with the name of a missing path, or the most similar name beside it."""
    if path.name in PRESETS and path.name == named:
        return f'It is a preset: preset = "{named}" under [[models]] of a job file. {SHOWN_BY}'
    parent = path.parent
    if not parent.is_dir():
        return (
            hub_hint(named) if is_like_repo(named) else f"There is no folder {safe_text(str(parent), 200)}."
        )
    # Without their common suffix, which would make any two short names similar.
    beside = {
        p.stem: p for p in islice(parent.iterdir(), _LOOKED_AT) if p.suffix == path.suffix and p != path
    }
    close = difflib.get_close_matches(path.stem, beside, n=1)
    return f"Did you mean {safe_text(shlex.quote(str(beside[close[0]])), 200)}?" if close else ""


def is_like_repo(named: str) -> bool:
    """Whether a path that does not exist has the form OWNER/NAME[@REVISION], and not that of a file which kltui reads."""
    repo = named.partition("@")[0]
    is_file = kind_of(Path(repo)) in (TEXT, *READERS) or Path(repo).suffix in (
        ".toml",
        ".yaml",
        ".yml",
        ".gguf",
    )
    return repo.count("/") == 1 and not is_file and bool(hub_name(f"https://huggingface.co/{repo}"))
