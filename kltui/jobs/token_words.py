"""What a dry run says of tokens and time: counts by tokenizer, texts that are too long, and the speed measured before."""

from __future__ import annotations

import socket
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from kltui.errors import KltuiError, StoreError
from kltui.jobs.jobfile import JobFile, parse_job
from kltui.jobs.plan import Plan
from kltui.jobs.planned_step import PlannedStep
from kltui.jobs.progress_report import duration
from kltui.jobs.token_probe import TOKENIZERS, Counted, TokenProbe, grouped
from kltui.registry.checkpoint import Checkpoint, ServedSource
from kltui.store import Store
from kltui.store.rows import JobItemRow, JobRow

LINES = 6  # tokenizers shown one a line
LATEST = 10  # jobs whose speed is looked up


def too_long(count: Counted, plan: Plan) -> str:
    """The reason why texts that exceed the context fail a checkpoint, or "" if none does or a policy allows them."""
    if plan.settings.overlong != "error" or not count.n_overlong:
        return ""
    n, what = len(plan.corpus), "pairs" if plan.corpus.prompts else "texts"
    least = "at least " if count.n_read < n else ""
    verb = "has" if count.n_overlong == 1 else "have"
    ways = 'set overlong = "window" or "truncate" in [scoring]'
    if not plan.corpus.prompts:
        cut = "a lower max_bytes" if plan.job.corpus.chunk else "chunk = true"
        ways += f", or cut the corpus: {cut}"
    return (
        f"{least}{count.n_overlong} of {n} {what} {verb} more tokens than the model's context of {count.context};"
        f" the longest has {count.longest} ({ways})"
    )


def windowed(count: Counted, plan: Plan) -> list[str]:
    """A warning if texts exceed the context and a policy allows it."""
    if plan.settings.overlong == "error" or not count.n_overlong:
        return []
    least = "at least " if count.n_read < len(plan.corpus) else ""
    what = "pairs" if plan.corpus.prompts else "texts"
    done = "scored in windows" if plan.settings.overlong == "window" else "cut to the context"
    return [
        f"{least}{count.n_overlong} of {len(plan.corpus)} {what} are longer than the context of {count.context} tokens and"
        f" will be {done}"
    ]


def such_as(names: Sequence[str]) -> str:
    """The first name, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def token_lines(plan: Plan, counted: Mapping[int, Counted]) -> Iterator[str]:
    """One line for each of the tokenizers: tokens to score, the longest text, and the model's context."""
    groups = grouped(counted, lambda c: (c.tokens, c.longest, c.context))
    for number, (count, members) in enumerate(groups):
        if number == LINES:
            yield f"        and {len(groups) - LINES} other tokenizers or contexts"
            return
        about = "about " if count.n_read < len(plan.corpus) else ""
        of = " each" if len(members) > 1 else ""
        context = f"context {count.context}" if count.context else "no limit of the context"
        what = "pair" if plan.corpus.prompts else "text"
        names = such_as([plan.checkpoints[i].name for i in members])
        head = "tokens" if not number else "      "
        yield (
            f"{head}  {about}{count.tokens:,}{of} for {names}; longest {what} {'read ' if about else ''}"
            f"{count.longest:,}, {context}"
        )


def unknown_lines(
    plan: Plan, unknown: Sequence[int], left: Sequence[int], missing: Sequence[int], why: str
) -> Iterator[str]:
    """Lines on the checkpoints whose tokens were not counted, and why."""
    served = [i for i in unknown if isinstance(plan.checkpoints[i].source, ServedSource)]
    away = [i for i in unknown if i not in served]
    for members, reason in (
        (away, "their files are not on this machine" if len(away) > 1 else "its files are not on this machine"),
        (served, "behind a server"),
        (left, f"only {TOKENIZERS} tokenizers are read beforehand"),
        (missing, why or "the process that counts them ended early"),
    ):  # fmt: skip
        if members:
            yield f"tokens  not counted for {such_as([plan.checkpoints[i].name for i in members])}: {reason}"


