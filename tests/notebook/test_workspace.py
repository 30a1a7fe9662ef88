"""What a notebook shows of a workspace: frames, tables as HTML, pictures, short words; and what it says without pandas."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "view"))  # small_workspace

from small_workspace import Builder

import kltui
from kltui.analysis.kl import KL
from kltui.errors import KltuiError, UsageError
from kltui.notebook.workspace import NotebookMap, NotebookWorkspace
from kltui.view.sections.section import Section

HOSTILE = '<script>alert("x")</script>&\x1b[31m'


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NotebookWorkspace]:
    made = Builder(tmp_path_factory.mktemp("notebook") / "work")
    made.run("tiny", (0, 1, 2, 4), size="tiny", seed=1, type="gpt_neox", layers=2)
    made.run("small", (0, 1, 2, 4), size=HOSTILE, seed=2, type="gpt_neox")
    made.open().close()
    with kltui.open(made.folder) as opened:
        yield opened


class Tags(HTMLParser):
    """The tags of a piece of HTML, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_map_is_a_frame_with_a_row_for_every_checkpoint(ws: NotebookWorkspace) -> None:
    m = ws.map()
    frame = m.to_pandas()
    assert frame["name"].tolist() == m.names and frame["run"].tolist() == ["small"] * 4 + ["tiny"] * 4
    assert frame["step"].tolist() == [0, 1, 2, 4] * 2 and str(frame["step"].dtype) == "Int64"
    assert frame["type"].tolist() == ["gpt_neox"] * 8 and set(frame["size"]) == {"tiny", HOSTILE}
    nats, size = -m.loglik_KN.sum(axis=1), m.text_bytes_N.sum()
    np.testing.assert_allclose(frame["loss_bits_per_byte"], nats / size / math.log(2), rtol=1e-12)
    np.testing.assert_array_equal(frame[["x", "y"]], m.coordinates("pca", 2))
    assert {"x", "y", "z"} <= set(m.to_pandas("mds", 3).columns)
    assert ws.map(layers=True).to_pandas()["layer"].dropna().tolist() == [0, 1] * 4


def test_kl_is_a_square_frame_with_errors_beside(ws: NotebookWorkspace) -> None:
    m = ws.map()
    kl, se = m.kl_pandas(), m.kl_se_pandas()
    there, back = kl.loc["tiny@0", "tiny@4"], kl.loc["tiny@4", "tiny@0"]
    assert there == back == pytest.approx(m.pair("tiny@0", "tiny@4").value, rel=1e-12)
    np.testing.assert_allclose(se.loc["tiny@0", "tiny@4"], m.pair("tiny@0", "tiny@4").se, rtol=1e-9)
    kl.loc["tiny@0", "tiny@4"] = -1.0  # one's own copy
    assert m.kl().min() >= 0


def test_what_is_made_of_a_map_has_frames_too(ws: NotebookWorkspace) -> None:
    for made in (ws.map(preprocess="clip"), ws.map().preprocessed("clip"), ws.map().with_null("tiny")):
        assert isinstance(made, NotebookMap) and len(made.to_pandas()) == len(made)


def test_html_holds_no_tag_that_is_not_its_own(ws: NotebookWorkspace) -> None:
    m = ws.map()
    table = {"p", "table", "thead", "tr", "th", "tbody", "td"}
    shown = Tags(m._repr_html_())
    assert shown.tags <= table and '<script>alert("x")</script>&\ufffd[31m' in shown.text
    assert "map of 8 vectors over 60 texts" in shown.text and "\x1b" not in shown.text
    assert Tags(m.pair("tiny@0", "tiny@4")._repr_html_()).tags <= table
    assert Tags(m.diffusion(window=2, from_step=0)[0]._repr_html_()).tags <= table
    for name in ("overview", "kl", "loss", "trajectories"):
        section = ws.section(name)
        html = Tags(section._repr_html_())
        assert section.status == "shown" and html.tags <= {"pre", "span"} and section.title in html.text
    hostile = Section("x", HOSTILE, status="failed", message=HOSTILE, hint=HOSTILE)
    assert "script" not in Tags(hostile._repr_html_()).tags


def test_words_are_short(ws: NotebookWorkspace) -> None:
    m = ws.map()
    assert repr(m) == "NotebookMap(8 vectors over 60 texts)"
    assert repr(ws) == f"Workspace({str(ws.path)!r})"
    assert repr(ws.section("kl")) == "Section('kl', shown)"
    assert repr(KL(0.5, 0.01, 30, 2, 900.0)) == "KL(0.500 ± 0.010 bits/byte, 30 texts, 2 left out)"
    assert repr(KL(math.nan, math.nan, 0, 30)) == "KL(undefined bits/byte, 0 texts, 30 left out)"


def test_a_section_is_had_by_name(ws: NotebookWorkspace) -> None:
    section = ws.section("neighbours", pair=("tiny@0", "tiny@4"), preprocess="clip")
    assert section.status == "shown" and section.data
    assert ws.section("benchmark").status == "missing"
    for options in (
        {"name": "scales"},
        {"name": "kl", "preprocess": "none at all"},
        {"name": "kl", "exclude": ("nobody",)},
    ):
        with pytest.raises(UsageError):
            ws.section(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("method", "dims"), [("pca", 2), ("mds", 3)])
def test_a_map_draws_itself(ws: NotebookWorkspace, method: str, dims: int) -> None:
    before = "matplotlib.pyplot" in sys.modules
    figure = ws.map().plot(method, dims, by="size")  # type: ignore[arg-type]
    axes = figure.axes[0]
    assert len(figure.axes) == 1 and hasattr(axes, "get_zlim") is (dims == 3)
    assert "sqrt(bits/byte)" in axes.get_xlabel()
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    assert ("matplotlib.pyplot" in sys.modules) is before


def test_pictures_that_there_are_not_are_refused(ws: NotebookWorkspace) -> None:
    for arguments in (("umap", 2), ("pca", 4)):
        with pytest.raises(UsageError, match="cannot be drawn by"):
            ws.map().plot(*arguments)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        ws.map().plot(by="colour")


def test_without_pandas_and_matplotlib_it_says_what_to_install(
    ws: NotebookWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("pandas", "matplotlib"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(KltuiError, match=r"pip install '\.\[notebook\]'"):
        ws.map().to_pandas()
    with pytest.raises(KltuiError, match=r"pip install '\.\[figures\]'"):
        ws.map().plot()
