"""What `kltui TARGET` opens: a workspace, or the dialog for a job file, texts or checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kltui.errors import KltuiError, UsageError
from kltui.sanitize import expanded, safe_text
from kltui.store.file_name import FILE_NAME
from kltui.tui.basis import Basis

if TYPE_CHECKING:
    from kltui.tui.session import WorkspaceSession

NEW = "kltui-workspace"  # workspace for texts or checkpoints named without one
ONE_OF = (
    "Name a workspace folder, a job file (.toml), texts (.txt, .jsonl, .csv, .tsv, .parquet, a .json list), a folder of"
    " checkpoints or a GGUF file."
)


class Target(NamedTuple):
    """The workspace to open (None: none), and the job file, texts or models whose dialog is opened in it."""

    workspace: Path | None
    job: Path | None = None
    texts: Path | None = None
    models: Path | None = None

    def begin(self, app: WorkspaceSession) -> None:
        """Opens the dialog for the job file, texts or models; called once the workspace is read.

        Says that a workspace is new, with the similar name that may have been meant.
        """
        if self.job or self.texts or self.models:
            if app.read_only:
                app.say("opened with --read-only: nothing can be started or written", "warning")
            else:
                _ask(app, self)
        elif self.workspace is not None and not self.workspace.exists():
            from kltui.jobs.path_hint import path_hint

            hint = path_hint(str(self.workspace))
            app.say(f"{safe_text(self.workspace.name, 40)} does not exist yet. {hint}".rstrip(), "warning")


def _ask(app: WorkspaceSession, target: Target) -> None:
    from kltui.tui.dialogs import jobs_start

    if target.job is not None:
        app.show_screen("jobs")
        jobs_start.start_file(app, str(target.job))
        return
    app.show_screen("registry")
    if target.models is not None:
        jobs_start.add_path(app, target.models)
    elif target.texts is not None:
        app.texts = target.texts
        if app.snapshot.rows:
            start, add = app.key("start"), app.key("add")
            app.say(f"{target.texts.name}: {start} scores the selection on these texts, {add} adds models")
        else:
            jobs_start.add_models(app)


def open_interface(arguments: argparse.Namespace) -> int:
    """Runs the interface on what the command line names, and returns its exit code.

    Raises KltuiError for a target that kltui cannot open, and for options that do not fit its workspace.
    """
    from kltui.tui.main import run_tui

    target = target_of(arguments.target, Path.cwd())
    basis = _asked(arguments)
    if basis is not None:
        _check(target.workspace, basis, arguments.values)
    return run_tui(
        target.workspace,
        read_only=arguments.read_only,
        ascii=arguments.ascii,
        no_mouse=arguments.no_mouse,
        basis=basis,
        values=arguments.values,
        begin=target.begin,
    )


def _asked(arguments: argparse.Namespace) -> Basis | None:
    """The map settings given by options; None without such options."""
    made = Basis(
        arguments.over,
        "",
        arguments.preprocess or "none",
        tuple(arguments.exclude),
        arguments.separate,
        arguments.map or "",
    )
    return None if made == Basis() and arguments.preprocess is None else made


def _check(workspace: Path | None, basis: Basis, values: str) -> None:
    """Raises KltuiError if the workspace has no such map, before the interface starts."""
    from kltui.store.pair_values import check_kept
    from kltui.workspace import Workspace

    if basis.saved:
        check_kept(values)
    with Workspace.open(workspace or Path(), values=values) as ws:
        basis.check(ws)


def target_of(named: str | None, here: Path) -> Target:
    """The target that `named` (None: no argument) means in folder `here`. Raises KltuiError for an unknown kind of file."""
    default = here if (here / FILE_NAME).is_file() else None
    if not named:
        return Target(default)
    path = expanded(named)
    try:
        if (path / FILE_NAME).is_file():
            return Target(path)
        if path.is_dir():
            return _folder(path, default or here / NEW)
        return _file(named, path, default or here / NEW)
    except OSError as error:
        raise UsageError(f"{safe_text(named, 200)} cannot be opened: {error.strerror}", ONE_OF) from error


def _folder(path: Path, workspace: Path) -> Target:
    """A folder with checkpoints, or with nothing but texts, is for a new job; any other is, or becomes, a workspace."""
    from kltui.corpus.sources import source_files
    from kltui.registry.discover import discover_runs
    from kltui.registry.gguf_entry import names_ggufs

    if names_ggufs(path, ()) or _succeeds(lambda: discover_runs(path.resolve())):
        return Target(workspace, models=path.resolve())
    inside = [p for p in path.iterdir() if not p.name.startswith(".")]
    if inside and all(_is_text(p) for p in inside) and _succeeds(lambda: source_files(path)):
        return Target(workspace, texts=path.resolve())
    return Target(path)


def _is_text(path: Path) -> bool:
    from kltui.corpus.rows import kind_of
    from kltui.corpus.sources import IN_FOLDERS

    return path.is_file() and kind_of(path) in IN_FOLDERS


def _succeeds(look: Callable[[], object]) -> bool:
    try:
        look()
    except KltuiError:
        return False
    return True


def _file(named: str, path: Path, workspace: Path) -> Target:
    """A job file, a GGUF file or texts; a name without such a suffix that does not exist is a new workspace."""
    from kltui.corpus.rows import READERS, kind_of
    from kltui.corpus.sources import TEXT, source_files
    from kltui.jobs.jobfile import load_job

    suffix = kind_of(path)
    if suffix == ".toml":
        return Target(Path(load_job(path).workspace), job=path.resolve())
    is_there = path.exists() or path.is_symlink()
    if suffix == ".gguf" and is_there:
        return Target(workspace, models=path.resolve())
    if suffix in (TEXT, *READERS):
        source_files(path)
        return Target(workspace, texts=path.resolve())
    if is_there or suffix == ".gguf":
        what = "cannot be opened by kltui" if is_there else "does not exist"
        raise UsageError(f"{safe_text(str(path), 200)} {what}", ONE_OF)
    _check_new(named, path)
    return Target(path)


def _check_new(named: str, path: Path) -> None:
    """Raises UsageError for what names no new workspace: a command without its hyphens, an address, a folder in a missing one."""
    from kltui.jobs.path_hint import hub_hint, is_like_repo, path_hint
    from kltui.option_use import COMMANDS

    shown = safe_text(named, 200)
    if named in ("help", "version") or f"--{named}" in COMMANDS.values():
        hint = f"Commands are options: kltui --{named}. For a new workspace of that name: kltui ./{named}"
        raise UsageError(f"there is no workspace {named}", hint)
    if "://" in named:
        raise UsageError(f"{shown} is an address, not a folder", path_hint(named) or ONE_OF)
    if not path.parent.is_dir():
        parent = safe_text(str(path.parent), 200)
        hint = f"For a new workspace, make the folder {parent} first."
        hint += f" {hub_hint(named)}" if is_like_repo(named) else ""
        raise UsageError(f"there is no folder {parent} for {shown}", hint)
