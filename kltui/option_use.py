"""Which options apply to which command. An option that the command does not use is an error, never ignored."""

from __future__ import annotations

import argparse

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
    asked = (name for name in COMMANDS if name != INTERFACE and getattr(arguments, name) not in (None, False))
    return next(asked, INTERFACE)


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
