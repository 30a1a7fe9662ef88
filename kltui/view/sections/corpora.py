"""KL of the same pairs on every corpus of the workspace, and the agreement between corpora."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import combinations

from rich.console import RenderableType

from kltui.analysis.agreement import Agreement, agreement
from kltui.analysis.map import Map
from kltui.errors import KltuiError
from kltui.store import CorpusRow
from kltui.view.sections.context import Context, finals, thinned
from kltui.view.sections.section import MissingError, Section
from kltui.view.tables import figure, table, with_error, words

PAIRS_SHOWN = 20
CORPORA_SHOWN = 4
MODELS = 60  # maximum models whose pairs are compared
HASH = 12  # characters of a corpus' hash that are shown


@dataclass(frozen=True)
class CorpusMap:
    """A corpus and the map of its final vectors."""

    row: CorpusRow
    map: Map

    @property
    def short(self) -> str:
        """The beginning of the corpus' hash."""
        return self.row.sha256[:HASH]


def corpora(ctx: Context) -> Section:
    """Every corpus, the KL of the same pairs on each of them, and the correlation between corpora."""
    held = _corpus_maps(ctx) if len(ctx.ws.corpora()) > 1 else []
    if len(held) < 2:
        raise MissingError(
            "all vectors are on the same corpus",
            "score the same models on a second corpus in this workspace",
        )
    pairs = _pairs(ctx, held)
    agreements = [(a, b, _agreement(a, b)) for a, b in combinations(held, 2)]
    blocks: list[RenderableType] = [_listed(held)]
    if pairs:
        blocks.append(_side_by_side(held[:CORPORA_SHOWN], pairs[:PAIRS_SHOWN]))
    if len(pairs) > PAIRS_SHOWN or len(held) > CORPORA_SHOWN:
        blocks.append(words(f"the first of {len(pairs)} pairs and {len(held)} corpora; --json has them all"))
    blocks.append(_correlations(agreements))
    notes = (
        "KL in bits/byte ± standard error over the texts of each corpus, from the vectors as scored; to select the corpus of every"
        " other section: kltui --report --over HASH, or O on screen",
        "r: Pearson correlation of ln KL over the pairs of models on both corpora, rank: Spearman's; ± jackknife over models"
        " (pairs that share a model are not independent), for four or more models; ratio: median of KL on the second over the first",
    )
    return Section("corpora", "KL by corpus", tuple(blocks), notes, _data(held, pairs, agreements))


def _corpus_maps(ctx: Context) -> list[CorpusMap]:
    """The corpora with vectors: first that of the report's map, then by number of vectors."""
    found = []
    own = str(ctx.whole.record.get("corpus", ""))
    for row in ctx.ws.corpora():
        is_shown = row.sha256 == own and not ctx.choice.saved
        try:
            found.append(CorpusMap(row, ctx.whole if is_shown else ctx.ws.map(corpus=row.sha256)))
        except KltuiError:
            continue  # no vectors, or none that can be on a map
    return sorted(found, key=lambda h: (h.row.sha256 != own, -len(h.map)))


def _pairs(ctx: Context, held: list[CorpusMap]) -> list[tuple[str, str]]:
    """The requested pair, otherwise all pairs of the runs' last models that are scored on two corpora."""
    if ctx.choice.pair:
        return [ctx.pair]
    times: Counter[str] = Counter()
    for one in held:
        times.update(one.map.names[k] for k in finals(one.map))
    names = [name for name, n in times.items() if n > 1]
    return list(combinations(names[:MODELS], 2))


def _agreement(a: CorpusMap, b: CorpusMap) -> Agreement:
    """The agreement on the models that both corpora have, or on a selection if there are many."""
    there = set(b.map.names)
    both = a.map.select([k for k, name in enumerate(a.map.names) if name in there])
    shared = [both.names[k] for k in thinned(both, MODELS)]
    one, other = (h.map.select([h.map.row(name) for name in shared]).kl() for h in (a, b))
    return agreement(one, other)


def _listed(held: list[CorpusMap]) -> RenderableType:
    rows = [[h.short, str(h.row.n), figure(h.map.mean_bytes, 5), str(len(h.map)), h.row.source] for h in held]
    return table(["corpus", "texts", "mean bytes", "vectors", "source"], rows, left=(0, 4), wrap=(4,))


def _side_by_side(held: list[CorpusMap], pairs: list[tuple[str, str]]) -> RenderableType:
    rows = [[a, b, *(with_error(*_kl(h, a, b)) for h in held)] for a, b in pairs]
    return table(["A", "B", *(h.short for h in held)], rows, left=(0, 1))


def _kl(held: CorpusMap, a: str, b: str) -> tuple[float, float]:
    """(KL, standard error) of a pair on a corpus; NaN if one of them is not scored on it."""
    names = held.map.names
    if a not in names or b not in names:
        return math.nan, math.nan
    found = held.map.pair(a, b)
    return found.value, found.se


def _correlations(found: list[tuple[CorpusMap, CorpusMap, Agreement]]) -> RenderableType:
    rows = [
        [
            f"{a.row.sha256[:8]} and {b.row.sha256[:8]}",
            str(r.n_models),
            str(r.n_pairs),
            with_error(r.pearson, r.pearson_se),
            with_error(r.spearman, r.spearman_se),
            figure(r.ratio),
        ]
        for a, b, r in found
    ]
    return table(["corpora", "models", "pairs", "r", "rank", "ratio"], rows)


def _data(
    held: list[CorpusMap],
    pairs: list[tuple[str, str]],
    agreements: list[tuple[CorpusMap, CorpusMap, Agreement]],
) -> dict[str, object]:
    return {
        "unit": "bits/byte",
        "corpora": [
            {
                "sha256": h.row.sha256,
                "source": h.row.source,
                "texts": h.row.n,
                "mean_bytes": h.map.mean_bytes,
                "settings": h.map.record.get("settings", ""),
                "vectors": h.map.names,
            }
            for h in held
        ],
        "pairs": [
            {
                "a": a,
                "b": b,
                "kl": [
                    {"corpus": h.row.sha256, "kl_bits_per_byte": value, "se": se}
                    for h in held
                    for value, se in [_kl(h, a, b)]
                ],
            }
            for a, b in pairs
        ],
        "agreement": [
            {
                "first": a.row.sha256,
                "second": b.row.sha256,
                "models": r.n_models,
                "pairs": r.n_pairs,
                "pearson_ln_kl": r.pearson,
                "pearson_se": r.pearson_se,
                "spearman": r.spearman,
                "spearman_se": r.spearman_se,
                "median_ratio": r.ratio,
            }
            for a, b, r in agreements
        ],
    }
