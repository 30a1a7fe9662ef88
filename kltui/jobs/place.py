"""The job that scores one model for a map: its entry, its name, and running it in a separate process."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w

from kltui.environment import check_scoring
from kltui.errors import KltuiError, TryAgainError, UsageError
from kltui.jobs.jobfile import JobFile, load_job
from kltui.jobs.map_defaults import TAKEN, pairs_keys
from kltui.jobs.plan import CANNOT_RUN, make_plan, settings_key
from kltui.jobs.process import python_command
from kltui.registry.checkpoint import Checkpoint, HubSource, LocalSource, Source
from kltui.registry.names import check_repo, hub_name
from kltui.sanitize import expanded, safe_text
from kltui.store import CheckpointRow, Store, comparable
from kltui.store.atomic_write import write_atomic

Say = Callable[[str], None]
_RETRY = 75  # exit code of a batch whose failures may succeed later
_WITHOUT_VECTORS = ("new", "queued", "running", "failed")
_DTYPES = ("float32", "float16", "bfloat16", "auto")


def entry_of(model: str) -> dict[str, Any]:
    """The `[[models]]` entry of a model named on the command line. Raises UsageError if there is none.

    `model` is a folder or file, the address of a server, or a hub repository OWNER/NAME[@REVISION] or its web address.
    """
    if page := hub_name(model):
        model = page
    elif model.startswith(("http://", "https://")):
        return {"endpoint": model}
    try:
        path = expanded(model)
        if model and path.exists():
            return {"path": str(path.resolve())}
    except (OSError, RuntimeError):
        path = Path(model)
    if not model or model.startswith(("/", ".", "~")) or path.suffix == ".gguf" or model.count("/") != 1:
        raise UsageError(
            f"no model found at {safe_text(model, 200)}",
            "Give a model's folder, an adapter's folder, a GGUF file, OWNER/NAME[@REVISION] on the hub, or http://HOST/v1.",
        )
    repo, at, revision = model.partition("@")
    check_repo(repo)
    return {"repo": repo, "revisions": [revision]} if at else {"repo": repo}


def write_job(
    workspace: Path,
    model: str,
    source: str,
    settings: str,
    overrides: Sequence[str],
    rows: Sequence[CheckpointRow],
    *,
    alone: bool = False,
) -> tuple[Path, Checkpoint]:
    """(Job file, checkpoint) for scoring `model` on the texts `source` with a map's settings.

    `overrides` are KEY=VALUE as of --set; `model.KEY` sets a key of the `[[models]]` entry. Raises UsageError if there is no
    such model, there are several, or its vector would not be comparable with the map; with `alone`, its settings must
    equal the map's.
    """
    said = comparable.words(settings)
    scoring = {n: v for n, v in said.items() if n in TAKEN and (n != "dtype" or v in _DTYPES)}
    corpus = {"source": source, **pairs_keys(settings)}
    data: dict[str, Any] = {"workspace": str(workspace.resolve()), "corpus": corpus}
    # the file is in the workspace, but relative paths start at the current folder
    data |= {"models": [entry_of(model)], "scoring": scoring, "folder": str(Path.cwd())}
    path = workspace / "jobs" / f"place-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**6:06}.toml"
    sets = [_of_entry(word) for word in overrides]
    try:
        write_atomic(path, tomli_w.dumps(data).encode())
        job = load_job(path, sets)
        checkpoint = _only_one(job, model)
        differ = comparable.difference_words(settings, settings_key(job.settings()))
        if not differ and alone and settings_key(job.settings()) != settings:
            differ = f"{settings} or {settings_key(job.settings())}"
        if differ:
            raise UsageError(
                f"with these settings, {safe_text(checkpoint.name, 80)} would share no map with the existing vectors: {differ}",
                "Omit that --set: --place uses the map's settings.",
            )
        run = _free_run(checkpoint, rows)
        job = job.model_copy(update={"models": (job.models[0].model_copy(update={"run": run}),)})
        write_atomic(path, job.to_toml().encode())
    except KltuiError as error:
        with suppress(OSError):  # of a workspace that is read-only, which the error says
            path.unlink(missing_ok=True)
        placing = f"--place {safe_text(model, 120)}"
        message = error.message.replace(str(path), placing)
        # there is no job file that the user wrote
        message = message.replace(f"{CANNOT_RUN}\n  - models[0]: ", f"{placing}: ").replace(
            CANNOT_RUN, placing
        )
        served = "Add --set model.model=NAME --set model.tokenizer=FOLDER."
        hint = served if "an endpoint needs" in message else error.hint
        raise type(error)(message, hint) from None
    return path, replace(checkpoint, run=run)


def _of_entry(word: str) -> str:
    """An override for the job file; relative folders in it start at the current folder."""
    if not word.startswith("model."):
        return word
    key, _, value = word.removeprefix("model.").partition("=")
    if key.strip() in ("tokenizer", "base") and value and expanded(value).exists():
        value = str(expanded(value).resolve())
    return f"models.0.{key}={value}"


def _only_one(job: JobFile, model: str) -> Checkpoint:
    # The plan also contains the base of an adapter and the original of a GGUF file.
    found = [c for c in make_plan(job).checkpoints if _is_asked(job, c.source)]
    if len(found) > 1:
        names = ", ".join(safe_text(c.name, 60) for c in found[:4])
        raise UsageError(
            f"{safe_text(model, 120)} contains {len(found)} checkpoints: {names}{' ...' if len(found) > 4 else ''}",
            "Name one of them, or score all with a job (kltui --batch).",
        )
    return found[0]


def _is_asked(job: JobFile, source: Source) -> bool:
    """Whether a source is the one that the job's only entry names, or is inside it."""
    table = job.models[0]
    if isinstance(source, LocalSource):
        return bool(table.path) and source.path.is_relative_to(table.path)
    return source.repo == table.repo if isinstance(source, HubSource) else source.endpoint == table.endpoint


