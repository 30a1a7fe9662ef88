"""Writes the pages that are made from the program itself: python docs/make_pages.py

`job-file.md` from the job file's model, `commands.md` and the man page `kltui.1` from the command line's parser, `keys.md` from the table of actions and
the filter. A test tells when a page is not what this script would write.
"""

from __future__ import annotations

import argparse
import json
import re
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kltui import __version__
from kltui.command_options import build_parser
from kltui.jobs.job_tables import (
    CorpusTable,
    EngineTable,
    InterpolationTable,
    ModelTable,
    ScoringTable,
    WatchTable,
)
from kltui.jobs.jobfile import JobFile
from kltui.option_use import COMMANDS, INTERFACE, USERS
from kltui.registry.presets import PRESETS, PYTHIA_SEED_SIZES
from kltui.tui.actions import ACTIONS, SCREENS, Action
from kltui.tui.filter import LOSS, NUMBER_FIELDS, TEXT_FIELDS

DOCS = Path(__file__).resolve().parent
MADE = "<!-- Written by docs/make_pages.py: change the program, or that script, and run it again. -->"

JOB_INTRO = """\
# The job file

A job file defines which models are scored on which texts, and where the results are stored. It is written in
[TOML](https://toml.io); relative paths start at its folder. `kltui --batch job.toml --dry-run` checks it, reports all mistakes
at once, and shows what would be done: it also reads the tokenizers that are on this machine, and shows how many tokens there are to
score, whether texts are too long for a model, and how long it will take if similar checkpoints were scored before. `--set scoring.dtype=float16` overrides one key.

```toml
workspace = "pythia"

[corpus]
source = "texts.json"
sample = 1000

[[models]]
path = "runs/mine"
seed = 1

[[models]]
preset = "pythia-410m"

[scoring]
device = "auto"
dtype = "float32"
```

Only `workspace`, `[corpus]` with its `source`, and one `[[models]]` entry are required. Everything else has a default.
[Corpora](corpora.md) describes the possible sources of texts and the revisions of a repository.
"""

TABLES: tuple[tuple[str, str, type[BaseModel]], ...] = (
    ("[corpus]", "The texts. See also [corpora](corpora.md) and [pairs of prompts and responses](answers.md).", CorpusTable),
    (
        "[[models]]",
        "The models to score; the table may be repeated. Each entry has exactly one of `path`, `repo`, `preset` and `endpoint`."
        " See also [adapters](adapters.md), [GGUF files](gguf.md) and [models behind a server](served.md).",
        ModelTable,
    ),
    ("[scoring]", "How texts are scored.", ScoringTable),
    ("[engine]", "Where the work runs. See also [several processes or machines](machines.md).", EngineTable),
    ("[watch]", "When `kltui --watch` raises an alert. See also [watching a run](watch.md).", WatchTable),
    (
        "[[interpolations]]",
        "Interpolated models: at (a, b) of the grid the weights are `(1 - a - b) base + a first + b second`. Each model is created"
        " when needed, scored like any other, and deleted.",
        InterpolationTable,
    ),
)  # fmt: skip

KINDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def kind_of(annotation: Any) -> str:
    """What values a key takes, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(kind_of(a) for a in arguments if a is not type(None))
    if origin is tuple:
        return f"list of {kind_of(arguments[0])}"
    return KINDS[annotation]


def bounds_of(field: FieldInfo) -> str:
    """The least and the largest value of a number."""
    said = {"Ge": ("ge", "at least {}"), "Gt": ("gt", "above {}"), "Le": ("le", "at most {}")}
    found = [
        words.format(getattr(limit, name))
        for limit in field.metadata
        for name, words in [said.get(type(limit).__name__, ("", ""))]
        if name and abs(getattr(limit, name)) < 2**63
    ]
    return ", ".join(found)


def default_of(field: FieldInfo) -> str:
    """The default of a key as TOML writes it, "required", or "" if only the description states it."""
    if field.is_required():
        return "required"
    if field.default is None or field.default in ((), ""):
        return ""
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"default: `{json.dumps(value)}`"


def keys_of(table: type[BaseModel]) -> Iterator[str]:
    """One list item a key."""
    for name, field in table.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue
        if name in ("models", "interpolations"):
            continue
        kind = ", ".join(filter(None, [kind_of(field.annotation), bounds_of(field)]))
        yield f"* **`{name}`** ({'; '.join(filter(None, [kind, default_of(field)]))}). {field.description}"


def presets() -> str:
    """The names that `preset` takes, runs of other seeds in one sentence."""
    names = in_code(name for name in PRESETS if "-seed" not in name)
    return f"Presets: {names}; and `pythia-410m-seed1` to `-seed9`, and the same for {', '.join(PYTHIA_SEED_SIZES[:-1])}."


def job_page() -> str:
    """docs/job-file.md."""
    parts = [MADE, JOB_INTRO, "## Top-level keys", *["\n".join(keys_of(JobFile))]]
    for heading, text, table in TABLES:
        parts += [f"## `{heading}`", text, "\n".join(keys_of(table))]
        parts += [presets()] if table is ModelTable else []
    return page(parts)


COMMANDS_INTRO = """\
# Commands

