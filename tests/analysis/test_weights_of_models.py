"""Parameters of real model folders are the model's own, and their distances those of a float64 loop over them."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from image_text_models import FAMILIES as IMAGE_TEXT
from image_text_models import build_model as build_image_text
from shrunken_models import build_shrunken
from tiny_models import FAMILIES, build_model, write_run

from kltui.analysis.weights import banded_distances
from kltui.registry.parameters import _EMBEDDING, _HEAD, model_parameters
from kltui.registry.tensors import _BUFFER, open_tensors

# Families whose files name their encoders in yet other ways.
ALSO_IMAGES = (
    "gemma3", "fuyu", "git", "deepseek_vl", "hyperclovax_vision_v2", "lighton_ocr", "video_llama_3", "video_llava",
    "qwen2_5_omni_thinker", "granite_docling", "janus", "ovis2", "qwen3_5", "voxtral", "qwen2_audio", "granite_speech",
    "aria", "paddleocr_vl", "pp_chart2table", "cosmos3_edge",
)  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_the_files_hold_the_models_parameters_once(tmp_path: Path, family: str) -> None:
    model = build_model(family)
    model.save_pretrained(tmp_path)
    own = sum(p.numel() for p in model.parameters())
    assert model_parameters(open_tensors(tmp_path)).n_elements() == own


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama_tied"])
def test_distances_of_a_run_against_its_models(tmp_path: Path, family: str) -> None:
    from transformers import AutoModelForCausalLM

    write_run(tmp_path, family, steps=(0, 1, 2))
    folders = [tmp_path / f"step{t}" for t in (0, 1, 2)]
    theta = []
    for folder in folders:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="float64")
        theta.append(np.concatenate([p.detach().numpy().ravel() for p in model.parameters()]))
    got = banded_distances([open_tensors(f) for f in folders], 2)
    for k, d in ((0, 1), (0, 2), (1, 1)):
        assert got[k, d - 1] == pytest.approx(((theta[k + d] - theta[k]) ** 2).sum(), rel=2e-7)
        assert got[k, d - 1] > 0


def causal_sources() -> list[str]:
    """The modelling files of the installed transformers that hold a causal language model."""
    root = Path(transformers.__file__).parent / "models"
    names = re.findall(
        r"^\s+\(\"\w+\", \"(\w+)\"\),$", (root / "auto" / "modeling_auto.py").read_text(), re.M
    )
    causal = {n for n in names if "CausalLM" in n or "LMHead" in n}
    texts = [path.read_text() for path in root.glob("*/modeling_*.py")]
    return [text for text in texts if causal.intersection(re.findall(r"^class (\w+)\(", text, re.M))]


# Of these alone the syntax is read: to parse all of the files takes ten seconds.
ASSIGNED = re.compile(r"^ +[\w.]+ = (?:torch\.)?nn\.Buffer\(|^ +_tied_weights_keys = \{", re.M)


def assignments(text: str) -> Iterator[tuple[str, str]]:
    """(target, value) of every buffer and every table of tied weights that a source assigns."""
    for found in ASSIGNED.finditer(text):
        lines = text[found.start() :].split("\n", 60)[:60]
        for n in range(1, len(lines) + 1):
            try:
                (node,) = ast.parse(textwrap.dedent("\n".join(lines[:n]))).body
            except SyntaxError:  # it goes on in the next line
                continue
            assert isinstance(node, ast.Assign)
            yield ast.unparse(node.targets[0]), ast.unparse(node.value)
            break
        else:
            raise AssertionError(f"no end of {lines[0]}")


def test_buffers_and_tied_weights_of_every_family_go_by_their_names() -> None:
    """What the installed transformers stores beside parameters, and which weights it ties, is known by name."""
    buffers, ties = set(), []
    for target, value in (pair for text in causal_sources() for pair in assignments(text)):
        if target == "_tied_weights_keys":
            ties += ast.literal_eval(value).items()
        elif "persistent=False" not in value:
            buffers.add(target.removeprefix("self."))
    assert buffers and not {name for name in buffers if not _BUFFER.search(name)}
    strange = [
        pair
        for pair in ties
        if not pair[0].endswith(".bias") and not all(_HEAD.search(n) or _EMBEDDING.search(n) for n in pair)
    ]
    assert ties and not strange


def _changed(folder: Path, to: Path, names: set[str], seed: int) -> None:
    """A copy of a model's folder, with other values in the tensors called `names`."""
    import torch
    from safetensors.torch import load_file, save_file

    to.mkdir()
    generator = torch.Generator().manual_seed(seed)
    for path in sorted(folder.glob("*.safetensors")):
        tensors = load_file(path)
        for name in names & tensors.keys():
            tensors[name] = tensors[name] + 0.1 * torch.randn(tensors[name].shape, generator=generator)
        save_file(tensors, to / path.name, metadata={"format": "pt"})


def _reached_by_text(model: Any, folder: Path) -> tuple[set[str], set[str]]:
    """Names, in the files, of the parameters that have a gradient of the likelihood of a text, and of those that have none."""
    import torch

    ids = torch.arange(1, 90)[None] % 300
    model.set_experts_implementation("eager")
    model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)[0, :, 3].sum().backward()
    by_values: dict[bytes, list[str]] = {}
    for name, t in open_tensors(folder).items():
        by_values.setdefault(t.data.tobytes(), []).append(name)
    reached: set[str] = set()
    others: set[str] = set()
    for parameter in model.parameters():
        names = by_values.get(parameter.detach().contiguous().numpy().tobytes(), [])
        (others if parameter.grad is None else reached).update(names)
    return reached, others


@pytest.mark.parametrize(
    "family",
    [
        name if name in ("llava", "qwen2_vl", "smolvlm") else pytest.param(name, marks=pytest.mark.full)
        for name in (*IMAGE_TEXT, *ALSO_IMAGES)
    ],
)
def test_distances_are_of_what_a_text_passes_through(tmp_path: Path, family: str) -> None:
    """Of models that also read images: changes of their encoders, which change no likelihood of a text, do not count."""
    folder = tmp_path / "a"
    model = build_image_text(family, seed=3) if family in IMAGE_TEXT else build_shrunken(family, seed=3)
    model.save_pretrained(folder)
    reached, others = _reached_by_text(model, folder)
    assert reached and others and not reached & others
    for name, changed in (("b", others), ("c", reached), ("d", others | reached)):
        _changed(folder, tmp_path / name, changed, seed=1)
    opened = [open_tensors(tmp_path / name) for name in "abcd"]
    got = banded_distances(opened, 3)
    old, new = opened[0], opened[2]

    def values(t: Any) -> Any:
        return np.frombuffer(t.data.tobytes(), "<f4").astype(np.float64)

    truth = sum(float(((values(new[n]) - values(old[n])) ** 2).sum()) for n in reached if n in old)
    assert got[0, 0] == 0.0 and got[0, 1] == pytest.approx(truth, rel=1e-6)
    assert got[0, 2] > 0