def _free_run(checkpoint: Checkpoint, rows: Sequence[CheckpointRow]) -> str:
    """The run under which the workspace has this model, otherwise one with which its name is not taken."""
    for row in rows:
        here = row.checkpoint
        same = (here.step, here.quantization) == (checkpoint.step, checkpoint.quantization)
        if same and not row.weights.startswith("import:") and same_source(here.source, checkpoint.source):
            return here.run
    taken = {row.name for row in rows}
    tries = (checkpoint.run, f"{checkpoint.run}-own", *(f"{checkpoint.run}-own{i}" for i in range(2, 1000)))
    return next(run for run in tries if replace(checkpoint, run=run).name not in taken)


def same_source(a: Source, b: Source) -> bool:
    """Whether two sources are the same; a hub's revision may be resolved to a commit in only one of them."""
    if isinstance(a, HubSource) and isinstance(b, HubSource):
        return (a.repo, a.revision, a.file) == (b.repo, b.revision, b.file)
    return a == b


def run_job(path: Path, say: Say) -> None:
    """Runs a job file in a separate process and waits for it. Raises KltuiError if the model could not be scored."""
    check_scoring()
    command = python_command("kltui.cli", "main", "--batch", str(path), "--json")
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            errors="replace",
        ) as child:
            try:
                failed = _followed(child, say)
            finally:
                if child.poll() is None and child.stdout is not None and not child.stdout.closed:
                    child.terminate()  # interrupted; stored results remain
            code = child.wait()
        complaints.seek(0)
        said = complaints.read()
    if code == 0:
        return
    if failed is not None:
        kind = TryAgainError if code == _RETRY else KltuiError
        raise kind(failed[0], failed[1])
    lines = [line.strip().removeprefix("kltui: ") for line in said.splitlines() if line.strip()]
    raise KltuiError(
        lines[-2] if len(lines) > 1 else (lines or [f"the scoring process ended with {code}"])[-1],
        lines[-1] if len(lines) > 1 else "",
    )


def withdraw(workspace: Path, path: Path, known: Collection[str]) -> None:
    """Removes what the job file `path` left in the workspace without scoring it, so that nothing is left of a failed placement.

    These are checkpoints outside `known` without a vector, the job if it has no other checkpoint, and the file. Vectors, such
    as that of an adapter's base, stay. Does nothing if another process writes to the workspace.
    """
    from kltui.store.removal import Removed

    with suppress(KltuiError):
        toml = load_job(path).to_toml()
        with closing(Store.read(workspace)) as store:
            ids = [job.id for job in store.jobs.all() if job.job_toml == toml]
            of_job = {item.name for id_ in ids for item in store.jobs.items(id_)}
            rows = {row.name: row for row in store.checkpoints.all()}
        new = [n for n in of_job - set(known) if n in rows and rows[n].status in _WITHOUT_VECTORS]
        if new:
            Removed.of(workspace, new).give_up()
        with closing(Store.write(workspace)) as store:
            for id_ in ids:
                store.jobs.remove_empty(id_)
        path.unlink(missing_ok=True)


def _followed(child: subprocess.Popen[str], say: Say) -> tuple[str, str] | None:
    """(error, hint) of the checkpoint that failed, None if none did; reports the stages meanwhile."""
    failed = None
    stage = ""
    for line in child.stdout or ():
        try:
            event: Mapping[str, Any] = json.loads(line)
        except ValueError:
            continue
        kind = event.get("event")
        if kind == "checkpoint" and event.get("status") == "failed":
            failed = f"{event['name']} could not be scored: {event['error']}", str(event.get("hint") or "")
        elif kind == "checkpoint":
            say(f"{event['name']}: {'already scored' if event['status'] == 'kept' else 'scored'}")
        elif kind == "progress" and (now := _stage(event)) != stage:
            stage = now
            say(f"{event['name']}: {now}")
    child.wait()
    return failed


def _stage(event: Mapping[str, Any]) -> str:
    """The stage; for scoring, with the percentage of texts that are done, in steps of ten."""
    stage, total, done = (
        event.get("stage"),
        int(event.get("texts_total") or 0),
        int(event.get("texts_done") or 0),
    )
    tenths = 10 * done // total if total else 0
    return f"{stage} {tenths}0 %" if stage == "score" and tenths else str(stage)