One option selects the command; without one, `kltui WORKSPACE` opens the terminal interface. An option that the command
does not use is an error; options are never ignored. `kltui -h` prints the commands with examples,
`kltui --report --help` the options of one command, `kltui --help` and `man kltui` everything.

Exit codes: 0 success; 1 failed, or some checkpoints, files or sections failed, or the workspace has no data for a figure
or page; 2 invalid options or job file; 3 the workspace is in use, damaged or unusable; 75 temporary failure, try again
later; 130, 143 or 129 ended by ctrl-C, TERM or HUP; 138 paused by USR1, which the interface
sends: run the job again to continue.

```sh
kltui --demo
kltui --batch job.toml --dry-run --set corpus.sample=100
kltui --batch job.toml
kltui pythia
kltui --report pythia --section diffusion
kltui --report pythia --section drivers --pair tiny@100 tiny@200
kltui --report pythia --preprocess pretraining --exclude pythia-1b@116000 --save-map main
kltui --figure trajectories --out fig.pdf --width 85mm pythia
kltui --export out pythia
```
"""


def escaped(text: str) -> str:
    """Help text as Markdown."""
    return re.sub(r"([*_<\\])", r"\\\1", text.replace("%%", "%"))


def option_item(action: argparse.Action) -> str:
    """One list item: the option, what it takes, what it does, and which commands look at it."""
    metavar = action.metavar if action.metavar is not None or action.nargs == 0 else action.dest.upper()
    if action.choices:
        metavar = "|".join(map(str, action.choices))
    values = " ".join(metavar) if isinstance(metavar, tuple) else metavar or ""
    shown = " ".join(filter(None, [action.option_strings[-1] if action.option_strings else "", values]))
    users = [COMMANDS[name] for name in USERS.get(action.dest, ())]
    goes = f" Used with {', '.join(f'`{u}`' if u.startswith('-') else u for u in users)}." if users else ""
    text = escaped(action.help or "").rstrip(".")
    return f"* **`{shown}`**: {text}.{goes}"


def commands_page() -> str:
    """docs/commands.md."""
    parser = build_parser()
    dests = set(COMMANDS) - {INTERFACE} | {"version"}
    commands = [a for a in parser._actions if a.dest in dests]
    parts = [MADE, COMMANDS_INTRO, "## Commands", "\n".join(map(option_item, commands))]
    parts += ["## Argument", "\n".join(option_item(a) for a in parser._positionals._group_actions)]
    shown = {a.dest for a in commands}
    for group in parser._action_groups[1:]:
        options = [a for a in group._group_actions if a.dest not in shown and a.option_strings]
        if not options:
            continue
        title = (group.title or "").capitalize() if group.title == "options" else group.title or ""
        parts.append(f"## {title[:1].upper()}{title[1:]}")
        parts += [escaped(group.description)] if group.description else []
        parts.append("\n".join(map(option_item, options)))
    return page(parts)


KEYS_INTRO = """\
# Screens, keys and the filter

`kltui WORKSPACE` opens the interface. It has ten screens, one per digit key. They share one selection: the checkpoint under the
cursor, the checkpoints selected with space, and two marks A and B. A selection made on one screen applies to all. `?` lists the
keys of the current screen and `:` finds any action by its name. Jobs started here continue when you quit.

* `kltui job.toml` offers to run that job, and `kltui` with texts or with a folder of checkpoints or runs offers to score them;
  `kltui` alone lists recent workspaces.
* `f` sets the map that all screens show: corpus, preprocessing, exclusions, or a saved map. The options `--map`, `--preprocess`,
  `--exclude`, `--over` and `--values` set it from the command line, as in `kltui --map main pythia`.
* `e` exports what a screen shows: a figure for a paper, its rows as CSV, its text, or a screenshot.
* `--ascii` draws with ASCII characters only, `--no-mouse` leaves the mouse to the terminal, and `--read-only` starts no job and
  writes nothing. `NO_COLOR=1` in the environment turns off colours: letters mark
  runs, and `>` the row of a table without the focus.

![Compare: which texts drive one KL](pictures/compare.svg)
"""

KEYS_END = """\
Actions marked *writes* are disabled with `--read-only`. To change keys, list the names of actions from the tables above in a file
`keys.json` in kltui's configuration folder (`kltui --doctor` prints its path):

