"""A form with the most important settings of a new job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from kltui.errors import KltuiError
from kltui.sanitize import expanded
from kltui.tui.dialogs.forms import Answers, Field, Form

if TYPE_CHECKING:
    from kltui.tui.session import Interaction

Tables = dict[str, dict[str, Any]]

# (name in the form, table, key, default, placeholder)
LINES = (
    ("texts", "corpus", "source", "", "a file, a folder, a pattern, hf://datasets/..., or: demo"),
    ("sample", "corpus", "sample", "", "number of texts to draw; empty: all"),
    ("dtype", "scoring", "dtype", "float32", "float32, float16, bfloat16, or auto: as stored"),
    ("device", "scoring", "device", "auto", "auto, cpu, cuda or cuda:1"),
    ("layers", "scoring", "layers", "none", "none, all, or numbers: 0 4 8 (for the Layers screen)"),
    ("tokens", "scoring", "tokens", "no", "yes: store every token's log-probability (for Compare)"),
    ("overlong", "scoring", "overlong", "error", "texts longer than the context: error, window or truncate"),
    ("workers", "engine", "workers", "1", "processes, each with one GPU or a share of the cores"),
)


def ask_settings(
    app: Interaction, tables: Tables, check: Callable[[Tables], str], done: Callable[[Tables], None]
) -> None:
    """Asks for changes to `tables` (corpus, scoring, engine) and passes the result to `done` once `check` accepts it."""
    fields = [
        Field(name, _shown(tables.get(table, {}).get(key, default)), said, paths=name == "texts")
        for name, table, key, default, said in LINES
    ]

    def complaint(answers: Answers) -> str:
        try:
            return check(merged(tables, answers))
        except KltuiError as error:
            return error.message

    def answered(answers: Answers | None) -> None:
        done(tables if answers is None else merged(tables, answers))

    hints = tuple(f"{name}: {said}" for name, _, _, _, said in LINES[2:7])
    app.push_screen(Form("Settings of this job", fields, complaint, hints), answered)


def merged(tables: Tables, answers: Mapping[str, str]) -> Tables:
    """`tables` updated with the answers of the form; keys that have their default are left out."""
    made = {name: dict(table) for name, table in tables.items()}
    for name, table, key, default, _ in LINES:
        text = answers[name].strip()
        made.setdefault(table, {}).pop(key, None)
        if text and text != default:
            made[table][key] = _meant(name, text)
    return made


def _meant(name: str, text: str) -> object:
    if name == "texts" and text != "demo":
        return str(expanded(text).resolve())
    if name == "tokens":
        return text.lower() in ("yes", "y", "true", "1")
    numbers = text.replace(",", " ").split()
    if name == "layers" and all(n.isdecimal() for n in numbers):
        return [int(n) for n in numbers]
    return int(text) if name in ("sample", "workers") and text.isdecimal() else text


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value)
