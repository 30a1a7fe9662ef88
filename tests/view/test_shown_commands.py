"""The commands that the documents show are run, those of them that need no model: reports, exports, figures, checks, draws, imports."""

from __future__ import annotations

import importlib.util
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documents import blocks, commands, words_of
from small_workspace import SETTINGS, Builder

from kltui.cli import main
from kltui.command_options import build_parser
from kltui.store.comparable import unconditional_settings

pytestmark = pytest.mark.slow  # some forty reports, exports and figures

RUN = ("report", "export", "figure", "share", "check", "draw", "imports")
LATE = (2000, 3000, 4000)


def shown() -> list[str]:
    """Every command of the pages that only reads a workspace or takes files into one; once, whatever folders it names."""
    found: dict[str, str] = {}
    parser = build_parser()
    for _, command in commands():
        words = words_of(command)
        if len(words) < 2 or {"-h", "--help"} & set(words):  # an option by its name, or a question for help
            continue
        asked = parser.parse_args(words)
        needs_models = "exact" in (asked.section or ())
        placeholder = Path("OUTPUT_FOLDER") in (asked.imports or ())
        if (
            asked.target
            and not needs_models
            and not placeholder
            and any(getattr(asked, name) for name in RUN)
        ):
            places = {asked.target, str(asked.export), str(asked.share), str(asked.out)}
            found.setdefault(" ".join(word for word in words if word not in places), command)
    return list(found.values())


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace that has whatever the documents name."""
    made = Builder(tmp_path_factory.mktemp("shown") / "work", n_texts=40)
    made.run("tiny", (100, 200, 300), size="tiny", seed=1, type="gpt_neox", layers=2)
    made.run("mine", (500, 1000), type="gpt_neox")
    made.run("tiny-s2", (100, 200, 300), size="tiny", seed=2, type="gpt_neox")
    made.run("pythia-410m", LATE, size="410m", type="gpt_neox")
    made.run("pythia-1b", (115000, 116000, 117000), size="1b", type="gpt_neox")
    for name in ("unknown", "candidate"):
        made.run(name, [1], type="llama")
        made.add(
            made.checkpoint(name, type="llama"), made.base_N * 1.1 + made.rng.standard_normal(made.n_texts)
        )
    made.open().close()
    return made.folder


@pytest.fixture(scope="module")
def template_of_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of prompts and responses, scored with and without the prompts."""
    made = Builder(tmp_path_factory.mktemp("pairs") / "work", n_texts=40)
    for step in (100, 200, 300):
        checkpoint, given = made.checkpoint("tiny", step, type="gpt_neox"), f"{SETTINGS} kind=pairs"
        alone = 2 * made.base_N + made.rng.standard_normal(made.n_texts)
        made.add(checkpoint, alone + made.rng.uniform(0, 50, made.n_texts), settings=given)
        made.add(checkpoint, alone, settings=unconditional_settings(given))
    made.store.close()
    return made.folder


@pytest.fixture
def here(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the files that are imported."""
    monkeypatch.chdir(tmp_path)
    texts = [f"a text of its own, number {i}" for i in range(5)]
    Path("texts.json").write_text(json.dumps(texts))
    vector = {"their-model": np.linspace(-50, -40, len(texts))}
    Path("loglik.pkl").write_bytes(pickle.dumps(vector))
    Path("scores.csv").write_text("name,arc\ntiny@100,25.5\ntiny-s2@100,30\n")
    return tmp_path


@pytest.mark.parametrize("command", shown())
def test_it_runs(
    command: str, template: Path, template_of_pairs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of(command)
    asked = build_parser().parse_args(words)
    if asked.values != "conditional":
        template = template_of_pairs
    if asked.figure or asked.share:
        package = "plotly" if asked.share else "matplotlib"
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if asked.target != "released":
        shutil.copytree(template, here / asked.target)
    if asked.map:
        assert main(["--report", asked.target, "--section", "overview", "--save-map", asked.map]) == 0
    words = [corpus_of(here / asked.target) if word == asked.over else word for word in words]
    assert main(words) == 0, capsys.readouterr().err
    captured = capsys.readouterr()
    assert captured.out.strip() or captured.err.strip()


def test_the_readme_s_python_runs(template: Path, here: Path) -> None:
    shutil.copytree(template, here / "mine")
    (text,) = (text for page, text in blocks("python") if page == "README.md")
    found: dict[str, Any] = {}
    exec(compile(text, "README.md", "exec"), found)
    assert found["m"].names == ["mine@500", "mine@1000"]
    found["ws"].close()


def corpus_of(folder: Path) -> str:
    """The beginning of the hash of a workspace's corpus, in place of the one that a page shows."""
    from kltui.workspace import Workspace

    with Workspace.open(folder) as workspace:
        return workspace.corpora()[0].sha256[:6]
