"""The job files that a user may want to start: those of a workspace, or of the working directory without one."""

from __future__ import annotations

from pathlib import Path


def job_files(workspace: Path | None) -> list[Path]:
    """Job files, newest first: of the workspace's folder `jobs`, else of the workspace itself; without one, of the
    working directory. Files that cannot be read, or have no models, are none.
    """
    folders = [Path.cwd()] if workspace is None else [workspace / "jobs", workspace]
    return next(filter(None, map(_in_folder, folders)), [])


def _in_folder(folder: Path) -> list[Path]:
    try:
        found = [(path.stat().st_mtime, path) for path in folder.glob("*.toml")]
    except OSError:
        return []
    return [path for _, path in sorted(found, reverse=True) if _is_job(path)]


def _is_job(path: Path) -> bool:
    import tomllib

    try:
        return "models" in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
