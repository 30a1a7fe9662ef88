"""Vectors that would empty a map are named with the reason in report, export and the map itself; the others stay."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from small_workspace import Builder

from kltui.errors import KltuiError
from kltui.view.export import export
from kltui.view.report import report
from kltui.view.sections.overview import _ids_notes
from kltui.workspace import Workspace

NONE, DRAWN = "none of its 60 texts has a number", "scored on 6 of 60 texts: 6 would remain for the map"


@pytest.fixture
def mixed(builder: Builder) -> Workspace:
    """Four checkpoints of a run, one model without a number and one on drawn texts alone."""
    walk = builder.run("tiny", (1, 2, 3, 4))
    builder.add(builder.checkpoint("empty"), np.full(60, np.nan))
    builder.add(builder.checkpoint("drawn"), np.where(np.arange(60) % 10, np.nan, walk[0] - 5.0))
    return builder.open()


def test_the_map_holds_the_others_and_says_who_is_not_on_it(mixed: Workspace) -> None:
    m = mixed.map()
    assert m.names == [f"tiny@{s}" for s in (1, 2, 3, 4)]
    assert m.left_out == {"drawn": DRAWN, "empty": NONE}
    assert m.coordinates("pca").shape == (4, 2) and np.isfinite(m.kl()).all()
    assert m.preprocessed("clip").select([0, 1]).left_out == m.left_out
    with pytest.raises(KltuiError, match="'drawn' was left out of the map: scored on 6 of 60"):
        m.row("drawn")


def test_alone_drawn_texts_make_a_map(mixed: Workspace) -> None:
    assert mixed.map(names=["drawn"]).names == ["drawn"]
    with pytest.raises(KltuiError, match=r"no vector can be used on a map: empty: none of its"):
        mixed.map(names=["empty"])


def test_report_and_export_say_it(mixed: Workspace, tmp_path: Path) -> None:
    made = report(mixed, ["overview", "trajectories"])
    text = io.StringIO()
    for part in made.renderables():
        Console(file=text, width=200).print(part)
    for name, why in (("empty", NONE), ("drawn", DRAWN)):
        assert f"left out of the map: {name}: {why}" in text.getvalue()
    assert "2 vectors left out because the map would have had no texts" in made.basis
    data = json.loads(json.dumps(made.as_dict()))
    assert data["sections"]["overview"]["left_out"] == {"drawn": DRAWN, "empty": NONE}
    assert data["provenance"]["left_out"] == {"drawn": DRAWN, "empty": NONE}
    said: list[str] = []
    export(mixed, tmp_path / "out", notify=said.append)
    assert f"left out of the map: empty: {NONE}" in said and f"left out of the map: drawn: {DRAWN}" in said
    assert np.load(tmp_path / "out" / "loglik.npz")["names"].tolist() == [f"tiny@{s}" for s in (1, 2, 3, 4)]


def test_a_checkpoint_without_a_number_is_not_scored(mixed: Workspace) -> None:
    scored = {row.name: row.scored for row in mixed.checkpoints()}
    assert scored == {f"tiny@{s}": True for s in (1, 2, 3, 4)} | {"drawn": True, "empty": False}
    assert {row.name: row.status for row in mixed.checkpoints()}["empty"] == "empty"


OLD, NEW = {"tokenizer": "a"}, {"tokenizer": "a", "ids": "tokenizer.json"}
BY_CLASS = {"tokenizer": "a", "ids": "transformers GPT2Tokenizer"}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ([NEW], False),
        ([OLD], True),
        ([NEW, OLD], True),
        ([NEW, BY_CLASS], False),
        ([{"source": "imported"}], False),
    ],
)
def test_vectors_whose_ids_transformers_made_are_told(keys: list[dict[str, str]], said: bool) -> None:
    def noted(is_imported: bool = False, on_map: bool = True) -> bool:
        vectors = {
            f"m{i}": SimpleNamespace(key_fields=k, is_imported=is_imported) for i, k in enumerate(keys)
        }
        shown = SimpleNamespace(names=list(vectors) if on_map else [])
        return bool(_ids_notes(SimpleNamespace(raw=shown, ws=SimpleNamespace(vectors=lambda: vectors))))

    assert noted() == said
    assert not noted(is_imported=True) and not noted(on_map=False)
