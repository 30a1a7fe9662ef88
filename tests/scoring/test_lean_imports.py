"""What a scoring process leaves out of its imports comes when it is wanted, and no number is another for it."""

from __future__ import annotations

import hashlib
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_models import write_run

from kltui.scoring import lean_imports
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoringSettings

TEXTS = ("the quick brown fox", "jumps over the lazy dog again and again", "and sleeps")
LEAN = """\
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from kltui.scoring import ahead
from kltui.scoring.settings import ScoringSettings
ahead.import_libraries()
folder = Path(sys.argv[2])
scorer = ahead.ready_scorer(json.loads(sys.argv[3]), "c", ScoringSettings(device="cpu"), None, (), folder, None)
result = scorer.score(folder, "none", "w", lambda progress: None)
left_out = ("torch._dynamo.eval_frame", "torch.distributed.tensor", "torch._decomp", "sympy", "scipy", "transformers.models.bert")
there = [n for n in left_out if n in sys.modules]
import hashlib, torch, transformers
from kltui.scoring import lean_imports
def shape_of_transform():
    return list(torch.fft.fft(torch.empty(4, device="meta")).shape)
try:
    shapes = [shape_of_transform()]
except NotImplementedError as error:
    shapes = [lean_imports.completes(error), shape_of_transform(), lean_imports.completes(error)]
doubled = torch.compile(lambda x: 2 * x, backend="eager")(torch.ones(2)).tolist()
named = [transformers.BertConfig.__module__, transformers.models.bert.__name__, transformers.GPT2TokenizerFast.__name__]
named += [hasattr(transformers, "NoSuchModel"), hasattr(transformers.models, "no_such_model")]
print(json.dumps([hashlib.sha256(result.vectors[0].loglik_N.tobytes()).hexdigest(), there, doubled, shapes, named]))
"""


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package `fakec` with a submodule, for which the module under test stands in as it does for torch's compiler."""
    package = tmp_path / "fakec"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from fakec import inner\ndef disable(f): return 'marked'\nrun = 7\n"
    )
    (package / "inner.py").write_text("loads = []\nloads.append(1)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(lean_imports, "_COMPILER", "fakec")
    monkeypatch.setattr(lean_imports, "_ANSWERS", {"fakec": {"disable": lean_imports._unmarked}})
    finder = lean_imports._LeanFinder()
    sys.meta_path.insert(0, finder)
    yield
    sys.meta_path.remove(finder)
    for name in [n for n in sys.modules if n.partition(".")[0] == "fakec"]:
        del sys.modules[name]


@pytest.mark.usefixtures("compiler")
def test_marks_are_answered_without_the_compiler_and_all_else_by_it() -> None:
    stands = importlib.import_module("fakec")
    assert stands.disable(len) is len and stands.disable(recursive=False)(len) is len
    assert "fakec.inner" not in sys.modules
    assert not hasattr(stands, "__wrapped__")
    assert stands.run == 7
    whole = importlib.import_module("fakec")
    assert whole is not stands and whole.disable(len) == "marked"


@pytest.mark.usefixtures("compiler")
def test_a_part_of_the_compiler_comes_after_the_whole_and_once() -> None:
    importlib.import_module("fakec")
    inner = importlib.import_module("fakec.inner")
    assert inner is importlib.import_module("fakec").inner and inner.loads == [1]


def test_a_process_without_compiler_and_distribution_scores_to_the_same_bits(tmp_path: Path) -> None:
    write_run(tmp_path / "run", seed=1)
    folder = sorted((tmp_path / "run").iterdir())[0]
    root = str(Path(lean_imports.__file__).parents[2])
    command = [sys.executable, "-P", "-c", LEAN, root, str(folder), json.dumps(TEXTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    digest, there, doubled, shapes, named = json.loads(done.stdout.splitlines()[-1])
    assert there == [] and doubled == [2.0, 2.0]
    assert shapes == [True, [4], False], "what Python says of shapes comes once it is wanted"
    import transformers

    assert named == [
        "transformers.models.bert.configuration_bert", "transformers.models.bert",
        transformers.GPT2TokenizerFast.__name__, False, False,
    ]  # fmt: skip
    usual = Scorer(TEXTS, "c", ScoringSettings(device="cpu")).score(
        folder, "none", "w", lambda progress: None
    )
    assert digest == hashlib.sha256(usual.vectors[0].loglik_N.tobytes()).hexdigest()
