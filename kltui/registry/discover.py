"""Finds checkpoints in local folders."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from kltui.errors import KltuiError
from kltui.missing_path import missing_path
from kltui.registry.checkpoint import LocalSource
from kltui.registry.formats import formats_in, formats_of, unreadable, unreadable_run
from kltui.registry.layout import CONFIG, is_checkpoint_folder, model_type, read_json_object, readable
from kltui.registry.revisions import is_set_aside, parse_step
from kltui.sanitize import safe_text

log = logging.getLogger(__name__)

EXPECTED = (
    f"A model folder contains {CONFIG} and model.safetensors (or its index and shards); a run folder contains such folders "
    "named by step: checkpoint-500, step500, step-500, iter_500 or 500."
)


@dataclass(frozen=True, slots=True)
class LocalFound:
    """A model folder, the step its name states, and the `model_type` of its config ("" if unknown)."""

    path: Path
    step: int | None = None
    type: str = ""

    @property
    def source(self) -> LocalSource:
        return LocalSource(self.path)


def discover(path: Path) -> list[LocalFound]:
    """Checkpoints of a model folder (one) or a run folder (several, by step).

    Raises KltuiError if there are none, if two have the same step, or if the folder cannot be read.

    A folder that contains checkpoints is a run even if it is also a model folder: trainers save the final model there,
    usually a copy of the last checkpoint. That model joins the run only if its trainer_state.json states a step
    that no checkpoint has. Models inside a run without a step in their name are left out, with a warning.
    """
    with readable(path):
        _check_folder(path)
        inside = _stepped_models(path)
        if not inside:
            if not is_checkpoint_folder(path):
                raise _nothing_found(path)
            return [LocalFound(path, parse_step(path.name), model_type(path))]
        _name_without_step(path, inside)
        final = _final_step(path)
        if final is not None and final not in inside:
            inside[final] = path
    return [LocalFound(folder, step, model_type(folder)) for step, folder in sorted(inside.items())]


def discover_runs(path: Path) -> dict[Path, list[LocalFound]]:
    """{folder: checkpoints} of a model or run folder, or of each such folder directly inside the given one.

    Raises KltuiError if there are none.
    """
    with readable(path):
        _check_folder(path)
        inside = [] if is_checkpoint_folder(path) or _has_stepped_models(path) else models_inside(path)
    return {folder: discover(folder) for folder in inside or [path]}


def models_inside(path: Path) -> list[Path]:
    """Folders directly inside `path` that are a model or a run, by name; hidden ones are left out."""
    folders = (p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith("."))
    return [p for p in folders if is_checkpoint_folder(p) or _has_stepped_models(p)]


def _check_folder(path: Path) -> None:
    where = safe_text(str(path))
    if path.is_file():
        formats = formats_of([path.name])
        what, hint = (
            (f": {formats[0].name}", f"It cannot be scored in this form: {formats[0].way_out}.")
            if formats
            else ("", EXPECTED)
        )
        raise KltuiError(f"{where} is a file, not a folder of checkpoints{what}", hint)
    if not path.is_dir():
        near = next(p for p in path.parents if p.is_dir())
        hint = f"{missing_path(path, patterns=False)} {safe_text(str(near))} contains {_seen(near)}.".lstrip()
        raise KltuiError(f"The folder {where} does not exist", hint)


def _stepped_models(run: Path) -> dict[int, Path]:
    """Model folders directly inside `run` by the step of their name."""
    found: dict[int, Path] = {}
    for folder in sorted(run.iterdir()):
        step = parse_step(folder.name)
        if step is None or not folder.is_dir():
            continue
        if not is_checkpoint_folder(folder):
            what, way_out = unreadable(folder)
            log.warning("%s %s: left out (%s)", safe_text(str(folder)), what, way_out)
        elif step in found:
            raise KltuiError(
                f"{safe_text(folder.name)} and {safe_text(found[step].name)} in {safe_text(str(run))} are both step {step}",
                "One run has one checkpoint per step: name each folder in a [[models]] entry with a run of its own.",
            )
        else:
            found[step] = folder
    return found


def _name_without_step(run: Path, inside: dict[int, Path]) -> None:
    """Warns of models in a run whose names state no step; not of copies, nor of links to its checkpoints."""
    held = {p.resolve() for p in inside.values()}
    lone = [
        p.name
        for p in sorted(run.iterdir())
        if parse_step(p.name) is None and not is_set_aside(p.name) and p.is_dir()
        if is_checkpoint_folder(p) and p.resolve() not in held
    ]
    if lone:
        _warn_once(
            f"{safe_text(str(run))}: {safe_text(', '.join(lone[:6]), 300)}{' and more' * (len(lone) > 6)} left out, "
            "because the name states no step (name it in a [[models]] entry of its own)"
        )


@lru_cache(maxsize=256)
def _warn_once(message: str) -> None:
    """Logs a warning the first time: a job that is watched looks for checkpoints again and again."""
    log.warning("%s", message)


def _final_step(run: Path) -> int | None:
    """Step of the model in the run folder itself, from its trainer_state.json; None if there is none."""
    if not is_checkpoint_folder(run):
        return None
    step = read_json_object(run / "trainer_state.json").get("global_step")
    return step if type(step) is int and 0 <= step < 2**63 else None


def _nothing_found(path: Path) -> KltuiError:
    """The error for a folder without checkpoints; it names what was found, or sub-folders that do have checkpoints."""
    where = safe_text(str(path))
    folders = [p for p in sorted(path.iterdir()) if p.is_dir()]
    better = [p.name for p in models_inside(path)]
    if better:
        shown = ", ".join(better[:6]) + (f" and {len(better) - 6} more" if len(better) > 6 else "")
        hint = f'Name each in a [[models]] entry of its own, for example path = "{safe_text(str(path / better[0]))}".'
        return KltuiError(
            f"{where} is neither a model nor a run, but contains some: {safe_text(shown, 300)}", hint
        )
    what = f"{where} contains no checkpoint (seen: {_seen(path)})"
    if formats_in(path):
        seen, way_out = unreadable(path)
        return KltuiError(f"{what}: it {seen}", f"It cannot be scored in this form: {way_out}.")
    inside = unreadable_run(path, [p for p in folders if parse_step(p.name) is not None])
    if inside is not None:
        return KltuiError(f"{what}: {inside[0]}", f"They cannot be scored in this form: {inside[1]}.")
    return KltuiError(what, EXPECTED)


def _has_stepped_models(folder: Path) -> bool:
    return any(
        parse_step(p.name) is not None and p.is_dir() and is_checkpoint_folder(p) for p in folder.iterdir()
    )


def _seen(folder: Path) -> str:
    """The first names in a folder, for a message."""
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir())
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return safe_text(", ".join(names[:8]), 300) + more if names else "nothing"
