"""kltui without torch and transformers, and what the shell gets: reading works, scoring says what to install."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from kltui import cli, completion, environment
from kltui.command_options import build_parser
from kltui.figures.catalogue import FIGURES
from kltui.view.report import section_names

ROOT = Path(__file__).parents[2]


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation made by docs/reading-only.md, as kltui sees it."""
    monkeypatch.setattr(environment, "find_spec", lambda name: None)


def test_scoring_says_what_to_install(
    without_torch: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.txt").write_text("one\n\ntwo\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    job = tmp_path / "job.toml"
    job.write_text('workspace = "ws"\n[corpus]\nsource = "texts.txt"\n[[models]]\npath = "model"\n')
    for command in ("--batch", "--watch"):
        assert cli.main([command, str(job)]) != 0
        said = capsys.readouterr().err
        assert "scoring needs torch and transformers, not installed here" in said and "pip install ." in said


@pytest.mark.parametrize("command", [["--demo"], ["--bench"], ["--bench", "70m"], ["--bench", "native"]])
def test_models_are_neither_made_nor_measured(
    without_torch: None,
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(command) == 1
    assert "scoring needs torch and transformers, not installed here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_doctor_calls_it_reading_only(
    without_torch: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kltui import doctor

    def version(name: str) -> str:
        if name in ("torch", "transformers"):
            raise doctor.metadata.PackageNotFoundError
        return "1"

    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cli.main(["--doctor", "--json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    of_packages = [f for f in findings if f["topic"] in ("packages", "device") and f["state"] != "ok"]
    assert [f["state"] for f in of_packages] == ["note", "note"]
    assert all("reading only" in f["found"] for f in of_packages)


def test_what_reading_needs_is_part_of_what_kltui_needs() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = (ROOT / "requirements-view.txt").read_text().splitlines()
    view = {line for line in lines if not line.startswith("#")}
    assert view < set(needed)
    assert {line.split(">")[0] for line in set(needed) - view} == {"jinja2", "torch", "transformers"}


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_shell_gets_every_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--completion", shell])
    assert ended.value.code == 0
    script = capsys.readouterr().out
    options = [o for a in build_parser()._actions for o in a.option_strings if o.startswith("--")]
    for name in (*section_names(), *FIGURES):
        assert re.search(rf"\b{name}\b", script), name
    if shell != "tcsh":  # it lists them in its own way
        assert not [o for o in options if o.removeprefix("--") not in script]
