"""The summary at the end of a job or the demo: the findings in at most ten lines, one plot, and the next commands."""

from __future__ import annotations

import math
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO, cast

from rich.table import Table

from kltui.analysis.diffusion import PUBLISHED_EXPONENTS, summarise
from kltui.analysis.loss import Loss, losses
from kltui.analysis.point import label_of
from kltui.errors import KltuiError
from kltui.sanitize import safe_text
from kltui.view.report import Report, write_text
from kltui.view.sections.context import Context, ReportChoice, finals
from kltui.view.sections.kl import LENGTH_SHARE_TOLD, every_pair, largest_of, length_share_of
from kltui.view.sections.loss import loss
from kltui.view.sections.section import Plot, Section
from kltui.view.sections.stabilisation import stabilisation
from kltui.view.sections.trajectories import trajectories
from kltui.view.tables import count, figure, with_error, words

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kltui.workspace import Workspace

MAX_LINES, MAX_RUNS = 10, 3
WIDTH = 68  # of the findings, in a terminal of 80 columns
LOG_WIDTH = 80
Finding = tuple[str, str]  # (label, text)


def print_summary(
    ws: Workspace,
    choice: ReportChoice | None = None,
    *,
    stream: TextIO | None = None,
    notices: TextIO | None = None,
    ascii_only: bool = False,
    to_log: bool = False,
) -> None:
    """Writes the summary to `stream` (standard output), and progress of long computations to `notices` (standard error).

    With `to_log` it has at most 80 columns and no plot: logs are shown in panes that wrap their lines.
    """
    out, said = stream or sys.stdout, notices or sys.stderr

    def notify(message: str) -> None:
        said.write(f"{safe_text(message)}\n")
        said.flush()

    section = summary(Context(ws, choice or ReportChoice(), notify), with_plot=not to_log)
    width = LOG_WIDTH if to_log else None
    write_text(Report(str(ws.path), "none", (section,)), out, width, ascii_only=ascii_only)
    out.flush()


def summary(ctx: Context, *, with_plot: bool = True) -> Section:
    """Counts, loss, the largest KL, when runs settled, exponents and failures; a plot; the next commands."""
    found = [one for find in (_counts, _loss, _largest, _settled, _exponents) for one in _found(find, ctx)]
    lines = Table.grid(padding=(0, 2, 0, 0))
    lines.add_column(min_width=len("exponent c"))
    lines.add_column()
    taken = sum(len(textwrap.wrap(text, WIDTH)) for _, text in found)
    for label, text in [*found, *_failures(ctx, MAX_LINES - taken)]:
        lines.add_row(words(label, "bold"), words(text))
    blocks: list[RenderableType] = [lines, *(_picture(ctx) if with_plot else [])]
    folder = shlex.quote(safe_text(str(ctx.ws.path), 400))
    notes = (f"explore it:    kltui {folder}", f"all results:   kltui --report {folder}")
    return Section("summary", "Summary", tuple(blocks), notes)


def _found(find: Callable[[Context], Iterator[Finding]], ctx: Context) -> list[Finding]:
    """The findings of one function; [] if the workspace lacks the data for it."""
    try:
        return list(find(ctx))
    except KltuiError:
        return []


def _counts(ctx: Context) -> Iterator[Finding]:
    rows, corpus = ctx.rows, ctx.ws.corpus()
    scored = sum(row.scored for row in rows)
    of = f"{count(corpus.n, 'text')} of {corpus.mean_bytes:.0f} bytes on average"
    yield "scored", f"{scored} of {count(len(rows), 'checkpoint')} over {of}"


def _loss(ctx: Context) -> Iterator[Finding]:
    known = [end for end in _last_of_runs(losses(ctx.raw)) if math.isfinite(end.bits_per_byte)]
    if known:
        best = min(known, key=lambda one: one.bits_per_byte)
        run_of = {label_of(point): point.run for point in ctx.raw.points}
        n_runs = len({run_of[end.run] for end in known})
        variants = f" and {count(len(known) - n_runs, 'variant')}" if len(known) > n_runs else ""
        worst = figure(max(e.bits_per_byte for e in known))
        others = f"; {count(n_runs, 'run')}{variants} end at or below {worst}"
        value = f"{with_error(best.bits_per_byte, best.se)} bits/byte at best, {safe_text(best.name, 60)}"
        yield "loss", value + (others if len(known) > 1 else "")


