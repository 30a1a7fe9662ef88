"""Which options apply to which command. An option that the command does not use is an error, never ignored."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from kltui.errors import UsageError

INTERFACE = "interface"
COMMANDS = {
    "batch": "--batch",
    "watch": "--watch",
    "report": "--report",
    "demo": "--demo",
    "bench": "--bench",
    "doctor": "--doctor",
    "check": "--check",
    "imports": "--import",
    "draw": "--draw",
    "place": "--place",
    "figure": "--figure",
    "reproduce": "--reproduce",
    "share": "--share",
    "export": "--export",
    INTERFACE: "the terminal interface",
}
# A job without --json prints the report of its workspace at its end.
REPORTED = ("report", "batch")
MAPPED = (*REPORTED, "export", "figure", "share")
USERS: dict[str, tuple[str, ...]] = {
    "overrides": ("batch", "watch", "place"),
    "dry_run": ("batch",),
    "until_step": ("watch",),
    "shard": ("batch",),
    "collect": ("batch",),
    "mend": ("check",),
    "numbered": ("imports",),
    "declared": ("imports",),
    "texts": ("place",),
    "over": ("imports", *MAPPED, "draw", INTERFACE),
    "values": (*MAPPED, "draw", INTERFACE),
    "section": REPORTED,
    **dict.fromkeys(("preprocess", "exclude", "separate", "map"), (*MAPPED, "draw", INTERFACE)),
    "save_map": (*MAPPED, "draw"),
    **dict.fromkeys(("pair", "where", "level", "noise_corrected"), MAPPED),
    "device": ("report", "export", "figure", "share", "draw", "bench"),
    **dict.fromkeys(("part", "against"), ("bench",)),
    "also": ("export",),
    "draw_by": ("draw",),
    **dict.fromkeys(("out", "width", "style"), ("figure", "reproduce")),
    "colour": ("figure",),
    "json": (*REPORTED, "watch", "demo", "bench", "doctor", "check", "place", "reproduce"),
    "ascii": (*REPORTED, INTERFACE),
    **dict.fromkeys(("read_only", "no_mouse"), (INTERFACE,)),
}


def command_of(arguments: argparse.Namespace) -> str:
    """The key in COMMANDS of the requested command."""
    given = ((name, getattr(arguments, name)) for name in COMMANDS if name != INTERFACE)
    # not `in (None, False)`, because 0 == False, and --draw 0 is a command
    return next((name for name, value in given if value is not None and value is not False), INTERFACE)


def check_words(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Raises UsageError for an empty word: a variable of the shell that is not set would otherwise select a default silently."""
    options = {option: action for action in parser._actions for option in action.option_strings}
    before = ""  # the option that the next word belongs to
    left = 0  # how many words it still takes
    for word in words:
        option, equals, value = word.partition("=")
        if option in options:
            before, left = option, 0 if equals else _takes(options[option])
            if equals and not value:
                raise _empty(options[option], option)
        elif not word:
            raise _empty(options.get(before) if left else None, before)
        else:
            left = max(0, left - 1)


def _takes(action: argparse.Action) -> int:
    """The number of values of an option."""
    return action.nargs if isinstance(action.nargs, int) else 1


def _empty(action: argparse.Action | None, option: str) -> UsageError:
    if action is None:
        return UsageError(
            "an empty argument was given instead of a WORKSPACE",
            "Name a folder; if the argument is a variable of the shell, it is not set.",
        )
    names = action.metavar or action.dest.upper()
    name = names if isinstance(names, str) else " ".join(names)
    return UsageError(
        f"{option} has an empty value",
        f"Give {option} {name}; if the value is a variable of the shell, it is not set.",
    )


def check_options(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Raises UsageError for an option that the command does not use; the hint names the commands that do."""
    command = command_of(arguments)
    for action in parser._actions:
        users = USERS.get(action.dest)
        if users is None or command in users or getattr(arguments, action.dest) == action.default:
            continue
        option = action.option_strings[-1]
        *maximum, last = (COMMANDS[name] for name in users)
        known = f"{', '.join(maximum)} or {last}" if maximum else last
        raise UsageError(
            f"{option} has no effect with {COMMANDS[command]}", _hint(arguments, action.dest, command, known)
        )


def _hint(arguments: argparse.Namespace, dest: str, command: str, known: str) -> str:
    if dest == "device" and command in ("batch", "watch", "place"):
        return f"Set the job's device with --set scoring.device={arguments.device}"
    return f"Use it with {known}."
