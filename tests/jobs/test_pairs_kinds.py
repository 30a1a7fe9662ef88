"""Pairs scored by every kind of checkpoint: GGUF files with a template of their own, adapters, served models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_folders import merged_float64, write_adapter
from gguf_files import write_gguf
from pair_in_process import InThisProcess
from served_server import ServedModel

from kltui.cli import main
from kltui.errors import KltuiError
from kltui.jobs.executors import local
from kltui.scoring.chat import find_template
from kltui.workspace import Workspace
from tests.chat_pairs import PAIRS, TEMPLATES, core, ids_of_prompt, ids_of_response, model, truth
from tests.tiny_models import BEGIN, END, load_float64

JOB = """\
workspace = "w"
[corpus]
source = "pairs.jsonl"
kind = "pairs"
[[models]]
path = "base"
[[models]]
path = "quants"
files = ["*"]
parent = "base"
[[models]]
path = "alone/solo.gguf"
[[models]]
path = "lora"
base = "base"
[[models]]
endpoint = "{url}"
model = "org/model"
tokenizer = "base"
run = "served"
[scoring]
device = "cpu"
unconditional = true
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with Llama 3's template, two GGUF files of it (one with a header alone to tell how), an adapter on it."""
    folder = tmp_path_factory.mktemp("kinds")
    template, family, specials = TEMPLATES["llama3"]
    base = model(folder / "base", family, template, specials)
    (folder / "quants").mkdir()
    (folder / "alone").mkdir()
    write_gguf(folder / "quants" / "base-Q8_0.gguf", base, "Q8_0", dequantised=folder / "truth")
    own = {"tokenizer.chat_template": template}
    write_gguf(folder / "alone" / "solo.gguf", base, "Q8_0", keys=own)
    write_adapter(base, folder / "lora", seed=1)
    rows = [
        {"messages": [*({"role": r, "content": c} for r, c in prompt), {"role": "assistant", "content": y}]}
        for prompt, y in PAIRS
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def networks(folder: Path) -> dict[str, Any]:
    """The model behind every checkpoint, in float64."""
    base, quantised, adapted = (load_float64(folder / name) for name in ("base", "truth", "base"))
    adapted.load_state_dict(
        {name: torch.from_numpy(v) for name, v in merged_float64(folder / "base", folder / "lora").items()},
        strict=False,
    )
    return {
        "base": base,
        "base+gguf-q8_0": quantised,
        "solo+gguf-q8_0": quantised,
        "lora": adapted,
        "served": base,
    }


def test_every_kind_equals_a_float64_loop(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ServedModel(models / "base") as server:
        (models / "job.toml").write_text(JOB.format(url=server.url))
        assert main(["--json", "--batch", str(models / "job.toml")]) == 0, capsys.readouterr().out
    capsys.readouterr()
    with Workspace.open(models / "w") as ws:
        maps = {values: ws.map(values=values) for values in ("conditional", "unconditional", "pmi")}
    found = networks(models)
    assert set(maps["conditional"].names) == set(found)
    begin = core(models / "base").token_to_id(BEGIN)
    for name, network in found.items():
        row = maps["conditional"].row(name)
        for k, (prompt, text) in enumerate(PAIRS):
            response = ids_of_response(models / "base", text)
            given = truth(network, ids_of_prompt(models / "base", prompt), response)
            alone = truth(network, [begin], response)
            assert maps["conditional"].loglik_KN[row, k] == pytest.approx(given, abs=3e-4), (name, k)
            assert maps["unconditional"].loglik_KN[row, k] == pytest.approx(alone, abs=3e-4), (name, k)
    assert np.array_equal(
        maps["pmi"].loglik_KN, maps["conditional"].loglik_KN - maps["unconditional"].loglik_KN
    )
    monkeypatch.setattr(local, "LocalExecutor", InThisProcess)
    for other in ("base+gguf-q8_0", "lora"):
        check_exact(models, other, found["base"], found[other])


def check_exact(folder: Path, other: str, a: Any, b: Any) -> None:
    """The exact KL of the base and another kind of checkpoint, over the responses' tokens."""
    total, n = 0.0, 0
    for prompt, text in PAIRS:
        context, response = ids_of_prompt(folder / "base", prompt), ids_of_response(folder / "base", text)
        ids = torch.tensor([[*context, *response]])
        with torch.no_grad():
            p, q = (m(input_ids=ids).logits[0, len(context) - 1 : -1].log_softmax(-1) for m in (a, b))
        total, n = total + float((p.exp() * (p - q)).sum()), n + len(response)
    with Workspace.open(folder / "w") as ws:
        found = ws.exact_kl("base", other)
    assert found is not None and found.n_tokens == n
    assert found.forward.nats_per_token == pytest.approx(total / n, rel=1e-3, abs=1e-7)


def test_a_gguf_file_s_template_is_its_header_s(models: Path) -> None:
    found = find_template(models / "alone" / "solo.gguf")
    assert found.source == TEMPLATES["llama3"][0]
    assert (found.variables["bos_token"], found.variables["eos_token"]) == (BEGIN, END)
    with pytest.raises(KltuiError, match=r"its header has no tokenizer\.chat_template") as error:
        find_template(models / "quants" / "base-Q8_0.gguf")
    assert 'template = "none"' in error.value.hint
