"""The command line teaches, refuses clearly, and agrees with what is written about it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from command import Cli

import kltui
from kltui.cli import build_parser
from kltui.jobs.jobfile import parse_job

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def options() -> set[str]:
    return {o for a in build_parser()._actions for o in a.option_strings}


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version").stdout.strip() == f"kltui {kltui.__version__}"
    shown = cli("--help").stdout
    for option in options():
        assert option in shown
    assert "examples" in shown and "exit codes" in shown


def test_the_contract_s_options_are_there() -> None:
    contract = {
        "--batch",
        "--set",
        "--dry-run",
        "--json",
        "--report",
        "--section",
        "--export",
        "--demo",
        "--bench",
        "--device",
        "--doctor",
        "--version",
        "--help",
        "--preprocess",
    }
    assert contract <= options()


def test_the_readme_names_only_options_that_exist() -> None:
    used = {
        o
        for line in README.splitlines()
        if "kltui" in line
        for o in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line)
    }
    assert used and used <= options()


def test_the_readme_s_job_file_is_a_job_file() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    job = parse_job(tomllib.loads(text), "README")
    from kltui.registry import expand_revisions

    assert len(expand_revisions(job.models[0].revisions)) == 154


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--report"], 2, "which workspace?"),
        (["--report", "nowhere"], 3, "no kltui workspace in nowhere"),
        (["--export", "out", "nowhere"], 3, "no kltui workspace in nowhere"),
        (["--batch", "none.toml"], 2, "no job file none.toml"),
        (["--bench", "everything"], 2, "no benchmark called 'everything'"),
        (["--batch", "a.toml", "b"], 2, "unexpected 'b'"),
        (["--report", "--demo"], 2, "not allowed with"),
    ],
)
def test_mistakes_are_told_without_a_traceback(cli: Cli, arguments: list[str], code: int, said: str) -> None:
    done = cli(*arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr and not done.stdout


def test_without_a_terminal_the_interface_points_to_batch(cli: Cli) -> None:
    done = cli()
    assert done.returncode == 2
    assert "--batch" in done.stderr and "Traceback" not in done.stderr


def test_control_characters_in_arguments_do_not_reach_the_terminal(cli: Cli) -> None:
    done = cli("--report", "evil\x1b]0;title\x07")
    assert "\x1b" not in done.stderr and "\x07" not in done.stderr


def test_doctor_looks_at_everything(cli: Cli, tmp_path: Path) -> None:
    done = cli("--doctor", "--json", HF_HUB_OFFLINE="1")
    findings = {f["topic"]: f for f in json.loads(done.stdout)["findings"]}
    assert {"kltui", "packages", "native core", "cores", "sqlite", "terminal", "hub"} <= set(findings)
    assert findings["hub"]["state"] == "note" and "offline" in findings["hub"]["found"]
    assert done.returncode == int(any(f["state"] == "wrong" for f in findings.values()))
    (tmp_path / "kltui.sqlite").write_bytes(b"x" * 5000)
    broken = cli("--doctor", str(tmp_path), HF_HUB_OFFLINE="1")
    assert broken.returncode == 1 and "wrong" in broken.stdout


def test_doctor_names_a_hub_that_does_not_answer(cli: Cli) -> None:
    done = cli("--doctor", "--json", HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="")
    hub = next(f for f in json.loads(done.stdout)["findings"] if f["topic"] == "hub")
    assert hub["state"] == "note" and "cannot be reached" in hub["found"]
