"""Prints what a job would do, without doing it or writing anything."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO

from kltui.errors import KltuiError, StoreError, TryAgainError
from kltui.jobs.device_probe import Answer, DeviceProbe
from kltui.jobs.plan import Plan
from kltui.jobs.planned_step import PlannedStep
from kltui.jobs.prepare import Preparer, overruled_tokenizer, remembered
from kltui.jobs.shard import InboxWriter, held_by_store
from kltui.jobs.token_probe import TokenProbe
from kltui.jobs.token_words import TokenWords, such_as
from kltui.json_schema import JSON_SCHEMA
from kltui.registry.adapters import check_adapter, check_peft, is_adapter
from kltui.registry.checkpoint import Checkpoint, HubSource, LocalSource, ServedSource, Source
from kltui.registry.gguf_file import is_gguf
from kltui.registry.layout import CONFIG, is_adapter_folder, weight_paths
from kltui.registry.tokenizer import named_source, no_tokenizer, tokenizer_at_hand, tokenizer_folder
from kltui.sanitize import safe_text
from kltui.scoring.device import computed_dtype, start_tokens
from kltui.scoring.quantize import check_installed
from kltui.store import Store
from kltui.store.store import FILE_NAME

SERVER_WITHIN_S = 5.0


def show_plan(plan: Plan, *, is_part: bool = False, as_json: bool = False, out: IO[str] | None = None) -> int:
    """Prints what the job would do, as text or as JSON with one object per line; returns the exit code 0."""
    with ExitStack() as stack:
        probe = None if plan.job.engine.kind == "ray" else DeviceProbe(plan.settings.device)
        if probe:
            stack.callback(probe.stop)
        steps = _steps(plan, is_part)
        tokens = TokenProbe(plan, [i for i, s in enumerate(steps) if s.status == "score" and not s.problem])
        stack.callback(tokens.stop)
        answer = probe.answer() if probe else None
        said = TokenWords(plan, tokens)
    steps = [said.added_to(index, step) for index, step in enumerate(steps)]
    warnings = _warnings(plan, steps, answer) + said.warnings
    show = _as_json if as_json else _as_words
    show(plan, steps, answer, warnings, said.lines, out or sys.stdout)
    return 0


def _steps(plan: Plan, is_part: bool) -> list[PlannedStep]:
    held = InboxWriter(plan).held() if is_part else held_by_store(plan)
    finder = Preparer([], remembered(_fingerprints(plan.workspace)), mixes=plan.mixes, held=held)
    return [_step(plan, index, finder, held) for index in range(len(plan.checkpoints))]


def _fingerprints(workspace: Path) -> Mapping[tuple[str, str], str]:
    try:
        store = Store.read(workspace)
    except StoreError:
        return {}
    try:
        return store.fingerprints.all()
    finally:
        store.close()


def _step(plan: Plan, index: int, finder: Preparer, held: Mapping[int, str]) -> PlannedStep:
    checkpoint = plan.checkpoints[index]
    if isinstance(checkpoint.source, ServedSource):
        return _served(
            checkpoint,
            checkpoint.source,
            plan.settings.bos,
            lambda: _is_kept(index, checkpoint, finder, held),
        )
    problem, kept = "", False
    try:
        kept = _is_kept(index, checkpoint, finder, held)
    except (KltuiError, OSError) as error:
        problem = _said(error)
    sizes = []
    for source in plan.sources(index):
        size, wrong = _files(source, plan.settings.allow_bin)
        sizes.append(size)
        problem = problem or wrong
    if not kept and not problem:
        mix = plan.mixes.get(checkpoint.name)
        problem = _unusable_variant(checkpoint.quantization) or _without_tokenizer(
            mix.parts[0] if mix else checkpoint
        )
    known = [size for size in sizes if size is not None]
    return PlannedStep(
        checkpoint.name, str(checkpoint.source), "kept" if kept else "score",
        sum(known) if len(known) == len(sizes) else None, "" if kept else problem,
    )  # fmt: skip


def _is_kept(index: int, checkpoint: Checkpoint, finder: Preparer, held: Mapping[int, str]) -> bool:
    return index in held and finder.is_current(index, checkpoint)


def _served(
    checkpoint: Checkpoint, source: ServedSource, bos: str, is_kept: Callable[[], bool]
) -> PlannedStep:
    """A served model's step, after asking its server, with a short time limit."""
    from kltui.scoring.served import asked_briefly

    score = PlannedStep(checkpoint.name, str(source), "score", None)
    try:
        folder = tokenizer_folder(Path(), checkpoint.tokenizer)
        said = asked_briefly(source, folder, bos, SERVER_WITHIN_S)
        return replace(score, status="kept" if is_kept() else "score", server=said, answers=True)
    except TryAgainError as error:
        said = f"does not respond ({error.message}); a job waits for about ten minutes"
        return replace(score, server=said, answers=False)
    except (KltuiError, OSError) as error:
        return replace(score, problem=_said(error))


