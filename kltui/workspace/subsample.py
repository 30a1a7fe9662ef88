"""Texts drawn for new models: stored as a corpus file and a record, and used to place models on the map.

Source: arXiv 2505.15428. A new model is scored only on the drawn texts, and its values are clipped at the map's threshold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from kltui.analysis.embed import complete_texts
from kltui.analysis.kl import double_centre
from kltui.analysis.resample import METHODS, KLToMap, TextSample, draw, kl_to_map, sampling_probabilities
from kltui.corpus.corpus import Corpus
from kltui.errors import KltuiError, UsageError
from kltui.store import Store, comparable
from kltui.store.atomic_write import write_atomic
from kltui.store.damage import decoded

if TYPE_CHECKING:
    from kltui.analysis.map import Map
    from kltui.workspace.workspace import Workspace

Values = NDArray[np.float64]

KIND = "draw"  # of the records that describe draws
RELEASED = "samples"  # kind of the records of draws that were imported with a release
FOLDER = "draws"
_OTHER_MAP = 0.1  # relative error of the number of draws from which they are taken to belong to another map


@dataclass(frozen=True)
class TextDraw:
    """Texts drawn for one map. `index` are the drawn texts' positions in the corpus with SHA-256 `of`.

    `corpus` is the SHA-256 of the drawn texts. `weight` and `count` (times drawn) have the order of `index`; `n_texts` and
    `mean_bytes` are those of the texts drawn from, `n_drawn` is the number of draws.
    """

    name: str
    of: str
    corpus: str
    settings: str
    method: str
    seed: int
    n_drawn: int
    n_texts: int
    mean_bytes: float
    clip_threshold: float | None
    index: tuple[int, ...]
    weight: tuple[float, ...]
    count: tuple[int, ...]

    @property
    def draw(self) -> TextSample:
        """The drawn texts in the form that `analysis.resample` uses."""
        index, weight = np.array(self.index, dtype=np.intp), np.array(self.weight)
        return TextSample(index, weight, self.n_drawn, self.n_texts, self.method, self.seed)

    def clipped(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """`values` (nats) raised to the map's clip threshold, if it has one."""
        return values if self.clip_threshold is None else np.maximum(values, self.clip_threshold)


@dataclass(frozen=True, eq=False)
class Added:
    """M models scored only on drawn texts, and their KL to every vector of the map (M x K, bits/byte).

    `left_out` is {name: reason} of the vectors over the drawn texts that are not included.
    """

    draw: TextDraw
    names: tuple[str, ...]
    left_out: Mapping[str, str]
    kl: KLToMap


