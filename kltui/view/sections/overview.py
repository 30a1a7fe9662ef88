"""Overview of the workspace: corpora, checkpoints by run, the common key of its vectors, failures."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict

from rich.console import RenderableType

from kltui.analysis.emptying import LEFT_OUT
from kltui.analysis.number_text import from_to
from kltui.analysis.point import Point, grid_of
from kltui.analysis.repeats import Repeats
from kltui.errors import KltuiError
from kltui.registry.parents import parent_notes, parents_not_there
from kltui.store import CheckpointRow
from kltui.store.comparable import FROM_ELSEWHERE, difference_words, remedy, standing_note
from kltui.store.same_weights import left_out_words, sentences
from kltui.view.sections.context import Context
from kltui.view.sections.section import Section
from kltui.view.tables import count, figure, table, words
from kltui.workspace.workspace import VectorGroup

FAILURES_SHOWN = 12
VALUES_SHOWN = 3
RUNS_SHOWN = 40
STATES = {
    "elsewhere": "scored on another corpus only",
    "empty": "without a value for any text",
    "layers": "with layer vectors only",
}
# Fields of the key that differ only by variant or layer, which are visible in the names.
_HARMLESS = {"file", "source", "declared", "lens", "bitsandbytes", "torchao", "accelerate", "gguf"}
_COUNTED = re.compile(r"\d+ (?=packed)")  # numbers of layers, which differ between model sizes
_HASH = re.compile(r"\b[0-9a-f]{64}\b")
# Fields of a map's record that are not settings of scoring.
_NOT_KEYS = {"corpus", "settings", "preprocess", "map", LEFT_OUT, FROM_ELSEWHERE}


def overview(ctx: Context) -> Section:
    """Counts, runs, corpora, key and failures; works even if nothing is scored yet."""
    rows = ctx.rows
    status = Counter(r.status for r in rows)
    key, notes = _key(ctx)
    data: dict[str, object] = {
        "path": str(ctx.ws.path),
        "checkpoints": {"total": len(rows), "scored": sum(r.scored for r in rows), "status": dict(status)},
        "corpora": [
            {
                "sha256": c.sha256,
                "texts": c.n,
                "mean_bytes": c.mean_bytes,
                "copies": ctx.ws.copies(c.sha256),
                "source": c.source,
                "record": c.record,
            }
            for c in ctx.ws.corpora()
        ],
        "runs": [_run_data(run, members) for run, members in _by_run(rows).items()],
        "key": key,
        "failures": [
            {"name": r.name, "error": r.error, "hint": r.hint} for r in rows if r.status == "failed"
        ],
    }
    lineage = [row.checkpoint for row in rows]
    notes += parent_notes(lineage, ())
    data["parents_not_here"] = sorted(parents_not_there(lineage))
    points, repeated = _repeats(ctx)
    data["same_weights"] = [
        {
            "names": [points[k].name for k in group],
            "left_out": [points[k].name for k in group if k in repeated.left_out],
        }
        for group in repeated.groups
    ]
    data["saved_maps"] = [
        {"name": m.name, "preparation": asdict(m.preparation), "vectors": list(m.keys), "applied": m.applied}
        for m in ctx.ws.saved_maps()
    ]
    data[LEFT_OUT] = _left_out(ctx)
    data["benchmark_scores"] = ctx.ws.benchmark_scores()
    if key:
        data["mean_bytes_of_pairs"] = dict(zip(("least", "greatest"), ctx.raw.pair_mean_bytes, strict=True))
        data["noise_floor_bits_per_byte"] = ctx.floor
    return Section(
        "overview", "Workspace", tuple(_blocks(ctx, key)), tuple(notes), data, headline=_states(ctx.rows)
    )


def _key(ctx: Context) -> tuple[dict[str, object], list[str]]:
    """(settings of the map's vectors, notes on these and on vectors that are not on the map)."""
    try:
        record = ctx.raw.record
    except KltuiError as error:
        return {}, [error.message + (f": {error.hint}" if error.hint else "")]
    key = {k: v for k, v in record.items() if k not in _NOT_KEYS}
    notes = [ctx.floor_words, *ctx.left_out_words]
    notes += [
        f"these vectors differ in {k} ({_value(v)}): part of their KL may come from that"
        for k, v in key.items()
        if isinstance(v, list) and k not in _HARMLESS and len(_ways(v)) > 1
    ]
    notes += filter(None, [standing_note(record).removeprefix("; ")])
    notes += _ids_notes(ctx)
    corpus_id = next((c.id for c in ctx.ws.corpora() if c.sha256 == record.get("corpus")), None)
    shown = corpus_id, record.get("settings")
    others = [g for g in ctx.ws.vector_groups() if (g.corpus_id, g.settings) != shown]
    if others:
        n = sum(g.n_checkpoints for g in others)
        notes.append(
            f"{count(n, 'vector')} of another corpus or scoring setting cannot be compared and are not on this map"
        )
        notes += [_incomparable(str(record["settings"]), g) for g in others if g.corpus_id == corpus_id]
    return key, notes


def _incomparable(settings: str, others: VectorGroup) -> str:
    """Which setting prevents other vectors over the same texts from being on this map, and the remedy."""
    differ = difference_words(settings, others.settings)
    if not differ:  # vectors scored here with another dtype
        return (
            f"{count(others.n_checkpoints, 'vector')} over the same texts were scored with {others.settings}"
        )
    return (
        f"{count(others.n_checkpoints, 'vector')} over the same texts are not on this map: {differ}."
        f" {remedy(settings, others.settings)}"
    )


def _ids_notes(ctx: Context) -> list[str]:
    """A note if the map has vectors of older releases, whose key does not record how the tokenizer was read."""
    on_map = set(ctx.raw.names)
    keys = [v.key_fields for name, v in ctx.ws.vectors().items() if name in on_map and not v.is_imported]
    if not any("tokenizer" in key and not key.get("ids") for key in keys):
        return []
    return [
        "this map has older vectors, scored before kltui read tokenizer.json itself, with ids from transformers, which differ for "
        "some folders; score them again into a new workspace to use the file's ids"
    ]


def _left_out(ctx: Context) -> dict[str, str]:
    """{name: why} of vectors with too few texts in common with others; {} if there is no map."""
    try:
        return ctx.whole.left_out
    except KltuiError:
        return {}


def _repeats(ctx: Context) -> tuple[tuple[Point, ...], Repeats]:
    """(points of the map, which of them have the same weights); empty if there is no map."""
    try:
        return ctx.raw.points, ctx.raw.repeats
    except KltuiError:
        return (), Repeats()


def _by_run(rows: list[CheckpointRow]) -> dict[str, list[CheckpointRow]]:
    runs: dict[str, list[CheckpointRow]] = {}
    for row in rows:
        runs.setdefault(grid_of(row.checkpoint.tags) or row.checkpoint.run, []).append(row)
    return runs


def _run_data(run: str, members: list[CheckpointRow]) -> dict[str, object]:
    steps = [m.checkpoint.step for m in members if m.checkpoint.step is not None]
    first = members[0].checkpoint
    return {
        "run": run,
        "checkpoints": len(members),
        "scored": sum(m.scored for m in members),
        "failed": sum(m.status == "failed" for m in members),
        "first_step": min(steps, default=None),
        "last_step": max(steps, default=None),
        "size": first.size,
        "type": first.type,
        "seed": first.seed,
        "parents": sorted({m.checkpoint.parent for m in members if m.checkpoint.parent}),
        "variants": sorted({m.checkpoint.quantization for m in members}),
        "layers": max(m.layers for m in members),
    }


def _states(rows: list[CheckpointRow]) -> str:
    """The number of checkpoints, and of those in each state."""
    status = Counter(r.status for r in rows)
    states = ", ".join(f"{n} {STATES.get(state, state)}" for state, n in sorted(status.items()))
    return f"{count(len(rows), 'checkpoint')}: {states or 'none yet'}"


def _blocks(ctx: Context, key: dict[str, object]) -> list[RenderableType]:
    blocks: list[RenderableType] = [words(str(ctx.ws.path))]
    for corpus in ctx.ws.corpora():
        copies = ctx.ws.copies(corpus.sha256)
        counted = f" ({count(copies, 'copy of another', 'copies of others')})" if copies else ""
        blocks.append(
            words(
                f"corpus {corpus.sha256[:12]}: {count(corpus.n, 'text')}{counted} of {figure(corpus.mean_bytes, 5)}"
                f" bytes on average, from {corpus.source}"
            )
        )
    blocks.append(words(_states(ctx.rows)))
    if key:
        shown = ", ".join(f"{k} {_value(v)}" for k, v in key.items() if v != "")
        blocks.append(words(f"scored with {shown}"))
    points, repeated = _repeats(ctx)
    same = sentences([[points[k] for k in group] for group in repeated.groups])
    blocks += [words(line, "yellow") for line in (*same, *left_out_words(points, repeated))]
    blocks += [words(line) for line in _further(ctx)]
    if ctx.rows:
        runs = _by_run(ctx.rows)
        blocks.append(_run_table(runs))
        if len(runs) > RUNS_SHOWN:
            blocks.append(words(f"{RUNS_SHOWN} of {len(runs)} runs and models; --json has them all"))
    blocks += _failures([r for r in ctx.rows if r.status == "failed"])
    return blocks


def _further(ctx: Context) -> list[str]:
    """Lines on the saved maps and benchmark scores of the workspace."""
    lines = []
    for saved in ctx.ws.saved_maps():
        p = saved.preparation
        how = [p.mode if p.mode != "none" else "raw", *(f"without {name}" for name in p.exclude)]
        how += ["main and seed runs separately"] if p.separate else []
        here = ", shown here" if saved.name == ctx.choice.saved else ""
        lines.append(f"map {saved.name}: {count(len(saved.keys), 'vector')}, {', '.join(how)}{here}")
    scores = ctx.ws.benchmark_scores()
    if scores:
        tasks = {task for given in scores.values() for task in given}
        lines.append(f"benchmark scores: {count(len(scores), 'model')}, {count(len(tasks), 'task')}")
    return lines


def _value(value: object) -> str:
    """A value of the key as text, with hashes cut to 12 digits; values that differ only in a number of layers appear once."""
    if not isinstance(value, list):
        return _HASH.sub(lambda found: found[0][:12], str(value))
    ways = _ways(value)
    few = " or ".join(way or "none" for way in ways[:VALUES_SHOWN])
    return few + (f" or {len(ways) - VALUES_SHOWN} more" if len(ways) > VALUES_SHOWN else "")


def _ways(values: list[object]) -> list[str]:
    """The distinct values of a field of the key, ignoring numbers of layers."""
    return list(dict.fromkeys(_COUNTED.sub("", _value(v)) for v in values))


def _run_table(runs: dict[str, list[CheckpointRow]]) -> RenderableType:
    rows = []
    ordered = sorted(runs, key=lambda run: len(runs[run]) == 1)
    for run in ordered[:RUNS_SHOWN]:
        members = runs[run]
        d = _run_data(run, members)
        lineage = [members[0].checkpoint.size, members[0].checkpoint.type]
        lineage += [f"seed {d['seed']}"] if d["seed"] is not None else []
        own = {"", run, *(m.checkpoint.base_name for m in members)}
        lineage += [f"from {p}" for p in sorted({m.checkpoint.parent for m in members} - own)]
        lineage += [q for q in sorted({m.checkpoint.quantization for m in members}) if q != "none"]
        lineage += [f"{d['layers']} layer vectors"] if d["layers"] else []
        steps = from_to(d["first_step"], d["last_step"]) if d["first_step"] is not None else "-"
        rows.append([run, f"{d['scored']}/{d['checkpoints']}", steps, ", ".join(x for x in lineage if x)])
    return table(["run", "scored", "steps", "lineage"], rows, wrap=(3,))


def _failures(failed: list[CheckpointRow]) -> list[RenderableType]:
    blocks: list[RenderableType] = [words(f"failed: {r.name}: {r.error}") for r in failed[:FAILURES_SHOWN]]
    if len(failed) > FAILURES_SHOWN:
        blocks.append(words(f"and {len(failed) - FAILURES_SHOWN} more failed"))
    return blocks
