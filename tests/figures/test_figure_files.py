"""The files of a figure: its script, fonts and style, and where nothing can be written."""

from __future__ import annotations

import csv
import errno
import os
import runpy
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.colors import to_hex

from kltui.cli import main
from kltui.errors import UsageError
from kltui.figures.draw import FigureStyle, drawn
from kltui.figures.files import write
from kltui.figures.picture import (
    FigureAxis,
    Layer,
    Panel,
    PaperFigure,
    shades,
)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _style(folder: Path, line: str) -> str:
    path = folder / "a.mplstyle"
    path.write_text(line + "\n")
    return str(path)


def test_where_nothing_can_be_written_is_said_before_anything_is_drawn(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.pdf").mkdir()
    asked = ["--figure", "matrix", str(folder), "--out"]
    assert main([*asked, str(tmp_path / "folder.pdf")]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert main([*asked, str(tmp_path / "file" / "m.pdf")]) == 2
    assert "cannot make" in capsys.readouterr().err
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    assert main([*asked, str(tmp_path / "m.pdf")]) == 2
    assert "is not writable" in capsys.readouterr().err
    assert not list(tmp_path.glob("m*"))


def everything() -> PaperFigure:
    """A figure of runs shaded by step on logarithmic axes, bars, and a matrix whose values have errors."""
    steps, n = np.array([30.0, 60.0, 120.0, 320.0]), 3
    run = Layer(
        "run", steps, steps / 100, low=steps / 120, high=steps / 80, colour="#2060a0", mark="o", shaded=True
    )
    other = Layer("other", steps, steps / 200, colour="#a06020", mark="s")
    axes = (
        FigureAxis("steps from the start", "log"),
        FigureAxis("squared distance of weights, per text", "log"),
    )
    x, y = np.meshgrid(np.arange(float(n)), np.arange(float(n)))
    value = np.where(x == y, np.nan, 1.0 + x + y).ravel()
    cells = Layer(
        "", x.ravel(), y.ravel(), "cells", value=value, low=value - 0.5, high=value + 0.5, size=12.0
    )
    names = FigureAxis(ticks=tuple((float(i), f"a-run-of-models-{i}@1000") for i in range(n)))
    symlog = FigureAxis("training step", "symlog")
    return PaperFigure(
        "everything",
        "Everything",
        (
            Panel("Runs", *axes, (run, other)),
            Panel("Matrix", names, names, (cells,), value_label="KL, bits/byte", value_log=True),
            Panel("By start", symlog, FigureAxis("c"), (other,)),
        ),
    )


def test_a_script_shades_by_step_and_labels_what_it_draws(tmp_path: Path) -> None:
    made = everything()
    _, table, script = write(made, tmp_path / "fig.pdf", FigureStyle())
    assert [row["colour"] for row in read(table)[:4]] == shades("#2060a0", 4)
    with rc_context():
        found = runpy.run_path(str(script))
    runs, matrix, starts = found["axes"].values()
    coloured = [to_hex(line.get_color()) for line in runs.lines if line.get_label() == "run"]
    assert coloured == shades("#2060a0", 4)
    assert [len(line.get_xdata()) for line in runs.lines] == [1, 2, 2, 2, 4]
    assert [len(bars.get_segments()) for bars in runs.collections] == [4, 4]
    assert len(matrix.collections) == 1, "no bars among the cells of a matrix"
    assert matrix.get_xlim() == (-0.5, 2.5)
    figure = found["figure"]
    figure.draw_without_rendering()
    for axes in (runs, figure.axes[-1]):  # the last one is the colour bar
        assert not any(t.get_text() for t in axes.yaxis.get_ticklabels(minor=True))
        assert len([t for t in axes.yaxis.get_ticklabels() if t.get_text()]) > 1
        assert not any("times" in t.get_text() for t in axes.yaxis.get_ticklabels())
    assert figure.axes[-1].get_ylabel() == "KL, bits/byte"
    assert [t.get_text() for t in starts.get_xticklabels()] == ["50", "100", "200"]
    assert [t.get_rotation() for t in starts.get_xticklabels()] == [0.0] * 3
    whole = drawn(made, FigureStyle())
    assert {t.get_rotation() for t in matrix.get_xticklabels()} == {
        t.get_rotation() for t in whole.axes[1].get_xticklabels()
    }
    width, height = figure.get_size_inches() * figure.dpi
    for axes in found["axes"].values():
        for words in (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_yticklabels()):
            box = words.get_window_extent()
            assert not words.get_text() or (box.x0 >= 0 and box.y0 >= 0), words.get_text()
            assert not words.get_text() or (box.x1 <= width and box.y1 <= height), words.get_text()
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["run", "other"]


def test_fonts_are_true_type_whatever_a_style_says(tmp_path: Path) -> None:
    style = FigureStyle(style=Path(_style(tmp_path, "pdf.fonttype: 3")))
    # Matplotlib fails to write a minus sign in a font of Type 3.
    layer = Layer("", np.array([-1.0, 1.0]), np.array([-1e-4, 1e-4]))
    panel = Panel("P", FigureAxis("x"), FigureAxis("y"), (layer,))
    path, _, script = write(PaperFigure("p", "P", (panel,)), tmp_path / "fig.pdf", style)
    assert b"/Subtype /Type3" not in path.read_bytes()
    assert "'pdf.fonttype': 42" in script.read_text()


def test_a_style_that_cannot_be_drawn_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # where LaTeX would be
    style = FigureStyle(style=Path(_style(tmp_path, "text.usetex: True")))
    with pytest.raises(UsageError, match="cannot draw the figure"):
        write(everything(), tmp_path / "fig.pdf", style)
    assert not (tmp_path / "fig.pdf").exists()


def test_refusals_say_what_to_do(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = str(folder)

    def said(*arguments: str) -> str:
        assert main([*arguments, where]) in (1, 2)
        return capsys.readouterr().err

    assert "Known figures: trajectories, trajectories-3d, scale" in said(
        "--figure", "scael", "--out", "x.pdf"
    )
    assert "Add --out scale.pdf" in said("--figure", "scale")
    assert "pdf, svg, png" in said("--figure", "scale", "--out", str(tmp_path / "x.jpg"))
    out = str(tmp_path / "x.pdf")
    assert "--width 85mm" in said("--figure", "scale", "--out", out, "--width", "wide")
    assert "unknown setting font.sise" in said(
        "--figure", "scale", "--out", out, "--style", _style(tmp_path, "font.sise: 7")
    )
    assert "style file" in said("--figure", "scale", "--out", out, "--style", str(tmp_path / "none"))
    assert "kltui --import scores.csv" in said("--figure", "benchmark", "--out", out)
    assert "trajectories" in said("--figure", "scale", "--out", out, "--colour", "type")
    assert "type, size, tag" in said("--figure", "trajectories", "--out", out, "--colour", "wish")
    assert not list(tmp_path.glob("x.*"))


@pytest.mark.parametrize("kind", ["pdf", "png", "svg"])
def test_a_full_disk_is_an_error_with_a_path_and_leaves_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that cannot be written are refused as a full disk refuses them, without a path in the error."""

    def refuse(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(OSError, match="No space left") as raised:
        write(everything(), tmp_path / f"fig.{kind}", FigureStyle())
    assert raised.value.filename == str(tmp_path) and list(tmp_path.iterdir()) == []
