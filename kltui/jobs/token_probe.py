"""What models' tokenizers make of a plan's corpus, asked before anything is scored, in a separate process that reads no weights."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kltui.corpus.corpus import Corpus
from kltui.errors import KltuiError
from kltui.jobs.plan import Plan
from kltui.jobs.process import last_line, python_command
from kltui.registry.adapters import is_adapter
from kltui.registry.checkpoint import Checkpoint, HubSource, LocalSource
from kltui.registry.gguf_file import is_gguf
from kltui.registry.layout import CONFIG, has_tokenizer, tokenizer_names
from kltui.registry.tokenizer import named_source, own_tokenizer, tokenizer_folder

COUNTED, LONGEST = 1000, 200  # texts read of a longer corpus: evenly spaced ones, and the longest by bytes
TOKENIZERS = 20  # a job rarely has more; reading one takes up to a second
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Counted:
    """A corpus under one tokenizer, from `n_read` of its texts.

    `tokens` (to score) is an estimate for the whole corpus unless all its texts were read. `longest` is the most ids of a
    text and `n_overlong` the number of texts with more ids than `context`, both of the texts read. With an `error`
    (and what to do), the rest means nothing.
    """

    tokens: int
    longest: int = 0
    context: int | None = None
    n_overlong: int = 0
    notes: tuple[str, ...] = ()
    n_read: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Folders of a model's configuration and of its tokenizer (or its GGUF file), and whether it is an adapter's base."""

    folder: Path
    tokenizer: Path
    adapter: bool = False

    @property
    def same(self) -> object:
        """A value that two models share if they have the same tokenizer and configuration, as far as sizes of files show."""
        if is_gguf(self.folder) or is_gguf(self.tokenizer):
            return self
        names = tokenizer_names([p.name for p in self.tokenizer.iterdir()])
        sizes = tuple((name, (self.tokenizer / name).stat().st_size) for name in sorted(names))
        return (self.folder / CONFIG).read_bytes(), sizes, self.adapter


def files_of(checkpoint: Checkpoint) -> ModelFiles | None:
    """Where a checkpoint's configuration and tokenizer are on this machine; None if they are not, or behind a server."""
    if is_adapter(checkpoint):
        base = files_of(replace(checkpoint, source=named_source(checkpoint.base), base=""))
        folder = _folder(checkpoint)
        own = own_tokenizer(folder) if folder else None
        return base and ModelFiles(base.folder, own or base.tokenizer, adapter=True)
    folder = _folder(checkpoint)
    if folder is None:
        return None
    with suppress(KltuiError, OSError):
        tokenizer = tokenizer_folder(folder, checkpoint.tokenizer)
        if tokenizer is None and is_gguf(folder):
            tokenizer = folder
        return ModelFiles(folder, tokenizer) if tokenizer is not None and has_tokenizer(tokenizer) else None
    return None


def _folder(checkpoint: Checkpoint) -> Path | None:
    source = checkpoint.source
    if isinstance(source, LocalSource):
        return source.path
    if isinstance(source, HubSource):
        from kltui.registry.hub import cached_folder

        return cached_folder(source)
    return None


def read_texts(corpus: Corpus) -> tuple[NDArray[np.int64], int]:
    """(Indices of the texts to tokenise, how many of them, from the front, are an even sample of the corpus or all of it)."""
    n = len(corpus)
    if n <= COUNTED + LONGEST:
        return np.arange(n), n
    even = np.linspace(0, n - 1, COUNTED).astype(np.int64)
    size_N = corpus.text_bytes + np.array(
        [sum(len(said.encode()) for _, said in prompt) for prompt in corpus.prompts] or 0, dtype=np.int64
    )
    longest = np.setdiff1d(np.argsort(size_N)[-LONGEST:], even)
    return np.concatenate((even, longest)), COUNTED


