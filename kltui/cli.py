"""The command line: one flat set of options, one place where errors are printed and exit codes set."""

from __future__ import annotations

import argparse
import difflib
import errno
import json
import os
import shlex
import sys
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kltui.command_options import build_parser
from kltui.environment import check_environment, check_scoring, prepare_output
from kltui.errors import KltuiError, NoWorkspaceError, UsageError
from kltui.option_use import COMMANDS, INTERFACE, check_options, check_words, command_of
from kltui.sanitize import safe_text
from kltui.scoring.third_party_messages import silence_libraries
from kltui.termination import EndedError, ending_undoes
from kltui.threads import one_blas_thread, wait_passively

if TYPE_CHECKING:
    from kltui.view.sections.context import ReportChoice
    from kltui.workspace import Workspace

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
REFUSED = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
)
MIN_COLUMNS = 40


def main(argv: Sequence[str] | None = None) -> int:
    """Runs kltui and returns its exit code; every KltuiError is printed here."""
    prepare_output()
    parser = build_parser()
    arguments = argparse.Namespace(target=None)
    try:
        arguments = _parsed(parser, argv)
        check_environment()
        check_words(parser, sys.argv[1:] if argv is None else argv)
        check_options(parser, arguments)
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except KltuiError as error:
        _print_error(_with_hint(error, arguments))
        return error.exit_code
    except BrokenPipeError:
        # The reader of the output has ended (`kltui --report | head`), which is not an error.
        _drop_output()
        return 0
    except EndedError as error:
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        reported = _reported(error)
        if reported is None:
            raise
        if error.filename is None:
            _drop_output()
        _print_error(reported)
        return reported.exit_code


def _with_hint(error: KltuiError, arguments: argparse.Namespace) -> KltuiError:
    """The error; if no workspace is where one was named, with a hint on what is there instead."""
    target = arguments.target
    if not isinstance(error, NoWorkspaceError) or not target:
        return error
    from kltui.jobs.path_hint import is_workspace, no_workspace

    option, value = COMMANDS[command_of(arguments)], getattr(arguments, command_of(arguments), None)
    (first,) = value if isinstance(value, list) and len(value) == 1 else (value,)
    if isinstance(first, str | Path) and is_workspace(Path(first)):
        hint = f"The workspace comes last: kltui {option} {shlex.join([target, str(first)])}"
        return NoWorkspaceError(error.message, hint)
    return no_workspace(target, error)


def _reported(error: OSError) -> KltuiError | None:
    """The error to print for a file or stream that the system refuses; None for an error that the user cannot act on."""
    if error.filename is None:
        if error.errno not in NO_SPACE:
            return None
        return KltuiError(f"standard output cannot be written: {error.strerror}", "Free some space there.")
    if error.errno not in (*NO_SPACE, *REFUSED):
        return None
    hint = "Free some space there." if error.errno in NO_SPACE else "Check the path and its permissions."
    return KltuiError(f"{error.filename}: {error.strerror}", hint)


