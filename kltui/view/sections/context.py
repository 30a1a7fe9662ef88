"""Data that the sections of one report share: the workspace's map, computed once, and descriptions of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kltui.analysis.floors import noise_floor, storage_dtype
from kltui.analysis.point import Point, grid_of, label_of, line_label, numbered, trajectory_of
from kltui.analysis.products import blocks
from kltui.analysis.trajectory import saved_steps
from kltui.errors import KltuiError, UsageError
from kltui.store.comparable import dtypes_of, standing_note
from kltui.store.pair_values import CONDITIONAL, WORDS
from kltui.store.same_weights import left_out_words
from kltui.store.saved_maps import Preparation, find, several_words
from kltui.view.off_map import off_map
from kltui.view.sections.section import MissingError
from kltui.view.tables import count, figure
from kltui.workspace.map_device import gram_on
from kltui.workspace.noise import LOOKED_AT, map_floor

if TYPE_CHECKING:
    from kltui.analysis.diffusion import Exponent
    from kltui.analysis.embed import Method, Picture
    from kltui.analysis.map import ConsecutiveKL, Map
    from kltui.analysis.scale import ScaleRow
    from kltui.analysis.tree import Forest
    from kltui.store import CheckpointRow, VectorRow
    from kltui.workspace import Workspace

LN2 = math.log(2.0)
WINDOW = 10
PERPLEXITY = 30
SECONDS_BETWEEN = 2.0
LEAVES = 100  # maximum models of a tree
_ROUNDING = 1e-9  # relative error of KLs that are computed by products of all pairs


def silent(_message: str) -> None:
    """Ignores a message."""


@dataclass(frozen=True)
class ReportChoice:
    """The user's options for a report: the preparation of vectors or a saved map, the pair, and the KL for `where`.

    `level` is a KL in bits/byte for the stabilisation; `noise_corrected` subtracts the noise floor before exponents are
    fitted; large maps are centred and multiplied on `device`. `compute`: results that need the models themselves are computed,
    on `scoring_device`. `only`: the vectors (or checkpoints, with their layers) that are shown after all have been prepared
    together; empty: all. `window`: number of saved checkpoints in a window of the diffusion; `stored`: only stored results are
    used, and none are computed for storing.
    """

    preparation: Preparation = field(default_factory=Preparation)
    saved: str = ""
    pair: tuple[str, str] | None = None
    where: float | None = None
    level: float | None = None
    noise_corrected: bool = False
    device: str = "cpu"
    compute: bool = False
    scoring_device: str = "auto"
    only: frozenset[str] = frozenset()
    window: int = WINDOW
    stored: bool = False


@dataclass
class Context:
    """The workspace and options of one report; maps and distances are computed when they are first used."""

    ws: Workspace
    choice: ReportChoice = field(default_factory=ReportChoice)
    notify: Callable[[str], None] = silent
    weight_problems: list[str] = field(default_factory=list)
    picture_problems: list[KltuiError] = field(default_factory=list)
    _said: float = -math.inf

    def __post_init__(self) -> None:
        if self.choice.preparation.separate and self.preprocess == "none":
            raise UsageError(
                "--separate has no effect without a preprocessing",
                "Add --preprocess pretraining.",
            )
        if self.choice.saved:
            saved = find(self.ws.saved_maps(), self.choice.saved)
            self.choice = replace(self.choice, preparation=saved.preparation)
        gram_on(self.choice.device)  # raises an error for a missing device before anything else

    @property
    def preprocess(self) -> str:
        """The mode of the preparation."""
        return self.choice.preparation.mode

    @cached_property
    def excluded(self) -> frozenset[str]:
        """Names of the vectors that are excluded by the options. Raises UsageError for a name that matches none."""
        asked = self.choice.preparation.exclude
        labels = [(p.name, {p.name, p.base, p.run}) for p in self.whole.points]
        emptying = {word for n in self.whole.left_out for word in (n, n.partition("@")[0])}
        strangers = [a for a in asked if a not in emptying and not any(a in names for _, names in labels)]
        if strangers:
            runs = ", ".join(list(dict.fromkeys(p.run for p in self.whole.points))[:8])
            raise UsageError(
                f"--exclude {strangers[0]}: the map has no such run or checkpoint",
                f"Its runs: {runs}.{several_words(strangers[0])}",
            )
        return frozenset(name for name, names in labels if not names.isdisjoint(asked))

    @cached_property
    def whole(self) -> Map:
        """The raw final vectors that share the map, or those of the saved map."""
        if self.choice.saved:
            return self.ws.saved_map(self.choice.saved, prepared=False, device=self.choice.device)
        return self.ws.map(device=self.choice.device)

    @cached_property
    def vectors(self) -> dict[str, VectorRow]:
        """The stored vector behind each name of `layered`."""
        return self.ws.vectors(layers=True)

    @cached_property
    def rows(self) -> list[CheckpointRow]:
        """Every registered checkpoint, with what is scored of it on the corpus of this report."""
        return self.ws.checkpoints_on_corpus()

    @cached_property
    def raw(self) -> Map:
        """The raw final vectors, without excluded ones."""
        if not self.choice.preparation.exclude:
            return self._shown(self.whole)
        kept = self.whole.select([k for k, n in enumerate(self.whole.names) if n not in self.excluded])
        return self._shown(kept)

    def _shown(self, found: Map) -> Map:
        """The part of a map that is shown. Raises MissingError if that is empty."""
        only = self.choice.only
        if not only:
            return found
        rows = [k for k, n in enumerate(found.names) if n in only or n.rpartition("#")[0] in only]
        if not rows:
            raise MissingError(
                "none of the selected checkpoints is on this map", "clear the filter or the selection"
            )
        return found.select(rows)

    @cached_property
    def map(self) -> Map:
        """The final vectors after the report's preprocessing."""
        p = self.choice.preparation
        if p.mode == "none" and not p.exclude:
            return self._shown(self.whole)
        _ = self.excluded
        return self._shown(self.whole.preprocessed(p.mode, exclude=p.exclude))

    @cached_property
    def layered(self) -> Map:
        """The raw final and layer vectors; layer vectors are never preprocessed."""
        if not any(row.layers for row in self.rows):
            return self.raw
        exclude = set(self.choice.preparation.exclude)
        if not self.choice.saved and not exclude:
            return self._shown(self.ws.map(layers=True, device=self.choice.device))
        on_map, record = set(self.raw.names), self.whole.record
        names = [
            row.name
            for row in self.rows
            if row.name in on_map
            or (row.layers and {row.checkpoint.run, row.checkpoint.base_name}.isdisjoint(exclude))
        ]
        found = self.ws.map(
            names=names,
            layers=True,
            corpus=str(record["corpus"]),
            settings=str(record["settings"]),
            device=self.choice.device,
        )
        return self._shown(found)

    def check_pair(self) -> None:
        """Raises UsageError if the requested pair is not on the map, with the reason."""
        for name in self.choice.pair or ():
            try:
                self.raw.row(name)
            except KltuiError as error:
                self._refuse_other_settings()
                row = next((row for row in self.rows if row.name == name), None)
                if row is None:
                    raise UsageError(f"--pair {name}: {error.message}", error.hint) from error
                left_out, saved = self.whole.left_out, bool(self.choice.saved)
                found = off_map(row, excluded=self.excluded, left_out=left_out, saved=saved)
                raise UsageError(f"--pair: {name} {found.why}", found.hint()) from error

    def _refuse_other_settings(self) -> None:
        """Raises UsageError that names the differing setting if both checkpoints of the pair are scored but share no map."""
        asked, known = self.choice.pair or (), {row.name for row in self.ws.checkpoints() if row.scored}
        if known.issuperset(asked):
            self.ws.map(names=list(asked), corpus=str(self.whole.record["corpus"]))

    @cached_property
    def pair(self) -> tuple[str, str]:
        """The requested pair, otherwise the final checkpoints of two runs with the largest KL."""
        if self.choice.pair:
            self.check_pair()
            return tuple(self.raw.names[self.raw.row(name)] for name in self.choice.pair)  # type: ignore[return-value]
        shown = self.raw
        every = [(shown.pair_rows(i, j).value, shown.names[i], shown.names[j]) for i, j in _farthest(shown)]
        defined = [one for one in every if math.isfinite(one[0]) and one[0] > 0]
        if not defined:
            raise MissingError(
                "no two runs differ in a defined KL", "score a second run or model on the same corpus"
            )
        _, a, b = max(defined)
        return a, b

    @cached_property
    def forest(self) -> Forest:
        """Trees of the runs' last models, of the parents of these, and of the requested pair. Raises MissingError for fewer than 3."""
        from kltui.analysis.tree import forest

        rows, shown = self._tree_rows[:LEAVES], self.map
        if len(rows) < 3:
            raise MissingError(
                f"a tree needs three models, and the map has {count(len(rows), 'run')}",
                "score more runs or models on the same corpus",
            )
        self.notify(f"trees of {len(rows)} models over draws of the texts")
        return forest(shown.select(sorted(rows)))

    @property
    def tree_without(self) -> str:
        """Which models the trees leave out; "" if they have all."""
        n = len(self._tree_rows)
        return f"trees of {LEAVES} of {n} models, which is the most that they can have" if n > LEAVES else ""

    @cached_property
    def _tree_rows(self) -> list[int]:
        """Rows of the models of which a tree is to be made, those asked for and parents first."""
        shown = self.map
        ends = finals(shown)
        wanted = {*(shown.points[k].parent for k in ends), *(self.pair if self.choice.pair else ())} - {""}
        return list(dict.fromkeys([*(k for k, n in enumerate(shown.names) if n in wanted), *ends]))

    @cached_property
    def consecutive(self) -> dict[str, list[ConsecutiveKL]]:
        """{run: KLs between its neighbouring checkpoints, in order of step}."""
        runs: dict[str, list[ConsecutiveKL]] = {}
        for one in self.map.consecutive():
            runs.setdefault(one.run, []).append(one)
        return runs

    @cached_property
    def apart(self) -> dict[str, Map]:
        """The scale's main and seed runs, each preprocessed separately, if that is requested; otherwise {}."""
        from kltui.analysis.scale import prepared_apart

        p = self.choice.preparation
        return prepared_apart(self.layered, p.mode) if p.separate else {}

    @cached_property
    def scale_rows(self) -> list[ScaleRow]:
        """The ten settings of the scale. With a preprocessing, layer vectors are left out, because they are never preprocessed."""
        p = self.choice.preparation
        if p.separate:
            return self.layered.scale(apart=self.apart)
        return (self.layered if p.mode == "none" else self.map).scale()

    @cached_property
    def prepared_apart(self) -> dict[str, tuple[object, str]]:
        """{group: (record, description)} of the groups preprocessed separately, whose large maps are then freed."""
        _ = self.scale_rows
        reported = {
            group: (m.record["preprocess"], f"{group} runs: {preparation(m)}; {corpus_words(m)}")
            for group, m in self.apart.items()
        }
        del self.apart
        return reported

    @cached_property
    def pictures(self) -> dict[Method, NDArray[np.float64]]:
        """K x dims coordinates by method: t-SNE (2 dimensions, if there are more points than the perplexity), PCA and MDS (3)."""
        return {method: made.xyz_Kd for method, made in self.made_pictures.items()}

    @cached_property
    def made_pictures(self) -> dict[Method, Picture]:
        """The pictures behind `pictures`, with their quality measures.

        A method that is impossible for this map is absent, with the reason in `picture_problems`.
        """
        found = {}
        wanted: list[tuple[Method, int]] = [("pca", 3), ("mds", 3)]
        if len(self.map) > PERPLEXITY:
            self.notify(f"t-SNE of {len(self.map)} points")
            wanted.insert(0, ("tsne", 2))
        for method, dims in wanted:
            try:
                found[method] = self.map.picture(method, dims, perplexity=PERPLEXITY)
            except KltuiError as error:
                self.picture_problems.append(error)
        return found

    @cached_property
    def tsne_in_space(self) -> Picture | None:
        """t-SNE in three dimensions, a separate embedding; None if there is none in two."""
        if "tsne" not in self.made_pictures:
            return None
        self.notify(f"t-SNE of {len(self.map)} points in three dimensions")
        return self.map.picture("tsne", 3, perplexity=PERPLEXITY)

    @cached_property
    def released_pictures(self) -> dict[str, NDArray[np.float64]]:
        """{released picture: K x 2 or K x 3 coordinates of the map's vectors}, NaN for vectors that it lacks."""
        return self.ws.released_pictures(self.map.names)

    @cached_property
    def weight_sqdist(self) -> dict[tuple[str, str], float]:
        """Squared weight distances by names; missing ones are computed if the files are available."""
        compute, window = not self.choice.stored, self.choice.window
        found = self.ws.weight_distances(compute=compute, window=window, progress=self._weights_progress)
        self.weight_problems = list(self.ws.weight_problems)
        for problem in self.weight_problems:
            self.notify(f"weights: {problem}")
        return found

    @cached_property
    def gguf_sqdist(self) -> dict[tuple[str, str], float]:
        """{(model, its GGUF file): squared weight distance}; missing ones are computed if the files are available."""
        found = self.ws.gguf_distances(compute=not self.choice.stored, progress=self._weights_progress)
        for problem in self.ws.weight_problems:
            self.notify(f"weights: {problem}")
        return found

    def _weights_progress(self, run: str, done: int, total: int) -> None:
        self.tell(f"weight distances of {run}", done / max(total, 1))

    def tell(self, what: str, share: float) -> None:
        """Reports the share of a long computation that is done: every `SECONDS_BETWEEN` seconds, and at its end."""
        now = time.monotonic()
        if now - self._said >= SECONDS_BETWEEN or share >= 1.0:
            self._said = now
            self.notify(f"{what}: {share:.0%}")

    @cached_property
    def exponents(self) -> list[Exponent]:
        """Diffusion exponents of every run and full window, in both spaces."""
        saved = ((c.run, c.step, c.quantization) for c in (row.checkpoint for row in self.rows))
        return self.map.diffusion(
            self.weight_sqdist or None,
            window=self.choice.window,
            from_step="auto",
            schedule=saved_steps(saved),
            noise_corrected=self.choice.noise_corrected,
        )

    @cached_property
    def slots(self) -> dict[str, int]:
        """The number of every curve, for its colour and marker, the same as on every screen."""
        rows = [row.checkpoint for row in self.rows]
        labels = list(dict.fromkeys(map(label_of, self.raw.points)))
        made = numbered(
            self.ws.run_numbers(),
            (trajectory_of(c.run, c.tags) for c in rows),
            [*labels, *(line_label(c.run, c.quantization, c.tags) for c in rows)],
        )
        return {label: made[label] for label in labels}

    @cached_property
    def dtype(self) -> str:
        """The dtype that the map's vectors were scored in; of several, the one with the highest noise floor; "" if unknown."""
        known = dtypes_of(self.raw.record)
        floors = {dtype: noise_floor(dtype, self.raw.mean_bytes) for dtype in known}
        return "" if any(map(math.isnan, floors.values())) else max(known, key=floors.__getitem__, default="")

    @cached_property
    def floor(self) -> float:
        """KL in bits/byte below which rounding dominates: of the dtype or, if unknown, of the stored values; NaN if unknown."""
        return map_floor(self.raw.record, self.raw.loglik_KN, self.raw.mean_bytes)

    @cached_property
    def _stored_as(self) -> str:
        """The narrowest dtype that represents the values exactly, for vectors whose dtype is unknown."""
        return storage_dtype(self.raw.loglik_KN[:LOOKED_AT])

    @property
    def basis(self) -> str:
        """A description of the vectors: their preprocessing, and the number and mean size of the texts."""
        return f"{preparation(self.map)} of final layers; {corpus_words(self.map)}{standing_note(self.map.record)}"

    @property
    def raw_basis(self) -> str:
        """As `basis`, for the raw vectors."""
        return f"{preparation(self.raw)} of final layers; {corpus_words(self.raw)}{standing_note(self.raw.record)}"

    @property
    def left_out_words(self) -> list[str]:
        """Sentences on vectors that are left out because they have too few texts in common with others, one for each reason."""
        names: dict[str, list[str]] = {}
        for name, why in self.whole.left_out.items():
            names.setdefault(why, []).append(name)
        return [f"left out of the map: {_named(found)}: {why}" for why, found in names.items()]

    @property
    def repeats_words(self) -> list[str]:
        """Sentences on checkpoints that runs leave out because their weights equal those of another step, one for each run."""
        return left_out_words(self.map.points, self.map.repeats)

    @property
    def floor_words(self) -> str:
        """A description of the noise floor."""
        if math.isnan(self.floor):
            return "noise floor unknown: the dtype of the vectors is not on record"
        if not self.dtype:
            return f"noise floor for values rounded to {self._stored_as}: at least {figure(self.floor, 2)} bits/byte"
        return f"noise floor of {self.dtype}: {figure(self.floor, 2)} bits/byte"


