"""Formats prompts with a chat template in a separate process; run as a script, it imports nothing from kltui.

Reads {"template", "variables", "prompts", "response"} as JSON from stdin and writes {"texts", "answered"} or {"error", "row"} to
stdout; "answered" is the first prompt with that response, as in a finished conversation, or null.
A template is a program by the model's author. It runs in jinja2's immutable sandbox, without a loader or a clock, within
limits of time and memory, and cannot write files.
"""

from __future__ import annotations

import json
import resource
import sys
from contextlib import suppress
from datetime import datetime
from typing import Any

CPU_SECONDS = 20
MEMORY_BYTES = 2 << 30
MAX_ADDED = 1 << 20  # maximum characters of a formatted prompt, plus 16 times those of the contents
TODAY = datetime(
    2024, 7, 26
)  # the default date of templates that print one; values must not depend on the day


class RefusedError(Exception):
    """Raised if the template calls `raise_exception`, or exceeds the limits."""


def _limit() -> None:
    limits = ((resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_AS, MEMORY_BYTES))
    for what, maximum in (*limits, (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        with suppress(ValueError, OSError):  # a lower limit is already set, or the system has none
            resource.setrlimit(what, (maximum, maximum))


def _raise(message: object) -> None:
    raise RefusedError(f"it says: {message}")


def _compiled(source: str) -> Any:
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = lambda value, indent=None, **_: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = TODAY.strftime
    return environment.from_string(source)


def _render(asked: dict[str, Any]) -> dict[str, object]:
    texts: list[str] = []
    try:
        template = _compiled(asked["template"])
        for prompt in asked["prompts"]:
            messages = [{"role": role, "content": content} for role, content in prompt]
            text = template.render(messages=messages, add_generation_prompt=True, **asked["variables"])
            if len(text) > MAX_ADDED + 16 * sum(len(content) for _, content in prompt):
                raise RefusedError(f"it generates {len(text):,} characters of one prompt")
            texts.append(text)
    except Exception as error:  # a template can raise anything
        said = "" if isinstance(error, RefusedError) else f"{type(error).__name__}: "
        return {"error": f"{said}{error}"[:1000], "row": len(texts)}
    return {"texts": texts, "answered": _answered(template, asked) if texts else None}


def _answered(template: Any, asked: dict[str, Any]) -> str | None:
    """The first prompt followed by the response; None if the template fails on that."""
    turns = [*asked["prompts"][0], ("assistant", asked["response"])]
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        text: str = template.render(messages=messages, add_generation_prompt=False, **asked["variables"])
    except Exception:
        return None
    return text if len(text) <= MAX_ADDED else None


def main() -> None:
    """Answers one request."""
    asked = json.load(sys.stdin)
    _limit()
    json.dump(_render(asked), sys.stdout)


if __name__ == "__main__":
    main()
