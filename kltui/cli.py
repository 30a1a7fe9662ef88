"""The command line: one flat set of options, one place where errors are told and exit codes set."""

from __future__ import annotations

import argparse
import difflib
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kltui import __version__
from kltui.environment import check_environment, prepare_output
from kltui.errors import KltuiError, UsageError
from kltui.figures import options as figures
from kltui.help_text import DESCRIPTION, EPILOG
from kltui.option_use import INTERFACE, check_options, command_of
from kltui.pair_values import add_values_option
from kltui.safe import safe_text
from kltui.threads import one_blas_thread, wait_passively

if TYPE_CHECKING:
    from kltui.view.sections.context import Choice
    from kltui.workspace import Workspace

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="kltui",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # A script that abbreviates breaks when an option of the same beginning joins.
        allow_abbrev=False,
    )
    parser.add_argument(
        "target",
        nargs="?",
        metavar="WORKSPACE",
        help="workspace folder (with --demo: where to put the suite; with --bench: native)",
    )
    _add_commands(parser)
    _add_batch_options(parser)
    _add_import_options(parser)
    _add_placing_options(parser)
    parser.add_argument_group("with --check").add_argument(
        "--mend",
        action="store_true",
        help="take out what is damaged, so that the rest can be used; the database as it was is kept beside",
    )
    _add_reading_options(parser)
    figures.add_options(parser)
    parser.add_argument(
        "--json", action="store_true", help="machine-readable output on stdout: events, or the report"
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="with --bench: cpu or cuda; with --report and --export: cuda or cuda:1 centres and multiplies the vectors"
        " of large maps on that GPU (default there: cpu), and with --section exact models run there",
    )
    look = parser.add_argument_group("with the terminal interface")
    look.add_argument("--read-only", action="store_true", help="start no job and write nothing")
    look.add_argument("--ascii", action="store_true", help="draw with ASCII characters only")
    look.add_argument("--no-mouse", action="store_true", help="leave the mouse to the terminal")
    return parser


def _add_commands(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group(
        "what to do (without one of these: the terminal interface)"
    ).add_mutually_exclusive_group()
    what.add_argument(
        "--batch", metavar="JOB", type=Path, help="score a job file without the interface; resumable"
    )
    what.add_argument(
        "--watch",
        metavar="JOB",
        type=Path,
        help="score what is there, then each checkpoint as it lands, until ctrl-C (--until-step); alerts by [watch]",
    )
    what.add_argument("--report", action="store_true", help="print tables and text plots of WORKSPACE")
    what.add_argument(
        "--export",
        metavar="DIR",
        type=Path,
        help="write CSV, JSON and npz files of WORKSPACE to DIR; in a CSV, text that a spreadsheet would compute"
        " (= + - @ first) has an apostrophe before it",
    )
    what.add_argument(
        "--import",
        metavar="PATH",
        type=Path,
        action="append",
        dest="imports",
        help="store vectors scored elsewhere in WORKSPACE: modelmap's releases, lm-evaluation-harness samples;"
        " repeat it for the corpus (texts.json) or weight_distance.pkl; a .csv or .json of benchmark scores (--as, --over)",
    )
    what.add_argument(
        "--draw",
        metavar="N",
        type=int,
        help="draw N texts of WORKSPACE's map, on which new models can be scored and added to it (--draw-by)",
    )
    figures.add_commands(what)
    what.add_argument(
        "--place",
        metavar="MODEL",
        help="score MODEL by the rules of WORKSPACE's map and say where it stands there: nearest models, KL on the published"
        " scale, error ellipse, predicted scores; MODEL is a folder, an adapter's folder, a GGUF file, OWNER/NAME[@REV] or"
        " http://HOST/v1 (--texts)",
    )
    _add_checks(what)
    what.add_argument("--version", action="version", version=f"kltui {__version__}")


def _add_checks(what: argparse._MutuallyExclusiveGroup) -> None:
    """The commands that tell whether kltui and a workspace are in order, and how fast it is."""
    what.add_argument(
        "--demo", action="store_true", help="pretrain, score and report a small suite of models"
    )
    what.add_argument(
        "--bench",
        action="store_true",
        help="speed, as ratios to the reference procedure and the machine's floors",
    )
    what.add_argument(
        "--doctor", action="store_true", help="check this installation, this machine and WORKSPACE"
    )
    what.add_argument(
        "--check",
        action="store_true",
        help="read all of WORKSPACE against its checksums and name what is damaged (exit code 3)",
    )


def _add_batch_options(parser: argparse.ArgumentParser) -> None:
    batch = parser.add_argument_group("with --batch and --watch")
    batch.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="override one key of the job file, e.g. scoring.dtype=float16 (also with --place)",
    )
    batch.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be kept and scored, on which device, and what cannot work; then stop",
    )
    batch.add_argument(
        "--until-step",
        metavar="N",
        type=int,
        help="with --watch: end once a checkpoint of step N or later is scored",
    )
    batch.add_argument(
        "--shard",
        metavar="I/N",
        help="score only part I of N (from 0) into WORKSPACE/inbox, on any machine that shares the folder",
    )
    batch.add_argument(
        "--collect", action="store_true", help="take what the parts have scored into the store"
    )


