"""Maps that third-party fits choke on: without spread, of few models or texts, with repeated points or odd values."""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from small_workspace import Builder

from kltui.errors import KltuiError
from kltui.view.export import export
from kltui.view.report import report, write_text
from kltui.view.sections.context import ReportChoice
from kltui.view.sections.section import Section


def vectors(kind: str, K: int, N: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    L = rng.normal(-1500, 200, N) + np.cumsum(rng.normal(0, 5, (K, N)), axis=0)
    if kind == "equal":
        L[:] = L[0]
    elif kind == "pairs":
        L = L[np.arange(K) // 2]
    elif kind == "tiny":
        L *= 1e-303
    elif kind == "gaps":
        L[rng.random(L.shape) < 0.3] = np.nan
    elif kind == "one beyond":
        L[K // 2] *= 1e297
    return L


def workspace(folder: Path, kind: str, K: int, N: int) -> Builder:
    made = Builder(folder, n_texts=N)
    scores = {}
    for k, loglik in enumerate(vectors(kind, K, N)):
        c = made.checkpoint(f"r{k % 2}", 20 * (k // 2), type=f"t{k % 6}", size=f"s{k % 2}")
        made.add(c, loglik)
        scores[c.name] = {"task": 10.0 * (k % 5)}
    with made.store.atomic():
        made.store.benchmark_scores.put(scores)
    return made


def sections(made: Builder, out: Path) -> dict[str, Section]:
    """Every section of the report, no warning let through; the export beside it."""
    with made.open() as ws, warnings.catch_warnings():
        warnings.simplefilter("error")
        found = report(ws, choice=ReportChoice(noise_corrected=True))
        text = io.StringIO()
        write_text(found, text, width=100)
        export(ws, out)
    assert "Traceback" not in text.getvalue()
    return {s.name: s for s in found.sections}


@pytest.mark.parametrize(
    ("kind", "K", "N"),
    [
        ("plain", 1, 1),
        ("plain", 2, 2),
        ("equal", 3, 60),
        ("tiny", 3, 60),
        ("gaps", 3, 3),
        ("one beyond", 3, 60),
        ("equal", 31, 60),
        ("pairs", 31, 2),
        ("gaps", 31, 60),
    ],
)
def test_every_section_has_a_picture_or_a_sentence(kind: str, K: int, N: int, tmp_path: Path) -> None:
    found = sections(workspace(tmp_path / "work", kind, K, N), tmp_path / "out")
    for s in found.values():
        assert s.status == "shown" or (s.message and "internal error" not in s.message), (s.name, s.message)
    for row in csv.DictReader((tmp_path / "out" / "kl.csv").read_text().splitlines()):
        assert row["se"] == "" or float(row["se"]) > 0
        assert N > 2 or row["se"] == ""


def test_a_map_of_impossible_values_is_refused_in_words(tmp_path: Path) -> None:
    made = Builder(tmp_path / "work")
    for k in range(3):
        made.add(made.checkpoint(f"m{k}"), made.base_N * 1e298)
    with made.open() as ws, pytest.raises(KltuiError, match="beyond 1e\\+12 nats"):
        export(ws, tmp_path / "out")


def test_ellipses_need_three_differing_texts_and_copies_do_not_narrow_them(tmp_path: Path) -> None:
    from dataclasses import replace

    from kltui.analysis.map import Map
    from kltui.analysis.point import Point

    L = vectors("plain", 6, 90)
    once = Map(tuple(Point(f"m{k}", f"m{k}") for k in range(6)), L, np.full(90, 500))
    ids = np.tile(np.arange(90), 4)
    four = replace(once, loglik_KN=np.tile(L, 4), text_bytes_N=np.full(360, 500), text_ids_N=ids)
    (xy, want), (again, found) = once.error_ellipses(), four.error_ellipses()
    np.testing.assert_allclose(again, xy, atol=1e-9)
    np.testing.assert_allclose([e.major for e in found], [e.major for e in want], rtol=1e-6)
    for few in (once.select(range(6)), four):
        part = replace(few, loglik_KN=few.loglik_KN[:, [0, 1]], text_bytes_N=np.full(2, 500), text_ids_N=None)
        with pytest.raises(KltuiError, match="2 distinct texts"):
            part.error_ellipses()
