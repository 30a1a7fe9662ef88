"""The options of the command line, and what --help says of each."""

from __future__ import annotations

import argparse
from pathlib import Path

from kltui.bench.parts import MODELS, help_of_parts, help_of_rivals
from kltui.completion import SHELLS, PrintCompletion
from kltui.figures.options import add_commands, add_options
from kltui.help_text import DESCRIPTION, EPILOG, USAGE
from kltui.store.pair_values import add_values_option
from kltui.version import __version__


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="kltui",
        usage=USAGE,
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
        help="workspace folder (with --demo: where to put the suite; with --bench: a model's shape"
        f" ({', '.join(MODELS)}; default: all that fit), native, or analysis for what the report's sections cost); the"
        " terminal interface also takes a job file, texts, or a folder of checkpoints or of runs, and leads to a job of them",
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
    add_options(parser)
    parser.add_argument(
        "--json", action="store_true", help="machine-readable output on stdout: events, or the report"
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="with --bench: cpu or cuda; with --report and --export: cuda or cuda:1 centres and multiplies the vectors"
        " of large maps on that GPU (default there: cpu), and with --section exact models run there",
    )
    _add_bench_options(parser)
    look = parser.add_argument_group("with the terminal interface")
    look.add_argument("--read-only", action="store_true", help="start no job and write nothing")
    look.add_argument("--ascii", action="store_true", help="draw with ASCII characters only")
    look.add_argument("--no-mouse", action="store_true", help="leave the mouse to the terminal")
    return parser


def _add_bench_options(parser: argparse.ArgumentParser) -> None:
    measured = parser.add_argument_group("with --bench", "--device cpu or cuda; --json")
    measured.add_argument("--part", metavar="NAME", action="append", default=[], help=help_of_parts())
    measured.add_argument("--against", metavar="NAME", action="append", default=[], help=help_of_rivals())


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
    add_commands(what)
    what.add_argument(
        "--place",
        metavar="MODEL",
        help="score MODEL by the rules of WORKSPACE's map and say where it stands there: nearest models, KL on the published"
        " scale, error ellipse, predicted scores; MODEL is a folder, an adapter's folder, a GGUF file, OWNER/NAME[@REV] or"
        " http://HOST/v1 (--texts)",
    )
    _add_checks(what)
    what.add_argument(
        "--completion",
        metavar="SHELL",
        choices=SHELLS,
        action=PrintCompletion,
        help="print what makes a shell complete kltui's options: bash, zsh, fish or tcsh, e.g. kltui --completion bash >>"
        " ~/.bash_completion",
    )
    what.add_argument("--version", action="version", version=f"kltui {__version__}")


def _add_checks(what: argparse._MutuallyExclusiveGroup) -> None:
    """The commands that say whether kltui and a workspace are in order, and how fast it is."""
    what.add_argument(
        "--demo", action="store_true", help="pretrain, score and report a small suite of models"
    )
    what.add_argument(
        "--bench",
        action="store_true",
        help="measure speed here, beside the papers' own loop and what the machine could do at most",
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
    batch.add_argument("--collect", action="store_true", help="store what the parts have scored")


def _add_import_options(parser: argparse.ArgumentParser) -> None:
    taking = parser.add_argument_group(
        "with --import",
        "Names of released models become names of runs; what names are made with here (@ # + ,) and invisible characters\n"
        "are percent-encoded in them, RUN@STEP apart. Files that cannot be read are named and left; the exit code is then 1.",
    )
    taking.add_argument(
        "--as",
        choices=("steps", "layers"),
        default="",
        dest="numbered",
        help="what the numbers of {run: {0: vector, 1: vector, ...}} count, where nothing in the file says so",
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
        "--set KEY=VALUE goes for the job that scores it: scoring.device=cpu, or model.KEY for a key of its [[models]]\n"
        "entry, such as model.tokenizer=FOLDER, model.base=FOLDER, model.model=NAME (of a server), model.run=NAME.",
    ).add_argument(
        "--texts",
        metavar="N",
        type=int,
        help="score it on N texts drawn for the map, not on all; the error of its KLs then stands beside the whole corpus'",
    )


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    reading = parser.add_argument_group(
        "with --report, --export, --figure, --share and --draw",
        "The terminal interface opens by --preprocess, --exclude, --separate, --map, --over and --values too.\n"
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
        help="what is done to the vectors first (default: nothing; the interface: as you left it)",
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
        "--save-map", metavar="NAME", help="save these vectors and their preparation as a map"
    )
    add_values_option(reading)
    reading.add_argument("--map", metavar="NAME", help="the map saved under that name, exactly as it was")
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
        help="export these too: Parquet tables (pip install '.[parquet]'), modelmap's layout as logp.npz",
    )
    reading.add_argument(
        "--draw-by",
        metavar="WAY",
        default="ls",
        help="with --draw: by variance over models (ls), by part in all KL (kl), alike (uniform), or as released: the name of"
        " imported draws, such as lss-uniq-idx-weight",
    )