def _named(names: Sequence[str], limit: int = 6) -> str:
    """The first names, and the number of further ones."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def preparation(shown: Map) -> str:
    """A description of a map's preprocessing: "raw vectors", or clip threshold, removed texts and exclusions."""
    record = shown.record.get("preprocess", "none")
    if not isinstance(record, dict):
        return "raw vectors"
    parts = (
        [f"clipped at {figure(float(record['clip_threshold']), 5)} nats"]
        if "clip_threshold" in record
        else []
    )
    if record.get("removed_texts"):
        parts.append(f"{count(len(record['removed_texts']), 'outlier text')} removed")
    if record.get("excluded"):
        parts.append(f"{count(len(record['excluded']), 'checkpoint')} excluded")
    return f"vectors ({', '.join(parts)})" if parts else "raw vectors"


def corpus_words(shown: Map) -> str:
    """A description of the texts in use: number, mean size, unscored values, copies, and vectors left out."""
    lacking = int(shown.n_unscored.sum())
    unscored = f", {lacking} unscored values left out pairwise" if lacking else ""
    copies = shown.n_copies
    repeated = (
        f", {count(copies, 'copy of another text', 'copies of other texts')}: errors count each text once"
        if copies
        else ""
    )
    gone = len(shown.left_out)
    absent = f"; {count(gone, 'vector')} left out because the map would have had no texts" if gone else ""
    kind = "response" if "kind" in shown.record else "text"
    return f"{values_words(shown)}{count(len(shown.text_bytes_N), kind)}, B = {mean_bytes_words(shown)}{unscored}{repeated}{absent}"


