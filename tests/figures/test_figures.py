"""Figures of a workspace: every one is drawn, its CSV holds the report's numbers, its script draws it again."""

from __future__ import annotations

import csv
import math
import re
import runpy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from small_workspace import Builder

from kltui.analysis.number_text import with_error
from kltui.analysis.tree import TreeFork
from kltui.errors import KltuiError
from kltui.figures.catalogue import FIGURES, picture, write_figure
from kltui.figures.curves import CurvesShown
from kltui.figures.curves import drawn as curves_drawn
from kltui.figures.draw import FigureStyle, check_matplotlib, drawing_settings, drawn, figure_of, parse_width
from kltui.figures.files import write
from kltui.figures.picture import (
    GREY,
    MARKS,
    FigureAxis,
    Layer,
    Panel,
    PaperFigure,
    shades,
    slot_colour,
    slot_mark,
)
from kltui.figures.scores import leakage_panel, prediction_panel
from kltui.view.curve_content import KINDS
from kltui.view.curve_panels import found_spikes
from kltui.view.report import report_on
from kltui.view.sections.context import Context, ReportChoice
from kltui.workspace import Workspace


@pytest.fixture(scope="module")
def ctx(folder: Path) -> Context:
    return Context(Workspace.open(folder))


@pytest.fixture(scope="module")
def pictures(ctx: Context) -> dict[str, PaperFigure]:
    names = [n for n in FIGURES if n not in ("benchmark", "leakage")]
    return {name: picture(ctx, name) for name in names}


def test_every_axis_of_every_figure_has_a_name_or_ticks_in_words(pictures: dict[str, PaperFigure]) -> None:
    for made in pictures.values():
        for panel in made.panels:
            assert all(axis.label or axis.ticks for axis in (panel.x, panel.y)), (made.name, panel.title)


