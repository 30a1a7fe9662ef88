"""Chat templates: the template of a tokenizer, and prompts formatted with it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kltui.corpus.corpus import Prompt
from kltui.errors import KltuiError
from kltui.registry.gguf_file import TOKENS, is_gguf, read_model
from kltui.registry.layout import TOKENIZER_CONFIG, read_json_object
from kltui.registry.tokenizer_json import named_special
from kltui.sanitize import safe_text
from kltui.scoring import chat_renderer

FILE = "chat_template.jinja"
REMEDY = 'Set template = "none" under [corpus] to use the contents of the prompt without a chat template.'
MAX_BYTES = 1 << 20
_PATIENCE_S = 120.0  # limit of wall-clock time, longer than the renderer's limit of processor time
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
# The names in GGUF files, one of which llama.cpp misspells.
_IN_GGUF = {
    "bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding", "sep_token": "seperator",
    "cls_token": "cls", "mask_token": "mask",
}  # fmt: skip
_RESPONSE = "Kltui-response"  # stands for one where the template's own continuation is looked at
_SHOWN = 24
_SENTINELS = tuple(map(chr, range(0xFDD0, 0xFDF0)))  # Unicode noncharacters, not used in ordinary text


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A chat template with the special tokens that it may write, and where it was found."""

    source: str
    variables: dict[str, str]
    where: str

    @property
    def sha256(self) -> str:
        """Hex SHA-256 over everything that determines the template's output."""
        return hashlib.sha256(json.dumps([self.source, self.variables], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Written:
    """Prompts formatted by a template. In `texts`, a `sentinel` is inserted into every special-token string in the contents.

    `note` says how a finished conversation would continue a prompt, if not with the response at once; otherwise it is "".
    """

    texts: list[str]
    sentinel: str
    note: str = ""


def find_template(folder: Path) -> ChatTemplate:
    """The chat template of the tokenizer in `folder`: chat_template.jinja, else that of tokenizer_config.json.

    Of several named templates, the one named "default"; for a GGUF file, the one in its header. Raises KltuiError if there is none.
    """
    if is_gguf(folder):
        return _of_gguf(folder)
    path = folder / FILE
    source: object = None
    where = path
    if path.is_file():
        if path.stat().st_size > MAX_BYTES:
            raise _unusable(path, f"it has more than {MAX_BYTES:,} bytes")
        source = path.read_bytes().decode(errors="replace")
    else:
        where = folder / TOKENIZER_CONFIG
        source = _named(read_json_object(where).get("chat_template"), where)
    if not isinstance(source, str) or not source.strip():
        raise _unusable(folder, f"there is neither {FILE} nor chat_template in {TOKENIZER_CONFIG}")
    tokens = {kind: named_special(folder, kind) for kind in _SPECIAL}
    return ChatTemplate(source, {kind: t for kind, t in tokens.items() if t is not None}, str(where))


def _of_gguf(path: Path) -> ChatTemplate:
    """The chat template in a GGUF file's header, with the special tokens that it names by their ids."""
    header = read_model(path, keep=(TOKENS,)).first
    source = header.words("tokenizer.chat_template")
    if not source.strip():
        raise _unusable(path, "its header has no tokenizer.chat_template")
    if len(source.encode()) > MAX_BYTES:
        raise _unusable(path, f"it has more than {MAX_BYTES:,} bytes")
    tokens = header.keys.get(TOKENS)
    known = tokens if isinstance(tokens, list) else []
    ids = {kind: header.number(f"tokenizer.ggml.{name}_token_id") for kind, name in _IN_GGUF.items()}
    variables = {kind: str(known[k]) for kind, k in ids.items() if k is not None and 0 <= k < len(known)}
    return ChatTemplate(source, variables, str(path))


def _named(found: object, where: Path) -> object:
    """One of several named templates: "default", or the only one. Raises KltuiError if that is ambiguous."""
    if not isinstance(found, list):
        return found
    named = {
        str(one["name"]): one.get("template") for one in found if isinstance(one, dict) and "name" in one
    }
    if "default" in named or len(named) == 1:
        return named.get("default", next(iter(named.values())))
    if not named:
        return None
    names = safe_text(", ".join(named), 120)
    raise _unusable(where, f'there are several ({names}), and none has the name "default"')


def _unusable(where: Path | str, why: str) -> KltuiError:
    return KltuiError(f"no chat template for {safe_text(str(where))}: {why}", REMEDY)


def write(template: ChatTemplate, prompts: Sequence[Prompt], specials: Sequence[str]) -> Written:
    """Every prompt formatted by the template, up to the beginning of the assistant's response.

    Raises KltuiError for a template that fails, is not allowed by the sandbox, or does not end.
    """
    sentinel = _sentinel(template, prompts)
    broken = [[(role, _broken(text, specials, sentinel)) for role, text in prompt] for prompt in prompts]
    asked = {
        "template": template.source,
        "variables": template.variables,
        "prompts": broken,
        "response": _RESPONSE,
    }
    answer = _asked(asked, template)
    texts = answer.get("texts")
    if texts is None:
        why = safe_text(str(answer.get("error")), 300)
        raise KltuiError(
            f"the chat template in {safe_text(template.where)} fails on the prompt of pair {answer.get('row')}: {why}",
            REMEDY,
        )
    return Written(texts, sentinel, _note(texts[:1], answer.get("answered")))


def _note(first: Sequence[str], answered: str | None) -> str:
    """A note if the template continues a prompt for generation otherwise than it writes a finished conversation; otherwise "".

    Such are templates without a generation prompt, and those that open or close a block of reasoning before a response.
    """
    before, found, _ = (answered or "").rpartition(_RESPONSE)
    if not found or not first or before == first[0]:
        return ""
    if before.startswith(first[0]):
        between = safe_text(repr(before[len(first[0]) :]), 80)
        return f"in a finished conversation the chat template puts {between} before a response: it is not put here"
    return (
        f"the chat template ends a prompt with {safe_text(repr(first[0][-_SHOWN:]), 80)}, but in a finished conversation a response"
        f" follows {safe_text(repr(before[-_SHOWN:]), 80)}"
    )


def _asked(asked: dict[str, Any], template: ChatTemplate) -> dict[str, Any]:
    """The renderer's answer. Raises KltuiError if it fails or does not end."""
    command = [sys.executable, "-I", str(Path(chat_renderer.__file__).resolve())]
    try:
        done = subprocess.run(
            command, input=json.dumps(asked), capture_output=True, encoding="utf-8", timeout=_PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        raise _no_answer(template, f"it did not end within {_PATIENCE_S:.0f} s") from None
    if done.returncode == 0:
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer
    if done.returncode < 0:
        raise _no_answer(
            template, f"it did not end within {chat_renderer.CPU_SECONDS} s, or took too much memory"
        )
    said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    raise _no_answer(template, said)


def _no_answer(template: ChatTemplate, why: str) -> KltuiError:
    return KltuiError(
        f"the chat template in {safe_text(template.where)} cannot be used: {safe_text(why, 300)}", REMEDY
    )


def _sentinel(template: ChatTemplate, prompts: Sequence[Prompt]) -> str:
    """A character that occurs neither in the template nor in any prompt."""
    held = {c for prompt in prompts for _, text in prompt for c in _SENTINELS if c in text}
    free = [c for c in _SENTINELS if c not in held and c not in template.source]
    if not free:
        raise _no_answer(template, "the prompts contain every noncharacter of Unicode from U+FDD0 to U+FDEF")
    return free[0]


def _broken(text: str, specials: Sequence[str], sentinel: str) -> str:
    """The text with `sentinel` inserted after the first character of every special-token string in it."""
    for special in specials:
        if special and special in text:
            text = text.replace(special, special[0] + sentinel + special[1:])
    return text