def _files(source: Source, allow_bin: bool) -> tuple[int | None, str]:
    """(bytes of the weights of `source`, None if they are not on this machine; why they cannot be read, or "")."""
    if isinstance(source, HubSource):
        from kltui.registry.hub import cached_folder

        folder = cached_folder(source)
        if folder is None:
            return None, ""
    elif isinstance(source, ServedSource):
        return None, ""
    else:
        folder = source.path
    try:
        if is_adapter_folder(folder):
            check_adapter(folder, allow_bin)
            check_peft()
        elif not is_gguf(folder) and not (folder / CONFIG).is_file():
            return None, f"{safe_text(str(folder))} has no {CONFIG}"
        return sum(path.stat().st_size for path in weight_paths(folder, allow_bin)), ""
    except (KltuiError, OSError) as error:
        return None, _said(error)


def _unusable_variant(quantization: str) -> str:
    try:
        check_installed(quantization)
    except KltuiError as error:
        return _said(error)
    return ""


def _without_tokenizer(checkpoint: Checkpoint) -> str:
    source = checkpoint.source
    if not isinstance(source, LocalSource) or tokenizer_at_hand(source.path, checkpoint.tokenizer):
        return ""
    if is_adapter(checkpoint):
        return _without_tokenizer(replace(checkpoint, source=named_source(checkpoint.base)))
    return _said(no_tokenizer(source))


def _said(error: KltuiError | OSError) -> str:
    if isinstance(error, KltuiError):
        return error.message + (f" ({error.hint})" if error.hint else "")
    return f"{error.filename or ''}: {error.strerror or error}"


def _warnings(plan: Plan, steps: list[PlannedStep], answer: Answer | None) -> list[str]:
    """Warnings: what will fail, and what may not be expected."""
    failing: dict[str, list[str]] = {}
    for step in steps:
        if step.problem:
            failing.setdefault(step.problem, []).append(step.name)
    found = [f"{such_as(names)} will fail: {problem}" for problem, names in failing.items()]
    found += [f"{step.name}: its server {step.server}" for step in steps if step.answers is False]
    if answer is not None and answer.device is None:
        found.append(f"nothing can be scored: {answer.error}. {answer.hint}".strip())
    elif answer is not None and answer.device is not None:
        device = answer.device
        if device.warning:
            found.append(f"{device.warning}. {device.hint}".strip())
        if computed_dtype(plan.settings.dtype, device.device) != plan.settings.dtype:
            found.append(f"dtype is {plan.settings.dtype}, but on a CPU float32 is used")
    return [*found, *_overruled(plan, steps), *plan.notes, *_workspace_warnings(plan)]


def _overruled(plan: Plan, steps: list[PlannedStep]) -> list[str]:
    """Warnings that a checkpoint's own tokenizer is used and not the one that its entry names."""
    found: dict[str, list[str]] = {}
    for checkpoint, step in zip(plan.checkpoints, steps, strict=True):
        if step.status == "score" and isinstance(checkpoint.source, LocalSource):
            with suppress(KltuiError, OSError):  # `step.problem` says why files cannot be read
                if overruled_tokenizer(checkpoint.source.path, checkpoint.tokenizer):
                    found.setdefault(checkpoint.tokenizer, []).append(checkpoint.name)
    return [
        f"{such_as(names)}: the tokenizer next to its weights or in its run is used and not the entry's, {safe_text(named)},"
        " which is only for checkpoints without one"
        for named, names in found.items()
    ]


