"""Defines the parameters of a model from its weight files, the same for weight distances and for scoring.

Trained values count once each: no buffers, and no second copy of tied weights, whatever the configuration says.
Names are without the prefix of the model's body, so that files with and without the prefix agree. Of a model that also reads
images or sound, only the language model counts: no text passes through its encoders, and its likelihoods are those of texts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from kltui.registry.tensors import FLOATS, Bytes, TensorFile, parameters

_HEAD = re.compile(
    r"(^|\.)(lm_head|generator_lm_head|embed_out|output|output_layer|output_projection|proj_out|head|lm_loss|decoder"
    r"|pred_layer\.proj)\.weight$"
)
_EMBEDDING = re.compile(
    r"(^|\.)(wte|w|embed_in|embed_tokens|word_embeddings|word_embedding|tok_embeddings|tokens_embed|embeddings"
    r"|embedding|embed|shared)\.weight$"
)
# In files of models of images and text, the language model's own head may have its prefix.
_HEAD_MODULE = re.compile(
    r"(language_model\.)?(lm_head|generator_lm_head|embed_out|output|output_layer|output_projection|proj_out|head|lm_loss|cls|pred_layer)\."
)
# The language model of a model that also reads images or sound, where it is a module of its own.
_LANGUAGE = re.compile(r"(\w+\.){0,2}(language_model|text_model|llm)\.")
# Names, beside the language model's, of encoders of images and sound, and of what makes its inputs of their outputs.
_BODY = r"((base_model|model|transformer|git)\.)*"
_ENCODER = re.compile(
    rf"{_BODY}((vision|visual|image|video|audio)(_\w+)?|vit|sam_model|vqmodel|high_res_vision_\w+)(\.|$)"
)
_ADAPTING = re.compile(
    rf"{_BODY}(multi_modal_\w+|\w*mm_projector\w*|projector|connector|aligner|resampler_model|mlp_AR|mlp1|patch_merg\w+|embed_vision"
    r"|embed_audio|view_seperator)(\.|$)"
)


@dataclass(frozen=True)
class Parameters:
    """A model's parameters by name, tied ones under one name; `tied` is {other name: name in `once`}."""

    once: Mapping[str, TensorFile]
    tied: Mapping[str, str]

    def n_elements(self) -> int:
        """Number of trained numbers."""
        return sum(t.n_elements for t in self.once.values())

    def named(self, name: str) -> TensorFile | None:
        """The tensor with that name, or None. An output head that the files lack is the embedding, if there is exactly one."""
        if name in self.once or name in self.tied:
            return self.once[self.tied.get(name, name)]
        if not _HEAD.search(name):
            return None
        embeddings = [t for n, t in self.once.items() if _EMBEDDING.search(n)]
        return embeddings[0] if len(embeddings) == 1 else None


def model_parameters(tensors: Mapping[str, TensorFile]) -> Parameters:
    """The parameters of the model whose files contain `tensors` (`registry.tensors.open_tensors`)."""
    trained = parameters(tensors)
    trained = {name: trained[name] for name in names_of_text(trained)}
    prefix = _body_prefix(list(trained))
    named = {name.removeprefix(prefix): t for name, t in trained.items()}
    tied: dict[str, str] = {}
    for name in sorted(named, key=lambda n: (_HEAD.search(n) is not None, n)):
        source = next(
            (n for n in _may_be(name, named) if n not in tied and _equal(named[n], named[name])), None
        )
        if source is not None:
            tied[name] = source
    return Parameters({name: t for name, t in sorted(named.items()) if name not in tied}, tied)


def names_of_text(names: Collection[str]) -> list[str]:
    """Those of a model's tensors, or of modules, that a text passes through: all but encoders of images and sound, in order."""
    if any(_LANGUAGE.match(name) for name in names):
        return [name for name in names if _LANGUAGE.match(name) or _HEAD_MODULE.match(name)]
    if not any(_ENCODER.match(name) for name in names):
        return list(names)
    return [name for name in names if not (_ENCODER.match(name) or _ADAPTING.match(name))]


def is_embedding(name: str, *, or_head: bool = False) -> bool:
    """Whether a tensor's name is that of a model's embeddings, or of its output head too."""
    return bool(_EMBEDDING.search(name) or (or_head and _HEAD.search(name)))


def has_own_head(tensors: Mapping[str, TensorFile]) -> bool:
    """Whether the files contain an output head that differs from the embeddings."""
    embeddings = [t for name, t in tensors.items() if _EMBEDDING.search(name)]
    return any(
        t.dtype in FLOATS and not any(_equal(e, t) for e in embeddings)
        for name, t in tensors.items()
        if _HEAD.search(name) and _HEAD_MODULE.match(name)
    )


def _body_prefix(names: list[str]) -> str:
    """The prefix common to the names of all tensors except the head's: `model.`, `transformer.`, or ""."""
    body = [name.split(".") for name in names if not _HEAD_MODULE.match(name)]
    prefix = ""
    while len(body) > 1 and all(len(parts) > 2 for parts in body) and len({parts[0] for parts in body}) == 1:
        prefix += f"{body[0][0]}."
        body = [parts[1:] for parts in body]
    return prefix


def _may_be(name: str, named: Mapping[str, TensorFile]) -> list[str]:
    """Names of tensors with which a tensor may be tied: embeddings for a head or embedding, a bias for a head's bias."""
    if name.endswith(".decoder.bias"):
        return [n for n in (f"{name.removesuffix('.decoder.bias')}.bias",) if n in named]
    if not (_HEAD.search(name) or _EMBEDDING.search(name)):
        return []
    first = () if _HEAD.search(name) else (name,)
    return [n for n in named if _EMBEDDING.search(n) and n != name and (not first or n < name)]


def _equal(a: TensorFile, b: TensorFile) -> bool:
    return (a.shape, a.dtype) == (b.shape, b.dtype) and _same_bytes(a.data, b.data)


def _same_bytes(a: Bytes, b: Bytes, block: int = 1 << 24) -> bool:
    return all(np.array_equal(a[i : i + block], b[i : i + block]) for i in range(0, len(a), block))