def _add_import_options(parser: argparse.ArgumentParser) -> None:
    taking = parser.add_argument_group(
        "with --import",
        "Names of released models become names of runs; what names are made with here (@ # + ,) and invisible characters are"
        " percent-encoded in them, RUN@STEP apart. Files that cannot be read are named and left; the exit code is then 1.",
    )
    taking.add_argument(
        "--as",
        choices=("steps", "layers"),
        default="",
        dest="numbered",
        help="what the numbers of {run: {0: vector, 1: vector, ...}} count, where nothing in the file tells",
    )
    taking.add_argument(
        "--over",
        metavar="HASH",
        default="",
        help="vectors that come without texts are over WORKSPACE's corpus whose SHA-256 begins so; with --report, --export,"
        " --draw and the interface: show that corpus (--section corpora lists them)",
    )
    taking.add_argument(
        "--declare",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        dest="declared",
        help="how the vectors were scored: bos=auto|always|never, dtype=float16, overlong=error|window|truncate,"
        " tokenizer=own; repeat it. Vectors scored here by the same rules then share their map (modelmap's releases"
        " and loglik.npz say it themselves)",
    )


def _add_placing_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group(
        "with --place",
        "--set KEY=VALUE goes for the job that scores it: scoring.device=cpu, or model.KEY for a key of its [[models]] entry,"
        " such as model.tokenizer=FOLDER, model.base=FOLDER, model.model=NAME (of a server), model.run=NAME.",
    ).add_argument(
        "--texts",
        metavar="N",
        type=int,
        help="score it on N texts drawn for the map, not on all; the error of its KLs then stands beside the whole corpus'",
    )


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    reading = parser.add_argument_group(
        "with --report, --export, --figure, --share and --draw",
        "An option that the command would not look at is refused.",
    )
    reading.add_argument(
        "--section",
        metavar="NAME",
        action="append",
        help="with --report: only this section (may be repeated; an unknown name lists them)",
    )
    reading.add_argument(
        "--preprocess",
        choices=("none", "clip", "pretraining"),
        default="none",
        help="what is done to the vectors first (default: nothing)",
    )
    reading.add_argument(
        "--exclude",
        metavar="NAME",
        action="append",
        default=[],
        help="leave out a run or checkpoint (may be repeated)",
    )
    reading.add_argument(
        "--separate",
        action="store_true",
        help="for the section scale: prepare runs that differ only in their seed apart from the others, as published",
    )
    reading.add_argument(
        "--save-map", metavar="NAME", help="keep these vectors and their preparation as a map"
    )
    add_values_option(reading)
    reading.add_argument("--map", metavar="NAME", help="the map kept under that name, exactly as it was")
    _add_choices(reading)


