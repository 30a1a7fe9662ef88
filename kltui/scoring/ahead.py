"""Preparations for scoring that need no weights, done before the first checkpoint: importing libraries, tokenising the corpus.

Only for processes that do nothing but score, because parts of the libraries that this never uses are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kltui.corpus.corpus import Prompt
from kltui.scoring.settings import ScoringSettings

if TYPE_CHECKING:
    from kltui.scoring.scorer import Scorer


def import_libraries() -> None:
    """Imports torch and the parts of transformers that every causal model needs."""
    from kltui.scoring import lean_imports

    lean_imports.install()
    import kltui.scoring.scorer  # noqa: F401


def tokenize(
    texts: Sequence[str],
    corpus_sha256: str,
    settings: ScoringSettings,
    cache_dir: Path | None,
    model: Path,
    tokenizer: Path | None,
) -> None:
    """Writes the texts' token ids, for the model in folder `model`, to the cache; does not import torch."""
    from kltui.scoring import loading, tokens

    config = loading.load_config(model, tokenizer)
    tokens.tokenize(tokenizer or model, config, settings.bos, texts, corpus_sha256, cache_dir)


def ready_scorer(
    texts: Sequence[str],
    corpus_sha256: str,
    settings: ScoringSettings,
    cache_dir: Path | None,
    prompts: Sequence[Prompt],
    model: Path | None,
    tokenizer: Path | None,
) -> Scorer:
    """A scorer with the corpus tokenised for the model in folder `model`, if given, and that model's code imported."""
    from kltui.scoring.scorer import Scorer

    scorer = Scorer(texts, corpus_sha256, settings, cache_dir, prompts=prompts)
    if model is not None:
        scorer.prepare(model, tokenizer)
    return scorer
