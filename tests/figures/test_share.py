"""The page of --share: whole in itself, safe against every name, and drawn by a browser without a request."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kltui.cli import main
from kltui.errors import KltuiError, UsageError
from kltui.figures.picture import FigureAxis, Layer, Panel, PaperFigure, values
from kltui.figures.share.command import checked_page
from kltui.figures.share.page import check_plotly, in_script, page
from kltui.figures.share.traces import panel_json, plain

pytest.importorskip("plotly")
EVIL = '</script><script>alert("x")</script><b onload=x>&lt;%{x}\u2028'


class Parts(HTMLParser):
    """Scripts by id ("" for those without), and every attribute that could fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self._in: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.fetched += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        if tag == "script":
            self._in = given.get("id") or ""
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._in = None

    def handle_data(self, data: str) -> None:
        if self._in is not None:
            self.scripts[self._in] = self.scripts.get(self._in, "") + data


def evil_picture() -> PaperFigure:
    line = Layer(EVIL, values([1, 2, np.nan]), values([3, np.inf, 5]), names=(EVIL,) * 3, mark="o")
    cells = Layer("", values([0, 1]), values([0, 1]), "cells", value=values([1, np.nan]), names=(EVIL,) * 2)
    ticks = ((0.0, EVIL), (1.0, "b"))
    return PaperFigure(
        "trajectories",
        EVIL,
        (
            Panel("one " + EVIL, FigureAxis(EVIL), FigureAxis("y", "log"), (line,)),
            Panel(
                "two",
                FigureAxis(ticks=ticks),
                FigureAxis(ticks=ticks),
                (cells,),
                value_label=EVIL,
                value_log=True,
            ),
        ),
        (EVIL,),
    )


def test_no_name_is_markup_and_nothing_is_fetched() -> None:
    found = Parts(page(EVIL, EVIL, [evil_picture()]))
    assert set(found.scripts) == {"figures", "library", ""}  # no name has ended one or begun another
    assert all(address.startswith("#") for address in found.fetched)
    assert not {"b", "img", "link", "iframe", "object"} & set(found.tags)
    figures = json.loads(found.scripts["figures"])
    said = json.dumps(figures)
    assert "<script" not in said and "<b " not in said and "NaN" not in said and "Infinity" not in said
    assert found.policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in found.policy and "connect-src" not in found.policy


def test_only_the_library_and_the_pages_own_script_may_run() -> None:
    found = Parts(page("t", "b", [evil_picture()]))
    library = gzip.decompress(base64.b64decode(found.scripts["library"]))
    for code in (library, found.scripts[""].encode()):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(code).digest()).decode()}'" in found.policy
    assert b"Licensed under the MIT license" in library[:300]


def test_data_of_a_script_never_holds_what_ends_it() -> None:
    text = in_script({EVIL: [EVIL, None]})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {EVIL: [EVIL, None]}
    assert "<" not in plain(EVIL) and plain("a & b") == "a &amp; b"


def test_a_panel_is_drawn_at_its_own_numbers() -> None:
    x, y = values([0, 9, 99]), values([1.0, 2.0, 4.0])
    layer = Layer("run", x, y, low=y - 0.25, high=y + 0.5, names=("a", "b", "c"), mark="s", shaded=True)
    made = panel_json(
        Panel("p", FigureAxis("training step", "symlog"), FigureAxis("KL, bits/byte", "log"), (layer,))
    )
    (trace,) = made["traces"]
    assert np.allclose(trace["x"], [0, 1, 2])  # log10(1 + step)
    assert trace["y"] == [1.0, 2.0, 4.0] and trace["error_y"]["array"] == [0.5, 0.5, 0.5]
    assert trace["error_y"]["arrayminus"] == [0.25, 0.25, 0.25]
    assert made["layout"]["yaxis"]["type"] == "log"
    title = made["layout"]["title"]
    assert (title["x"], title["xanchor"]) == (0, "left"), "the line of buttons stands at the right"
    assert made["layout"]["xaxis"]["title"]["text"] == "training step, log(1 + x)"
    assert trace["hovertext"][1].startswith("b<br>training step: 9")
    assert len(set(trace["marker"]["color"])) == 3 and trace["name"] == "run"