def _add_choices(reading: argparse._ArgumentGroup) -> None:
    """What a section looks at, and in which forms a map is written and drawn from."""
    reading.add_argument(
        "--pair",
        nargs=2,
        metavar=("A", "B"),
        help="look at the KL between these two (sections drivers, where, directions, tree, corpora;"
        " exact: both models are run over the texts for their exact next-token KL, which is then kept)",
    )
    reading.add_argument(
        "--where", metavar="KL", type=float, help="look up this KL, in bits/byte, on the scale"
    )
    reading.add_argument(
        "--level", metavar="KL", type=float, help="a level of consecutive KL for the section stabilisation"
    )
    reading.add_argument(
        "--noise-corrected",
        action="store_true",
        help="take the measurement noise off before exponents of diffusion are fitted",
    )
    reading.add_argument(
        "--also",
        choices=("parquet", "modelmap"),
        action="append",
        default=[],
        help="export these too: Parquet tables (pip install 'kltui[parquet]'), modelmap's layout as logp.npz",
    )
    reading.add_argument(
        "--draw-by",
        metavar="WAY",
        default="ls",
        help="with --draw: by variance over models (ls), by part in all KL (kl), alike (uniform), or as released: the name of"
        " imported draws, such as lss-uniq-idx-weight",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs kltui and returns its exit code; every KltuiError is told here."""
    prepare_output()
    arguments = _parsed(argv)
    try:
        check_environment()
        check_options(build_parser(), arguments)
        if arguments.batch and arguments.device != "auto":
            hint = f"kltui --batch JOB --set scoring.device={arguments.device}"
            raise UsageError("a job file says on which device it scores, not --device", hint)
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except KltuiError as error:
        _tell(error)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output has gone (`kltui --report | head`): not an error of ours.
        _drop_output()
        return 0
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.filename is not None or error.errno not in NO_SPACE:
            raise
        _drop_output()
        _tell(KltuiError(f"standard output cannot be written: {error.strerror}", "Free some space there."))
        return 1


def _run(arguments: argparse.Namespace) -> int:
    """The command's exit code. What analyses leaves the cores to whoever computes: its waits are passive, its BLAS small."""
    command = _command(arguments)
    if arguments.bench or arguments.demo:
        return command(arguments)
    wait_passively()
    if arguments.batch or arguments.watch:
        return command(arguments)
    with one_blas_thread:
        return command(arguments)


def _drop_output() -> None:
    """Leads standard output to nowhere: what is still in its buffer would fail again when it is closed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; leaves with exit code 2 for those that there are not, naming what was meant perhaps."""
    parser = build_parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings]
        parser.error(f"unrecognized arguments: {', '.join(_with_nearest(word, options) for word in unknown)}")
    return arguments


def _with_nearest(word: str, options: Sequence[str]) -> str:
    name = word.partition("=")[0]
    begun = [option for option in options if len(name) > 2 and option.startswith(name)]
    close = begun or difflib.get_close_matches(name, options, n=1) if name.startswith("-") else []
    return safe_text(word, 80) + (f" (did you mean {' or '.join(close)}?)" if close else "")


def _tell(error: KltuiError) -> None:
    lines = error.message.splitlines() or [type(error).__name__]
    print(f"kltui: {safe_text(lines[0])}", file=sys.stderr)  # noqa: T201
    for line in [*lines[1:], *error.hint.splitlines()]:
        print(f"  {safe_text(line.strip())}", file=sys.stderr)  # noqa: T201


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
    """What was found in a few lines; with --section those sections of the report."""
    if arguments.section:
        _print_report(folder, arguments)
        return
    from kltui.view.summary import print_summary
    from kltui.workspace import Workspace

    with Workspace.open(folder, arguments.over, arguments.values) as workspace:
        print_summary(workspace, _choice(arguments, workspace), ascii_only=arguments.ascii)


def _watch(arguments: argparse.Namespace) -> int:
    from kltui.watch.run import run_watch

    if arguments.target:
        raise UsageError(f"unexpected {arguments.target!r}", "The workspace is named in the job file.")
    return run_watch(
        arguments.watch, arguments.overrides, until_step=arguments.until_step, as_json=arguments.json
    )


def _report(arguments: argparse.Namespace) -> int:
    return _print_report(_workspace(arguments), arguments)


def _print_report(folder: Path, arguments: argparse.Namespace) -> int:
    """Exit code: 1 where a section that was asked for by name failed."""
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


