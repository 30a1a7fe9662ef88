"""A release's side files in a workspace: pictures and colours as records, resampled texts as a file, types and parents of
checkpoints."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kltui.importers.imported import lineage
from kltui.importers.side_files import ReleasedPicture, ReleaseSideFiles, Samples
from kltui.store import CheckpointRow, Store
from kltui.store.atomic_write import write_atomic

PICTURE, COLOURS, SAMPLES = "picture", "colours", "samples"  # kinds of records
FOLDER = "draws"
LEFT_OUT = {"pythia-1b": (116_000,)}  # checkpoints that the published picture of pretraining leaves out


def put_side_files(store: Store, side: ReleaseSideFiles) -> list[str]:
    """Stores the data that accompanies vectors, within a transaction; returns a line on each kind."""
    said = []
    rows = store.checkpoints.all()
    for name, picture in side.pictures.items():
        points = {**picture.points, **_of_runs(picture, rows)}
        store.records.put(PICTURE, name, {"points": {n: list(p) for n, p in points.items()}})
        known = len(points.keys() & {row.name for row in rows})
        without = [
            run for run in picture.runs if not any(n.startswith(f"{lineage(run).run}@") for n in points)
        ]
        lacking = f"; the number of steps of {', '.join(without[:4])} differs here" if without else ""
        said.append(f"released picture {name}: {len(points)} points, {known} of checkpoints here{lacking}")
    if side.colours:
        store.records.put(COLOURS, "type", {"colours": dict(side.colours)})
        said.append(f"colours of {len(side.colours)} types")
    for name, samples in side.samples.items():
        _put_samples(store, name, samples)
        said.append(f"released draws {name}: {len(samples.sets)} sets of texts (--draw N --draw-by {name})")
    changed = _relabel(store, rows, side)
    if side.types or side.parents:
        said.append(
            f"types of {len(side.types)} and parents of {len(side.parents)} models: {changed} checkpoints changed"
        )
    return said


def _of_runs(picture: ReleasedPicture, rows: list[CheckpointRow]) -> dict[str, tuple[float, ...]]:
    """{checkpoint: coordinates} of a picture's runs, whose rows are in order of step; only runs with the same number of steps here."""
    steps: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for row in rows:
        c = row.checkpoint
        if c.step is not None and c.quantization == "none":
            steps[c.run].append((c.step, row.name))
    points: dict[str, tuple[float, ...]] = {}
    for run, places in picture.runs.items():
        here = sorted(steps[lineage(run).run])
        if len(here) != len(places):
            here = [(s, n) for s, n in here if s not in LEFT_OUT.get(lineage(run).run, ())]
        if len(here) == len(places):
            points |= {name: tuple(p) for (_, name), p in zip(here, places.tolist(), strict=True)}
    return points


def _put_samples(store: Store, name: str, samples: Samples) -> None:
    """Writes the sets of texts to a file, and a record that lists them."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for (seed, n), (index, weight) in samples.sets.items():
        arrays[f"{seed}/{n}/index"], arrays[f"{seed}/{n}/weight"] = index.astype(np.int32), weight
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)  # type: ignore[arg-type]  # numpy's stubs take no names from a mapping
    path = f"{FOLDER}/released-{name}.npz"
    write_atomic(store.folder / path, data.getvalue())
    sets: dict[str, list[int]] = defaultdict(list)
    for seed, n in samples.sets:
        sets[str(seed)].append(n)
    store.records.put(SAMPLES, name, {"file": path, "sets": {seed: sorted(of) for seed, of in sets.items()}})


def _relabel(store: Store, rows: list[CheckpointRow], side: ReleaseSideFiles) -> int:
    """Adds the types and parents in side files to checkpoints that have none; returns how many changed."""
    changed = 0
    for row in rows:
        c = row.checkpoint
        kind, parent = _of(side.types, row), _of(side.parents, row)
        now = replace(c, type=c.type or kind, parent=c.parent or parent)
        if now != c and now.parent != now.name:
            store.checkpoints.relabel(row.id, now)
            changed += 1
    return changed


def _of(values: Mapping[str, str], row: CheckpointRow) -> str:
    return values.get(row.name) or values.get(row.checkpoint.run, "")
