"""Figures and pages of odd workspaces: each is drawn without a warning, or refused with what is missing."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from small_workspace import Builder

from kltui.corpus.corpus import Corpus
from kltui.errors import KltuiError
from kltui.figures.catalogue import FIGURES, picture
from kltui.figures.draw import FigureStyle
from kltui.figures.files import write
from kltui.figures.picture import FigureAxis, Layer, Panel
from kltui.figures.share.command import share
from kltui.view.sections.context import Context
from kltui.workspace import Workspace

STEPS = range(0, 14_000, 1000)


def workspace(folder: Path, kind: str) -> Workspace:
    """Two runs, their layers and weight distances."""
    made = Builder(folder, n_texts=1 if kind == "one text" else 60)
    values = made.base_N
    for run, seed in (("a", 1), ("b", 2)):
        for k, step in enumerate(STEPS):
            values = made.base_N if kind == "equal" else values + made.rng.normal(0, 3, made.n_texts)
            vector = made.base_N + 0.1 * k if kind == "shifted" else values.copy()
            if kind == "gaps":
                vector[made.rng.random(made.n_texts) < 0.3] = np.nan
            checkpoint = made.checkpoint(run, step, seed=seed, size="70m", type="t")
            made.add(checkpoint, vector)
            for layer in (0, 1):
                made.add(checkpoint, vector, layer=layer)
    if kind == "negative weights":
        with made.store.atomic():
            made.store.weight_distances.put(
                {(f"w:a@{s}", f"w:a@{s + 1000}"): -1.0 for s in STEPS[1:-1]}
                | {("w:a@0", "w:a@1000"): np.inf, ("w:b@0", "w:b@1000"): 4.0},
                7,
            )
    return made.open()


@pytest.mark.parametrize("kind", ["equal", "shifted", "gaps", "one text", "negative weights"])
def test_every_figure_is_drawn_or_refused_in_words(kind: str, tmp_path: Path) -> None:
    ctx = Context(workspace(tmp_path / "work", kind))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in FIGURES:
            try:
                made = picture(ctx, name)
            except KltuiError as error:
                assert error.message and error.hint
                continue
            write(made, tmp_path / f"{name}.png", FigureStyle())
            assert any(
                np.isfinite(v).any() for panel in made.panels for v in [layer.y for layer in panel.layers]
            )
        share(ctx, tmp_path / "page.html")


def test_what_is_no_squared_distance_of_weights_is_unknown(tmp_path: Path) -> None:
    ctx = Context(workspace(tmp_path / "work", "negative weights"))
    assert set(ctx.weight_sqdist.values()) == {4.0}
    (updates,) = (p for p in picture(ctx, "curves").panels if "update" in p.title)
    assert [layer.y.tolist() for layer in updates.layers] == [[2.0]]


def test_vectors_that_are_equal_have_no_exponent_and_a_map_without_axes(tmp_path: Path) -> None:
    ctx = Context(workspace(tmp_path / "work", "equal"))
    with pytest.raises(KltuiError, match="KL from the start is 0 or undefined"):
        picture(ctx, "diffusion")
    curves = picture(ctx, "curves")
    assert not any("exponent" in panel.title for panel in curves.panels)
    assert any("KL from the start is 0 or undefined" in note for note in curves.notes)
    assert [panel.title for panel in picture(ctx, "trajectories").panels] == ["PCA, all vectors are equal"]


def test_an_axis_without_a_positive_value_is_not_logarithmic() -> None:
    axis = FigureAxis("KL", "log")
    zeros, some = np.zeros(3), np.array([0.0, np.nan, 2.0])
    for y, scale in ((zeros, "linear"), (-some, "linear"), (some, "log"), (np.full(3, np.nan), "linear")):
        made = Panel("p", axis, axis, (Layer("", some, y, value=y),), value_log=True)
        assert (made.x.scale, made.y.scale, made.value_log) == ("log", scale, scale == "log")


def test_a_map_over_empty_texts_says_why_it_has_no_kl(tmp_path: Path) -> None:
    made = Builder(tmp_path / "work", n_texts=4)
    with made.store.atomic():
        made.corpus_id = made.store.corpora.add(Corpus(("", "", "", "")), "empty.json")
    for k in range(3):
        made.add(made.checkpoint("m", k), np.array([-1.0, -2.0, -3.0, -4.0 - k]))
    ctx = Context(made.open())
    for name in FIGURES:
        with pytest.raises(KltuiError):
            picture(ctx, name)
    with pytest.raises(KltuiError, match="every text of the corpus is empty"):
        share(ctx, tmp_path / "page.html")