class TokenWords:
    """The answer of a probe in words: `lines` to print, `warnings`, and by checkpoint its tokens or the reason why it will fail."""

    def __init__(self, plan: Plan, probe: TokenProbe) -> None:
        counted, why = probe.answer()
        self._problem = {i: reason for i, c in counted.items() if (reason := c.error or too_long(c, plan))}
        self._tokens = {i: c.tokens for i, c in counted.items() if not c.error}
        whole = {i: c for i, c in counted.items() if i not in self._problem}
        self.lines = [
            *token_lines(plan, {i: c for i, c in counted.items() if not c.error}),
            *unknown_lines(plan, probe.unknown, probe.left, probe.missing(counted), why),
            *filter(None, [time_line(plan, whole)]),
        ]
        self.warnings = [
            f"{such_as([plan.checkpoints[i].name for i in members])}: {note}"
            for count, members in grouped(whole, lambda c: (*c.notes, *windowed(c, plan)))
            for note in (*count.notes, *windowed(count, plan))
        ]

    def added_to(self, index: int, step: PlannedStep) -> PlannedStep:
        """The step with its tokens, and with the reason why it will fail if its tokenizer showed one."""
        problem = step.problem or self._problem.get(index, "")
        return replace(step, problem=problem, tokens=self._tokens.get(index))


@dataclass(frozen=True, slots=True)
class Measured:
    """A checkpoint scored before: which one, in which job, and its statistics."""

    checkpoint: Checkpoint
    job: int
    item: JobItemRow

    def seconds(self, n_tokens: int) -> float:
        """Seconds for `n_tokens` at its speed, with the time to load the model."""
        return n_tokens / self.item.tokens_per_s + self.item.stats.get("seconds_load", 0.0)


def time_line(plan: Plan, counted: Mapping[int, Counted]) -> str:
    """How long the checkpoints whose tokens are known will take, by the speed of similar ones in this workspace."""
    if not counted:
        return ""
    measured = _measured(plan)
    times = {
        i: (found, found.seconds(count.tokens))
        for i, count in counted.items()
        if (found := _like(plan.checkpoints[i], measured)) is not None
    }
    if not times:
        return "time    unknown: this workspace has no similar checkpoint scored on this machine with these settings"
    names = {found.checkpoint.name: found for found, _ in times.values()}
    last = list(names.values())[-1]
    of = "" if len(times) == len(counted) else f" for {len(times)} of {len(counted)} checkpoints"
    seconds = sum(s for _, s in times.values()) / max(1, plan.job.engine.workers)
    others = f" and {len(names) - 1} others" if len(names) > 1 else ""
    return (
        f"time    about {duration(seconds)}{of}, at the speed of {last.checkpoint.name}{others} in job {last.job}"
        f" ({last.item.tokens_per_s:,.0f} tokens/s)"
    )


def _like(checkpoint: Checkpoint, measured: Sequence[Measured]) -> Measured | None:
    """The latest measurement of a checkpoint of the same run, or of one with the same size and type; the same quantisation."""
    same = [m for m in measured if m.checkpoint.quantization == checkpoint.quantization]
    for key in (lambda c: c.run, lambda c: (c.size, c.type) if c.size else None):
        found = [m for m in same if key(checkpoint) is not None and key(m.checkpoint) == key(checkpoint)]
        if found:
            return found[-1]
    return None


def _measured(plan: Plan) -> list[Measured]:
    """The checkpoints that this machine scored for this workspace with the plan's settings, in order of time."""
    try:
        store = Store.read(plan.workspace)
    except StoreError:
        return []
    try:
        known = {row.name: row.checkpoint for row in store.checkpoints.all()}
        return [
            Measured(known[item.name], job.id, item)
            for job in reversed(store.jobs.all()[:LATEST])
            if job.host == socket.gethostname() and _is_like(job, plan.job)
            for item in store.jobs.items(job.id)
            if item.status == "done" and item.tokens_per_s > 0 and item.name in known
        ]
    except StoreError:
        return []
    finally:
        store.close()


def _is_like(row: JobRow, job: JobFile) -> bool:
    """Whether a stored job was run with the same settings, number of workers and kind of texts as `job`."""
    try:
        other = parse_job(tomllib.loads(row.job_toml), "")
    except (KltuiError, ValueError):
        return False
    return (other.settings(), other.engine) == (job.settings(), job.engine)