def values_words(shown: Map) -> str:
    """For pairs, which log-likelihoods a map uses, ending in a comma; "" for texts."""
    if "kind" not in shown.record:
        return ""
    values = str(shown.record.get("values", CONDITIONAL))
    return (
        f"{WORDS.get(values, 'log p(response | prompt)')} of pairs, template {shown.record.get('template')}, "
    )


def mean_bytes_words(shown: Map) -> str:
    """B of all texts, or its range over pairs if some pairs leave out texts, as text."""
    minimum, maximum = shown.pair_mean_bytes
    if minimum == maximum:
        return f"{figure(maximum, 5)} bytes"
    return f"{figure(minimum, 5)} to {figure(maximum, 5)} bytes, of the texts that a pair shares"


def complete_words(shown: Map) -> list[str]:
    """[a sentence on the number and mean size of the texts that embeddings use] if some vector lacks a text, otherwise []."""
    complete = np.isfinite(shown.loglik_KN).all(axis=0)
    if complete.all() or not complete.any():
        return []
    B = figure(float(shown.text_bytes_N[complete].mean()), 5)
    return [
        f"PCA, t-SNE and MDS use the {count(int(complete.sum()), 'text')} that every vector has, B = {B} bytes"
    ]


def finals(shown: Map) -> list[int]:
    """Row of the last checkpoint of every run, unquantised if possible; models without steps count as runs.

    Interpolated models are left out.
    """
    chosen: dict[str, int] = {}
    for row, point in enumerate(shown.points):
        if point.layer is not None or grid_of(point.tags):
            continue
        before = chosen.get(point.run)
        if before is None or _later(point, shown.points[before]):
            chosen[point.run] = row
    return list(chosen.values())


