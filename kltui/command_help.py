"""Help in two shorter forms than `kltui --help`: `kltui -h`, and `kltui --COMMAND --help` for the options of one command."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Sequence

from kltui.command_options import build_parser, first_clause, form_of
from kltui.help_text import DESCRIPTION, EXAMPLES, EXIT_CODES, FIRST_EXAMPLES, FIRST_JOB_FILE, JOB_FILE
from kltui.option_use import COMMANDS, INTERFACE, USERS

HELP = ("-h", "--help")
NO_WORKSPACE = ("batch", "watch", "reproduce")  # commands without the argument WORKSPACE
_OTHER_ARGUMENT = ("demo", "bench")  # commands with another argument in its place
_OPTIONAL = (*_OTHER_ARGUMENT, "doctor")
MORE = """\
kltui --COMMAND --help: the options of one command, with examples, as in kltui --report --help
kltui --help: all commands and options"""


def asked_help(words: Sequence[str]) -> str:
    """The help that a command line asks for: of its command, or for `-h` alone the short one.

    "" if it asks for neither: for no help, or for all of it.
    """
    if not set(HELP) & set(words):
        return ""
    options = {option: command for command, option in COMMANDS.items() if option.startswith("--")}
    named = [options[name] for name in (word.partition("=")[0] for word in words) if name in options]
    if named:
        return command_help(named[0])
    return short_help() if "--help" not in words else ""


def command_help(command: str) -> str:
    """The help of a command, a key of COMMANDS: what it does, its options, examples, and the job file if it takes one."""
    parser = build_parser()
    own = _action(parser, command)
    used = [a for a in parser._actions if command in USERS.get(a.dest, ())]
    if command in _OTHER_ARGUMENT:
        used.insert(0, _action(parser, "target"))
    examples = [line for line in EXAMPLES.splitlines() if COMMANDS[command] in line.split()]
    notes = [g.description for g in parser._action_groups if g.title == f"with {COMMANDS[command]}"]
    return _page(
        f"{command_form(command)} [OPTIONS]",
        [textwrap.fill(f"{own.help}.", 100), *filter(None, notes)],
        ("options", used),
        [
            *(["\n".join(["examples", *examples])] if examples else []),
            *([JOB_FILE] if command in ("batch", "watch") else []),
            EXIT_CODES,
        ],
    )


def short_help() -> str:
    """The help of `kltui -h`: a line for each command, the first examples, and a short job file."""
    parser = build_parser()
    commands = [_action(parser, command) for command in COMMANDS if command != INTERFACE]
    for action in commands:
        action.help = first_clause(action.help or "").replace("%", "%%")
    heading = "commands (without one, kltui WORKSPACE opens the terminal interface)"
    return _page(
        "kltui [COMMAND] [OPTIONS] [WORKSPACE]",
        [DESCRIPTION],
        (heading, commands),
        [FIRST_EXAMPLES, FIRST_JOB_FILE, MORE],
    )


def command_form(command: str) -> str:
    """A command, a key of COMMANDS, as it is typed: `kltui --export DIR WORKSPACE`."""
    workspace = "" if command in NO_WORKSPACE else " [WORKSPACE]" if command in _OPTIONAL else " WORKSPACE"
    return f"kltui {form_of(_action(build_parser(), command))}{workspace}"


def _action(parser: argparse.ArgumentParser, dest: str) -> argparse.Action:
    return next(action for action in parser._actions if action.dest == dest)


def _page(
    usage: str,
    first: Iterable[str],
    section: tuple[str, list[argparse.Action]],
    last: Iterable[str],
) -> str:
    """A page of help: usage, paragraphs, one section of options, and paragraphs."""
    formatter = argparse.RawDescriptionHelpFormatter("kltui")
    formatter.add_usage(usage, [], [])
    for text in first:
        formatter.add_text(text)
    formatter.start_section(section[0])
    formatter.add_arguments(section[1])
    formatter.end_section()
    for text in last:
        formatter.add_text(text)
    return formatter.format_help()
