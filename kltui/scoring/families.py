"""Which of transformers' classes reads a checkpoint: causal models, and models that also read images or sound, scored on text alone.

Such a model, whose language model is an ordinary causal decoder, computes, without an image or sound, what that decoder
computes. Its encoders are then not used, and are left out of memory.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from kltui.errors import KltuiError

_ONLY_CAUSAL = "kltui scores only causal models"
# What an encoder encodes in transformers' words, by a word that names of a model's inputs then contain.
_ENCODED = {
    "pixel": "image",
    "image": "image",
    "input_features": "audio",
    "audio": "audio",
    "input_values": "audio",
}
# transformers' tables of models besides the causal ones, and the classes that load them; the last is in newer versions only.
_TABLES = (
    ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING", "AutoModelForImageTextToText"),
    ("MODEL_FOR_MULTIMODAL_LM_MAPPING", "AutoModelForMultimodalLM"),
)
# Families whose language model alone, which transformers has among the causal ones, does not read the whole model's files.
_WHOLE = {"emu3", "mllama"}
# Families whose forward asks their encoder for its device, also without an input for it.
_ENCODER_STAYS = {"qwen2_audio"}


@dataclass(frozen=True)
class Family:
    """The class of a checkpoint's model, and the class of transformers that loads it; `reads` is what it reads besides text."""

    model: Any
    loader: Any

    @property
    def reads(self) -> tuple[str, ...]:
        """Of "image" and "audio", what the model has inputs for."""
        inputs = inspect.signature(self.model.forward).parameters
        found = {kind for word, kind in _ENCODED.items() if any(word in name for name in inputs)}
        return tuple(sorted(found, reverse=True))

    @property
    def attention(self) -> str:
        """sdpa if the family supports it (1.25 to 1.5 times as fast as eager), otherwise eager."""
        return "sdpa" if getattr(self.model, "_supports_sdpa", False) else "eager"

    @property
    def notes(self) -> tuple[str, ...]:
        """A note for a model that also reads images or sound."""
        if not self.reads:
            return ()
        what = "its image encoder is" if self.reads == ("image",) else "its audio encoder is"
        return (
            f"scored on text alone; {what if len(self.reads) == 1 else 'its encoders of images and audio are'} not used",
        )


def family_of(config: Any) -> Family:
    """The family of a configuration. Raises KltuiError for a model without log-likelihoods of texts."""
    import transformers

    causal = _class_in("MODEL_FOR_CAUSAL_LM_MAPPING", config)
    found = [(model, loader) for table, loader in _TABLES if (model := _class_in(table, config)) is not None]
    if causal is not None and (config.model_type not in _WHOLE or not found):
        return Family(causal, transformers.AutoModelForCausalLM)
    if not found:
        raise KltuiError(f"{config.model_type} is not a causal language model in transformers", _ONLY_CAUSAL)
    model, loader = found[0]
    if needed := _needed(model):
        raise KltuiError(f"{config.model_type} reads no text without {needed}", _ONLY_CAUSAL)
    if _has_encoder(config, model):
        raise KltuiError(
            f"{config.model_type} has an encoder and a decoder, and without an input for its encoder a text has no log-likelihood",
            _ONLY_CAUSAL,
        )
    if "input_ids" not in inspect.signature(model.forward).parameters:
        raise KltuiError(
            f"{config.model_type} has no forward pass from a text's ids to log-probabilities in transformers, which only generates with it",
            _ONLY_CAUSAL,
        )
    return Family(model, getattr(transformers, loader))


def notes_of(config: Any) -> tuple[str, ...]:
    """The notes of a configuration's family; none if it has no family."""
    try:
        return family_of(config).notes
    except KltuiError:
        return ()


def leave_out_encoders(model: Any) -> tuple[str, ...]:
    """Removes the model's encoders of images and sound, which text does not pass through; the names of their modules."""
    left_out = []
    for kind in ("image", "audio") if model.config.model_type not in _ENCODER_STAYS else ():
        encoder = model.get_encoder(kind)
        name = next((name for name, module in model.named_modules() if module is encoder), "")
        if name and not any(part is model.get_input_embeddings() for part in encoder.modules()):
            around, _, own = name.rpartition(".")
            setattr(
                model.get_submodule(around), own, None
            )  # set_encoder of transformers 5.0 fails for images
            left_out.append(name)
    return tuple(left_out)


def _class_in(table: str, config: Any) -> Any | None:
    """The class for a configuration in one of transformers' tables, or None; also if this version lacks the table."""
    from transformers.models.auto import modeling_auto

    try:
        return getattr(modeling_auto, table)[type(config)]
    except (AttributeError, KeyError):
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
