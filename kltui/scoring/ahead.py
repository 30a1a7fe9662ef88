"""What scoring needs whatever the checkpoint's weights are: libraries, and the corpus in ids; made before the first one.

For a process that does nothing else: it leaves out of its libraries what scoring on a CPU never uses.
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
    """Imports torch and what of transformers every causal model needs."""
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
    """Leaves the texts in the ids of the model in that folder in the cache; torch is not imported for it."""
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
    """A scorer that holds the corpus in the ids of the model in that folder, and has imported the model's code."""
    from kltui.scoring.scorer import Scorer

    scorer = Scorer(texts, corpus_sha256, settings, cache_dir, prompts=prompts)
    if model is not None:
        scorer.prepare(model, tokenizer)
    return scorer
