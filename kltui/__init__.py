"""Language models in log-likelihood space: trajectories, KL divergence, diffusion exponents.

>>> import kltui
>>> ws = kltui.open("pythia")          # doctest: +SKIP
>>> ws.map(runs=["tiny"]).kl()         # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kltui.version import __version__ as __version__

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

    from kltui.notebook.vector import ScoredTexts
    from kltui.notebook.workspace import NotebookWorkspace

__all__ = ["__version__", "open", "score"]


def open(
    path: str | PathLike[str], over: str = "", values: str = "conditional"
) -> NotebookWorkspace:  # shadows the builtin: it reads as kltui.open
    """Opens the workspace in folder `path` (~ is the home folder) read-only, on the corpus whose hash begins with `over` ("": that of most checkpoints).

    For pairs, `values` is "conditional", "unconditional" or "pmi", as in `map`. Raises KltuiError if there is no workspace or no such corpus.
    """
    from kltui.notebook.workspace import NotebookWorkspace

    return NotebookWorkspace.open(path, over, values)


def score(model_or_folder: Any, texts: Iterable[str], tokenizer: Any = None, **scoring: Any) -> ScoredTexts:
    """Log-likelihoods of `texts` (N) in nats under one model, without a workspace. This call imports torch.

    `model_or_folder` is the folder of a model or adapter, a GGUF file, "OWNER/NAME[@REVISION]" on the hub, or a causal
    language model of transformers, which needs its `tokenizer`: a PreTrainedTokenizerFast, a tokenizers.Tokenizer, or a
    folder. `scoring` are keys of a job file's [scoring] table: dtype, bos, overlong, device, layers, tokens, batch_tokens,
    allow_bin; a model object is scored in its own dtype on its own device. The values are those of `kltui --batch`.
    Raises KltuiError (UsageError for invalid arguments).

    >>> a = kltui.score("runs/mine/step1000", texts)          # doctest: +SKIP
    >>> a.kl(kltui.score("runs/mine/step2000", texts))        # doctest: +SKIP
    """
    from kltui.notebook.score import score

    return score(model_or_folder, texts, tokenizer, scoring)
