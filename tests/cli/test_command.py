"""The command line teaches, refuses clearly, and agrees with what is written about it."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest
from command import Cli, kltui_command

import kltui
from kltui.cli import error_lines
from kltui.command_options import build_parser
from kltui.errors import KltuiError
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


def test_the_page_on_reports_names_every_section() -> None:
    from kltui.view.report import section_names

    page = (ROOT / "docs" / "report.md").read_text()
    (table,) = re.findall(r"\| section \| shows \|\n(.*?)\n\n", page, re.DOTALL)
    reported = [name for row in table.splitlines()[1:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert reported == section_names()


def test_the_readme_s_job_file_is_a_job_file() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    job = parse_job(tomllib.loads(text), "README")
    from kltui.registry.revisions import expand_revisions

    assert len(expand_revisions(job.models[1].revisions)) == 154


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--report"], 2, "--report needs a workspace"),
        (["--check"], 2, "--check needs a workspace"),
        (["--watch", "a.toml", "--until-step", "-1"], 2, "--until-step -1 is not a step"),
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


def test_a_report_s_reader_chooses_and_mistakes_are_told(cli: Cli, tmp_path: Path) -> None:
    from kltui.corpus import Corpus
    from kltui.registry import Checkpoint, LocalSource
    from kltui.store import Store

    store = Store.write(tmp_path / "ws")
    rng = np.random.default_rng(0)
    with store.atomic():
        corpus = store.corpora.add(Corpus(tuple(f"text {i}" for i in range(40))), "x")
        for k, run in enumerate("abcd"):
            cid = store.checkpoints.upsert(Checkpoint(run, LocalSource(tmp_path / run), type="llama"))
            store.checkpoints.set_weights(cid, run)
            values, n = -50 + rng.normal(0, 1 + k, 40), np.ones(40, np.int32)
            key = {"weights": run, "bos": "auto"}
            store.vectors.put(cid, corpus, None, key, "bos=auto", values, n, None)
    store.close()
    ws = str(tmp_path / "ws")
    done = cli("--report", ws, "--section", "drivers", "--pair", "a", "c", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sections"]["drivers"]["b"] == "c"
    done = cli(
        "--report", ws, "--section", "kl", "--exclude", "d", "--preprocess", "clip", "--save-map", "small"
    )
    assert done.returncode == 0 and "saved 3 vectors over 40 texts as map small" in done.stderr
    again = cli("--report", ws, "--section", "kl", "--map", "small")
    assert again.stdout == done.stdout and "clipped at" in again.stdout
    done = cli("--export", str(tmp_path / "out"), ws, "--map", "small", "--also", "modelmap")
    assert done.returncode == 0, done.stderr
    assert sorted(np.load(tmp_path / "out" / "logp.npz").files) == ["a", "b", "c"]
    (tmp_path / "scores.csv").write_text(
        "name,arc\n" + "".join(f"{run},{i}0\n" for i, run in enumerate("abcd"))
    )
    assert cli("--import", str(tmp_path / "scores.csv"), ws).returncode == 0
    done = cli("--report", ws, "--section", "leakage")
    assert "deviations" in done.stdout
    done = cli("--draw", "10", ws, "--draw-by", "kl")
    assert done.returncode == 0 and Path(done.stdout.strip()).name.startswith("kl-10-seed42-")
    for wrong, said in (
        (["--pair", "a", "z"], "no vector named 'z'"),
        (["--map", "none"], "no map 'none' in this workspace"),
        (["--map", "small", "--preprocess", "clip"], "a saved map has its own preprocessing"),
        (["--exclude", "z"], "no such run or checkpoint"),
        (["--where", "-1"], "a KL must be a number of at least 0"),
        (["--separate"], "Add --preprocess pretraining"),
        (["--save-map", " "], "is not a valid map name"),
    ):
        done = cli("--report", ws, *wrong)
        assert done.returncode != 0 and said in done.stderr, done.stderr
        assert not done.stdout and "Traceback" not in done.stderr


def test_errors_are_wrapped_between_words_on_a_terminal_and_nowhere_else() -> None:
    error = KltuiError("there is no corpus", f"Name one of these: {'a folder, ' * 9}or {'/long' * 12}.")
    assert error_lines(error, None) == [f"kltui: {error.message}", f"  {error.hint}"]
    wrapped = error_lines(error, 40)
    assert max(map(len, wrapped[:-1])) <= 40 and "/long" * 12 in wrapped[-1]
    assert " ".join(line.strip() for line in wrapped) == f"kltui: {error.message} {error.hint}"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has this file")
@pytest.mark.parametrize(
    "command",
    [["--help"], ["-h"], ["--report", "--help"], ["--version"], ["--completion", "bash"], ["--doctor"]],
)
def test_a_full_standard_output_is_an_error_for_every_command(command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            kltui_command(*command), stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False
        )
    assert done.returncode == 1
    assert (
        done.stderr
        == "kltui: standard output cannot be written: No space left on device\n  Free some space there.\n"
    )
