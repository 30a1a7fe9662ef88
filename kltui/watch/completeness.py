"""Which checkpoints of a run are complete: all of their files exist, are whole, and have not changed for some seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from kltui.errors import KltuiError
from kltui.registry.gguf_file import first_names, is_gguf, part_paths, read_model
from kltui.registry.layout import CONFIG, is_model_folder, read_json_object
from kltui.registry.revisions import is_set_aside, parse_step
from kltui.registry.tensors import open_tensors, read_header

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SETTLED_S = 3.0

Signature = tuple[tuple[str, int, int, int], ...]


class CheckpointObserver:
    """Observes model folders. One is complete if its files are whole and the same in observations `settled_s` seconds apart."""

    def __init__(self, settled_s: float = SETTLED_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._settled_s, self._clock = settled_s, clock
        self._seen: dict[Path, tuple[Signature, float]] = {}

    def look(self, places: Iterable[Path], *, allow_bin: bool = False) -> dict[Path, Signature]:
        """{folder or GGUF file: signature of its files} of every complete checkpoint in `places`.

        A place is a model folder, a GGUF file, or a folder of these; a place that does not exist has no checkpoints.
        """
        complete: dict[Path, Signature] = {}
        for folder in candidates(places):
            now = _signature(folder)
            before, since = self._seen.get(folder, (None, 0.0))
            if now != before:
                self._seen[folder] = (now, self._clock())
                since = self._clock()
            if now and self._clock() >= since + self._settled_s and is_whole(folder, allow_bin=allow_bin):
                complete[folder] = now
        return complete


def candidates(places: Iterable[Path]) -> list[Path]:
    """Paths that may be a checkpoint: the places themselves, and the step folders and GGUF files in them.

    Staging folders of trainers and copies do not count as step folders (`registry.revisions.parse_step`).
    """
    found: dict[Path, None] = {}
    for place in places:
        if is_gguf(place):
            found[place] = None
            continue
        try:
            inside = sorted(place.iterdir())
        except OSError:  # it does not exist yet, or not at the moment
            continue
        found.update((p, None) for p in inside if parse_step(p.name) is not None and p.is_dir())
        found.update((place / name, None) for name in first_names([p.name for p in inside if is_gguf(p)]))
        if not is_set_aside(place.name):
            found[place] = None
    return list(found)


def is_whole(folder: Path, *, allow_bin: bool = False) -> bool:
    """Whether a folder has a readable config and its weight files are as long as their headers state; for a GGUF file, its parts."""
    try:
        if is_gguf(folder):
            return bool(read_model(folder).parts)
        if (folder / ADAPTER_CONFIG).is_file():
            read_header(folder / ADAPTER_WEIGHTS)
            return bool(read_json_object(folder / ADAPTER_CONFIG))
        if not is_model_folder(folder) or not read_json_object(folder / CONFIG):
            return False
        # An index may name tensors that no file has: what the model lacks is an error when it is loaded.
        return bool(open_tensors(folder, allow_bin, as_indexed=False))
    except (KltuiError, OSError):
        return False


def _signature(folder: Path) -> Signature:
    """(name, size, time, inode) of every file in a folder, or of a GGUF file's parts; () if there are none or on an error."""
    try:
        files = part_paths(folder) if is_gguf(folder) else sorted(p for p in folder.iterdir() if p.is_file())
        facts = [(p.name, p.stat()) for p in files]
    except (OSError, KltuiError):
        return ()
    return tuple((name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in facts)
