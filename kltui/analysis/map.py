"""A map: vectors over one corpus, and everything that is computed from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from kltui.analysis import diffusion as _diffusion
from kltui.analysis import embed, lineage, neighbours
from kltui.analysis.benchmark import SEEDS, Leakage, Prediction, leakage, predict
from kltui.analysis.diffusion import Exponent
from kltui.analysis.drivers import Drivers, drivers
from kltui.analysis.embed import Method, Picture
from kltui.analysis.emptying import LEFT_OUT
from kltui.analysis.kl import KL, CentredGram, KLPairs, double_centre, kl_matrix, kl_pair, kl_standard_errors
from kltui.analysis.neighbours import Clustering, Linkage
from kltui.analysis.noise import NoiseFloor, measured_floor
from kltui.analysis.place_errors import place_covariances
from kltui.analysis.point import Point
from kltui.analysis.preprocess import OUTLIER_FROM_STEP, preprocess
from kltui.analysis.products import blocks
from kltui.analysis.repeats import Repeats, repeats
from kltui.analysis.resample import TextSample, draw_texts
from kltui.analysis.scale import ScaleRow, scale
from kltui.analysis.shape import AgainstNull, against_null, random_walk
from kltui.analysis.shifts import Shifts, shifts
from kltui.analysis.sketch import Candidates, candidates
from kltui.analysis.stability import LEVEL, Stabilisation, stabilisation
from kltui.analysis.trajectory import Trajectory, trajectories
from kltui.analysis.uncertainty import Ellipse, ellipses, resampled_pictures
from kltui.errors import KltuiError

Array = NDArray[np.float64]
_MAX_IN_MATRIX = 2048  # vectors whose K x K matrix is cheap
_FEW_ROWS = 32  # if fewer than one row in so many is needed, these cost less than the whole matrix
_STRESS_ROWS = 256  # vectors of a larger map whose distances to all others enter the stress
_MAX_KINDS = 1000  # groups of vectors with the same texts whose mean bytes are compared


@dataclass(frozen=True, slots=True)
class ConsecutiveKL:
    """KL in bits/byte between neighbouring checkpoints of a run, with its standard error."""

    run: str
    step_from: int
    step_to: int
    kl: float
    se: float


@dataclass(frozen=True, eq=False)
class Map:
    """K vectors over N texts: log-likelihoods in nats, bytes per text, scored tokens, and a record of their preparation.

    `record` says where the vectors came from, under "preprocess" how they were preprocessed, and under "left_out" {name: why}
    of vectors with too few texts in common with the others. `kept_N` are the indices of the texts of the corpus that are used
    (None: all). Equal `text_ids_N` mark equal texts (None: all differ), which count once in an error. `gram` centres and
    multiplies the vectors, such as on a GPU (None: numpy does).
    """

    points: tuple[Point, ...]
    loglik_KN: Array
    text_bytes_N: NDArray[np.int64]
    n_scored_KN: NDArray[np.int32] | None = None
    record: dict[str, object] = field(default_factory=dict)
    kept_N: NDArray[np.intp] | None = None
    text_ids_N: NDArray[np.intp] | None = None
    gram: CentredGram | None = None

    def __post_init__(self) -> None:
        if self.loglik_KN.shape != (len(self.points), len(self.text_bytes_N)):
            raise KltuiError(
                f"a map of {len(self.points)} vectors over {len(self.text_bytes_N)} texts cannot hold values of "
                f"shape {self.loglik_KN.shape}",
                "give one row per vector and one column per text",
            )
        if len(self._rows) != len(self.points):
            seen = [n for n in self._rows if self.names.count(n) > 1]
            raise KltuiError(
                f"two vectors of the map have the name {seen[0]!r}", "every vector needs a unique name"
            )

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} vectors over {len(self.text_bytes_N)} texts)"

    @cached_property
    def names(self) -> list[str]:
        """The K names, in the order of the rows (cached; do not modify it)."""
        return [p.name for p in self.points]

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {p.name: k for k, p in enumerate(self.points)}

    @property
    def text_index(self) -> NDArray[np.intp]:
        """Index in the corpus of each text in use, shape (N,)."""
        return np.arange(len(self.text_bytes_N)) if self.kept_N is None else self.kept_N

    @property
    def left_out(self) -> dict[str, str]:
        """{name: why} of the vectors that are not on the map because they have too few texts in common with the others."""
        found = self.record.get(LEFT_OUT)
        return dict(found) if isinstance(found, dict) else {}

    @property
    def n_copies(self) -> int:
        """How many texts in use are copies of another one."""
        return 0 if self.text_ids_N is None else len(self.text_ids_N) - len(np.unique(self.text_ids_N))

    @property
    def mean_bytes(self) -> float:
        """B, the mean bytes of the texts in use."""
        return float(self.text_bytes_N.mean()) if len(self.text_bytes_N) else math.nan

    @cached_property
    def pair_mean_bytes(self) -> tuple[float, float]:
        """Smallest and largest B over all pairs of vectors, where B is the mean bytes of the texts that both have."""
        defined = np.isfinite(self.loglik_KN)
        if defined.all():
            return self.mean_bytes, self.mean_bytes
        kinds = Counter(row.tobytes() for row in defined)  # vectors often lack the same texts
        if len(kinds) > _MAX_KINDS:  # an even sample, because the number of pairs grows with the square
            kinds = Counter(dict(list(kinds.items())[:: -(-len(kinds) // _MAX_KINDS)]))
        once = np.array([np.frombuffer(kind, dtype=np.bool_) for kind in kinds], dtype=np.float64)
        n, total = once @ once.T, (once * self.text_bytes_N) @ once.T
        n[np.diag([n_vectors < 2 for n_vectors in kinds.values()])] = np.nan  # no pair within that kind
        n[n == 0] = np.nan
        B = (total / n)[np.isfinite(n)]  # B of a pair: bytes of the texts that both have / their number
        return (float(B.min()), float(B.max())) if B.size else (math.nan, math.nan)

    @cached_property
    def n_unscored(self) -> NDArray[np.intp]:
        """Number of texts without a value in each vector, shape (K,)."""
        n: NDArray[np.intp] = np.count_nonzero(~np.isfinite(self.loglik_KN), axis=1)
        return n

    @property
    def mean_loglik(self) -> Array:
        """Mean log-likelihood of each vector over its scored texts, (K,) in nats per text; NaN without scored texts."""
        mean: Array = np.full(len(self), np.nan)
        for rows in blocks(len(self)):  # in blocks, to avoid a copy of all values
            values = self.loglik_KN[rows]
            defined = np.isfinite(values)
            n = defined.sum(axis=1)
            total = np.where(defined, values, 0.0).sum(axis=1)
            np.divide(total, n, out=mean[rows], where=n > 0)
        return mean

    def row(self, name: str) -> int:
        """Row index of the vector `name`. Raises KltuiError with similar names if there is none."""
        if name not in self._rows:
            if name in self.left_out:
                raise KltuiError(
                    f"the vector {name!r} was left out of the map: {self.left_out[name]}",
                    "score it again on the map's texts, or choose another vector",
                )
            raise KltuiError(f"the map has no vector named {name!r}", self._similar_to(name))
        return self._rows[name]

    def _similar_to(self, name: str) -> str:
        """A hint on the vectors that an unknown `name` may mean: the last one of a run, or those with similar names."""
        import difflib

        run = [p for p in self.points if p.run == name and p.layer is None]
        if run:
            last = max(run, key=lambda p: (p.step or 0, p.quantization == "none"))
            return f"it is a run of {len(run)}; its last vector is {last.name}"
        near = difflib.get_close_matches(name, self._rows, n=3)
        return (
            f"did you mean {', '.join(near)}?" if near else f"it has {len(self)}, such as {self.names[0]!r}"
        )

    def rows_of(self, names: Iterable[str]) -> list[int]:
        """Rows of the vectors with these names, in the order of the names; unknown names are skipped."""
        return [self._rows[name] for name in names if name in self._rows]

    # ---- KL

    @cached_property
    def _kl(self) -> Array:
        return kl_matrix(self.loglik_KN, self.text_bytes_N, self.gram)

    @cached_property
    def _kl_se(self) -> Array:
        return kl_standard_errors(self.loglik_KN, self.text_bytes_N, self.text_ids_N)

    def kl(self) -> Array:
        """K x K KL in bits/byte (cached; do not modify it)."""
        return self._kl

    def kl_se(self) -> Array:
        """K x K standard errors of `kl`, in bits/byte; NaN where the texts are too few for them."""
        return self._kl_se

    def kl_rows(self, rows: Sequence[int]) -> Array:
        """M x K KL in bits/byte of some rows to all; for a large map without the K x K matrix."""
        is_small = len(self) <= min(_MAX_IN_MATRIX, _FEW_ROWS * len(rows))
        if is_small or "_kl" in self.__dict__:
            return self.kl()[list(rows)]
        return self.pairs().rows(np.asarray(rows, dtype=np.intp))

    def candidates(self, rows: Sequence[int], n: int) -> Candidates:
        """The n nearest vectors of some rows according to random projections, with their KL from the full vectors."""
        return candidates(self.loglik_KN, self.text_bytes_N, rows, n)

    def pairs(self) -> KLPairs:
        """KL and errors of all pairs tile by tile, for maps whose K x K matrices are too large for memory."""
        return KLPairs(self.loglik_KN, self.text_bytes_N, self.text_ids_N, by_need=True)

    def pair(self, a: str, b: str) -> KL:
        """KL between two vectors by name, with its standard error and the texts left out."""
        return self.pair_rows(self.row(a), self.row(b))

    def pair_rows(self, i: int, j: int) -> KL:
        """KL between two vectors by row."""
        return kl_pair(self.loglik_KN[i], self.loglik_KN[j], self.text_bytes_N, self.text_ids_N)

    @cached_property
    def repeats(self) -> Repeats:
        """Which final vectors come from the same weights, and which of them analyses of their run leave out."""
        return repeats(self.points, self.loglik_KN, self.text_bytes_N)

    def trajectories(self, *, layers: bool = False) -> list[Trajectory]:
        """The runs of the map, each by rising step and without repeated weights; layer vectors only with `layers`."""
        if layers not in self._trajectories:
            self._trajectories[layers] = self._found_trajectories(layers)
        return list(self._trajectories[layers])

    @cached_property
    def _trajectories(self) -> dict[bool, list[Trajectory]]:
        return {}

    def _found_trajectories(self, layers: bool) -> list[Trajectory]:
        gone = {(p.run, p.quantization, p.step) for p in (self.points[k] for k in self.repeats.left_out)}
        kept = [k for k, p in enumerate(self.points) if (p.run, p.quantization, p.step) not in gone]
        found = trajectories([self.points[k] for k in kept], layers=layers)
        return [replace(t, rows=tuple(kept[r] for r in t.rows)) for t in found]

    def consecutive(self) -> list[ConsecutiveKL]:
        """KL between neighbouring checkpoints, run by run (final layers)."""
        return list(self._consecutive)

    @cached_property
    def _consecutive(self) -> list[ConsecutiveKL]:
        found = []
        for t in self.trajectories():
            for a, b, s, e in zip(t.rows, t.rows[1:], t.steps, t.steps[1:], strict=False):
                kl = self.pair_rows(a, b)
                found.append(ConsecutiveKL(t.label, s, e, kl.value, kl.se))
        return found

    def kl_row(self, name: str) -> Array:
        """KL in bits/byte of one vector to all, (K,), without computing the full matrix."""
        i = self.row(name)
        return np.array([self.pair_rows(i, j).value for j in range(len(self))])

    def nearest(self, name: str, n: int = 10) -> list[tuple[str, KL]]:
        """The n vectors nearest to one, nearest first, with their KL."""
        rows = neighbours.nearest(self.kl_row(name), self.row(name), n)
        return [(self.points[k].name, self.pair_rows(self.row(name), int(k))) for k in rows]

    def clustering(self, method: Linkage = "average") -> Clustering:
        """Hierarchical clustering of the vectors by sqrt(KL)."""
        return neighbours.cluster(self.kl(), method, self.names)

    def drivers(self, a: str, b: str, domains: Sequence[str] = ()) -> Drivers:
        """Which texts, and which domains (one per text of this map), drive the KL between two vectors."""
        rows = self.loglik_KN[self.row(a)], self.loglik_KN[self.row(b)]
        return drivers(*rows, self.text_bytes_N, domains, self.text_ids_N)

    def stabilisation(self, level: float = LEVEL) -> list[Stabilisation]:
        """For each run, the step from which its consecutive KL stays at or below `level` bits/byte."""
        rows: dict[str, list[ConsecutiveKL]] = {}
        for r in self._consecutive:
            rows.setdefault(r.run, []).append(r)
        found = []
        for t in self.trajectories():
            if own := rows.get(t.label):
                found.append(stabilisation(t.label, t.steps, [r.kl for r in own], [r.se for r in own], level))
        return found

    def quantization_shifts(self, bits: int) -> Shifts:
        """Cosines between the shifts of the map's models by `bits`-bit quantisation."""
        pairs = lineage.quantization_pairs(self.points, bits).pairs
        return shifts(self.loglik_KN, pairs, [self.points[b].name for _, b in pairs])

    def shapes(self, walks: int = 10) -> list[AgainstNull]:
        """Length, straightness, turning and winding of each run of three or more points, compared with random walks."""
        return [
            against_null(t.label, self._vectors(t.rows), self.text_bytes_N, walks)
            for t in self.trajectories()
            if len(t.rows) > 2
        ]

    def with_null(self, run: str, seed: int = 42) -> Map:
        """The map with a random walk added for `run` (`null_walk`)."""
        return self.joined(self.null_walk(run, seed))

    def null_walk(self, run: str, seed: int = 42) -> Map:
        """A random walk from the start of `run`: run `run~null`, tagged "null", same steps and step lengths.

        Raises KltuiError if it has no steps.
        """
        lines = [t for t in self.trajectories() if t.label == run]
        if not lines:
            raise KltuiError(
                f"the map has no run {run!r} with steps", "name a run that has checkpoints with steps"
            )
        of = self.select(lines[0].rows)
        extra = tuple(
            replace(p, name=f"{run}~null@{s}", run=f"{run}~null", tags=("null",))
            for p, s in zip(of.points, lines[0].steps, strict=True)
        )
        return replace(of, points=extra, loglik_KN=random_walk(of.loglik_KN, seed))

    # ---- pictures

    def scaled_coordinates(self) -> Array:
        """Scaled Q, K x N: squared distances are KL in bits/byte."""
        return embed.scaled_coordinates(self.loglik_KN, self.text_bytes_N, self.gram)

    def picture(
        self,
        method: Method = "tsne",
        dims: int = 2,
        *,
        perplexity: float = embed.PERPLEXITY,
        seed: int = 42,
        reduce_perplexity: bool = False,
    ) -> Picture:
        """The map in 2 or 3 dimensions by "pca", "tsne" or "mds" (least squares), with its quality measures."""
        settings = embed.TSNESettings(perplexity, seed, reduce_perplexity)
        runs = [t.rows for t in self.trajectories(layers=True)]
        return embed.picture(
            self.loglik_KN,
            self.text_bytes_N,
            method,
            dims,
            settings,
            gram=self.gram,
            runs=runs,
            known=self._known,
        )

    @cached_property
    def _known(self) -> embed.Known:
        """Intermediate results that pictures of this map share."""
        return embed.Known()

    def coordinates(
        self,
        method: Method = "tsne",
        dims: int = 2,
        *,
        perplexity: float = embed.PERPLEXITY,
        seed: int = 42,
        reduce_perplexity: bool = False,
    ) -> Array:
        """K x dims coordinates of the vectors in a `picture`; PCA and MDS in sqrt(bits/byte), t-SNE has no unit."""
        return self.picture(
            method, dims, perplexity=perplexity, seed=seed, reduce_perplexity=reduce_perplexity
        ).xyz_Kd

    def place_covariances(self, dims: int = 2) -> Array:
        """K x dims x dims covariances, over texts, of the vectors' positions in the PCA picture of `dims` axes.

        In bits/byte; see `kltui.analysis.place_errors`. Raises KltuiError if the texts are too few for them.
        """
        return place_covariances(self.loglik_KN, self.text_bytes_N, dims, self.text_ids_N)[1]

    def stress(self, xy_Kd: Array) -> float:
        """The stress of a picture, sqrt(sum (d - d')^2 / sum d^2) with d = sqrt(KL) and d' its distances; 0 if these agree.

        For large maps it is over the pairs of an even sample of a few hundred vectors with all.
        """
        if len(self) <= _MAX_IN_MATRIX:
            return embed.stress(self.kl(), xy_Kd)
        rows = np.linspace(0, len(self) - 1, _STRESS_ROWS).astype(np.intp)
        return embed.stress(self.kl_rows(rows.tolist()), xy_Kd, rows)

    def error_ellipses(
        self, method: str = "pca", *, sampling: str = "uniform", n: int = 0, draws: int = 20, seed: int = 42
    ) -> tuple[Array, list[Ellipse]]:
        """(K x 2 coordinates, one-standard-deviation ellipse per vector) from resampled texts; n = 0: the number of distinct texts."""
        xy, clouds = resampled_pictures(
            self.loglik_KN,
            self.text_bytes_N,
            method=method,
            sampling=sampling,
            n=n,
            draws=draws,
            seed=seed,
            text_ids_N=self.text_ids_N,
        )
        return xy, ellipses(clouds, self.names)

    # ---- texts and benchmarks

    def draw_texts(self, n: int, method: str = "ls", seed: int = 42) -> TextSample:
        """n texts drawn for this map, on which a new model can be added; indices are those of the map's texts."""
        return draw_texts(self.loglik_KN, method, n, seed)

    def predicted(self, scores: Mapping[str, float], seeds: Sequence[int] = SEEDS) -> Prediction:
        """Benchmark scores (0 to 100, by vector name) predicted from the map, folds grouped by type."""
        used = embed.complete_texts(self.loglik_KN)
        Q = double_centre(self.loglik_KN[:, used])
        types = [p.type or p.name for p in self.points]
        return predict(Q, self.mean_loglik, [scores.get(n, math.nan) for n in self.names], types, seeds=seeds)

    def leakage(self, scores: Mapping[str, float]) -> list[Leakage]:
        """Vectors by falling excess of mean log-likelihood over the value expected from their benchmark scores."""
        return leakage(self.names, self.mean_loglik, [scores.get(n, math.nan) for n in self.names])

    # ---- parts of the map

    def preprocessed(
        self,
        mode: str,
        *,
        clip_quantile: float = 0.02,
        remove_fraction: float = 0.03,
        exclude: Collection[str] = (),
        outlier_from_step: int = OUTLIER_FROM_STEP,
    ) -> Self:
        """The map after `kltui.analysis.preprocess.preprocess`, with its record."""
        p = preprocess(
            self.points,
            self.loglik_KN,
            self.text_bytes_N,
            mode,
            clip_quantile,
            remove_fraction,
            exclude,
            outlier_from_step,
            self.repeats.left_out if mode == "pretraining" else (),
        )
        scored = None if self.n_scored_KN is None else _counts(self.n_scored_KN, p.kept_K, p.kept_N)
        applied = dict(p.record)
        before = self.record.get("preprocess")
        if isinstance(before, dict):  # earlier exclusions remain
            for name in ("excluded", "excluded_steps"):
                applied[name] = [*before[name], *p.record[name]]  # type: ignore[misc]
            applied["before"] = before
        record = {**self.record, "preprocess": applied}
        ids = None if self.text_ids_N is None else self.text_ids_N[p.kept_N]
        kept_N = self.text_index[p.kept_N]
        return type(self)(p.points, p.loglik_KN, p.text_bytes_N, scored, record, kept_N, ids, self.gram)

    def select(self, rows: Sequence[int]) -> Self:
        """The map of some rows, in the order given; texts and record unchanged."""
        index = np.asarray(rows, dtype=np.intp)
        scored = None if self.n_scored_KN is None else _counts(self.n_scored_KN, index)
        points = tuple(self.points[k] for k in index)
        return replace(
            self, points=points, loglik_KN=self.loglik_KN[index], n_scored_KN=scored, record=dict(self.record)
        )

    def joined(self, other: Map, loglik_MN: Array | None = None) -> Map:
        """The map with the vectors of another one appended. Raises KltuiError if the texts differ.

        `loglik_MN`: the vectors of both maps, if the caller has already concatenated them.
        """
        if not np.array_equal(self.text_bytes_N, other.text_bytes_N):
            raise KltuiError(
                f"vectors over {len(other.text_bytes_N)} other texts cannot join a map over {len(self.text_bytes_N)}",
                "layer vectors join the map of the same corpus, without texts removed",
            )
        scored = None
        if self.n_scored_KN is not None and other.n_scored_KN is not None and loglik_MN is None:
            scored = np.concatenate([self.n_scored_KN, other.n_scored_KN])
        if loglik_MN is None:
            loglik_MN = np.concatenate([self.loglik_KN, other.loglik_KN])
        return replace(self, points=self.points + other.points, loglik_KN=loglik_MN, n_scored_KN=scored)

    def scale(
        self,
        *,
        pretraining: bool = False,
        exclude: Collection[str] = (),
        apart: Mapping[str, Map] | None = None,
    ) -> list[ScaleRow]:
        """The ten settings of the KL scale found on this map; see `kltui.analysis.scale`."""
        return scale(self, pretraining=pretraining, exclude=exclude, apart=apart)

    # ---- diffusion

    def diffusion(
        self,
        weight_sqdist: Mapping[tuple[str, str], float] | None = None,
        window: int = _diffusion.WINDOW,
        from_step: int | Literal["auto"] | None = _diffusion.FROM_STEP,
        *,
        noise_corrected: bool | float = False,
        schedule: Mapping[str, Sequence[int]] | None = None,
    ) -> list[Exponent]:
        """Diffusion exponents of every run and start with a full window (`kltui.analysis.diffusion`).

        `weight_sqdist` gives |theta_b - theta_a|^2 by (earlier name, later name); `schedule` every saved step
        of a run, if some are not on the map (steps excluded by the preprocessing are known already).
        `from_step` "auto" or None: 1000 or, for a shorter run, the step from which it is saved evenly. `noise_corrected`: a floor
        in bits/byte to subtract from the distances, or True to estimate it from each run (`kltui.analysis.noise`).
        """
        found = []
        for t in self.trajectories():
            start = from_step if isinstance(from_step, int) else _diffusion.auto_from_step(t.steps, window)
            saved = [*self._absent_steps(t.run), *((schedule or {}).get(t.run, ()))]
            found += _diffusion.diffusion(
                t.label,
                t.steps,
                self._between(t, window),
                None if weight_sqdist is None else self._looked_up(t, weight_sqdist),
                window=window,
                from_step=start,
                schedule=saved,
                floor=self._noise(t, _diffusion.windows(t.steps, window, start, saved), noise_corrected),
            )
        return found

    def _noise(self, t: Trajectory, windows: Sequence[Sequence[int]], corrected: bool | float) -> NoiseFloor:
        """The floor to subtract from a run's distances: the given one, or one estimated from its vectors (True), or 0 (False)."""
        if corrected is not True:
            return NoiseFloor(float(corrected))
        rows = list(t.rows)
        return measured_floor(windows, t.steps, self.loglik_KN[rows], self.text_bytes_N, self.text_ids_N)

    def _between(self, t: Trajectory, window: int) -> _diffusion.Distance:
        """KL of two steps of a trajectory that lie at most `window` checkpoints apart, the earlier one first."""
        at = {s: i for i, s in enumerate(t.steps)}
        is_large = len(t.rows) > _MAX_IN_MATRIX
        pairs = KLPairs(self._vectors(t.rows), self.text_bytes_N, gram=self.gram, by_need=is_large)
        ahead = pairs.ahead(window)
        return lambda a, b: float(ahead[at[a], at[b] - at[a] - 1])

    def _vectors(self, rows: Sequence[int]) -> Array:
        """Some rows, T x N; without a copy if they are consecutive, as those of a run often are."""
        first, n = (rows[0], len(rows)) if rows else (0, 0)
        return (
            self.loglik_KN[first : first + n]
            if list(rows) == list(range(first, first + n))
            else self.loglik_KN[list(rows)]
        )

    def _looked_up(self, t: Trajectory, sqdist: Mapping[tuple[str, str], float]) -> _diffusion.Distance:
        name = {s: self.points[r].name for r, s in zip(t.rows, t.steps, strict=True)}
        return lambda a, b: sqdist.get((name[a], name[b]), math.nan)

    def _absent_steps(self, run: str) -> list[int]:
        """Saved steps of a run that are not used: excluded ones, and those with the weights of another step."""
        repeated = [self.points[k] for k in self.repeats.left_out]
        again = [p.step for p in repeated if p.run == run and p.step is not None]
        record = self.record.get("preprocess")
        pairs = record.get("excluded_steps", []) if isinstance(record, dict) else []
        return [*again, *(step for r, step in pairs if r == run and step is not None)]


def shared_counts(n_scored_KN: NDArray[np.int32]) -> NDArray[np.int32]:
    """Scored tokens of K vectors over N texts; stored once, and read-only, if all vectors have the same."""
    first = n_scored_KN[:1]
    if len(n_scored_KN) < 2 or not all((row == first[0]).all() for row in n_scored_KN):
        return n_scored_KN
    return np.broadcast_to(first[0].copy(), n_scored_KN.shape)


def _counts(
    n_scored_KN: NDArray[np.int32], rows: NDArray[np.intp], columns: NDArray[np.intp] | slice = slice(None)
) -> NDArray[np.int32]:
    """Some rows and columns of the counts; if all rows are views of one, so are those of the result."""
    if n_scored_KN.strides[0] == 0:
        chosen = n_scored_KN[0][columns]
        return np.broadcast_to(chosen, (len(rows), len(chosen)))
    return n_scored_KN[rows] if isinstance(columns, slice) else n_scored_KN[np.ix_(rows, columns)]
