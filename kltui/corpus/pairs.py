"""Pairs of a prompt and its response, from the rows of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from kltui.corpus.chunk import well_formed
from kltui.corpus.corpus import Prompt
from kltui.corpus.rows import Row, json_kind, usable
from kltui.sanitize import safe_text

ROLES = ("system", "user", "assistant")
_MORE_OF_ROWS = (
    "system",
    "system_prompt",
    "instruction",
    "context",
    "input",
    "history",
    "documents",
    "tools",
    "functions",
)
_MORE_OF_MESSAGES = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
EXAMPLE = (
    'Each row is {"prompt": "...", "response": "..."}, or {"messages": [{"role": "user", "content": "..."}, '
    '{"role": "assistant", "content": "..."}]}, whose last message is the response; a system message may come first.'
)


def pairs_of(
    rows: Iterable[Row], seen: Counter[str], path: Path
) -> Iterator[tuple[Prompt, str, dict[str, object]]]:
    """(prompt, response, row) of every row. After the last row, raises KltuiError that lists the rows that are not pairs."""
    for row in usable(rows, problem, path, EXAMPLE):
        assert isinstance(row, dict)
        turns = [(str(m["role"]), str(m["content"])) for m in _messages(row)]
        clean = [(role, well_formed(content)) for role, content in turns]
        seen["lone_surrogates"] += clean != turns
        seen["parts_unread"] += _has_more(row)
        yield tuple(clean[:-1]), clean[-1][1], row


def _has_more(row: dict[str, object]) -> bool:
    """Whether a valid row has further parts that a model would see if it were asked."""
    return any(row.get(key) for key in _MORE_OF_ROWS) or any(
        message.get(key) for message in _messages(row) for key in _MORE_OF_MESSAGES
    )


def _messages(row: dict[str, object]) -> list[dict[str, object]]:
    """The messages of a valid row; its "prompt" is a message of the user, its "response" one of the assistant."""
    if "messages" in row:
        assert isinstance(row["messages"], list)
        return row["messages"]
    return [
        {"role": "user", "content": row["prompt"]},
        {"role": "assistant", "content": row["response"]},
    ]


def are_pairs(keys: Container[str]) -> bool:
    """Whether rows with these keys are pairs, not texts."""
    return "text" not in keys and ("messages" in keys or ("prompt" in keys and "response" in keys))


def problem(row: object) -> str:
    """Why a row is not a pair, in words; "" if it is one."""
    if not isinstance(row, dict):
        return f"{json_kind(row)}, not an object"
    if row.get("messages") is not None:
        both = next((name for name in ("prompt", "response") if row.get(name) is not None), "")
        return (
            f'"messages" beside "{both}": give only one of them' if both else _wrong_messages(row["messages"])
        )
    for name in ("prompt", "response"):
        if not isinstance(row.get(name), str):
            has = safe_text(", ".join(map(str, list(row)[:6])), 80) or "none"
            what = f"is {json_kind(row[name])}, not a string" if name in row else f"is missing (has {has})"
            return f'"{name}" {what}'
    return ""


def _wrong_messages(messages: object) -> str:
    if not isinstance(messages, list):
        return f'"messages" is {json_kind(messages)}, not a list'
    if len(messages) < 2:
        return f'"messages" has {len(messages)}: at least two are needed, a prompt and a response'
    wrong = next(filter(None, map(_wrong_message, range(len(messages)), messages)), "")
    if wrong:
        return wrong
    if messages[-1]["role"] != "assistant":
        return (
            f"the last message has the role {messages[-1]['role']}: the response must be from the assistant"
        )
    if all(message["role"] == "system" for message in messages[:-1]):
        return "there is no user message before the response"
    return ""


def _wrong_message(place: int, message: object) -> str:
    where = f"message {place}"
    if not isinstance(message, dict):
        return f"{where} is {json_kind(message)}, not an object"
    role = message.get("role")
    if role not in ROLES:
        said = safe_text(repr(role), 40) if isinstance(role, str) else json_kind(role)
        return f"{where} has the role {said}: allowed are {', '.join(ROLES)}"
    if role == "system" and place:
        return f"{where} has the role system: only the first message may"
    if not isinstance(message.get("content"), str):
        return f'the "content" of {where} is {json_kind(message.get("content"))}, not a string'
    return ""