def _run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit code.

    Commands that do not score use one BLAS thread, and their waiting threads sleep, so that they do not slow down a job
    on the same machine.
    """
    command = _command(arguments)
    if arguments.batch or arguments.watch or arguments.demo:
        silence_libraries()
    if arguments.bench or arguments.demo:
        return command(arguments)
    wait_passively()
    if arguments.batch or arguments.watch:
        return command(arguments)
    if command is _interface:
        with one_blas_thread:
            return command(arguments)
    with one_blas_thread, ending_undoes():
        return command(arguments)


def _drop_output() -> None:
    """Redirects standard output to the null device, because flushing its buffer at exit would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The parsed arguments. For unknown ones, prints similar options and exits with code 2; help is printed too."""
    words = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(words):
        from kltui.command_help import asked_help

        if text := asked_help(words):
            sys.stdout.write(text)
            sys.stdout.flush()
            parser.exit()
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings]
        named = ", ".join(_with_nearest(word, options) for word in unknown)
        parser.error(f"unrecognized arguments: {named}{_meant(arguments.target, unknown, options)}")
    return arguments


def _with_nearest(word: str, options: Sequence[str]) -> str:
    """An unknown argument, with the options that it may have been meant for."""
    name = word.partition("=")[0]
    begun = [option for option in options if len(name) > 2 and option.startswith(name)]
    # -v and -report are meant for options with two hyphens.
    begun = begun or [option for option in options if name[1:] and option.startswith(f"-{name}")]
    close = begun or difflib.get_close_matches(name, options, n=1) if name.startswith("-") else []
    return safe_text(word, 80) + (f" (did you mean {' or '.join(close)}?)" if close else "")


def _meant(target: str | None, unknown: Sequence[str], options: Sequence[str]) -> str:
    """A line on words in place of options, as in `kltui report demo`, or on more than one workspace."""
    words = [word for word in unknown if not word.startswith("-")]
    if target and f"--{target}" in options and not Path(target).exists():
        return f"\n  Commands are options: kltui --{target} {safe_text(shlex.join(words), 80)}".rstrip()
    return "\n  kltui takes one WORKSPACE." if words and target else ""


def _print_error(error: KltuiError) -> None:
    for line in error_lines(error, _columns_of_errors()):
        print(line, file=sys.stderr)  # noqa: T201


def error_lines(error: KltuiError, columns: int | None) -> list[str]:
    """The lines printed for an error: its message and its indented hint, wrapped between words to `columns` (None: not wrapped)."""
    message, *more = error.message.splitlines() or [type(error).__name__]
    lines = [("kltui: ", message), *(("  ", line.strip()) for line in [*more, *error.hint.splitlines()])]
    wrap = partial(textwrap.wrap, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return [
        piece
        for indent, line in lines
        for piece in (
            [indent + safe_text(line)]
            if columns is None
            else wrap(safe_text(line), columns, initial_indent=indent)
        )
    ]


def _columns_of_errors() -> int | None:
    """The width of the terminal on stderr in columns; None if stderr is not a terminal."""
    try:
        return max(MIN_COLUMNS, os.get_terminal_size(sys.stderr.fileno()).columns)
    except (OSError, ValueError):
        return None


def _command(arguments: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "batch": _batch,
        "watch": _watch,
        "report": _report,
        "demo": _demo,
        "bench": _bench,
        "doctor": _doctor,
        "check": _check,
        "imports": _import,
        "draw": _draw,
        "place": _place,
        "figure": _figure,
        "share": _share,
        "reproduce": _reproduce,
        "export": _export,
        INTERFACE: _interface,
    }
    return commands[command_of(arguments)]


def _batch(arguments: argparse.Namespace) -> int:
    from kltui.jobs.batch import run_batch
    from kltui.jobs.shard import collect, parse_shard

    if arguments.target:
        raise UsageError(f"unexpected {arguments.target!r}", "The workspace is named in the job file.")
    if arguments.collect:
        code, workspace = collect(arguments.batch, arguments.overrides, as_json=arguments.json)
    else:
        code, workspace = run_batch(
            arguments.batch,
            arguments.overrides,
            dry_run=arguments.dry_run,
            as_json=arguments.json,
            shard=parse_shard(arguments.shard) if arguments.shard else None,
        )
    if code in (0, 1) and workspace is not None and not arguments.json:
        _print_findings(workspace, arguments)
    return code


def _print_findings(folder: Path, arguments: argparse.Namespace) -> None:
    """Prints a summary of the workspace's results, or with --section those sections of the report."""
    if arguments.section:
        _print_report(folder, arguments)
        return
    from kltui.view.summary import print_summary
    from kltui.workspace import Workspace

    with Workspace.open(folder, arguments.over, arguments.values) as workspace:
        print_summary(
            workspace,
            _choice(arguments, workspace),
            ascii_only=arguments.ascii,
            to_log="KLTUI_LOG" in os.environ,
        )


def _watch(arguments: argparse.Namespace) -> int:
    from kltui.watch.run import run_watch

    if arguments.target:
        raise UsageError(f"unexpected {arguments.target!r}", "The workspace is named in the job file.")
    if arguments.until_step is not None and arguments.until_step < 0:
        raise UsageError(f"--until-step {arguments.until_step} is not a step", "Give 0 or more.")
    return run_watch(
        arguments.watch, arguments.overrides, until_step=arguments.until_step, as_json=arguments.json
    )


def _report(arguments: argparse.Namespace) -> int:
    return _print_report(_workspace(arguments), arguments)


def _print_report(folder: Path, arguments: argparse.Namespace) -> int:
    """Prints the report; returns the exit code, 1 if a section that was requested by name failed."""
    from kltui.view.report import print_report
    from kltui.workspace import Workspace

    with Workspace.open(folder, arguments.over, arguments.values) as workspace:
        made = print_report(
            workspace,
            arguments.section,
            as_json=arguments.json,
            choice=_choice(arguments, workspace),
            ascii_only=arguments.ascii,
        )
    asked = arguments.section or ()
    return int(any(section.status == "failed" for section in made.sections if section.name in asked))


def _choice(arguments: argparse.Namespace, workspace: Workspace) -> ReportChoice:
    """The selection made by the report's options; with --save-map, the map is saved first.

    Raises UsageError for options that exclude each other.
    """
    from kltui.store.saved_maps import Preparation
    from kltui.view.sections.context import ReportChoice

    preparation = Preparation(arguments.preprocess or "none", tuple(arguments.exclude), arguments.separate)
    if arguments.map and (preparation != Preparation() or arguments.save_map is not None):
        raise UsageError(
            "a saved map has its own preprocessing",
            "Leave out --preprocess, --exclude, --separate and --save-map, or leave out --map.",
        )
    if arguments.map and arguments.over:
        raise UsageError("a saved map has its own corpus", "Leave out --over, or leave out --map.")
    pair = tuple(arguments.pair) if arguments.pair else None
    choice = ReportChoice(
        preparation,
        arguments.map or "",
        pair,
        arguments.where,
        arguments.level,
        arguments.noise_corrected,
        "cpu" if arguments.device == "auto" else arguments.device,
        compute=bool({"exact", "quantisation"} & set(arguments.section or ())),
        scoring_device=arguments.device,
    )
    if arguments.save_map is not None:
        from kltui.view.report import check_choice
        from kltui.view.sections.context import Context

        check_choice(Context(workspace, choice))
        made = workspace.save_map(arguments.save_map, preparation)
        _notify(f"saved {len(made)} vectors over {len(made.text_bytes_N)} texts as map {arguments.save_map}")
    return choice


