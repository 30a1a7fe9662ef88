"""Random models of Pythia's shapes, and random texts with lengths like those of chunks of 1,024 bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kltui.scoring.batching import Ids

VOCABULARY = 50_304
BLOCKS = 4
TEXTS = 200
START = 0  # the first id of every text, which is not scored; other programs that score it add another one before it


@dataclass(frozen=True)
class ModelShape:
    """A Pythia model's shape, and the number of texts for measuring it on two CPU cores."""

    name: str
    width: int
    layers: int
    heads: int
    cpu_texts: int

    @property
    def parameters(self) -> int:
        """Number of parameters: four matrices of width x width and two of four times that per layer, embedding and head."""
        return 12 * self.layers * self.width**2 + 2 * VOCABULARY * self.width


SHAPES = (
    ModelShape("70m", 512, 6, 8, 200),
    ModelShape("160m", 768, 12, 12, 40),
    ModelShape("410m", 1024, 24, 16, 24),
)
# The largest one is only for GPUs, and only in half precision: two copies in float32 would not fit.
LARGE = ModelShape("6.9b", 4096, 32, 32, 0)


def by_name(name: str) -> tuple[ModelShape, ...]:
    """The shape of that name, () for ""."""
    return tuple(shape for shape in (*SHAPES, LARGE) if shape.name == name)


def random_texts(count: int, seed: int = 0) -> list[Ids]:
    """Token ids of `count` texts; their lengths are like those of 1,024-byte chunks of the Pile (mean 250, most 180 to 330)."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.normal(250, 60, count), 60, 700).astype(int)
    return [rng.integers(0, VOCABULARY, n) for n in lengths]


def neighbours(count: int) -> list[Ids]:
    """`count` of the `TEXTS` texts, in `BLOCKS` groups of similar length that are spread over all lengths.

    Batches are then filled as for a whole sorted corpus; a few random texts would need 10 to 20 % of padding.
    """
    by_length = sorted(random_texts(max(TEXTS, count)), key=len)
    run, share = count // BLOCKS, len(by_length) // BLOCKS
    begins = [block * share + (share - run) // 2 for block in range(BLOCKS)]
    found = [row for begin in begins for row in by_length[begin : begin + run]]
    for row in found:
        row[0] = START
    return found


def build_model(shape: ModelShape, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """Random GPT-NeoX model of the shape, the same on every call with this `dtype` and `device`."""
    import transformers

    torch.manual_seed(0)
    library: Any = transformers
    config = library.GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.width,
        intermediate_size=4 * shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=2048,
        rotary_pct=0.25,
    )
    with torch.device(device):
        model = library.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval().requires_grad_(False)


def as_words(row: Ids) -> str:
    """The text that `word_tokenizer` converts to these ids."""
    return " ".join(f"w{i}" for i in row)


def word_tokenizer() -> Any:
    """A tokenizer with one id per word `w0`, `w1`, ..."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{i}": i for i in range(VOCABULARY)}
    core = Tokenizer(models.WordLevel(words, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    library: Any = transformers
    return library.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="w0")