def _workspace_warnings(plan: Plan) -> list[str]:
    found = []
    workspace = plan.workspace
    there = next(p for p in (workspace, *workspace.parents) if p.exists())
    if not os.access(there, os.W_OK):
        found.append(f"{there} is not writable")
    vectors = 12 * len(plan.corpus) * len(plan.checkpoints)
    if shutil.disk_usage(there).free < vectors:
        found.append(f"{there} has less free space than the vectors need ({vectors / 1e6:.0f} MB)")
    try:
        store = Store.read(workspace)
    except StoreError as error:
        if (workspace / FILE_NAME).exists():
            found.append(error.message)
        return found
    try:
        if (writer := store.writer()) is not None and writer.alive:
            found.append(f"process {writer.pid} on {writer.host} is writing to this workspace")
    finally:
        store.close()
    return found


def _totals(plan: Plan, steps: list[PlannedStep], answer: Answer | None) -> dict[str, object]:
    settings, device = plan.settings, answer.device if answer else None
    kept = sum(step.status == "kept" for step in steps)
    sizes = [step.weight_bytes for step in steps if step.status == "score"]
    return {
        "checkpoints": len(steps),
        "kept": kept,
        "score": len(steps) - kept,
        "texts": len(plan.corpus),
        "text_bytes": int(plan.corpus.text_bytes.sum()),
        "weight_bytes": sum(size or 0 for size in sizes),
        "not_here": sum(size is None for size in sizes),
        "workspace": str(plan.workspace),
        "engine": plan.job.engine.kind,
        "workers": min(plan.job.engine.workers, max(1, len(steps))),
        "device_asked": settings.device,
        "device": asdict(device) if device else None,
        "dtype": computed_dtype(settings.dtype, device.device) if device else settings.dtype,
        "tokens": sum(step.tokens or 0 for step in steps),
        "not_counted": sum(step.tokens is None for step in steps if step.status == "score"),
        "batch_tokens": settings.batch_tokens or (start_tokens(device.device) if device else None),
    }


def _as_json(
    plan: Plan,
    steps: list[PlannedStep],
    answer: Answer | None,
    warnings: list[str],
    lines: list[str],
    out: IO[str],
) -> None:
    made: list[dict[str, object]] = [{"event": "plan"} | asdict(step) for step in steps]
    made.append(
        {"event": "plan_total"} | _totals(plan, steps, answer) | {"notes": lines, "warnings": warnings}
    )
    for event in made:
        print(json.dumps(event | {"schema": JSON_SCHEMA, "time": time.time()}), file=out)
    out.flush()


def _as_words(
    plan: Plan,
    steps: list[PlannedStep],
    answer: Answer | None,
    warnings: list[str],
    lines: list[str],
    out: IO[str],
) -> None:
    def say(text: str) -> None:
        print(safe_text(text), file=out)

    totals = _totals(plan, steps, answer)
    width = min(40, max((len(step.name) for step in steps), default=0))
    for step in steps:
        size = "not here" if step.weight_bytes is None else _size(step.weight_bytes)
        say(
            f"  {'stored' if step.status == 'kept' else step.status:6}  {step.name:{width}}  {size:>9}  {step.source}"
        )
        if step.answers:
            say(f"         its server {step.server}")
    for line in (_device_words(plan, answer), *lines):
        say(line)
    for warning in warnings:
        say(f"warning: {warning}")
    say(
        f"{len(steps)} checkpoint{'s' * (len(steps) != 1)}, {len(plan.corpus)} texts of {plan.corpus.text_bytes.mean():.0f} bytes,"
        f" into {plan.workspace}; {totals['kept']} already stored, {totals['score']} to score; nothing was written"
    )
    out.flush()


def _device_words(plan: Plan, answer: Answer | None) -> str:
    settings, workers = plan.settings, plan.job.engine.workers
    if answer is None:
        place = plan.job.engine.address or "this machine"
        return f"device  {settings.device}, for each of {workers} workers on Ray ({place}); {settings.dtype}"
    if answer.device is None:
        return f"device  {settings.device}: none; {answer.error}"
    device = answer.device
    several = len(answer.gpus) > 1 and workers > 1 and settings.device in ("auto", "cuda")
    more = f" and so on, one for each of {workers} workers" if several else f"; workers: {workers}"
    budget = settings.batch_tokens or start_tokens(device.device)
    return (
        f"device  {device}{more}; {computed_dtype(settings.dtype, device.device)}, {budget} tokens per batch"
    )


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"