def _export(arguments: argparse.Namespace) -> int:
    from kltui.view.export import export
    from kltui.workspace import Workspace

    with Workspace.open(_workspace(arguments), arguments.over, arguments.values) as workspace:
        choice = _choice(arguments, workspace)
        for path in export(workspace, arguments.export, notify=_notify, choice=choice, also=arguments.also):
            print(safe_text(str(path)))  # noqa: T201
    return 0


def _figure(arguments: argparse.Namespace) -> int:
    from kltui.figures.catalogue import check_name
    from kltui.figures.command import figure

    check_name(arguments.figure)
    for path in figure(arguments, _workspace(arguments), _choice, _notify):
        print(safe_text(str(path)))  # noqa: T201
    return 0


def _share(arguments: argparse.Namespace) -> int:
    from kltui.figures.share.command import checked_page, share
    from kltui.view.sections.context import Context
    from kltui.workspace import Workspace

    checked_page(arguments.share)
    with Workspace.open(_workspace(arguments), arguments.over, arguments.values) as workspace:
        made = share(Context(workspace, _choice(arguments, workspace), _notify), arguments.share)
    print(safe_text(str(made)))  # noqa: T201
    return 0


def _reproduce(arguments: argparse.Namespace) -> int:
    from kltui.figures.reproduce.command import reproduce

    return reproduce(arguments, _notify)


def _draw(arguments: argparse.Namespace) -> int:
    from kltui.view.sections.context import Context
    from kltui.workspace import Workspace
    from kltui.workspace.subsample import draw_texts

    with Workspace.open(_workspace(arguments), arguments.over, arguments.values) as workspace:
        shown = Context(workspace, _choice(arguments, workspace)).map
        path, made = draw_texts(workspace, shown, arguments.draw, arguments.draw_by)
    _notify(
        f"{made.n_drawn} draws, {len(made.index)} different of {made.n_texts} texts. Score a new model on them with a"
        f" job of the same workspace and source = {json.dumps(str(path.absolute()), ensure_ascii=False)} under [corpus]; kltui --report --section added"
        f" {shlex.quote(str(workspace.path))} then places it on the map."
    )
    print(safe_text(str(path)))  # noqa: T201
    return 0


def _place(arguments: argparse.Namespace) -> int:
    from kltui.view.placed import print_placement
    from kltui.workspace import Workspace
    from kltui.workspace.placement import place

    with Workspace.open(_workspace(arguments)) as workspace:
        found = place(workspace, arguments.place, arguments.texts, arguments.overrides, _notify)
    print_placement(found, sys.stdout, as_json=arguments.json)
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from kltui.jobs.declared_settings import parse_declared
    from kltui.jobs.import_vectors import ImportRequest, import_files

    asked = ImportRequest(arguments.numbered, arguments.over, parse_declared(arguments.declared))
    return import_files(arguments.imports, _workspace(arguments), _notify, asked)


def _notify(line: str) -> None:
    print(safe_text(line), file=sys.stderr)  # noqa: T201


def _demo(arguments: argparse.Namespace) -> int:
    check_scoring()
    from kltui.demo.run import run_demo

    return run_demo(Path(arguments.target or "kltui-demo"), as_json=arguments.json)


def _bench(arguments: argparse.Namespace) -> int:
    if arguments.target != "analysis":
        check_scoring()
    from kltui.bench import main as bench

    return bench(
        arguments.target, arguments.device, arguments.json, parts=arguments.part, against=arguments.against
    )


def _doctor(arguments: argparse.Namespace) -> int:
    from kltui.doctor import examine

    return examine(Path(arguments.target) if arguments.target else None, as_json=arguments.json)


def _check(arguments: argparse.Namespace) -> int:
    from kltui.check import check

    return check(_workspace(arguments), as_json=arguments.json, mending=arguments.mend)


def _interface(arguments: argparse.Namespace) -> int:
    from kltui.tui.opening import open_interface

    return open_interface(arguments)


def _workspace(arguments: argparse.Namespace) -> Path:
    if not arguments.target:
        from kltui.command_help import command_form

        command = command_of(arguments)
        hint = f"Add its folder at the end of the command: {command_form(command)}"
        raise UsageError(f"{COMMANDS[command]} needs a workspace", hint)
    return Path(arguments.target)
