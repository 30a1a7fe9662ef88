"""`kltui --place`: scores one model with the settings of the workspace's map, and determines its position on the map."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kltui.analysis import embed
from kltui.analysis.benchmark import SUSPICIOUS, Leakage, scores_by_task
from kltui.analysis.placement import Drawn, Expected, expected_scores, position, suspected_leakage
from kltui.analysis.point import Point
from kltui.analysis.scale import Location, locate
from kltui.analysis.uncertainty import Ellipse
from kltui.errors import KltuiError, UsageError
from kltui.jobs.place import run_job, withdraw, write_job
from kltui.store import comparable
from kltui.workspace import subsample
from kltui.workspace.map_device import nothing_scored
from kltui.workspace.noise import map_floor

if TYPE_CHECKING:
    from kltui.analysis.map import Map
    from kltui.registry.checkpoint import Checkpoint
    from kltui.workspace.workspace import Workspace

Values = NDArray[np.float64]
NEAREST = 10
FEW_TEXTS = 10  # distinct ones, below which the error of a draw is known only roughly
METHOD = "ls"


@dataclass(frozen=True, slots=True)
class Near:
    """A vector of the map, and its KL to the placed model in bits/byte.

    `se` is the standard error of that KL: over texts or, if texts were drawn, the sampling error of the draw;
    `se_whole` is the standard error that scoring the whole corpus would give.
    """

    name: str
    kl: float
    se: float
    se_whole: float


@dataclass(frozen=True, slots=True)
class Placement:
    """The position of a model on a map of `n_vectors` others.

    It was scored on `n_texts` different texts of `n_corpus`, which came from `drawn` draws (0: all texts). `nearest` are the
    nearest vectors. `scale` compares the KL to `scale_to`, the nearest vector that differs by more than rounding, with the
    published medians. (x, y) is the position in the map's PCA plot and `ellipse` its error (one standard deviation), in
    sqrt(bits/byte). `leakage` is None without benchmark scores. KLs below `floor`, in bits/byte, are rounding.
    """

    name: str
    source: str
    corpus: str
    settings: str
    n_vectors: int
    n_texts: int
    n_corpus: int
    drawn: int
    nearest: tuple[Near, ...]
    scale: Location
    scale_to: str
    x: float
    y: float
    ellipse: Ellipse
    expected: tuple[Expected, ...]
    leakage: Leakage | None
    mean_loglik: float
    floor: float
    notes: tuple[str, ...]
    seconds: float

    @property
    def suspicious(self) -> bool:
        """Whether its log-likelihood is far higher than its benchmark scores predict (z above SUSPICIOUS)."""
        return self.leakage is not None and self.leakage.z > SUSPICIOUS

    def as_dict(self) -> dict[str, object]:
        """The fields as JSON data."""
        return {**asdict(self), "unit": "bits/byte", "suspicious": self.suspicious}


def place(
    ws: Workspace,
    model: str,
    texts: int | None = None,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Placement:
    """Scores `model` with the settings of the workspace's map, on all its texts or on `texts` drawn ones, and returns its position.

    `model` is a folder (a model's or an adapter's), a GGUF file, OWNER/NAME[@REVISION], or a server's address; `overrides`
    are KEY=VALUE of the job file, `model.KEY` of its entry. Scoring runs in a separate process. Raises KltuiError.
    """
    begun = time.monotonic()
    if texts is not None and texts < 1:
        raise UsageError(f"--texts {texts} draws no text", "Give at least 1, or omit it to use all texts.")
    groups = ws.vector_groups()
    if not groups:
        raise nothing_scored()
    shown = groups[0]
    sha256, n_corpus = next((c.sha256, c.n) for c in ws.corpora() if c.id == shown.corpus_id)
    if not comparable.says_how(shown.settings):
        raise UsageError(
            f"the map's {shown.n_checkpoints} vectors have no record of how they were scored, so no model can be scored with the same settings",
            comparable.remedy(shown.settings, "bos=auto"),
        )
    drawn = None
    source = f"map:{sha256[:16]}"
    if texts is not None and texts < n_corpus:
        say(f"drawing {texts} of {n_corpus} texts")
        path, drawn = _draw(ws, sha256, shown.settings, texts)
        source = str(path.resolve())
    rows = ws.checkpoints()
    own = drawn is None and not any(row.weights.startswith("import:") for row in rows)
    job, checkpoint = write_job(ws.path, model, source, shown.settings, overrides, rows, alone=own)
    try:
        run_job(job, say)
    except BaseException:
        withdraw(ws.path, job, [row.name for row in rows])
        raise
    whole = ws.map(corpus=sha256, settings=shown.settings)
    say(f"placing it among {len(whole)} vectors")
    return placed(ws, whole, checkpoint, drawn, begun)


def _draw(ws: Workspace, sha256: str, settings: str, n: int) -> tuple[Any, subsample.TextDraw]:
    """(file, record) of n drawn texts of the map; earlier draws of n texts are used again, so that models are comparable."""
    for made in reversed(subsample.text_draws(ws)):
        path = ws.path / subsample.FOLDER / f"{made.name}.jsonl"
        if (made.of, made.n_drawn, made.clip_threshold) == (sha256, n, None) and path.is_file():
            return path, made
    shown = ws.map(corpus=sha256, settings=settings)
    return subsample.draw_texts(ws, shown, n, METHOD if len(shown) > 2 else "uniform")


def placed(
    ws: Workspace, whole: Map, checkpoint: Checkpoint, drawn: subsample.TextDraw | None, begun: float
) -> Placement:
    """The placement of a scored checkpoint, on all texts of the map or on drawn texts. Raises KltuiError."""
    name = checkpoint.name
    others = [k for k, other in enumerate(whole.names) if other != name]
    if not others:
        raise KltuiError("the map has no other vector", "Score or import others first.")
    rest = whole if len(others) == len(whole) else whole.select(others)
    if drawn is None:
        known = Drawn.whole(rest.loglik_KN, whole.loglik_KN[whole.row(name)], whole.text_bytes_N)
        near, record = _near_by_all(whole, name, others), whole.record
    else:
        known = _on_drawn(ws, whole, rest, name, drawn)
        near = _near_by_drawn(known, rest.names)
        record = _joined_record(ws, whole, rest, _key_on_drawn(ws, drawn, name))
    floor = map_floor(record, whole.loglik_KN, whole.mean_bytes)
    ellipse = position(known, embed.pca(embed.scaled_coordinates(rest.loglik_KN, rest.text_bytes_N), 2))
    scores = _scores(ws, rest, name)
    types = [p.type or p.name for p in rest.points]
    by_map = {task: [s.get(n, math.nan) for n in rest.names] for task, s in scores.items()}
    own = {task: s[name] for task, s in scores.items() if name in s}
    expected, problems = expected_scores(known, types, by_map, own)
    means = rest.mean_loglik
    if drawn:
        closest = rest.row(near[0].name) if near else 0
        mean = known.mean_loglik(closest, float(means[closest]))
    else:
        mean = float(whole.mean_loglik[whole.row(name)])
    leak = None
    if expected:
        leak = suspected_leakage(mean, expected[0], means.tolist(), by_map[expected[0].task])
    notes = [
        comparable.standing_note(record).removeprefix("; "),
        *problems,
        *_text_notes(whole, known, drawn),
    ]
    apart = next((n for n in near if not n.kl <= floor), None)
    return Placement(
        name=name,
        source=str(checkpoint.source),
        corpus=str(whole.record["corpus"]),
        settings=str(whole.record["settings"]),
        n_vectors=len(rest),
        n_texts=len(known.new_u),
        n_corpus=len(whole.text_bytes_N),
        drawn=drawn.n_drawn if drawn else 0,
        nearest=tuple(near[:NEAREST]),
        scale=locate(apart.kl if apart else math.nan),
        scale_to=apart.name if apart else "",
        x=ellipse.x,
        y=ellipse.y,
        ellipse=ellipse,
        expected=tuple(expected),
        leakage=leak,
        mean_loglik=mean,
        floor=floor,
        notes=tuple(filter(None, notes)),
        seconds=time.monotonic() - begun,
    )


def _on_drawn(ws: Workspace, whole: Map, rest: Map, name: str, drawn: subsample.TextDraw) -> Drawn:
    """The model and the map's other vectors at the drawn texts. Raises KltuiError if the model cannot join the map."""
    scored, why = subsample.scored_on(ws, whole, drawn)
    if name not in scored:
        reason = why.get(name, "it was not scored on the drawn texts")
        raise KltuiError(f"{name} cannot be placed: {reason}", "Run the same command again.")
    counts = np.array(drawn.count, np.int64)
    new_u = drawn.clipped(scored[name])
    return Drawn(subsample.on_drawn(rest, drawn), new_u, drawn.draw, counts, drawn.mean_bytes)


