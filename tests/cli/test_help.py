"""Help is short where it is asked for in short, and each command's help has exactly the options that the command uses."""

from __future__ import annotations

import re

import pytest

from kltui.cli import main
from kltui.command_help import asked_help, command_form
from kltui.command_options import build_parser
from kltui.option_use import COMMANDS, INTERFACE, USERS

NAMED = sorted(set(COMMANDS) - {INTERFACE})


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The help that `kltui WORDS` prints; it ends with code 0 and prints nothing else."""
    with pytest.raises(SystemExit) as left:
        main(words)
    said = capsys.readouterr()
    assert left.value.code == 0 and not said.err
    return said.out


def listed(shown: str) -> set[str]:
    """The options that have an entry in a help."""
    return set(re.findall(r"^  (--[\w-]+)", shown.partition("\nexamples")[0], re.MULTILINE))


@pytest.mark.parametrize("command", NAMED)
@pytest.mark.parametrize("asked", ["-h", "--help"])
def test_a_command_s_help_lists_the_options_that_it_uses(
    command: str, asked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {a.dest: a.option_strings[-1] for a in build_parser()._actions if a.option_strings}
    used = {options[dest] for dest, users in USERS.items() if command in users}
    for words in (
        [COMMANDS[command], asked],
        [asked, COMMANDS[command]],
        ["ws", f"{COMMANDS[command]}=x", asked],
    ):
        shown = printed(capsys, *words)
        assert listed(shown) == used
        assert shown.startswith(f"usage: {command_form(command)} [OPTIONS]\n") and "exit codes" in shown


def test_every_option_is_in_the_help_of_a_command_or_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    everything = printed(capsys, "--help")
    everywhere = {"help", "version", "completion", "target"}
    for action in build_parser()._actions:
        assert action.dest in {*USERS, *COMMANDS, *everywhere}, action.dest
        assert all(option in everything for option in action.option_strings)


def test_the_short_help_has_every_command_and_fits_two_screens(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = printed(capsys, "-h")
    assert listed(shown) == {COMMANDS[command] for command in NAMED}
    assert len(shown.splitlines()) <= 60
    assert "kltui --COMMAND --help" in shown and "kltui --help" in shown and "[[models]]" in shown


def test_examples_of_a_command_are_its_own() -> None:
    shown = asked_help(["--report", "--help"])
    examples = shown.partition("\nexamples\n")[2].partition("\n\n")[0].splitlines()
    assert len(examples) > 3 and all("--report" in line for line in examples)
    assert "a job file" in asked_help(["--batch", "--help"]) and "a job file" not in shown


def test_no_help_is_asked_for_by_other_words() -> None:
    assert asked_help(["--report", "ws"]) == asked_help([]) == asked_help(["--help"]) == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch"], "--batch JOB: score a job file"),
        (["--draw", "ws"], "--draw N: draw N texts"),
        (["--report", "ws", "--section"], "--section NAME: only this section"),
        (["--report", "--pair", "a"], "--pair A B: examine the KL"),
        (["report", "demo"], "Commands are options: kltui --report demo"),
        (["--report", "one", "two"], "kltui takes one WORKSPACE."),
        (["-v"], "did you mean --version or --values?"),
        (["-report", "ws"], "did you mean --report?"),
    ],
)
def test_a_mistake_says_what_is_meant_to_be_there(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["--report", "--check", "--export=out", "--draw=9", "--place=m", "--share=x.html"]
)
def test_a_missing_workspace_is_asked_for_in_the_command_s_form(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command]) == 2
    name = command.partition("=")[0]
    assert re.search(rf"kltui {name}( [A-Z]+)? WORKSPACE\n$", capsys.readouterr().err)