def _choice(arguments: argparse.Namespace, workspace: Workspace) -> Choice:
    """What the reading options ask for; with --save-map the map is kept first."""
    from kltui.saved_maps import Preparation
    from kltui.view.sections.context import Choice

    preparation = Preparation(arguments.preprocess, tuple(arguments.exclude), arguments.separate)
    if arguments.map and (preparation != Preparation() or arguments.save_map):
        raise UsageError(
            "--map brings its own preparation",
            "Leave out --preprocess, --exclude, --separate and --save-map, or leave out --map.",
        )
    if arguments.map and arguments.over:
        raise UsageError("--map brings its own corpus", "Leave out --over, or leave out --map.")
    pair = tuple(arguments.pair) if arguments.pair else None
    choice = Choice(
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
    if arguments.save_map:
        from kltui.view.report import check_choice
        from kltui.view.sections.context import Context

        check_choice(Context(workspace, choice))
        made = workspace.save_map(arguments.save_map, preparation)
        _narrate(f"kept {len(made)} vectors over {len(made.text_bytes_N)} texts as map {arguments.save_map}")
    return choice


def _export(arguments: argparse.Namespace) -> int:
    from kltui.view.export import export
    from kltui.workspace import Workspace

    with Workspace.open(_workspace(arguments), arguments.over, arguments.values) as workspace:
        choice = _choice(arguments, workspace)
        for path in export(workspace, arguments.export, narrate=_narrate, choice=choice, also=arguments.also):
            print(safe_text(str(path)))  # noqa: T201
    return 0


def _figure(arguments: argparse.Namespace) -> int:
    from kltui.figures.catalogue import check_name
    from kltui.figures.command import figure

    check_name(arguments.figure)
    for path in figure(arguments, _workspace(arguments), _choice, _narrate):
        print(safe_text(str(path)))  # noqa: T201
    return 0


def _share(arguments: argparse.Namespace) -> int:
    from kltui.figures.share.command import checked_page, share
    from kltui.view.sections.context import Context
    from kltui.workspace import Workspace

    checked_page(arguments.share)
    with Workspace.open(_workspace(arguments), arguments.over, arguments.values) as workspace:
        made = share(Context(workspace, _choice(arguments, workspace), _narrate), arguments.share)
    print(safe_text(str(made)))  # noqa: T201
    return 0


def _reproduce(arguments: argparse.Namespace) -> int:
    from kltui.figures.reproduce.command import reproduce

    return reproduce(arguments, _narrate)


def _draw(arguments: argparse.Namespace) -> int:
    from kltui.draws import draw_texts
    from kltui.view.sections.context import Context
    from kltui.workspace import Workspace

    with Workspace.open(_workspace(arguments), arguments.over, arguments.values) as workspace:
        shown = Context(workspace, _choice(arguments, workspace)).map
        path, made = draw_texts(workspace, shown, arguments.draw, arguments.draw_by)
    _narrate(
        f"{made.n_drawn} draws, {len(made.index)} different of {made.n_texts} texts. Score a new model on them with a"
        f' job of the same workspace and source = "{path}" under [corpus]; kltui --report --section added'
        f" {workspace.path} then places it on the map."
    )
    print(safe_text(str(path)))  # noqa: T201
    return 0


def _place(arguments: argparse.Namespace) -> int:
    from kltui.view.placed import print_placement
    from kltui.workspace import Workspace

    with Workspace.open(_workspace(arguments)) as workspace:
        found = workspace.place(arguments.place, arguments.texts, arguments.overrides, _narrate)
    print_placement(found, sys.stdout, as_json=arguments.json)
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from kltui.jobs.declared import parse_declared
    from kltui.jobs.take_in import Asked, import_files

    asked = Asked(arguments.numbered, arguments.over, parse_declared(arguments.declared))
    return import_files(arguments.imports, _workspace(arguments), _narrate, asked)


def _narrate(line: str) -> None:
    print(safe_text(line), file=sys.stderr)  # noqa: T201


def _demo(arguments: argparse.Namespace) -> int:
    from kltui.demo.run import run_demo

    return run_demo(Path(arguments.target or "kltui-demo"), as_json=arguments.json)


def _bench(arguments: argparse.Namespace) -> int:
    from kltui.bench import main as bench

    if arguments.target not in (None, "native"):
        raise UsageError(f"no benchmark called {arguments.target!r}", "There are: --bench, --bench native.")
    return bench(arguments.target, device=arguments.device, as_json=arguments.json)


def _doctor(arguments: argparse.Namespace) -> int:
    from kltui.doctor import examine

    return examine(Path(arguments.target) if arguments.target else None, as_json=arguments.json)


def _check(arguments: argparse.Namespace) -> int:
    from kltui.check import check

    return check(_workspace(arguments), as_json=arguments.json, mending=arguments.mend)


def _interface(arguments: argparse.Namespace) -> int:
    from kltui.tui.app import run_tui

    path = Path(arguments.target) if arguments.target else None
    if arguments.over:
        from kltui.workspace import Workspace

        Workspace.open(
            path or Path(), arguments.over
        ).close()  # a hash that fits none is said before anything is drawn
    return run_tui(
        path,
        read_only=arguments.read_only,
        ascii=arguments.ascii,
        no_mouse=arguments.no_mouse,
        over=arguments.over,
        values=arguments.values,
    )


def _workspace(arguments: argparse.Namespace) -> Path:
    if not arguments.target:
        raise UsageError("which workspace?", "Name its folder, e.g. kltui --report kltui-demo")
    return Path(arguments.target)
