"""A release in modelmap's formats, imported and reported: every section that it allows, readable at 80 columns.

At full size (`python tests/importers/full_size.py FOLDER`) the same takes 20 s and 1.4 GB; here it is small.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from full_size import RUNS, write_release
from rich.cells import cell_len
from threadpoolctl import threadpool_limits

from kltui.jobs.import_vectors import import_vectors
from kltui.store.saved_maps import Preparation
from kltui.view.report import Report, report, section_names, write_text
from kltui.view.sections.context import ReportChoice
from kltui.workspace import Workspace

pytestmark = pytest.mark.slow

# No release has models between models, texts drawn here, a second corpus, domains, or models at hand.
LACKING = {"added", "corpora", "directions", "exact", "interpolation"}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    folder = tmp_path_factory.mktemp("release")
    write_release(folder / "data", n_texts=80, n_steps=24)
    import_vectors([folder / "data"], folder / "ws", lambda line: None)
    with Workspace.open(folder / "ws") as ws, threadpool_limits(1):
        yield ws


@pytest.fixture(scope="module")
def made(released: Workspace) -> Report:
    return report(released)


def text_of(made: Report, width: int = 80) -> dict[str, list[str]]:
    """The printed lines of each section, by its title."""
    stream = io.StringIO()
    write_text(made, stream, width)
    sections: dict[str, list[str]] = {}
    for line in stream.getvalue().splitlines():
        title, _, rule = line.partition(" ─")
        if rule and set(rule) == {"─"} and cell_len(line) == width:
            sections[title] = []
        elif sections:
            list(sections.values())[-1].append(line)
    return sections


def test_every_section_that_a_release_allows_is_shown(made: Report) -> None:
    assert {s.name for s in made.sections if s.status != "shown"} == LACKING
    assert all(s.hint for s in made.sections if s.name in LACKING)


def test_the_release_prepared_as_published(released: Workspace) -> None:
    p = Preparation("pretraining", ("pythia-1b", "pythia-410m-seed9@143000"), separate=True)
    sections = [name for name in section_names() if name != "trajectories"]  # slow, and shown above
    prepared = report(released, sections, choice=ReportChoice(p))
    assert {
        s.name: s.message for s in prepared.sections if s.status != "shown" and s.name not in LACKING
    } == {}


def test_names_of_runs_are_never_squeezed_out(made: Report) -> None:
    shown = text_of(made)
    for title in ("Stabilisation", "KL along runs", "Diffusion exponents", "Loss", "Trajectories"):
        for run in RUNS:
            assert any(line.startswith(f"pythia-{run} ") for line in shown[title]), (title, run)


def test_large_maps_stay_readable(made: Report) -> None:
    shown = text_of(made)
    assert max(len(lines) for lines in shown.values()) < 140
    assert sum(len(lines) for lines in shown.values()) < 1100
    assert all(cell_len(line) <= 80 for lines in shown.values() for line in lines)
    scored_with = next(line for line in shown["Workspace"] if line.startswith("scored with"))
    assert len(scored_with) < 80
    assert any("72 runs and models; --json has them all" in line for line in shown["Workspace"])
    assert any("clusters" in line for line in shown["Neighbours and clusters"])


def test_variants_are_compared_within_their_type(made: Report) -> None:
    (lines,) = (lines for title, lines in text_of(made).items() if title == "Quantisation")
    assert any("within a type" in line for line in lines) and any("across types" in line for line in lines)
