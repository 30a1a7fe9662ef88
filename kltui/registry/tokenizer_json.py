"""Reads a folder's tokenizer.json with the tokenizers library, so that its results are deterministic."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kltui.errors import KltuiError
from kltui.registry.layout import TOKENIZER_CONFIG, TOKENIZER_JSON, read_json_object
from kltui.sanitize import safe_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL_MAP = "special_tokens_map.json"
# Settings with which the tokenizers library chooses randomly among several ways to split a text.
_RANDOM = ("dropout", "alpha", "nbest_size")


@dataclass(frozen=True)
class TokenizerJson:
    """The tokenizer in a file; it treats special-token strings as text and does not pad, truncate or sample.

    `unknown` is the id of its unknown token, or None; `notes` are for the user.
    """

    core: Tokenizer
    unknown: int | None
    notes: tuple[str, ...] = ()


def read_tokenizer_json(folder: Path) -> TokenizerJson:
    """The tokenizer in the folder's tokenizer.json. Raises KltuiError if it cannot be read."""
    from tokenizers import Tokenizer

    where = safe_text(str(folder / TOKENIZER_JSON))
    try:
        text = (folder / TOKENIZER_JSON).read_text(encoding="utf-8")
        file = json.loads(text)
        notes = (*_without_chance(file), *_beside(folder, file)) if isinstance(file, dict) else ()
        changed = _mark_special(folder, file) if isinstance(file, dict) else False
        core = Tokenizer.from_str(json.dumps(file) if changed or _is_noted(notes) else text)
    except KltuiError:
        raise
    except (
        Exception
    ) as error:  # the library raises plain Exception; a panic in it is a BaseException of its own
        raise _unreadable(where, error) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise _unreadable(where, error) from error
    core.no_padding()
    core.no_truncation()
    core.encode_special_tokens = True
    return TokenizerJson(core, _unknown_id(core, file.get("model")), notes)


def named_special(folder: Path, kind: str) -> str | None:
    """The token that the folder's settings name as `kind`, such as "bos_token"; None if they name none."""
    for name in (TOKENIZER_CONFIG, SPECIAL_MAP):
        found = _content(_settings(folder / name).get(kind))
        if found is not None:
            return found
    return None


def _settings(path: Path) -> dict[str, Any]:
    """The JSON object in a file of settings, empty without one. Raises KltuiError for a damaged file."""
    found = read_json_object(path)
    if not found and path.is_file() and path.read_bytes().strip() not in (b"{}", b""):
        raise KltuiError(
            f"{safe_text(str(path))} is not a JSON object",
            "It names the tokenizer's special tokens: download or save it again.",
        )
    return found


def _unreadable(where: str, error: BaseException) -> KltuiError:
    said = (str(error).strip().splitlines() or [""])[0]
    return KltuiError(
        f"the tokenizer in {where} cannot be read: {type(error).__name__}: {safe_text(said, 200)}",
        "It determines the token ids, so kltui uses no substitute: download or save it again.",
    )


def _is_noted(notes: tuple[str, ...]) -> bool:
    return any("switched off" in note for note in notes)


def _without_chance(file: dict[str, Any]) -> tuple[str, ...]:
    """Switches off random choices in the file's model; returns a note for each."""
    model = file.get("model")
    found = [name for name in _RANDOM if isinstance(model, dict) and model.get(name)]
    said = tuple(
        f"{name} = {safe_text(str(model[name]), 40)} in {TOKENIZER_JSON} is switched off, because it would make ids random"
        for name in found
        if isinstance(model, dict)
    )
    for name in found:
        file["model"][name] = None
    return said


def _mark_special(folder: Path, file: dict[str, Any]) -> bool:
    """Marks the added tokens as special that the folder's settings name as such; returns whether that changed one."""
    named = _all_named(folder)
    changed = False
    for token in file.get("added_tokens") or ():
        if token.get("content") in named and not token.get("special"):
            token["special"] = changed = True
    return changed


def _all_named(folder: Path) -> set[str]:
    """Every token that tokenizer_config.json or special_tokens_map.json names as special."""
    named: set[str | None] = set()
    for name in (TOKENIZER_CONFIG, SPECIAL_MAP):
        for key, value in _settings(folder / name).items():
            if key.endswith("_token"):
                named.add(_content(value))
            elif key.endswith("special_tokens") and isinstance(
                value, dict | list
            ):  # split_special_tokens is a switch
                named |= {_content(v) for v in (value.values() if isinstance(value, dict) else value)}
    return {token for token in named if token}


def _content(value: Any) -> str | None:
    """The string of a token, which is a string or an object with "content"; None for anything else."""
    found = value.get("content") if isinstance(value, dict) else value
    return found if isinstance(found, str) else None


def _unknown_id(core: Tokenizer, model: Any) -> int | None:
    """The id of the unknown token, by the `model` section of tokenizer.json; None if it states none."""
    if not isinstance(model, dict):
        return None
    if isinstance(model.get("unk_id"), int):
        return int(model["unk_id"])
    token = model.get("unk_token")
    return core.token_to_id(token) if isinstance(token, str) else None


def _beside(folder: Path, file: dict[str, Any]) -> tuple[str, ...]:
    """Notes on vocabularies in other files of the folder that differ from `file`."""
    model = file.get("model")
    entries = model.get("vocab") if isinstance(model, dict) else None
    ids: dict[str, Any] = dict(entries) if isinstance(entries, dict) else {}
    if isinstance(entries, list):  # a Unigram model's, with a score each
        ids = {entry[0]: at for at, entry in enumerate(entries) if isinstance(entry, list) and entry}
    ids |= {t["content"]: t["id"] for t in file.get("added_tokens") or ()}
    notes = []
    others = {name: read_json_object(folder / name) for name in ("vocab.json", "added_tokens.json")}
    others[f"added_tokens_decoder in {TOKENIZER_CONFIG}"] = _decoded_tokens(folder)
    for name, other in others.items():
        differ = sum(ids.get(token) != at for token, at in other.items()) if ids else 0
        if differ:
            notes.append(
                f"{name} gives {differ} of its {len(other)} tokens ids that differ from {TOKENIZER_JSON}, which is used"
            )
    return tuple(notes)


def _decoded_tokens(folder: Path) -> dict[str, int]:
    """{token: id} of the added tokens that tokenizer_config.json lists, by which transformers may add to tokenizer.json."""
    stated = _settings(folder / TOKENIZER_CONFIG).get("added_tokens_decoder")
    listed = stated.items() if isinstance(stated, dict) else ()
    named = {_content(token): at for at, token in listed if str(at).isdecimal()}
    return {token: int(at) for token, at in named.items() if token is not None}
