"""Counts a corpus's tokens by models' own tokenizers, in a process of its own, as scoring would tokenise it; reads no weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kltui.errors import KltuiError
from kltui.scoring import answers, families, loading, tokens
from kltui.scoring import tokenizer_checks as checks
from kltui.scoring.settings import ScoringSettings, wanted_layers


def counted(
    model: Mapping[str, Any],
    texts: Sequence[str],
    prompts: Sequence[Any],
    n_counted: int,
    settings: ScoringSettings,
) -> dict[str, Any]:
    """{"tokens", "longest", "context", "n_overlong", "notes"} of the texts under a model's tokenizer, or {"error", "hint"}.

    `tokens` are the scored ids of the first `n_counted` texts, `notes` those of scoring that need no weights. `model` has the paths `folder` and `tokenizer`, and whether the
    model is an `adapter`, whose embeddings may be longer than those that the configuration of its base states.
    """
    folder, place = Path(model["folder"]), Path(model["tokenizer"])
    try:
        config = loading.load_config(folder, place if place != folder else None)
        _check_layers(config, settings)
        kind = (*families.family_of(config).notes, *loading.notes_of_code(folder, config))
        size = getattr(config.get_text_config(), "vocab_size", None)
        if model["adapter"]:
            tokenizer, size = tokens.load_tokenizer(place, settings.bos, config), None
            ids, notes = tokens.encode_checked(tokenizer, texts, "", None)
        else:
            made = tokens.tokenize(place, config, settings.bos, texts, "", None)
            tokenizer, ids, notes = made.tokenizer, made.ids, made.notes
        scored = answers.laid_out(place, tokenizer, ids, prompts, settings)
        checks.check_vocabulary(scored.ids, size)
    except KltuiError as error:
        return {"error": error.message, "hint": error.hint}
    context = loading.context_length(config)
    n = len(texts)
    per_row = [max(0, len(row) - first) for row, first in zip(scored.ids, scored.firsts, strict=True)]
    return {
        "tokens": sum(count for row, count in enumerate(per_row) if row % n < n_counted),
        "longest": max(map(len, scored.ids), default=0),
        "context": context,
        "n_overlong": len({row % n for row in answers.overlong_rows(scored, context)}),
        "notes": [*kind, *notes, *([scored.template_note] if scored.template_note else [])],
    }


def _check_layers(config: Any, settings: ScoringSettings) -> None:
    """Raises KltuiError, as scoring does, if the model has fewer layers than the settings name."""
    depth = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(depth, int):
        wanted_layers(settings.layers, depth)


def main() -> int:
    """Reads {"texts", "prompts", "n_counted", "settings", "models"} as JSON and prints one line of JSON for each model."""
    asked = json.load(sys.stdin)
    settings = ScoringSettings(**asked["settings"])
    with loading.quiet_transformers():
        for model in asked["models"]:
            found = counted(model, asked["texts"], asked["prompts"], asked["n_counted"], settings)
            sys.stdout.write(json.dumps(found) + "\n")
            sys.stdout.flush()
    return 0