```json
{"filter": ["/", "F"], "quit": ["Q"]}
```
"""

GROUPS = {
    "jobs": "Jobs and checkpoints",
    "plot": "Plots and tables",
    "choose": "Selecting",
    "move": "Moving",
    "everywhere": "All screens",
}

FILTER = """\
## The filter

`/` filters the checkpoints on all screens. A filter is a line of terms, and a checkpoint must match all of them:

```text
run:pythia-*|gpt2 step:1000..9k -quant:8bit loss<3 words
```

* **`words`**: a bare word must occur in the checkpoint's name.
* **`field:text`**: the field contains the text. With `*` or `?`, the text is a pattern for the whole field. Case is ignored.
  **`field=text`**: the field is the text. Fields: {texts}.
* **`field>=number`**, also `>`, `<=`, `<`, `=` and `:`: compares numbers. **`field:100..2k`**: from 100 to 2000, both
  included; without one of them there is no limit on that side. The suffixes `k`, `M` and `G` mean thousands, millions and
  billions. Fields: {numbers}; `loglik` is the mean log-likelihood of a text, in nats, and `loss` is in bits/byte.
* **`"text"`**: in double quotes, blanks, `|`, `*` and other signs are text: `run:"my run"`, `"a|b"`.
* **`-term`**: the term must not match; `field!=text` is `-field=text`.
* **`one|other`** without spaces: either may match; the second uses the field of the first if it names none.
* **` | `** with spaces: everything on its left, or everything on its right: `run:a | run:b step>=1000`.

If no checkpoint matches a term, the interface names that term, because it is usually misspelt.
"""


def spelled(key: str) -> str:
    """A key as it is pressed, for a table."""
    return f"`{key}`"


def action_row(action: Action) -> str:
    keys = " ".join(map(spelled, action.keys))
    where = ", ".join(map(str.capitalize, action.screens)) or "all"
    writes = " *(writes)*" if action.writes else ""
    text = escaped(action.help).replace("|", "\\|")
    return f"| {keys} | `{action.name}` | {text}{writes} | {where} |"


def keys_page() -> str:
    """docs/keys.md."""
    by_name = {a.name: a for a in ACTIONS}
    screens = [by_name[f"screen_{name}"] for name in SCREENS]
    opened = [f"| `{a.keys[0]}` | **{a.label}** | {escaped(a.help)} |" for a in screens]
    parts = [MADE, KEYS_INTRO, "## Screens", table("key", "screen", "shows", rows=opened)]
    for group, heading in GROUPS.items():
        rows = [action_row(a) for a in ACTIONS if a.group == group]
        parts += [f"## {heading}", table("keys", "action", "does", "screens", rows=rows)]
    named = FILTER.format(texts=in_code(TEXT_FIELDS), numbers=in_code((*NUMBER_FIELDS, LOSS)))
    return page([*parts, "## Other keys", KEYS_END, named])


def in_code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def table(*heads: str, rows: Iterable[str]) -> str:
    return "\n".join([f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *rows])


def page(parts: Iterable[str]) -> str:
    return "\n\n".join(part.strip() for part in parts) + "\n"


# Sections of the man page for the parts of the help after the options.
MAN_SECTIONS = {
    "examples": "EXAMPLES",
    "a job file": "JOB FILE",
    "environment": "ENVIRONMENT",
    "exit codes": "EXIT STATUS",
}


def man_page() -> str:
    """docs/kltui.1, which the installation puts where `man kltui` finds it."""
    from argparse_manpage.manpage import Manpage

    parser = build_parser()
    parser.man_short_description = "explore language models in log-likelihood space"  # type: ignore[attr-defined]
    _, _, text = str(Manpage(parser)).partition("\n")  # its first line has the day it is made on
    text, _, after = text.partition(".SH COMMENTS\n")
    before, options, rest = text.partition(".SH OPTIONS\n")
    # argparse-manpage leaves out --help
    shown = next(a for a in parser._actions if "--help" in a.option_strings)
    entry = f".TP\n\\fB-h\\fR, \\fB--help\\fR\n{shown.help}\n\n".replace("-", "\\-")
    text = before + options + entry + rest + "".join(map(man_section, after.strip("\n").split("\n\n")))
    return f'.TH KLTUI "1" "" "kltui {__version__}" "User Commands"\n{text}'.rstrip("\n") + "\n"


def man_section(part: str) -> str:
    """A part of the help after the options as a section, whose lines are not filled."""
    heading, _, lines = part.partition("\n")
    return f".SH {MAN_SECTIONS[heading]}\n.nf\n{lines}\n.fi\n\n"


PAGES = {
    "job-file.md": job_page,
    "commands.md": commands_page,
    "keys.md": keys_page,
    "kltui.1": man_page,
}


def main() -> None:
    for name, made in PAGES.items():
        (DOCS / name).write_text(made(), encoding="utf-8")


if __name__ == "__main__":
    main()
