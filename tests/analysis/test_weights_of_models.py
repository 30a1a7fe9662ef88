"""Parameters of real model folders are the model's own, and their distances those of a float64 loop over them."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import transformers
from tiny_models import FAMILIES, build_model, write_run

from kltui.analysis.weights import banded_distances
from kltui.registry.parameters import _EMBEDDING, _HEAD, model_parameters
from kltui.registry.tensors import _BUFFER, open_tensors


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
