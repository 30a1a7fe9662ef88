"""Which of transformers' classes reads a checkpoint: causal models, and models of images and text, scored on text alone.

A model of images and text whose language model is an ordinary causal decoder computes, without an image, what that decoder
computes. Its image encoder is then not used, and is left out of memory.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from kltui.errors import KltuiError

TEXT_ALONE = ("scored on text alone; its image encoder is not used",)
_ONLY_CAUSAL = "kltui scores only causal models"
# What an image encoder encodes in transformers' words; some models of images and text have one for sound too.
_ENCODED = ("image", "audio")


@dataclass(frozen=True)
class Family:
    """The class of a checkpoint's model, and the class of transformers that loads it; `text_alone`: it also reads images."""

    model: Any
    loader: Any
    text_alone: bool

    @property
    def attention(self) -> str:
        """sdpa if the family supports it (1.25 to 1.5 times as fast as eager), otherwise eager."""
        return "sdpa" if getattr(self.model, "_supports_sdpa", False) else "eager"

    @property
    def notes(self) -> tuple[str, ...]:
        """A note for a model of images and text."""
        return TEXT_ALONE if self.text_alone else ()


def family_of(config: Any) -> Family:
    """The family of a configuration. Raises KltuiError for a model without log-likelihoods of texts."""
    import transformers
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    if (causal := _class_in(MODEL_FOR_CAUSAL_LM_MAPPING, config)) is not None:
        return Family(causal, transformers.AutoModelForCausalLM, False)
    model = _class_in(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, config)
    if model is None:
        raise KltuiError(f"{config.model_type} is not a causal language model in transformers", _ONLY_CAUSAL)
    if needed := _needed(model):
        raise KltuiError(f"{config.model_type} reads no text without {needed}", _ONLY_CAUSAL)
    if _has_encoder(config, model):
        raise KltuiError(
            f"{config.model_type} has an encoder and a decoder, and without an input for its encoder a text has no log-likelihood",
            _ONLY_CAUSAL,
        )
    reads_images = any(
        "pixel" in name or "image" in name for name in inspect.signature(model.forward).parameters
    )
    return Family(model, transformers.AutoModelForImageTextToText, reads_images)


def is_text_alone(config: Any) -> bool:
    """Whether a model with this configuration reads images too, and is not one of transformers' causal models."""
    try:
        return family_of(config).text_alone
    except KltuiError:
        return False


def leave_out_encoders(model: Any) -> tuple[str, ...]:
    """Removes the model's encoders of images and sound, which text does not pass through; the names of their modules."""
    left_out = []
    for kind in _ENCODED:
        encoder = model.get_encoder(kind)
        name = next((name for name, module in model.named_modules() if module is encoder), "")
        if name and not any(part is model.get_input_embeddings() for part in encoder.modules()):
            around, _, own = name.rpartition(".")
            setattr(
                model.get_submodule(around), own, None
            )  # set_encoder of transformers 5.0 fails for images
            left_out.append(name)
    return tuple(left_out)


def _class_in(mapping: Any, config: Any) -> Any | None:
    """The class for a configuration in one of transformers' tables, or None."""
    try:
        return mapping[type(config)]
    except KeyError:
        return None


def _has_encoder(config: Any, model: Any) -> bool:
    """Whether an encoder reads a text, and a decoder writes another one, which would be a second input of the model."""
    if "decoder_input_ids" in inspect.signature(model.forward).parameters:
        return True
    parts = [config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", ()))]
    return any(getattr(part, "is_encoder_decoder", False) for part in parts)


def _needed(model: Any) -> str:
    """The inputs besides a text's ids that a model cannot do without; "" for none."""
    inputs = list(inspect.signature(model.forward).parameters.values())[1:]
    wanted = [p.name for p in inputs if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return " and ".join(name for name in wanted if name != "input_ids")