def test_long_names_keep_what_tells_them_apart() -> None:
    """In the legend, at the axes and beside the mouse; a name of the legend hides its own series only."""
    long = [f"organisation/{'very-' * 30}long-seed{k}@143000" for k in range(3)]
    at = values([0, 1])
    runs = tuple(Layer(name, at, at + k, names=(name,) * 2) for k, name in enumerate(long))
    ticks = tuple((float(k), name) for k, name in enumerate(long[:2]))
    pairs = tuple(f"{a} | {b}" for a in long[:2] for b in long[:2])
    cells = Layer(
        "", values([0, 1, 0, 1]), values([0, 0, 1, 1]), "cells", value=values([1, 2, 3, 4]), names=pairs
    )
    curves = panel_json(Panel("p", FigureAxis("x"), FigureAxis("y"), runs))
    matrix = panel_json(Panel("m", FigureAxis(ticks=ticks), FigureAxis(ticks=ticks), (cells,)))
    traces = curves["traces"]
    assert len({t["name"] for t in traces}) == len({t["legendgroup"] for t in traces}) == 3
    assert all(len(t["name"]) <= 36 for t in traces)
    assert len(set(matrix["layout"]["xaxis"]["ticktext"])) == 2
    said = matrix["traces"][0]["hovertext"][0][1].split("<br>")[0]
    assert [part[-13:] for part in said.split(" | ")] == ["-seed0@143000", "-seed1@143000"]


def test_an_unknown_error_is_left_out_beside_the_mouse() -> None:
    x, y, none = values([1]), values([0.20612]), values([np.nan])
    layer = Layer("run", x, y, low=none, high=none, names=("a",))
    (trace,) = panel_json(Panel("p", FigureAxis("step"), FigureAxis("norm"), (layer,)))["traces"]  # type: ignore[attr-defined]
    assert trace["hovertext"] == ["a<br>step: 1<br>norm: 0.206"]


def test_names_of_a_matrix_stand_beside_its_cells() -> None:
    cells = Layer(
        "", values([0, 1]), values([0, 0]), "cells", names=("a | a", "a | b"), value=values([np.nan, 0.5])
    )
    layout: Any = panel_json(Panel("m", FigureAxis(""), FigureAxis(""), (cells,)))["layout"]  # type: ignore[index]
    assert [layout[f"{w}axis"]["constrain"] for w in "xy"] == ["domain", "domain"]


def test_three_axes_have_equal_units_in_a_box_that_the_camera_sees_whole() -> None:
    line = Layer("run", values([0, 4, 8]), values([0, 1, 2]), z=values([0, 1, 0]), names=("a", "b", "c"))
    panel = Panel("map", FigureAxis("1"), FigureAxis("2"), (line,), FigureAxis("3"), equal=True)
    scene: Any = panel_json(panel)["layout"]["scene"]  # type: ignore[index]
    ranges = np.array([scene[f"{w}axis"]["range"] for w in "xyz"])
    assert (ranges[:, 0] < [0, 0, 0]).all() and (ranges[:, 1] > [8, 2, 1]).all()
    sides = np.array([scene["aspectratio"][w] for w in "xyz"])
    assert np.allclose(np.diff(ranges)[:, 0] / sides, np.diff(ranges)[0, 0] / sides[0], rtol=1e-4)
    assert np.isclose(np.linalg.norm(sides), np.sqrt(3), rtol=1e-3), "from corner to corner as long as a cube"


def test_spikes_are_crosses_and_steps_are_whole_numbers_beside_the_mouse() -> None:
    spike = Layer(
        "spike", values([64]), values([0.5]), "points", names=("run@64",), mark="x", colour="#d70000"
    )
    (flat,) = panel_json(Panel("KL", FigureAxis("training step"), FigureAxis("KL"), (spike,)))["traces"]  # type: ignore[attr-defined]
    assert flat["marker"]["symbol"].startswith("x-thin") and flat["marker"]["line"]["width"] > 0
    assert flat["hovertext"][0].startswith("run@64<br>training step: 64<br>")


def test_a_page_that_cannot_be_written_is_refused_by_its_own_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"^--share: cannot make"):
        checked_page(tmp_path / "file" / "page.html")


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.html"):
        checked_page(tmp_path / "page.pdf")
    monkeypatch.setattr("kltui.figures.share.page.find_spec", lambda _: None)
    with pytest.raises(KltuiError) as error:
        check_plotly()
    assert "[share]" in error.value.hint


def browser() -> str | None:
    return next(
        (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
    )


@pytest.mark.skipif(browser() is None, reason="no headless browser is installed")
def test_a_browser_draws_the_page_of_a_workspace(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert main(["--share", str(out), str(folder)]) == 0
    assert out.stat().st_size < 5_000_000
    command = [str(browser()), "--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader",
               f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=60000", "--dump-dom"]  # fmt: skip
    dom = subprocess.run([*command, out.as_uri()], capture_output=True, text=True, timeout=120).stdout
    assert 'data-drawn="yes"' in dom
    assert len(re.findall(r'class="[^"]*js-plotly-plot', dom)) == len(
        re.findall(r'id="[\w-]+-panel-\d+"', dom)
    )