QUICK = ("matrix",)
SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in FIGURES if n not in (*QUICK, "benchmark", "leakage")]


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_script_draws_the_figure_again_from_its_csv(
    ctx: Context, pictures: dict[str, PaperFigure], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FIGURES, name, lambda _: pictures[name])
    paths = write_figure(ctx, name, tmp_path / "fig.svg", FigureStyle())
    assert [p.suffix for p in paths] == [".svg", ".csv", ".py"]
    lines = [line for line in paths[2].read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 11
    with rc_context():
        made = runpy.run_path(str(paths[2]))
    again = (tmp_path / "fig.redrawn.pdf").read_bytes()
    assert again.startswith(b"%PDF") and b"/Subtype /Type3" not in again, "fonts are embedded as TrueType"
    if name == "trajectories-3d":
        whole = drawn(pictures[name], FigureStyle())
        for axes, same in zip(made["axes"].values(), whole.axes, strict=True):
            assert np.allclose(
                [getattr(axes, f"get_{w}lim")() for w in "xyz"],
                [getattr(same, f"get_{w}lim")() for w in "xyz"],
            )
            sizes = [np.ptp(getattr(axes, f"get_{w}lim")()) for w in "xyz"]
            assert np.allclose(np.array(sizes) / sizes[0], axes._box_aspect / axes._box_aspect[0], rtol=1e-4)
    assert len(list(csv.DictReader(paths[1].read_text(encoding="utf-8").splitlines()))) == sum(
        len(layer.x) for p in pictures[name].panels for layer in p.layers
    )


def test_pdf_embeds_true_type_fonts_and_draws_data_as_vectors(
    ctx: Context, pictures: dict[str, PaperFigure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FIGURES, "matrix", lambda _: pictures["matrix"])
    style = tmp_path / "plain.mplstyle"
    style.write_text("pdf.compression: 0\n")
    (path, *_) = write_figure(ctx, "matrix", tmp_path / "fig.pdf", FigureStyle(parse_width("85mm"), style))
    data = path.read_bytes()
    assert (
        b"/FontFile2" in data
        and b"/Type42" not in data.replace(b"/Type0", b"")
        and b"/Subtype /Type3" not in data
    )
    # The colour bar is the only picture made of pixels, if there is one at all.
    assert data.count(b"/Subtype /Image") <= 1
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ", data)
    assert box and math.isclose(float(box[1]), 85 / 25.4 * 72, abs_tol=0.5)


def test_a_number_of_a_title_stays_with_its_name() -> None:
    layer = Layer("m", np.arange(3.0), np.arange(3.0), "points")
    panels = [
        Panel(f"{task}: r = 0.973, ρ = 0.963", FigureAxis("x"), FigureAxis("y"), (layer,))
        for task in ("a", "mean of tasks")
    ]
    look = FigureStyle(parse_width("105mm"))
    with drawing_settings(look):
        figure = drawn(PaperFigure("p", "p", tuple(panels), columns=3), look)
    lines = [line for axes in figure.axes for line in axes.get_title().replace("\u00a0", " ").split("\n")]
    assert len(lines) > 2 and not any(line.endswith("=") or line.startswith("0") for line in lines)


def test_map_axes_have_equal_units(pictures: dict[str, PaperFigure]) -> None:
    figure = drawn(pictures["trajectories"], FigureStyle())
    figure.draw_without_rendering()
    for axes in figure.axes:
        x = axes.transData.transform([[0, 0], [1, 0], [0, 1]])
        assert np.isclose(x[1, 0] - x[0, 0], x[2, 1] - x[0, 1])
    solid = drawn(pictures["trajectories-3d"], FigureStyle()).axes[0]
    sizes = [np.ptp(getattr(solid, f"get_{w}lim")()) for w in "xyz"]
    assert np.allclose(np.array(sizes) / sizes[0], solid._box_aspect / solid._box_aspect[0])


def test_step_is_lightness_and_run_is_colour() -> None:
    found = shades("#2060a0", 4)
    light = [sum(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in found]
    assert light == sorted(light, reverse=True) and found[-1] == "#2060a0"
    looks = {(slot_colour(k), slot_mark(k)) for k in range(56)}
    assert len(looks) == 56 and len(MARKS) == 7


def test_numbers_are_those_of_the_report(ctx: Context, pictures: dict[str, PaperFigure]) -> None:
    data = {s.name: s.data for s in report_on(ctx, ["scale", "layers", "quantisation", "loss"]).sections}
    medians = next(layer for layer in pictures["scale"].panels[0].layers if layer.label.startswith("median"))
    reported = [s["median"] for s in data["scale"]["settings"] if s["pairs"]]  # type: ignore[attr-defined]
    assert medians.y.tolist() == reported
    curve = pictures["layers"].panels[0].layers[0]
    assert curve.y.tolist() == [s["kl_bits_per_byte"] for s in data["layers"]["models"][0]["adjacent"]]  # type: ignore[index]
    (variants,) = pictures["quantisation"].panels[0].layers
    assert variants.y.tolist() == [v["kl_bits_per_byte"] for v in data["quantisation"]["variants"]]  # type: ignore[attr-defined]
    loss = {c["name"]: c["bits_per_byte"] for c in data["loss"]["checkpoints"]}  # type: ignore[attr-defined]
    losses = next(panel for panel in pictures["curves"].panels if panel.title == "Loss")
    tiny = next(layer for layer in losses.layers if layer.label == "tiny")
    assert tiny.y.tolist() == [loss[f"tiny@{int(s)}"] for s in tiny.x]


def test_curves_have_every_panel_of_the_screen_with_its_values(ctx: Context, folder: Path) -> None:
    look = CurvesShown("linear", {"last": "linear"}, "tiny@400", "small@400", level=0.5)
    made = curves_drawn(ctx, look)
    assert len(made.panels) == len(KINDS) == 7
    against = ["", "", "", ", against tiny", ", against tiny@400", "", ""]
    assert [p.title for p in made.panels] == [k.title + a for k, a in zip(KINDS, against, strict=True)]
    assert [p.y.scale for p in made.panels] == ["log", "linear", "linear", "log", "log", "linear", "log"]
    assert {p.x.scale for p in made.panels} == {"linear"}
    kl, last, marked = made.panels[0], made.panels[2], made.panels[4]
    for panel, of in ((last, "tiny@400"), (marked, "tiny@400")):
        layer = next(layer for layer in panel.layers if layer.label == "tiny")
        assert layer.band and layer.low is not None and "tiny@400" not in layer.names
        for name, value, low in zip(layer.names, layer.y, layer.low, strict=True):
            truth = ctx.map.pair(name, of)
            assert value == truth.value and value - low == pytest.approx(truth.se)
    settled = {s.run: s.step for s in ctx.map.stabilisation(0.5) if s.step is not None}
    lines = {layer.names[0]: layer.x[0] for layer in kl.layers if layer.dash == "dashed" and layer.names}
    assert lines == settled and settled
    published = {layer.label for panel in made.panels for layer in panel.layers if layer.colour == GREY}
    assert "published: size 0.48" in published


def test_curves_flag_the_spikes_of_a_watch_and_leave_out_what_is_hidden(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kltui.figures.curves.alert_limits", lambda jobs: (-math.inf, 1.0))
    hidden = frozenset(n for n in ctx.map.names if n.startswith("tiny-s2"))
    made = curves_drawn(ctx, CurvesShown(hidden=hidden))
    spikes = found_spikes(ctx.map, ctx.raw, (-math.inf, 1.0))
    (crosses,) = [layer for layer in made.panels[0].layers if layer.label == "spike"]
    want = {s.at.name for s in spikes if s.rule == "kl"}
    assert set(crosses.names) == want - hidden and want & hidden
    assert not any(hidden.intersection(layer.names) for panel in made.panels for layer in panel.layers)


def test_a_model_has_one_colour_in_both_panels_of_its_layers(tmp_path: Path) -> None:
    made = Builder(tmp_path / "work")
    for name in ("zeta", "alpha", "mu", "beta", "nu"):
        made.run(name, (10, 20), type="gpt_neox", layers=2)
    with made.open() as ws:
        curve, threads = picture(Context(ws), "layers").panels
    looks = [
        {layer.label: (layer.colour, layer.mark) for layer in panel.layers if layer.label}
        for panel in (curve, threads)
    ]
    assert looks[0] == looks[1] and len(looks[0]) == 5


def test_matrix_cells_are_the_kl_with_one_standard_error(
    ctx: Context, pictures: dict[str, PaperFigure]
) -> None:
    (cells,) = pictures["matrix"].panels[0].layers
    assert cells.value is not None and cells.low is not None
    for name, value, low in zip(cells.names, cells.value, cells.low, strict=True):
        a, b = name.split(" | ")
        if a != b:
            kl = ctx.map.pair(a, b)
            assert value == pytest.approx(kl.value, rel=1e-9) and value - low == pytest.approx(
                kl.se, rel=1e-6
            )


def test_lines_lead_from_parents_and_originals(pictures: dict[str, PaperFigure]) -> None:
    lines = {layer.label: layer for layer in pictures["trajectories"].panels[1].layers}
    assert lines["parent to child"].names[:2] == ("tiny@400", "tuned")
    quantised = lines["original to quantised"].names
    assert {"tiny@400", "tiny@400+bnb-8bit", "small@400", "small@400+bnb-8bit"} <= set(quantised)


def test_outlines_on_the_map_are_the_reports_ellipses(ctx: Context, pictures: dict[str, PaperFigure]) -> None:
    (section,) = report_on(ctx, ["uncertainty"]).sections
    reported = {e["name"]: e for e in section.data["ellipses"]}  # type: ignore[attr-defined]
    made = [layer for layer in pictures["trajectories"].panels[1].layers if len(layer.x) == 73]
    assert len(made) == 6
    for layer in made:
        e = reported[layer.names[0]]
        assert (layer.x[:-1].mean(), layer.y[:-1].mean()) == pytest.approx((e["x"], e["y"]), abs=1e-9)


@pytest.mark.parametrize("by", ["run", "type", "size", "tag", "score", "task"])
def test_colours_by_run_type_size_tag_and_score(scored: Workspace, by: str) -> None:
    made = picture(Context(scored), "trajectories", by)
    layers = made.panels[-1].layers
    labels = {layer.label for layer in layers if layer.label}
    if by in ("score", "task"):
        (layer,) = [layer for layer in layers if layer.value is not None]
        given = scored.benchmark_scores()
        want = [given[n]["task"] if by == "task" else np.mean(list(given[n].values())) for n in layer.names]
        assert np.allclose(layer.value, want)  # type: ignore[arg-type]
        assert made.panels[-1].value_label
    else:
        n = {"run": 6, "type": 6, "size": 2, "tag": 2}[by]  # 24 models without steps are told apart by type
        assert len(labels) == n
        assert len({(layer.colour, layer.mark) for layer in layers if layer.label}) == n


def test_scores_predicted_and_true_are_those_of_the_report(scored: Workspace) -> None:
    ctx = Context(scored)
    (section,) = report_on(ctx, ["benchmark"]).sections
    for task, panel in zip(section.data["tasks"], picture(ctx, "benchmark").panels, strict=True):  # type: ignore[call-overload]
        points = {
            name: (x, y)
            for layer in panel.layers
            for name, x, y in zip(layer.names, layer.x, layer.y, strict=False)
        }
        assert points == {p["name"]: (p["score"], p["predicted"]) for p in task["predicted"]}
    assert picture(ctx, "leakage").panels[0].layers[-1].label == "robust trend"


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(KltuiError, match="not installed") as error:
        check_matplotlib()
    assert "pip install '.[figures]'" in error.value.hint


def test_drawing_leaves_matplotlibs_settings_alone(
    ctx: Context, pictures: dict[str, PaperFigure], tmp_path: Path
) -> None:
    import matplotlib
    from matplotlib._pylab_helpers import Gcf

    def settings() -> dict[str, object]:
        return {name: value for name, value in matplotlib.rcParams.items() if name != "backend"}

    before = settings()
    write(pictures["tree"], tmp_path / "tree.png", FigureStyle())
    assert settings() == before and not Gcf.get_all_fig_managers()


def test_a_pair_that_is_asked_for_is_the_one_drawn(folder: Path) -> None:
    with Workspace.open(folder) as ws:
        made = picture(Context(ws, ReportChoice(pair=("tiny@20", "tiny@400"))), "drivers")
        kl = ws.map().pair("tiny@20", "tiny@400")
    assert all(
        "tiny@20 against tiny@400" in panel.title for panel in made.panels
    )  # titles are drawn, notes are not
    assert "tiny@20" in made.title and with_error(kl.value, kl.se) in made.notes[0]


def test_layers_are_reported_for_any_checkpoint(folder: Path) -> None:
    with Workspace.open(folder) as ws:
        (section,) = report_on(Context(ws, ReportChoice(pair=("tiny@20", "tiny@40"))), ["layers"]).sections
        made = {c["model"]: c["adjacent"] for c in section.data["checkpoints"]}  # type: ignore[attr-defined]
        layered = ws.map(layers=True)
    assert len(made) == 26 and "the requested checkpoints" in " ".join(section.notes)
    for model, adjacent in made.items():
        for part in adjacent:
            kl = layered.pair(f"{model}#{part['from']}", f"{model}#{part['to']}")
            assert part["kl_bits_per_byte"] == kl.value


def test_a_tree_is_as_long_as_its_branches_and_forks_have_their_support(
    ctx: Context, pictures: dict[str, PaperFigure]
) -> None:
    for top, panel in zip(
        (ctx.forest.trees.joined, ctx.forest.trees.linked), pictures["tree"].panels, strict=True
    ):
        forks = [node.support for node in top.nodes() if node.support is not None]
        layer = panel.layers[-1]
        assert layer.value is not None and layer.value.tolist() == forks
        ends = {
            of.names[0]: float(of.x[-1]) for of in panel.layers[:-1] if not of.names[0].endswith("models")
        }
        for name, x in ends.items():
            assert x == pytest.approx(_depth(top, ctx.forest.leaves.row(name)))


def _depth(node: TreeFork, row: int) -> float:
    """Sum of the branches from the top down to a leaf."""
    below = [child for child in node.children if row in child.leaves()]
    return below[0].length + _depth(below[0], row) if below else 0.0


@pytest.mark.slow
def test_names_of_ticks_do_not_run_into_each_other(pictures: dict[str, PaperFigure]) -> None:
    """Of steps up to 143000 in two and three panels, too."""
    x = np.linspace(0, 143_000, 9)
    long = {
        n: PaperFigure(
            "wide",
            "wide",
            tuple(Panel(f"p{k}", FigureAxis("step"), FigureAxis("y"), (Layer("", x, x),)) for k in range(n)),
            columns=n,
        )
        for n in (1, 2, 3)
    }
    turned = 0
    for made in (*pictures.values(), *long.values()):
        figure = figure_of(made)
        figure.draw_without_rendering()
        for axes in figure.axes:
            shown = [
                t
                for t in axes.get_xticklabels()
                if t.get_text() and t.get_visible() and not hasattr(axes, "zaxis")
            ]
            turned += any(t.get_rotation() for t in shown)
            low, high = sorted(axes.get_xlim())
            boxes = [
                t.get_window_extent()
                for t in shown
                if not t.get_rotation() and low <= t.get_position()[0] <= high
            ]
            assert all(a.x1 < b.x0 for a, b in pairwise(boxes)), (made.name, axes.get_title())
    assert turned  # long names are


def test_both_trees_are_in_one_unit(pictures: dict[str, PaperFigure]) -> None:
    tree = pictures["tree"]
    assert [p.title for p in tree.panels] == ["Neighbour joining", "Average linkage"]
    assert {p.x.label for p in tree.panels} == {"branches from the top, KL in bits/byte"}
    assert any("half of that mean squared on either side of a fork" in note for note in tree.notes)
    assert all(p.y.limits == (-0.7, len(p.y.ticks) - 0.3) for p in tree.panels)


def test_a_type_has_one_colour_in_every_figure() -> None:
    kinds = {"a": "opt", "b": "llama", "c": "not stated", "d": "gemma"}
    rows = [
        {"name": n, "score": k, "predicted": k, "mean_loglik": -k, "expected": -k}
        for k, n in enumerate("acdb")
    ]
    found = [
        {layer.label: layer.colour for layer in panel.layers if layer.label in kinds.values()}
        for panel in (prediction_panel("t", rows, kinds, 1, 1), leakage_panel("t", rows[::-1], kinds))
    ]
    assert found[0] == found[1] and list(found[0]) == ["gemma", "llama", "opt", "not stated"]


def test_layers_have_the_colours_of_their_runs(tmp_path: Path) -> None:
    made = Builder(tmp_path / "work")
    for name, layers in (("zeta", 0), ("alpha", 2), ("mu", 2)):
        made.run(name, (10, 20), type="gpt_neox", layers=layers)
    with made.open() as ws:
        ctx = Context(ws)
        ctx.slots = {"zeta": 0, "alpha": 5, "mu": 3}
        curve, threads = picture(ctx, "layers").panels
    for panel in (curve, threads):
        looks = {layer.label: (layer.colour, layer.mark) for layer in panel.layers if layer.label}
        assert looks == {"alpha@20": (slot_colour(5), slot_mark(5)), "mu@20": (slot_colour(3), slot_mark(3))}


@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_what_a_figure_rests_on_stays_with_its_file(
    ctx: Context,
    pictures: dict[str, PaperFigure],
    ending: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(FIGURES, "diffusion", lambda _: pictures["diffusion"])
    style = tmp_path / "plain.mplstyle"
    style.write_text("pdf.compression: 0\n")
    (path, *_) = write_figure(ctx, "diffusion", tmp_path / f"fig.{ending}", FigureStyle(0.0, style))
    assert pictures["diffusion"].notes[0].encode() in path.read_bytes()
    assert any("light" in note for note in pictures["trajectories"].notes), "what lightness says"


@pytest.mark.parametrize("width", ["85mm", "170mm"])
def test_boxes_of_three_axes_fill_the_paper_and_nothing_of_them_is_cut_off(
    pictures: dict[str, PaperFigure], width: str
) -> None:
    look = FigureStyle(parse_width(width))
    with drawing_settings(look):
        figure = drawn(pictures["trajectories-3d"], look)
        figure.draw_without_rendering()
    assert len(figure.axes) > 1
    filled = []
    for axes in figure.axes:
        place = axes.get_position(original=True).transformed(figure.transFigure)
        found = [
            axis.get_tightbbox(figure.canvas.get_renderer()) for axis in (axes.xaxis, axes.yaxis, axes.zaxis)
        ]
        low, high = np.min([f.min for f in found], axis=0), np.max([f.max for f in found], axis=0)
        assert (low >= place.min - 3).all() and (high <= place.max + 3).all()
        ends = np.maximum(high - (place.min + place.max) / 2, (place.min + place.max) / 2 - low)
        filled.append(2 * ends / (place.width, place.height))
    assert all(shares.max() > 0.97 for shares in filled), filled
    assert max(shares.min() for shares in filled) > 0.9, (
        "the flattest box leaves room, the others' height is used"
    )
