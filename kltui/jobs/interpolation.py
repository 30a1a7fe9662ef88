"""Interpolated checkpoints: written by the worker that scores them, from the files of two or three others, and removed."""

from __future__ import annotations

import glob
import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kltui.analysis.interpolation import grid, interpolated
from kltui.errors import KltuiError, UsageError
from kltui.jobs.job_tables import InterpolationTable
from kltui.registry.checkpoint import Checkpoint, LocalSource
from kltui.registry.layout import CONFIG, tokenizer_names
from kltui.registry.names import check_run
from kltui.registry.reading import Hashed, Reading
from kltui.registry.tensors import open_tensors, write_tensors

FOLDER = "interpolated"
TAG = "interpolation"
STALE_AFTER_S = 86_400.0


@dataclass(frozen=True, slots=True)
class MixPlan:
    """The checkpoints (base first) that a grid point interpolates, and its weights (1 - a - b, a, b)."""

    parts: tuple[Checkpoint, ...]
    a: float
    b: float


@dataclass(frozen=True, slots=True)
class Mix:
    """An interpolation for a worker: as `MixPlan`, with the parts' files and their hashes."""

    parts: tuple[Hashed, ...]
    a: float
    b: float
    allow_bin: bool = False


def mixes(
    table: InterpolationTable, checkpoints: Sequence[Checkpoint], workspace: Path
) -> list[tuple[Checkpoint, MixPlan]]:
    """The grid points of one `[[interpolations]]` entry as checkpoints, each with its MixPlan.

    Their lineage: the base's size, seed and type, all parts as parents (a merge), and tags with the grid position.
    """
    by_name = {c.name: c for c in checkpoints}
    parts = tuple(_part(name, by_name) for name in (table.base, *table.others))
    run = table.run or f"{parts[0].run}-mix"
    betas = table.grid if len(parts) > 2 else (0.0,)
    made = []
    for a, b in grid(tuple(dict.fromkeys(table.grid)), tuple(dict.fromkeys(betas))):
        place = f"a{a:g}" + (f"_b{b:g}" if len(parts) > 2 else "")
        check_run(f"{run}_{place}", "the interpolation")
        tags = (TAG, f"of={run}", f"a={a!r}", f"b={b!r}", *(f"part={p.name}" for p in parts))
        checkpoint = Checkpoint(
            run=f"{run}_{place}",
            source=LocalSource(workspace / FOLDER / f"{run}_{place}".replace("/", "--")),
            seed=parts[0].seed,
            size=parts[0].size,
            type=parts[0].type,
            parent=",".join(p.name for p in parts),
            tags=tags,
        )
        made.append((checkpoint, MixPlan(parts, a, b)))
    return made


def _part(name: str, by_name: dict[str, Checkpoint]) -> Checkpoint:
    found = by_name.get(name)
    if found is None:
        listed = ", ".join(list(by_name)[-3:])
        raise UsageError(
            f"{name!r} is not a checkpoint of this job's [[models]]",
            f"there are {len(by_name)}, such as {listed}",
        )
    if found.quantization != "none":
        raise UsageError(
            f"{name} is quantised", "quantised weights cannot be interpolated: name the unquantised model"
        )
    return found


def mixed_weights(parts: Sequence[str], a: float, b: float) -> str:
    """Hex SHA-256 that identifies the weights at (a, b) between `parts`, without computing them."""
    reported = "\0".join(("kltui interpolation 1", *parts, repr(a), repr(b)))
    return hashlib.sha256(reported.encode()).hexdigest()


@contextmanager
def materialised(folder: Path, mix: Mix | None) -> Iterator[Path]:
    """Context that yields a temporary folder, next to `folder`, with the interpolated model.

    Without `mix` it is `folder` itself.
    """
    if mix is None:
        yield folder
        return
    made = _made(folder, mix)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _made(folder: Path, mix: Mix) -> Path:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f"{glob.escape(folder.name)}.*"):  # left by a worker that was killed
            with suppress(OSError):  # or being removed by its worker
                if time.time() - left.stat().st_mtime > STALE_AFTER_S:
                    shutil.rmtree(left)
        # A unique name, because shards on other machines may be at the same grid point.
        made = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
        try:
            write_mix(made, mix)
        except BaseException:  # an incomplete model would otherwise keep a full disk full
            shutil.rmtree(made, ignore_errors=True)
            raise
    except OSError as error:
        raise KltuiError(
            f"the interpolated model could not be written: {error.filename or folder}: {error.strerror}",
            f"Each worker needs space for one model in the workspace's folder {FOLDER}.",
        ) from error
    return made


def write_mix(folder: Path, mix: Mix) -> None:
    """Writes the model at (a, b) into `folder`: the base's config and tokenizer, and the mixed weights."""
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        readings = [stack.enter_context(Reading(part)) for part in mix.parts]
        _write_mixed(folder, mix)
        for reading in readings:
            reading.check()


def _write_mixed(folder: Path, mix: Mix) -> None:
    base, tokenizer = mix.parts[0].folder, mix.parts[0].tokenizer or mix.parts[0].folder
    files = [base / CONFIG, base / "generation_config.json"]
    files += [tokenizer / name for name in tokenizer_names([p.name for p in tokenizer.iterdir()])]
    for file in files:
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    # With one other model, b is 0 and the base stands in for the third.
    folders = (*(part.folder for part in mix.parts), base)[:3]
    tensors = [open_tensors(f, mix.allow_bin) for f in folders]
    write_tensors(
        folder / "model.safetensors", interpolated(tensors[0], tensors[1], tensors[2], mix.a, mix.b)
    )
