"""The options of the command line and their help texts."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

from kltui.bench.parts import MODELS, help_of_parts, help_of_rivals
from kltui.completion import SHELLS, PrintCompletion
from kltui.figures.options import add_commands, add_options
from kltui.help_text import DESCRIPTION, EPILOG, USAGE
from kltui.store.pair_values import add_values_option
from kltui.version import __version__


class Parser(argparse.ArgumentParser):
    """A parser that prints below a mistake in an option what that option takes."""

    def error(self, message: str) -> NoReturn:
        """Prints the usage line, the mistake and a hint, and exits with code 2."""
        self.print_usage(sys.stderr)
        named = re.match(r"argument (?:-\w/)?(--[\w-]+)", message)
        meant = [a for a in self._actions if named and named[1] in a.option_strings]
        hint = "".join(f"  {form_of(a)}: {first_clause(a.help or '')}\n" for a in meant)
        self.exit(2, f"kltui: error: {message}\n{hint}")

    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse, which ignores that the help cannot be written; here it is an error on standard output."""
        if message and file is sys.stdout:
            file.write(message)
            file.flush()
        else:
            super()._print_message(message, file)


def form_of(action: argparse.Action) -> str:
    """An option with what it takes, as it is typed: `--batch JOB`."""
    if action.nargs == 0:
        return action.option_strings[-1]
    takes = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    return " ".join([action.option_strings[-1], *([takes] if isinstance(takes, str) else takes)])


def first_clause(text: str) -> str:
    """A help text up to its first semicolon, colon (outside braces) or bracket, without the command that it begins with."""
    own = re.sub(r"^with --[\w-]+( and --[\w-]+)*: ", "", text.replace("%%", "%"))
    return re.split(r"[;(]|:(?![^{]*\})", own, maxsplit=1)[0].strip(" ,")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="kltui",
        usage=USAGE,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # A script with an abbreviated option would break when a new option has the same beginning.
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument(
        "-h",
        "--help",
        action="help",
        help="-h: a short help; --help: all options; with a command: its options",
    )
    parser.add_argument(
        "target",
        nargs="?",
        metavar="WORKSPACE",
        help="workspace folder (with --demo: folder for the models; with --bench: a model size"
        f" ({', '.join(MODELS)}; default: all that fit), native, or analysis to time the report's sections); the"
        " terminal interface also opens a job file, texts, or a folder of checkpoints or runs, and offers to score them",
    )
    _add_commands(parser)
    _add_batch_options(parser)
    _add_import_options(parser)
    _add_placing_options(parser)
    parser.add_argument_group("with --check").add_argument(
        "--mend",
        action="store_true",
        help="save a copy of the database, then remove what is damaged, so that the rest can be used",
    )
    _add_reading_options(parser)
    add_options(parser)
    parser.add_argument(
        "--json", action="store_true", help="machine-readable output on stdout: events, or the report"
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="with --bench: cpu or cuda; with --report and --export: cuda or cuda:1 computes large maps on that GPU"
        " (default for these: cpu); with --section exact, the device on which the models run",
    )
    _add_bench_options(parser)
    look = parser.add_argument_group("with the terminal interface")
    look.add_argument("--read-only", action="store_true", help="start no job and write nothing")
    look.add_argument("--ascii", action="store_true", help="draw with ASCII characters only")
    look.add_argument("--no-mouse", action="store_true", help="leave the mouse to the terminal")
    return parser


def _add_bench_options(parser: argparse.ArgumentParser) -> None:
    measured = parser.add_argument_group("with --bench")
    measured.add_argument("--part", metavar="NAME", action="append", default=[], help=help_of_parts())
    measured.add_argument("--against", metavar="NAME", action="append", default=[], help=help_of_rivals())