def _farthest(shown: Map) -> list[tuple[int, int]]:
    """Pairs of rows of the runs' final checkpoints with the largest KL, and those that equal it up to rounding."""
    rows = finals(shown)
    ends = shown.select(rows)
    found: list[tuple[float, int, int]] = []
    top = 0.0
    for block in blocks(len(rows)):
        kl_MK = ends.kl_rows(range(block.start, block.stop))
        later = np.arange(len(rows)) > np.arange(block.start, block.stop)[:, None]
        kl_MK = np.where(later & np.isfinite(kl_MK), kl_MK, 0.0)
        top = max(top, float(kl_MK.max(initial=0.0)))
        at = np.argwhere((kl_MK >= top * (1 - _ROUNDING)) & (kl_MK > 0))
        found += [(float(kl_MK[i, j]), block.start + int(i), int(j)) for i, j in at]
    return [(rows[i], rows[j]) for value, i, j in found if value >= top * (1 - _ROUNDING)]


def runs_first(shown: Map, rows: Sequence[int]) -> list[int]:
    """The rows with those of runs before those of models without steps, for tables that show only the first rows."""
    return sorted(rows, key=lambda k: shown.points[k].step is None)


def thinned(shown: Map, maximum: int) -> list[int]:
    """At most about `maximum` rows of a map, in order: every run's last checkpoint, and an even selection of others."""
    if len(shown) <= maximum:
        return list(range(len(shown)))
    kept = set(finals(shown))
    others = [k for k in range(len(shown)) if k not in kept]
    free = max(maximum - len(kept), 2)
    kept |= {others[i] for i in np.linspace(0, len(others) - 1, min(free, len(others))).astype(int)}
    return sorted(kept)


def _later(point: Point, other: Point) -> bool:
    plain, other_plain = point.quantization == "none", other.quantization == "none"
    if plain != other_plain:
        return plain
    return (point.step if point.step is not None else -1) > (other.step if other.step is not None else -1)


def below(value: float, floor: float) -> str:
    """A suffix for values below the noise floor, otherwise ""."""
    return " (below the floor)" if math.isfinite(floor) and value < floor else ""