def draw_texts(ws: Workspace, m: Map, n: int, method: str = "ls", seed: int = 42) -> tuple[Path, TextDraw]:
    """Draws n texts for map `m` of the workspace and stores them; returns (corpus file, record).

    `method` is one of METHODS or the name of released draws. Raises UsageError for an invalid request, StoreError if another
    process writes to the workspace.
    """
    if n < 1:
        raise UsageError(f"--draw {n} draws no text", "Give at least 1.")
    if "values" in m.record:
        raise UsageError("texts can be drawn only for conditional values", "Omit --values.")
    made, drawn = _drawn(ws, m, n, method, seed)
    path = ws.path / FOLDER / f"{made.name}.jsonl"
    rows = [
        {**_row(drawn, k), "index": i, "weight": w}
        for k, (i, w) in enumerate(zip(made.index, made.weight, strict=True))
    ]
    store = Store.write(ws.path)
    try:
        write_atomic(path, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
        with store.atomic():
            store.records.put(KIND, made.name, asdict(made))
    finally:
        store.close()
    return path, made


def _row(corpus: Corpus, k: int) -> dict[str, object]:
    """Text k, or pair k, as a row of a corpus file."""
    domain = {"domain": corpus.domains[k]}
    if not corpus.prompts:
        return {"text": corpus.texts[k], **domain}
    turns = (*corpus.prompts[k], ("assistant", corpus.texts[k]))
    return {"messages": [{"role": role, "content": content} for role, content in turns], **domain}


def _drawn(ws: Workspace, m: Map, n: int, method: str, seed: int) -> tuple[TextDraw, Corpus]:
    """(record of the draw, corpus of the different texts that were drawn)."""
    used = complete_texts(m.loglik_KN)
    if method in METHODS:
        p = sampling_probabilities(double_centre(m.loglik_KN[:, used]), method)
        d = draw(p, n, seed, method)
    else:
        d, p = _released(ws, m, used, n, method, seed)
    sha256 = str(m.record["corpus"])
    place = m.text_index[used[d.index]]
    everything, labels = ws.texts(sha256), ws.domains(sha256)
    prompts = ws.prompts(sha256)
    texts, domains = tuple(everything[i] for i in place), tuple(labels[i] for i in place)
    corpus = Corpus(texts, domains, {}, tuple(prompts[i] for i in place) if prompts else ())
    drawn = corpus.sha256
    record = m.record.get("preprocess")
    threshold = record.get("clip_threshold") if isinstance(record, dict) else None
    return (
        TextDraw(
            # The hash is part of the name, so that an earlier draw for another map keeps its file.
            name=f"{method}-{n}-seed{seed}-{drawn[:8]}",
            of=sha256,
            corpus=drawn,
            settings=str(m.record["settings"]),
            method=method,
            seed=seed,
            n_drawn=n,
            n_texts=len(used),
            mean_bytes=float(m.text_bytes_N[used].mean()),
            clip_threshold=threshold,
            index=tuple(place.tolist()),
            weight=tuple(d.weight.tolist()),
            count=tuple(np.maximum(np.rint(d.weight**2 * n * p[d.index]), 1).astype(int).tolist()),
        ),
        corpus,
    )


def _released(
    ws: Workspace, m: Map, used: NDArray[np.intp], n: int, name: str, seed: int
) -> tuple[TextSample, Values]:
    """(draw, probabilities p_N) of the released draws `name`, for n texts and a seed. Raises UsageError if there are none."""
    records = ws.records(RELEASED)
    if name not in records:
        known = ", ".join((*METHODS, *records))
        raise UsageError(f"unknown way to draw texts: {name!r}", f"Known: {known}.")
    sizes = cast("dict[str, list[int]]", records[name]["sets"]).get(str(seed), [])
    if n not in sizes:
        raise UsageError(
            f"{name} contains no draw of {n} texts with seed {seed}",
            f"It has, for that seed: {', '.join(map(str, sizes)) or 'none'}.",
        )
    with np.load(ws.path / str(records[name]["file"]), allow_pickle=False) as arrays:
        index = arrays[f"{seed}/{n}/index"].astype(np.intp)
        weight = arrays[f"{seed}/{n}/weight"].astype(np.float64)
    if len(used) != len(m.text_bytes_N) or m.kept_N is not None or index.max(initial=0) >= len(used):
        raise UsageError(
            f"{name} draws from texts that differ from the {len(used)} that every vector of this map has",
            "Use released draws with the release's own vectors and texts, without preprocessing.",
        )
    # Their name begins with the method: kls, lss, uniform.
    way = next((known for known in METHODS if name.startswith(known)), "ls")
    p = sampling_probabilities(double_centre(m.loglik_KN), way)
    order = np.argsort(index)
    d = TextSample(index[order], weight[order], n, len(used), name, seed)
    drawn = float(np.rint(d.weight**2 * n * p[d.index]).sum())
    if abs(drawn - n) > _OTHER_MAP * n:
        raise UsageError(
            f"the weights of {name} are not those of this map", "They may belong to another release."
        )
    return d, p


def text_draws(ws: Workspace) -> list[TextDraw]:
    """The draws stored in a workspace, oldest first."""
    return [_parsed(record) for record in ws.records(KIND).values()]


@decoded
def _parsed(r: Mapping[str, Any]) -> TextDraw:
    fields = {**r, "index": tuple(r["index"]), "weight": tuple(r["weight"]), "count": tuple(r["count"])}
    return TextDraw(**fields)


def added_models(ws: Workspace, whole: Map, d: TextDraw) -> Added | None:
    """The models scored only on a draw's texts, with their KL to the vectors of `whole` (without preprocessing).

    None if nothing is scored on them, or if the draw belongs to another corpus.
    """
    if d.of != whole.record.get("corpus"):
        return None
    scored, left_out = scored_on(ws, whole, d)
    if not scored and not left_out:
        return None
    on_map = set(whole.names) & scored.keys()
    left_out |= dict.fromkeys(sorted(on_map), "the map already has a vector with its name, over all texts")
    new = {name: values for name, values in scored.items() if name not in on_map}
    kl = KLToMap(*np.empty((2, 0, len(whole))))
    if new:
        kl = kl_to_drawn(whole, d, np.array(list(new.values())))
    return Added(d, tuple(new), left_out, kl)


def scored_on(ws: Workspace, whole: Map, d: TextDraw) -> tuple[dict[str, Values], dict[str, str]]:
    """({name: values, u nats} of the vectors over the drawn texts that may join map `whole`, {name: reason} of the others)."""
    scored: dict[str, Values] = {}
    left_out: dict[str, str] = {}
    target = str(whole.record["settings"])
    ids = {c.id for c in ws.corpora() if c.sha256 == d.corpus}
    for group in ws.vector_groups():
        if group.corpus_id not in ids:
            continue
        small = ws.map(corpus=d.corpus, settings=group.settings)
        differ = comparable.difference_words(target, group.settings)
        for name, values in zip(small.names, small.loglik_KN, strict=True):
            if differ:
                left_out[name] = f"{differ} (the map's first). {comparable.remedy(target, group.settings)}"
            elif not np.isfinite(values).all():
                left_out[name] = "it lacks some of the drawn texts"
            else:
                scored.setdefault(name, values)
        left_out |= small.left_out
    return scored, {name: why for name, why in left_out.items() if name not in scored}


def kl_to_drawn(whole: Map, d: TextDraw, new_Mu: Values) -> KLToMap:
    """The KL of M vectors over the u drawn texts to every vector of the map, M x K in bits/byte."""
    return kl_to_map(on_drawn(whole, d), d.clipped(new_Mu), d.draw, np.array(d.count), d.mean_bytes)


def on_drawn(whole: Map, d: TextDraw) -> Values:
    """The map's values at the drawn texts, K x u nats, clipped as the draw's map. Raises KltuiError if a value is missing."""
    old = whole.loglik_KN[:, list(d.index)]
    if not np.isfinite(old).all():
        raise KltuiError(
            f"the map has vectors that lack some of the texts of {d.name}",
            "Draw texts again: kltui --draw N WORKSPACE",
        )
    return d.clipped(old)


def relative_error(added: Added) -> float:
    """Median over pairs of the relative sampling error of the KL due to the draw; NaN without pairs."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = added.kl.se / added.kl.value
    ratio = ratio[np.isfinite(ratio)]
    return float(np.median(ratio)) if ratio.size else math.nan
