"""What is typed and set is taken as it stands: nothing abbreviated, nothing guessed, nothing silently ignored."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from kltui import cli, doctor
from kltui.cli import main
from kltui.command_options import build_parser
from kltui.environment import check_environment, prepare_output, unknown_variables
from kltui.errors import UsageError
from kltui.kernels import native
from kltui.option_use import COMMANDS, INTERFACE, USERS, check_words
from kltui.threads import usable_cores

OPTIONS = [o for a in build_parser()._actions for o in a.option_strings if o.startswith("--")]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said on standard error of arguments that cannot be meant."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    said = capsys.readouterr()
    assert not said.out
    return said.err


def test_a_mistake_stands_below_one_line_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    usage, mistake = refusal(capsys, "--repot").splitlines()
    assert usage.startswith("usage: kltui ") and "--help" in usage and "--repot" in mistake


def test_no_option_is_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    for option in OPTIONS:
        short = option[:-1]
        if short in OPTIONS or short == "--":
            continue
        said = refusal(capsys, short)
        assert f"unrecognized arguments: {short}" in said
        assert option in said.rpartition("did you mean")[2]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--dryrun", "--dry-run"),
        ("--repotr", "--report"),
        ("--jsno=1", "--json"),
        ("--reed-only", "--read-only"),
    ],
)
def test_a_mistyped_option_gets_the_nearest_one(
    typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"{typed} (did you mean {meant}?)" in refusal(capsys, "ws", typed)


def test_words_too_many_are_named_and_made_safe(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "--report", "ws", "other", "\x1b]0;evil\x07")
    assert "other" in said and "did you mean" not in said and "\x1b" not in said


def test_an_instruction_set_that_is_none_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    allowed = native.instruction_sets()
    if not allowed:
        pytest.skip("the extension is not built")
    for value in ("nonsense", "AVX2", " portable", "avx2,portable", "\x1b[2J"):
        monkeypatch.setenv("KLTUI_ISA", value)
        for arguments in (["--doctor"], ["--report", "nowhere"], ["--batch", "none.toml"], []):
            assert main(arguments) == 2
            said = capsys.readouterr().err
            assert "KLTUI_ISA=" in said and ", ".join(allowed) in said and "Traceback" not in said
            assert "\x1b" not in said
    for value in ("", *allowed):
        check_environment({"KLTUI_ISA": value})


def test_an_empty_log_is_refused_and_unknown_variables_are_named() -> None:
    with pytest.raises(UsageError, match="KLTUI_LOG is empty"):
        check_environment({"KLTUI_LOG": ""})
    said = unknown_variables(
        {"KLTUI_IAS": "x", "KLTUI_ISA": "portable", "PATH": "", "KLTUI_SOMETHING_ELSE": ""}
    )
    assert said == ["KLTUI_IAS (did you mean KLTUI_ISA?)", "KLTUI_SOMETHING_ELSE"]


def test_the_doctor_says_what_a_quota_leaves_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    for allowed, words in ((2, "4, of which this process's CPU quota allows 2"), (4, "4")):
        monkeypatch.setattr(doctor, "usable_cores", lambda _, n=allowed: n)
        assert next(doctor._devices()).found == words


def test_the_doctor_names_unknown_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLTUI_THREADS", "4")
    (found,) = doctor._environment()
    assert found.state == "note" and "KLTUI_THREADS" in found.found and "KLTUI_ISA" in found.advice


def test_a_number_of_threads_that_is_none_is_left_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = usable_cores()
    for value in ("", "many", "²", "-1", "0", "1.5", "9" * 50):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert usable_cores() == cores


def test_json_carries_its_schema(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from kltui.view.report import Report

    monkeypatch.setattr(doctor, "look", lambda workspace: iter(()))
    assert main(["--doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "findings": []}
    assert Report("ws", "none", ()).as_dict()["schema"] == 1


def test_a_place_in_a_list_of_a_job_is_a_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.toml").write_text(
        'workspace = "ws"\n[corpus]\nsource = "demo"\n[[models]]\npath = "m"\n'
    )
    assert main(["--batch", str(tmp_path / "job.toml"), "--set", "models.².path=x"]) == 2
    assert "models has 1 entry, numbered from 0" in capsys.readouterr().err


def test_numbers_of_a_terminal_that_are_none_are_left_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, kept in (
        ("100", True),
        ("", True),
        ("1000000000", False),
        ("²", False),
        ("-5", False),
        ("9" * 5000, False),
    ):
        monkeypatch.setenv("COLUMNS", value)
        prepare_output()
        assert ("COLUMNS" in os.environ) == kept


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "arguments", [["--doctor"], ["--doctor", "--json"], ["--report", "WS"], ["--report", "WS", "--json"]]
)
def test_output_to_a_full_disk_is_a_sentence(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kltui.store import Store

    Store.write(tmp_path / "ws").close()
    monkeypatch.setattr(doctor, "look", lambda workspace: iter([doctor.Finding("x", "ok", "y" * 100)]))
    words = [str(tmp_path / "ws") if word == "WS" else word for word in arguments]
    with Path("/dev/full").open("w", encoding="ascii") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert main(words) == 1
    said = capsys.readouterr().err
    assert "standard output cannot be written: No space left on device" in said and "Traceback" not in said


def test_names_go_out_in_any_encoding_and_without_an_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "look", lambda workspace: iter([doctor.Finding("x", "ok", "ключ 日本")]))
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    assert main(["--doctor"]) == 0
    out.flush()
    assert b"\\u043a" in out.buffer.getvalue()  # type: ignore[attr-defined]
    monkeypatch.setattr("sys.stdout", None)
    assert main(["--doctor"]) == 0
    sys.stdout.close()


COMMAND_LINES = {
    "report": ["--report", "ws"],
    "batch": ["--batch", "job.toml"],
    "watch": ["--watch", "job.toml"],
    "import": ["--import", "x.npz", "ws"],
    "figure": ["--figure", "matrix", "--out", "m.pdf", "ws"],
    "reproduce": ["--reproduce", "released", "--out", "papers"],
    "place": ["--place", "runs/mine", "ws"],
    "export": ["--export", "out", "ws"],
    "draw": ["--draw", "10", "ws"],
    "interface": ["ws"],
}


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("report", ["--texts", "20"]),
        ("batch", ["--until-step", "8"]),
        ("export", ["--declare", "bos=auto"]),
        ("report", ["--colour", "run"]),
        ("reproduce", ["--colour", "run"]),
        ("interface", ["--width", "85mm"]),
        ("report", ["--out", "m.pdf"]),
        ("watch", ["--dry-run"]),
        ("watch", ["--device", "cuda"]),
        ("place", ["--device", "cuda"]),
        ("place", ["--over", "06"]),
        ("reproduce", ["--pair", "a", "b"]),
        ("import", ["--section", "kl"]),
        ("draw", ["--also", "parquet"]),
        ("report", ["--set", "scoring.bos=always"]),
        ("figure", ["--section", "kl"]),
        ("interface", ["--where", "0"]),
        ("report", ["--mend"]),
    ],
)
def test_an_option_that_a_command_would_not_look_at_is_refused(
    command: str, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMAND_LINES[command], *option]) == 2
    said = capsys.readouterr()
    assert f"{option[0]} has no effect with " in said.err and not said.out
    assert "Use it with --" in said.err or "--set scoring.device" in said.err


def test_every_option_is_for_commands_that_there_are() -> None:
    names = {action.dest for action in build_parser()._actions}
    assert set(USERS) <= names and {user for users in USERS.values() for user in users} <= set(COMMANDS)
    assert set(COMMANDS) - {INTERFACE} <= names


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.EACCES, "Check the path and its permissions."),
        (errno.EROFS, "Check the path and its permissions."),
        (errno.ENAMETOOLONG, "Check the path and its permissions."),
        (errno.ENOSPC, "Free some space there."),
    ],
)
def test_a_path_that_the_system_refuses_is_reported_by_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, hint: str
) -> None:
    def refused(arguments: object) -> int:
        raise OSError(number, os.strerror(number), "/of/another/user")

    monkeypatch.setattr(cli, "_demo", refused)
    assert main(["--demo"]) == 1
    assert capsys.readouterr().err == f"kltui: /of/another/user: {os.strerror(number)}\n  {hint}\n"


def test_an_error_that_is_a_mistake_of_kltui_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(arguments: object) -> int:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "a-file-of-kltui")

    monkeypatch.setattr(cli, "_demo", missing)
    with pytest.raises(FileNotFoundError):
        main(["--demo"])


@pytest.mark.parametrize(
    "command", [["--demo", "NAME"], ["--reproduce", "NAME", "--out", "x"], ["--import", "NAME", "ws"]]
)
def test_a_name_that_no_file_can_have_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["a" * 300 if word == "NAME" else word for word in command]) in (1, 2)
    said = capsys.readouterr().err
    assert said.startswith("kltui: ") and "permissions" in said and "Traceback" not in said


def test_a_map_cannot_be_saved_without_a_name(
    filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(filled, tmp_path / "ws")
    assert main(["--report", "--section", "overview", "--save-map", " ", str(tmp_path / "ws")]) == 2
    assert "' ' is not a valid map name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["--export", "", "WS"], "--export has an empty value"),
        (["--export=", "WS"], "--export has an empty value"),
        (["--batch", ""], "--batch has an empty value"),
        (["--batch", "job.toml", "--shard", ""], "--shard has an empty value"),
        (["--report", "--over", "", "WS"], "--over has an empty value"),
        (["--report", "WS", "--map", ""], "--map has an empty value"),
        (["--report", "WS", "--pair", "a", ""], "--pair has an empty value"),
        (["--figure", "scale", "--out", "f.pdf", "--width", "", "WS"], "--width has an empty value"),
        (["--report", ""], "an empty argument was given instead of a WORKSPACE"),
        (["--demo", ""], "an empty argument was given instead of a WORKSPACE"),
        ([""], "an empty argument was given instead of a WORKSPACE"),
    ],
)
def test_an_empty_value_selects_no_default(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    command: list[str], said: str,
) -> None:  # fmt: skip
    """A variable of the shell that is not set: a job would score all shards, and an export write into the current folder."""
    monkeypatch.chdir(tmp_path)
    assert main([str(filled) if word == "WS" else word for word in command]) == 2
    error = capsys.readouterr().err
    assert f"kltui: {said}\n" in error and "variable of the shell" in error
    assert list(tmp_path.iterdir()) == []


def test_a_value_of_a_job_file_may_be_empty() -> None:
    check_words(
        build_parser(), ["--batch", "job.toml", "--set=models.0.parent=", "--set", "models.0.parent="]
    )


def test_zero_is_a_value(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--draw 0 is a mistake in that command, and no request for the interface."""
    assert main(["--draw", "0", str(filled)]) == 2
    assert "--draw 0 draws no text" in capsys.readouterr().err
