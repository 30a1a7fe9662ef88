"""Drivers of a KL: how much each text and each domain contributes to Var(l_a - l_b)."""

from __future__ import annotations

from rich.console import RenderableType

from kltui.analysis.drivers import Drivers
from kltui.sanitize import safe_text
from kltui.view.sections.context import Context
from kltui.view.sections.section import Section
from kltui.view.tables import count, figure, table, with_error, words

TEXTS_SHOWN = 10
TEXTS_IN_DATA = 100
DOMAINS_SHOWN = 12
SNIPPET = 100


def drivers(ctx: Context) -> Section:
    """The texts and domains behind one KL: that of the requested pair, otherwise the largest between final checkpoints."""
    shown = ctx.raw
    a, b = ctx.pair
    sha256 = str(shown.record.get("corpus", "")) or None
    texts, domains = ctx.ws.texts(sha256), ctx.ws.domains(sha256)
    found = shown.drivers(a, b, domains if any(domains) else ())
    half = found.texts_for_share(0.5)
    why = "" if ctx.choice.pair else ", the largest between final models (--pair A B chooses another)"
    dropped = found.kl.n_dropped
    shared = f"; {dropped} left out, B = {figure(found.kl.mean_bytes, 5)} bytes" if dropped else ""
    blocks = [
        words(f"{a} against {b}: {with_error(found.kl.value, found.kl.se)} bits/byte{why}"),
        words(f"{count(half, 'text')} of {found.kl.n_texts} make up half of it{shared}"),
        *_tables(found, texts),
    ]
    notes = (
        "share: a text's part of Var(l_a - l_b); nats: l_a - l_b minus its mean, above 0 if a does better than it"
        " does elsewhere",
        ctx.raw_basis,
    )
    data = _data(found, domains) | {"a": a, "b": b, "texts_for_half": half}
    return Section("drivers", "What drives a KL", tuple(blocks), notes, data)


def _tables(found: Drivers, texts: list[str]) -> list[RenderableType]:
    blocks: list[RenderableType] = []
    if found.domains:
        rows = [
            [d.domain or "(none)", f"{d.share:.1%}", f"{d.share_of_texts:.1%}", figure(d.shift)]
            for d in found.domains[:DOMAINS_SHOWN]
        ]
        blocks.append(table(["domain", "of the KL", "of the texts", "mean nats"], rows))
    rows = [
        [safe_text(texts[s], SNIPPET), str(s), f"{share:.2%}", f"{difference:+.1f}"]
        for s, share, difference in found.top(TEXTS_SHOWN)
    ]
    blocks.append(table(["text", "number", "share", "nats"], rows))
    return blocks


def _data(found: Drivers, domains: list[str]) -> dict[str, object]:
    return {
        "unit": "bits/byte",
        "kl_bits_per_byte": found.kl.value,
        "se": found.kl.se,
        "texts_used": found.kl.n_texts,
        "mean_bytes": found.kl.mean_bytes,
        "texts": [
            {"index": s, "domain": domains[s], "share": share, "difference_nats": difference}
            for s, share, difference in found.top(TEXTS_IN_DATA)
        ],
        "domains": [
            {
                "domain": d.domain,
                "texts": d.n_texts,
                "kl_bits_per_byte": d.bits_per_byte,
                "kl_share": d.share,
                "text_share": d.share_of_texts,
                "shift_nats": d.shift,
            }
            for d in found.domains
        ],
    }