def _add_commands(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group(
        "commands (default: the terminal interface)"
    ).add_mutually_exclusive_group()
    what.add_argument(
        "--batch", metavar="JOB", type=Path, help="score a job file without the interface; resumable"
    )
    what.add_argument(
        "--watch",
        metavar="JOB",
        type=Path,
        help="score existing checkpoints, then each new one as it is saved, until ctrl-C (--until-step); alerts as set in [watch]",
    )
    what.add_argument("--report", action="store_true", help="print tables and text plots of WORKSPACE")
    what.add_argument(
        "--export",
        metavar="DIR",
        type=Path,
        help="write CSV, JSON and npz files of WORKSPACE to DIR; in a CSV, text that a spreadsheet would evaluate"
        " (beginning with = + - @) gets an apostrophe before it",
    )
    what.add_argument(
        "--import",
        metavar="PATH",
        type=Path,
        action="append",
        dest="imports",
        help="import into WORKSPACE vectors scored elsewhere (modelmap releases, lm-evaluation-harness samples), their corpus"
        " (texts.json), weight_distance.pkl, or a .csv or .json of benchmark scores; may be repeated (--as, --over)",
    )
    what.add_argument(
        "--draw",
        metavar="N",
        type=int,
        help="draw N texts of WORKSPACE's map; new models can be scored on only these texts and added to the map (--draw-by)",
    )
    add_commands(what)
    what.add_argument(
        "--place",
        metavar="MODEL",
        help="score MODEL with the settings of WORKSPACE's map and report its position: nearest models, KL on the published"
        " scale, error ellipse, predicted scores; MODEL is a folder, an adapter's folder, a GGUF file, OWNER/NAME[@REV] or"
        " http://HOST/v1 (--texts)",
    )
    _add_checks(what)
    what.add_argument(
        "--completion",
        metavar="SHELL",
        choices=SHELLS,
        action=PrintCompletion,
        help="print a completion script for kltui's options: bash, zsh, fish or tcsh, e.g. kltui --completion bash >>"
        " ~/.bash_completion",
    )
    what.add_argument("--version", action="version", version=f"kltui {__version__}")


def _add_checks(what: argparse._MutuallyExclusiveGroup) -> None:
    """Adds the commands that check the installation or a workspace, and that measure speed."""
    what.add_argument(
        "--demo", action="store_true", help="pretrain, score and report a small suite of models"
    )
    what.add_argument(
        "--bench",
        action="store_true",
        help="measure speed on this machine, relative to the papers' own loop and to the machine's limits",
    )
    what.add_argument(
        "--doctor", action="store_true", help="check this installation, this machine and WORKSPACE"
    )
    what.add_argument(
        "--check",
        action="store_true",
        help="verify all of WORKSPACE against its checksums and list what is damaged (exit code 3)",
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
        help="print what is already stored, what would be scored, how many tokens that is, on which device, and any"
        " problems; then stop",
    )
    batch.add_argument(
        "--until-step",
        metavar="N",
        type=int,
        help="with --watch: stop when a checkpoint of step N or later is scored or has failed",
    )
    batch.add_argument(
        "--shard",
        metavar="I/N",
        help="score only shard I of N (counted from 0) into WORKSPACE/inbox, on any machine that shares the folder",
    )
    batch.add_argument("--collect", action="store_true", help="store the results of all shards")


def _add_import_options(parser: argparse.ArgumentParser) -> None:
    taking = parser.add_argument_group(
        "with --import",
        "Names of released models become run names. Reserved characters (@ # + ,) and invisible ones are percent-encoded,\n"
        "except in RUN@STEP. Files that cannot be read are reported and skipped; the exit code is then 1.",
    )
    taking.add_argument(
        "--as",
        choices=("steps", "layers"),
        default="",
        dest="numbered",
        help="what the numbers in {run: {0: vector, 1: vector, ...}} mean, if the file does not say",
    )
    taking.add_argument(
        "--over",
        metavar="HASH",
        default="",
        help="for vectors without texts: the start of the SHA-256 of their corpus in WORKSPACE; with --report, --export,"
        " --draw and the interface: use that corpus (--section corpora lists them)",
    )
    taking.add_argument(
        "--declare",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        dest="declared",
        help="how the vectors were scored: bos=auto|always|never, dtype=float16, overlong=error|window|truncate,"
        " tokenizer=own; may be repeated. Vectors that you score with the same settings then share their map (modelmap"
        " releases and loglik.npz contain this information)",
    )


def _add_placing_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group(
        "with --place",
        "--set KEY=VALUE changes the scoring job: scoring.device=cpu, or model.KEY for a key of its [[models]] entry,\n"
        "such as model.tokenizer=FOLDER, model.base=FOLDER, model.model=NAME (on a server), model.run=NAME.",
    ).add_argument(
        "--texts",
        metavar="N",
        type=int,
        help="score it on only N texts drawn for the map; the error of its KLs is then shown next to that of the whole corpus",
    )


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    reading = parser.add_argument_group(
        "with --report, --export, --figure, --share and --draw",
        "--preprocess, --exclude, --separate, --map, --over and --values also work with the terminal interface.\n"
        "An option that the command does not use is an error.",
    )
    reading.add_argument(
        "--section",
        metavar="NAME",
        action="append",
        help="with --report: only this section (may be repeated; an unknown name lists all sections)",
    )
    reading.add_argument(
        "--preprocess",
        choices=("none", "clip", "pretraining"),
        help="preprocessing of the vectors (default: none; in the interface: the one used last)",
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
        help="for the section scale: preprocess runs that differ only in their seed separately from the others, as published",
    )
    reading.add_argument(
        "--save-map", metavar="NAME", help="save these vectors and their preprocessing as a map"
    )
    add_values_option(reading)
    reading.add_argument("--map", metavar="NAME", help="use the map saved under that name, exactly as saved")
    _add_choices(reading)


def _add_choices(reading: argparse._ArgumentGroup) -> None:
    """Adds the options of single sections, the further export formats, and the method of drawing texts."""
    reading.add_argument(
        "--pair",
        nargs=2,
        metavar=("A", "B"),
        help="examine the KL between these two (sections drivers, where, directions, tree, corpora;"
        " exact: run both models over the texts to compute their exact next-token KL, and store it)",
    )
    reading.add_argument(
        "--where", metavar="KL", type=float, help="look up this KL, in bits/byte, on the scale"
    )
    reading.add_argument(
        "--level", metavar="KL", type=float, help="the level of consecutive KL for the section stabilisation"
    )
    reading.add_argument(
        "--noise-corrected",
        action="store_true",
        help="subtract the measurement noise before diffusion exponents are fitted",
    )
    reading.add_argument(
        "--also",
        choices=("parquet", "modelmap"),
        action="append",
        default=[],
        help="also export Parquet tables (pip install '.[parquet]') or modelmap's layout as logp.npz",
    )
    reading.add_argument(
        "--draw-by",
        metavar="WAY",
        default="ls",
        help="with --draw: by variance over models (ls), by contribution to all KLs (kl), uniformly (uniform), or the name of"
        " imported draws, such as lss-uniq-idx-weight",
    )