class TokenProbe:
    """A pending query, answered by `answer`: what each checkpoint's tokenizer makes of the plan's corpus.

    `unknown` are the indices of checkpoints whose tokenizer is not on this machine, and `left` those beyond TOKENIZERS.
    """

    def __init__(self, plan: Plan, indices: Sequence[int]) -> None:
        self.unknown: list[int] = []
        self.left: list[int] = []
        self._plan = plan
        self._of: dict[int, int] = {}  # checkpoint -> its line of the answer
        asked: dict[object, int] = {}
        places: list[ModelFiles] = []
        for index in indices:
            place = _files(plan, index)
            if place is None:
                self.unknown.append(index)
                continue
            if place.same not in asked and len(places) == TOKENIZERS:
                self.left.append(index)
                continue
            self._of[index] = asked.setdefault(place.same, len(places))
            if self._of[index] == len(places):
                places.append(place)
        self._rows, self._n_counted = read_texts(plan.corpus)
        self._process = self._start(places) if places else None

    def _start(self, places: Sequence[ModelFiles]) -> subprocess.Popen[bytes]:
        corpus, rows = self._plan.corpus, self._rows.tolist()
        asked = {
            "texts": [corpus.texts[i] for i in rows],
            "prompts": [corpus.prompts[i] for i in rows] if corpus.prompts else [],
            "n_counted": self._n_counted,
            "settings": asdict(self._plan.settings),
            "models": [
                {"folder": str(p.folder), "tokenizer": str(p.tokenizer), "adapter": p.adapter} for p in places
            ],
        }
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps(asked).encode())
            file.seek(0)
            return _started(file)

    def answer(self) -> tuple[dict[int, Counted], str]:
        """({index of a checkpoint: its tokens}, why some are missing or ""); waits for the other process."""
        if self._process is None:
            return {}, ""
        try:
            out, err = self._process.communicate(timeout=PATIENCE_S)
            why = "" if self._process.returncode == 0 else last_line(err)
        except subprocess.TimeoutExpired:
            self.stop()
            return {}, f"tokenising took more than {PATIENCE_S:.0f} s"
        lines: list[Counted] = []
        for line in out.decode(errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                lines.append(self._read(json.loads(line)))
        return {i: lines[at] for i, at in self._of.items() if at < len(lines)}, why

    def missing(self, counted: Mapping[int, Counted]) -> list[int]:
        """Checkpoints that were asked about and have no answer."""
        return [index for index in self._of if index not in counted]

    def _read(self, found: Mapping[str, Any]) -> Counted:
        """One line of the answer, with the number of tokens scaled from the texts counted to the whole corpus, by bytes."""
        if "error" in found:
            hint = f" ({found['hint']})" if found["hint"] else ""
            return Counted(0, error=f"{found['error']}{hint}")
        text_bytes = self._plan.corpus.text_bytes
        part = int(text_bytes[self._rows[: self._n_counted]].sum())
        whole = int(text_bytes.sum())
        scaled = round(found["tokens"] * whole / part) if part else found["tokens"]
        return Counted(
            scaled,
            found["longest"],
            found["context"],
            found["n_overlong"],
            tuple(found["notes"]),
            len(self._rows),
        )

    def stop(self) -> None:
        """Ends the query without waiting for the answer."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


def _started(file: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        python_command("kltui.scoring.token_count", "main"),
        stdin=file,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _files(plan: Plan, index: int) -> ModelFiles | None:
    checkpoint = plan.checkpoints[index]
    mix = plan.mixes.get(checkpoint.name)
    try:
        place = files_of(mix.parts[0] if mix else checkpoint)
        assert place is None or place.same
    except (KltuiError, OSError):
        return None
    return place


Group = tuple[Counted, list[int]]


def grouped(counted: Mapping[int, Counted], key: Callable[[Counted], object]) -> list[Group]:
    """[(a count, the checkpoints for which `key` of their counts is the same)], in the order of the checkpoints."""
    found: dict[object, Group] = {}
    for index, count in sorted(counted.items()):
        found.setdefault(key(count), (count, []))[1].append(index)
    return list(found.values())
