"""What the workspace holds: corpora, checkpoints by run, the key its vectors share, failures."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict

from rich.console import RenderableType

from kltui.analysis.emptying import LEFT_OUT
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
# These differ with the variant or the layer, which the names tell.
_HARMLESS = {"file", "source", "declared", "lens", "bitsandbytes", "torchao", "accelerate", "gguf"}
_COUNTED = re.compile(r"\d+ (?=packed)")  # layers, of which models of another size have another number
_HASH = re.compile(r"\b[0-9a-f]{64}\b")
# Parts of a map's record that are not settings of the scoring.
_NOT_KEYS = {"corpus", "settings", "preprocess", "map", LEFT_OUT, FROM_ELSEWHERE}


def overview(ctx: Context) -> Section:
    """Counts, runs, corpora, key and failures; never fails on a workspace where nothing is scored yet."""
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
    return Section("overview", "Workspace", tuple(_blocks(ctx, key)), tuple(notes), data)


def _key(ctx: Context) -> tuple[dict[str, object], list[str]]:
    """What the map's vectors were scored with, and notes on those that are not on it."""
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
        notes += [_kept_off(str(record["settings"]), g) for g in others if g.corpus_id == corpus_id]
    return key, notes


def _kept_off(settings: str, others: VectorGroup) -> str:
    """Which key keeps vectors over the same texts off this map, and the remedy."""
    differ = difference_words(settings, others.settings)
    if not differ:  # own vectors of another dtype, which imported ones alone would join
        return (
            f"{count(others.n_checkpoints, 'vector')} over the same texts were scored with {others.settings}"
        )
    return (
        f"{count(others.n_checkpoints, 'vector')} over the same texts are not on this map: {differ}."
        f" {remedy(settings, others.settings)}"
    )


def _ids_notes(ctx: Context) -> list[str]:
    """A note where vectors scored here are from before their key said what had read the tokenizer."""
    on_map = set(ctx.raw.names)
    keys = [v.key_fields for name, v in ctx.ws.vectors().items() if name in on_map and not v.is_imported]
    if not any("tokenizer" in key and not key.get("ids") for key in keys):
        return []
    return [
        "this map has older vectors, scored before kltui read tokenizer.json itself, with ids from transformers, which differ for "
        "some folders; score them again into a new workspace to use the file's ids"
    ]


def _left_out(ctx: Context) -> dict[str, str]:
    """{name: why} of vectors that would have emptied the map; empty where there is no map."""
    try:
        return ctx.whole.left_out
    except KltuiError:
        return {}


def _repeats(ctx: Context) -> tuple[tuple[Point, ...], Repeats]:
    """The points of the map and which of them hold the same weights; none where there is no map."""
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
    status = Counter(r.status for r in ctx.rows)
    states = ", ".join(f"{n} {state}" for state, n in sorted(status.items()))
    blocks.append(words(f"{count(len(ctx.rows), 'checkpoint')}: {states or 'none yet'}"))
    if key:
        shown = ", ".join(f"{k} {_value(v)}" for k, v in key.items() if v != "")
        blocks.append(words(f"scored with {shown}"))
    points, repeated = _repeats(ctx)
    same = sentences([[points[k] for k in group] for group in repeated.groups])
    blocks += [words(line, "yellow") for line in (*same, *left_out_words(points, repeated))]
    blocks += [words(line) for line in _kept(ctx)]
    if ctx.rows:
        runs = _by_run(ctx.rows)
        blocks.append(_run_table(runs))
        if len(runs) > RUNS_SHOWN:
            blocks.append(words(f"{RUNS_SHOWN} of {len(runs)} runs and models; --json has them all"))
    blocks += _failures([r for r in ctx.rows if r.status == "failed"])
    return blocks


def _kept(ctx: Context) -> list[str]:
    """What the workspace keeps beside its vectors, a line each."""
    lines = []
    for saved in ctx.ws.saved_maps():
        p = saved.preparation
        how = [p.mode if p.mode != "none" else "raw", *(f"without {name}" for name in p.exclude)]
        how += ["main and seed runs apart"] if p.separate else []
        here = ", shown here" if saved.name == ctx.choice.saved else ""
        lines.append(f"map {saved.name}: {count(len(saved.keys), 'vector')}, {', '.join(how)}{here}")
    scores = ctx.ws.benchmark_scores()
    if scores:
        tasks = {task for given in scores.values() for task in given}
        lines.append(f"benchmark scores: {count(len(scores), 'model')}, {count(len(tasks), 'task')}")
    return lines


def _value(value: object) -> str:
    """A value of the key in words, hashes by their first 12 digits; of several ways that differ in a count of layers one."""
    if not isinstance(value, list):
        return _HASH.sub(lambda found: found[0][:12], str(value))
    ways = _ways(value)
    few = " or ".join(way or "none" for way in ways[:VALUES_SHOWN])
    return few + (f" or {len(ways) - VALUES_SHOWN} more" if len(ways) > VALUES_SHOWN else "")


def _ways(values: list[object]) -> list[str]:
    """Different values of one part of the key, each once, whatever the number of layers that it was done to."""
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
        lineage += [f"{d['layers']} lens layers"] if d["layers"] else []
        steps = f"{d['first_step']} to {d['last_step']}" if d["first_step"] is not None else "-"
        rows.append([run, f"{d['scored']}/{d['checkpoints']}", steps, ", ".join(x for x in lineage if x)])
    return table(["run", "scored", "steps", "lineage"], rows, wrap=(3,))


def _failures(failed: list[CheckpointRow]) -> list[RenderableType]:
    blocks: list[RenderableType] = [words(f"failed: {r.name}: {r.error}") for r in failed[:FAILURES_SHOWN]]
    if len(failed) > FAILURES_SHOWN:
        blocks.append(words(f"and {len(failed) - FAILURES_SHOWN} more failed"))
    return blocks
