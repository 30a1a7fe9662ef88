"""Copies the weights of a run's next checkpoint into a model that is already built, by name and shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kltui.errors import KltuiError
from kltui.registry.layout import weight_names
from kltui.scoring.loading import Loaded, first_line

Header = dict[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class ModelTemplate:
    """A loaded model, and for each tensor of its files the corresponding tensor in memory."""

    loaded: Loaded
    config: str
    header: Header
    targets: dict[str, torch.Tensor]

    def takes(self, folder: Path, config: str) -> bool:
        """Whether the folder's files fit this model: same configuration, same names, shapes and dtypes."""
        return config == self.config and read_header(folder) == self.header

    def holds(self, folder: Path) -> bool:
        """Whether the model's weights still equal the folder's tensors, by samples. RWKV's first forward pass halves some of them."""
        shapes = {name: shape for name, (_, shape) in self.header.items()}
        samples = _samples(folder)
        return all(_fits(place, shapes[name], samples[name]) for name, place in self.targets.items())

    def fill(self, folder: Path, ahead: Mapping[str, torch.Tensor] | None = None) -> Loaded:
        """The model with the folder's weights, from `ahead` if given, otherwise from its files. Raises KltuiError."""
        if ahead is None:
            return self._fill_from_files(folder)
        with torch.no_grad():
            for name, place in self.targets.items():
                place.copy_(ahead[name], non_blocking=True)
        return self.loaded

    def _fill_from_files(self, folder: Path) -> Loaded:
        from safetensors import SafetensorError, safe_open

        filled = set()
        try:
            for path in weight_files(folder):
                with safe_open(path, framework="pt") as file, torch.no_grad():
                    for name in self.targets.keys() & set(file.keys()):
                        self.targets[name].copy_(file.get_tensor(name))
                        filled.add(name)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise KltuiError(
                f"a weight file in {folder} is damaged: {first_line(error)}", "fetch it again"
            ) from error
        if filled != self.targets.keys():
            raise KltuiError(f"weight files in {folder} changed while they were read", "run the job again")
        return self.loaded


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers would load from the folder."""
    return [folder / n for n in weight_names(folder, allow_bin=False) if n.endswith(".safetensors")]


def config_text(config: Any) -> str:
    """The configuration as JSON, without its path and the version that wrote it."""
    fields = {k: v for k, v in config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    return json.dumps(fields, sort_keys=True, default=str)


def read_header(folder: Path) -> Header | None:
    """{name: (dtype, shape)} of the tensors in the folder's safetensors; None if they cannot be read."""
    from safetensors import SafetensorError, safe_open

    header: Header = {}
    try:
        for path in weight_files(folder):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                    part = file.get_slice(name)
                    header[name] = (part.get_dtype(), tuple(part.get_shape()))
    except (OSError, SafetensorError, KltuiError):
        return None
    return header or None


def make_template(loaded: Loaded, folder: Path, config: str) -> ModelTemplate | None:
    """A template of the model just loaded from `folder` (`config`: its `config_text` before loading).

    None if weights are offloaded, or if the files do not directly contain the model's tensors: every parameter and stored
    buffer must have its tensor in the files, under its own name, with or without the body's prefix, or recognisable by its
    values, with equal sampled values. This fails for families whose weights are rearranged when they are loaded.
    """
    header = read_header(folder)
    places = {name: place.detach() for name, place in loaded.model.state_dict(keep_vars=True).items()}
    if header is None or any(place.is_meta for place in places.values()):
        return None
    samples = _samples(folder)
    targets: dict[str, torch.Tensor] = {}
    for name, sample in samples.items():
        place = _place(name, header[name][1], sample, places, f"{loaded.model.base_model_prefix}.")
        if place is not None:
            targets[name] = place
    filled = [place.data_ptr() for place in targets.values()]
    if len(set(filled)) < len(filled) or any(p.data_ptr() not in filled for p in places.values()):
        return None
    return ModelTemplate(loaded, config, header, targets)


def _place(
    name: str, shape: tuple[int, ...], sample: torch.Tensor, places: dict[str, torch.Tensor], prefix: str
) -> torch.Tensor | None:
    """The tensor in memory for a file's tensor: the one with its name or, if renamed, the only one with its values."""
    own = next((places[n] for n in (name, prefix + name, name.removeprefix(prefix)) if n in places), None)
    if own is not None:
        return own if _fits(own, shape, sample) else None
    alike = {place.data_ptr(): place for place in places.values() if _fits(place, shape, sample)}
    return next(iter(alike.values())) if len(alike) == 1 else None


def _fits(place: torch.Tensor, shape: tuple[int, ...], sample: torch.Tensor) -> bool:
    """Whether a tensor in memory has this shape and, in its own dtype, these first and last rows."""
    return tuple(place.shape) == shape and torch.equal(sample.to(place), _ends(place))


def _ends(tensor: Any) -> torch.Tensor:
    """First and last row of a tensor or of a slice in a file."""
    rows = len(tensor) if isinstance(tensor, torch.Tensor) else tensor.get_shape()[0]
    return torch.cat((tensor[:1], tensor[rows - 1 : rows]))


def _samples(folder: Path) -> dict[str, torch.Tensor]:
    """First and last row of every tensor in the folder's files; single numbers are left out."""
    from safetensors import safe_open

    samples = {}
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                part = file.get_slice(name)
                if part.get_shape():
                    samples[name] = _ends(part)
    return samples
