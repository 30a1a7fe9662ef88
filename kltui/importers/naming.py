"""Names of released models as names of runs. Characters that separate step, variant, layer or parents are encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kltui.analysis.point import Point
from kltui.importers.imported import Imported, ImportedVector, lineage, point_name
from kltui.registry.names import made_name, plain_run, run_problem
from kltui.sanitize import safe_text

MAX_WORD = 200


def released(name: str, quantization: str = "none") -> Point:
    """The point of a released model: a name `RUN@STEP` is read as run and step, any other name is that of a run.

    Other separators belong to the run's name and are encoded by `plainly_named`: a model called `k@400#1` is not
    layer 1 of `k@400`.
    """
    parts = made_name(name)
    if parts and parts[1] is not None and parts[2:] == ("none", None) and not run_problem(parts[0]):
        return lineage(parts[0], parts[1], quantization=quantization)
    return lineage(name, quantization=quantization)


def side_name(model: str, quantization: str, layer: int | None) -> str:
    """The name, as in the workspace, of a model that a side file names by its released name."""
    p = replace(released(model, quantization), layer=layer)
    run = p.run if not run_problem(p.run) else plain_run(p.run)
    return point_name(run, p.step, p.quantization, p.layer)


def plainly_named(found: Imported) -> Imported:
    """The import with valid names of runs, sizes, types, parents and tasks; a note says which names were encoded."""
    renamed: dict[str, str] = {}
    vectors = []
    for vector in found.vectors:
        p, run = vector.point, _run(vector)
        if run != p.run:
            renamed[p.name] = point_name(run, p.step, p.quantization, p.layer)
            renamed[p.run] = run
        vectors.append(replace(vector, point=_cleaned(p, run)))
    scores = {
        renamed.get(name) or (name if safe_text(name) == name else plain_run(name)): {
            safe_text(task, MAX_WORD): score for task, score in tasks.items()
        }
        for name, tasks in found.scores.items()
    }
    if not renamed:
        return replace(found, vectors=tuple(vectors), scores=scores)
    made = tuple(_with_parent(v, renamed) for v in vectors)
    before, now = next((b, n) for b, n in renamed.items())
    n_runs = len({v.point.run for v in found.vectors if _run(v) != v.point.run})
    note = (
        f"{n_runs} name{'s' * (n_runs > 1)} with reserved characters (@ # + ,), invisible characters or more than 200 bytes:"
        f" percent-encoded, such as {safe_text(now, 80)} for {safe_text(before, 80)}"
    )
    return replace(found, vectors=made, scores=scores, notes=(*found.notes, note))


def _run(vector: ImportedVector) -> str:
    """The name of the vector's run in the workspace. A name in a file that kltui wrote is encoded already."""
    run = vector.point.run
    return run if vector.named_here and not run_problem(run) else plain_run(run)


def _cleaned(p: Point, run: str) -> Point:
    """The point with the run `run`, and with printable size, type, parent and tags of limited length."""
    return replace(
        p,
        run=run,
        name=point_name(run, p.step, p.quantization, p.layer),
        size=safe_text(p.size, MAX_WORD),
        type=safe_text(p.type, MAX_WORD),
        parent=safe_text(p.parent, 10 * MAX_WORD),
        tags=tuple(safe_text(tag, MAX_WORD) for tag in p.tags),
    )


def _with_parent(vector: ImportedVector, renamed: Mapping[str, str]) -> ImportedVector:
    p = vector.point
    parents = renamed.get(p.parent) or ",".join(renamed.get(n, n) for n in p.parent.split(","))
    return vector if parents == p.parent else replace(vector, point=replace(p, parent=parents))