def _near_by_all(whole: Map, name: str, others: Sequence[int]) -> list[Near]:
    """The map's other vectors by rising KL over all texts; those with an undefined KL are left out."""
    row = whole.row(name)
    found = [(whole.names[k], whole.pair_rows(row, k)) for k in others]
    near = [Near(other, kl.value, kl.se, kl.se) for other, kl in found if math.isfinite(kl.value)]
    return sorted(near, key=lambda n: n.kl)


def _near_by_drawn(known: Drawn, names: Sequence[str]) -> list[Near]:
    kl, whole = known.kl(), known.kl_errors_of_whole()
    rows = zip(names, kl.value[0].tolist(), kl.se[0].tolist(), whole.tolist(), strict=True)
    return sorted((Near(*row) for row in rows), key=lambda n: n.kl)


def _joined_record(ws: Workspace, whole: Map, rest: Map, key: Mapping[str, str]) -> dict[str, object]:
    """The record of the map after adding the placed vector, given its key, to the others."""
    stored = ws.vectors(corpus=str(rest.record["corpus"]), settings=str(rest.record["settings"]))
    imported = sum(name in stored and stored[name].is_imported for name in rest.names)
    return comparable.joined_record(whole.record, key, imported, len(rest) - imported)


def _key_on_drawn(ws: Workspace, drawn: subsample.TextDraw, name: str) -> Mapping[str, str]:
    """The key of the model's vector over the drawn texts; {} if there is none."""
    row = next(row for row in ws.checkpoints() if row.name == name)
    ids = {c.id for c in ws.corpora() if c.sha256 == drawn.corpus}
    found = [g for g in ws.vector_groups() if g.corpus_id in ids]
    for group in found:
        vectors = ws.vectors(corpus=drawn.corpus, settings=group.settings)
        if row.name in vectors:
            return vectors[row.name].key_fields
    return {}


def _scores(ws: Workspace, rest: Map, name: str) -> dict[str, dict[str, float]]:
    """{task: {vector: score}} of the map's models and, if it has scores, of the placed one."""
    last: dict[str, Point] = {}
    for p in rest.points:
        held = last.get(p.run)
        plain = p.quantization == "none" and p.layer is None
        if plain and (held is None or (p.step or 0) > (held.step or 0)):
            last[p.run] = p
    return scores_by_task(
        [*rest.names, name], {run: p.name for run, p in last.items()}, ws.benchmark_scores()
    )


def _text_notes(whole: Map, known: Drawn, drawn: subsample.TextDraw | None) -> list[str]:
    n = len(known.new_u)
    if drawn is not None and n < FEW_TEXTS:
        # of n independent normal values, the standard error of a standard deviation; heavier tails make it larger
        relative = 1 / math.sqrt(2 * max(1, n - 1))
        return [
            f"with so few distinct texts ({n}) the errors themselves are uncertain by {relative:.0%} or more: draw more (--texts)"
        ]
    lacking = 0 if drawn else len(whole.text_bytes_N) - n
    return [
        f"{lacking} texts that some vector lacks are left out of the PCA plot and of the predictions"
    ] * bool(lacking)