def _last_of_runs(every: list[Loss]) -> list[Loss]:
    last: dict[str, Loss] = {}
    for one in every:
        before = last.get(one.run)
        if before is None or (one.step or 0) >= (before.step or 0):
            last[one.run] = one
    return list(last.values())


def _largest(ctx: Context) -> Iterator[Finding]:
    # without the report's section, whose clustering takes seconds to import on a slow disk
    chosen = ctx.map.select(finals(ctx.map))
    pair = largest_of(every_pair(chosen))
    if pair is not None:
        a, b, largest = pair
        value = with_error(largest.value, largest.se)
        share = length_share_of(chosen, pair)
        more = f"; {share:.0%} of it is due to text lengths" if share >= LENGTH_SHARE_TOLD else ""
        yield "largest KL", f"{value} bits/byte, {safe_text(a, 50)} to {safe_text(b, 50)}{more}"


def _settled(ctx: Context) -> Iterator[Finding]:
    runs = cast("list[dict[str, Any]]", stabilisation(ctx).data["runs"])
    levels = sorted({r["level"] for r in runs})
    level = levels[min(1, len(levels) - 1)]
    of_level = [r for r in runs if r["level"] == level]
    done = [f"{safe_text(r['run'], 40)} @{r['step']}" for r in of_level if r["step"] is not None]
    not_yet = len(of_level) - len(done)
    said = [_first_few(done)] if done else []
    if not_yet:
        of = count(len(of_level), "run")
        said.append(
            f"{not_yet} of {of} not yet" if done else f"none of {of} yet" if not_yet > 1 else "not yet"
        )
    yield "settled", f"{'; '.join(said)} (below {level:g} bits/byte from step to step)"


def _exponents(ctx: Context) -> Iterator[Finding]:
    said = [
        f"{safe_text(s.run, 40)} {s.c_q[0]:.2f}" + (f" / {s.c_w[0]:.2f}" if math.isfinite(s.c_w[0]) else "")
        for s in summarise(ctx.exponents)
        if math.isfinite(s.c_q[0])
    ]
    of_q = [row[1] for row in PUBLISHED_EXPONENTS.values()]
    if said:
        spaces = "likelihood / weights; " if " / " in "".join(said) else ""
        yield (
            "exponent c",
            f"{_first_few(said)} ({spaces}Pythia {figure(min(of_q), 2)} to {figure(max(of_q), 2)})",
        )


def _failures(ctx: Context, n_lines: int) -> list[Finding]:
    """Failed checkpoints grouped by reason, each reason with its hint, in at most `n_lines` lines."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in ctx.rows:
        if row.status == "failed":
            reasons.setdefault((row.error, row.hint), []).append(safe_text(row.name, 50))
    if not reasons:
        return []
    fit = max(1, n_lines // 2)  # a reason and its hint take two lines or more
    if len(reasons) > fit:
        fit = max(1, (n_lines - 1) // 2)  # the last line is for the number of others
    shown = list(reasons.items())[:fit]
    rest = sum(map(len, reasons.values())) - sum(len(names) for _, names in shown)
    last = [("", f"and {rest} more: --report --section overview")] if rest and n_lines > 1 else []
    each = max(1, (n_lines - len(last)) // len(shown))
    return [*(one for why, names in shown for one in _failure(_first_and_more(names), *why, each)), *last]


def _first_and_more(names: list[str]) -> str:
    """The first of some names and the number of others, short enough to leave space for the reason."""
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _failure(names: str, error: str, hint: str, lines: int) -> list[Finding]:
    """The failed checkpoints with the reason, and the hint, cut to `lines` lines in total."""
    helps = bool(hint) and lines > 1
    of_hint = min(lines - 1, len(textwrap.wrap(safe_text(hint, 400), WIDTH))) if helps else 0
    why = ("failed", _cut(f"{names}: {safe_text(error, 400)}", lines - of_hint))
    return [why, ("", _cut(safe_text(hint, 400), of_hint))] if helps else [why]


def _cut(text: str, lines: int) -> str:
    return " ".join(textwrap.wrap(text, WIDTH, max_lines=lines, placeholder=" …"))


def _first_few(said: list[str]) -> str:
    more = len(said) - MAX_RUNS
    return ", ".join(said[:MAX_RUNS]) + (f" and {more} more" if more > 0 else "")


def _picture(ctx: Context) -> list[RenderableType]:
    """The loss against the step if there are runs, otherwise the map."""
    for section in (loss, trajectories):
        try:
            plots = [block for block in section(ctx).blocks if isinstance(block, Plot)]
        except KltuiError:
            continue
        if plots:
            return list(plots[:1])
    return []
