"""Fewer texts: the error of maps from drawn texts by sampling method, and models added by drawn texts."""

from __future__ import annotations

import json
import math

import numpy as np
from rich.console import RenderableType

from kltui.analysis.embed import complete_texts
from kltui.analysis.resample import METHODS, ResamplingError, resampling_errors
from kltui.view.sections.context import Context, thinned
from kltui.view.sections.section import MissingError, Section
from kltui.view.tables import count, table, with_error, words
from kltui.workspace.subsample import FOLDER, Added, added_models, relative_error, text_draws

DRAWS = 10
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
MODELS_MAX = 60
NEAREST = 5
LEFT_NAMED = 12
NAMES = {"uniform": "uniform", "ls": "LS", "kl": "KL"}


def resampling(ctx: Context) -> Section:
    """Relative error of the map's KLs by number of drawn texts, for uniform, LS and KL sampling."""
    if len(ctx.map) < 3:
        raise MissingError(
            f"only {count(len(ctx.map), 'vector')} on the map", "score three checkpoints or more"
        )
    shown = ctx.map.select(thinned(ctx.map, MODELS_MAX))
    used = complete_texts(shown.loglik_KN)
    sizes = sorted({max(2, round(share * len(used))) for share in SHARES})
    ctx.notify(f"maps of {len(shown)} models from drawn texts")
    found = resampling_errors(shown.loglik_KN[:, used], METHODS, sizes, DRAWS)
    by = {(r.method, r.n_drawn): r for r in found}
    rows = [
        [
            str(n),
            *(f"{by[m, n].relative:.1%}" for m in METHODS),
            *(f"{by[m, n].n_different:.0f}" for m in METHODS),
        ]
        for n in sizes
    ]
    headings = ["drawn", *(NAMES[m] for m in METHODS), *(f"{NAMES[m]} texts" for m in METHODS)]
    notes = (
        f"root mean square error of each pair's KL relative to that of all {len(used)} texts, over {DRAWS} draws with"
        " replacement; texts: the number of different texts, on which a new model has to be scored",
        "LS: texts drawn by their variance over models; KL: by their contribution to all pairwise KLs (arXiv 2505.15428);"
        " kltui --draw N WORKSPACE draws them",
        f"{len(shown)} of {len(ctx.map)} vectors; {ctx.basis}" if len(shown) < len(ctx.map) else ctx.basis,
    )
    data: dict[str, object] = {
        "texts": len(used),
        "vectors": shown.names,
        "draws": DRAWS,
        "errors": [
            {
                "method": r.method,
                "drawn": r.n_drawn,
                "different": r.n_different,
                "relative": r.relative,
                "absolute": r.absolute,
            }
            for r in found
        ],
    }
    blocks = (table(headings, rows, left=()), words(_saving(found, sizes)))
    return Section("resampling", "Fewer texts", blocks, notes, data)


def _saving(found: list[ResamplingError], sizes: list[int]) -> str:
    """A sentence on how many LS draws reach the error of the middle number of uniform draws."""
    uniform = {r.n_drawn: r.relative for r in found if r.method == "uniform"}
    best = [r for r in found if r.method == "ls"]
    target = sizes[len(sizes) // 2]
    enough = [r for r in best if r.relative <= uniform[target]]
    if not enough or not math.isfinite(uniform[target]):
        return f"no number of LS texts tried reaches the error of {target} uniform ones"
    r = min(enough, key=lambda r: r.n_different)
    return (
        f"{target} uniform draws: {uniform[target]:.1%}; LS reaches it with {r.n_drawn} draws"
        f" of {r.n_different:.0f} different texts"
    )


def added(ctx: Context) -> Section:
    """Models scored only on drawn texts, with their KL to the map's vectors."""
    draws = text_draws(ctx.ws)
    if not draws:
        raise MissingError(
            "no texts have been drawn for new models",
            "kltui --draw N WORKSPACE draws them and writes a corpus file; a job with that corpus scores a new"
            " model, and this section places it among the others",
        )
    found = [a for d in draws if (a := added_models(ctx.ws, ctx.whole, d)) is not None]
    if not found:
        # the absolute path, because a job file's paths are relative to the job file
        path = (ctx.ws.path / FOLDER / f"{draws[-1].name}.jsonl").absolute()
        raise MissingError(
            f"texts were drawn ({', '.join(d.name for d in draws)}), but no new model is scored on them",
            f"score one with a job of this workspace and source = {json.dumps(str(path), ensure_ascii=False)} under [corpus]",
        )
    blocks: list[RenderableType] = []
    for one in found:
        blocks += _added_blocks(ctx, one)
    notes = [
        "bits/byte ± the sampling error of the drawn texts; both sides clipped at the map's threshold when the texts were"
        " drawn, centred with the texts' weights",
        ctx.raw_basis,
    ]
    left = [(name, why) for one in found for name, why in one.left_out.items()]
    for why in dict.fromkeys(why for _, why in left):
        names = [name for name, of in left if of == why]
        notes.append(f"left out: {', '.join(names[:LEFT_NAMED])}{_more(names)}: {why}")
    data: dict[str, object] = {"unit": "bits/byte", "draws": [_added_data(ctx, one) for one in found]}
    return Section("added", "Models added by drawn texts", tuple(blocks), tuple(notes), data)


def _more(names: list[str]) -> str:
    return f" and {len(names) - LEFT_NAMED} more" if len(names) > LEFT_NAMED else ""


def _added_blocks(ctx: Context, one: Added) -> list[RenderableType]:
    d = one.draw
    if not one.names:
        return [words(f"{d.name}: no model scored only on these texts can be added; see the notes")]
    head = (
        f"{d.name}: {d.n_drawn} draws, {len(d.index)} different of {d.n_texts} texts; median error"
        f" {relative_error(one):.1%} of the KL"
    )
    rows = []
    for m, name in enumerate(one.names):
        order = np.argsort(one.kl.value[m], kind="stable")[:NEAREST]
        for place, k in enumerate(order):
            kl = with_error(float(one.kl.value[m, k]), float(one.kl.se[m, k]))
            rows.append([name if place == 0 else "", ctx.whole.names[k], kl])
    return [words(head), table(["added", "nearest on the map", "KL ± error"], rows, left=(0, 1))]


def _added_data(ctx: Context, one: Added) -> dict[str, object]:
    return {
        "draw": one.draw.name,
        "drawn": one.draw.n_drawn,
        "different": len(one.draw.index),
        "clip_threshold": one.draw.clip_threshold,
        "left_out": dict(one.left_out),
        "models": [
            {
                "name": name,
                "kl": [
                    {"name": other, "kl_bits_per_byte": float(v), "se_of_draw": float(e)}
                    for other, v, e in zip(ctx.whole.names, one.kl.value[m], one.kl.se[m], strict=True)
                ],
            }
            for m, name in enumerate(one.names)
        ],
    }
