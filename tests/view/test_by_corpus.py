"""Several corpora in one workspace: KL side by side, one chosen for everything; trees and directions as sections."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from small_workspace import Builder

import kltui
from kltui.analysis.agreement import agreement
from kltui.cli import main
from kltui.corpus.corpus import Corpus
from kltui.errors import UsageError
from kltui.view.report import report
from kltui.view.sections.context import ReportChoice


@pytest.fixture
def two(builder: Builder) -> tuple[Path, str, str]:
    """(folder, hash of the first corpus, of the second): five models, a run of three steps too, on the first; all but one on both."""
    first, rng = builder.corpus, np.random.default_rng(1)
    names = ["one", "two", "three", "four", "five"]
    moved = {name: 20.0 * (k + 1) * rng.standard_normal(200) for k, name in enumerate(names)}
    for name in names:
        builder.add(
            builder.checkpoint(name, parent="one" if name == "two" else ""), builder.base_N + moved[name][:60]
        )
    builder.run("walk", [1, 2, 3])
    texts = tuple(f"second {i} ".ljust(300 + i, "y") for i in range(140))
    builder.corpus = Corpus(texts)
    with builder.store.atomic():
        builder.corpus_id = builder.store.corpora.add(builder.corpus, "other.json")
    for name in names[:-1]:
        builder.add(
            builder.checkpoint(name, parent="one" if name == "two" else ""), -700.0 + moved[name][60:]
        )
    builder.open().close()
    return builder.folder, first.sha256, builder.corpus.sha256


def section(folder: Path, name: str, capsys, *more: str) -> dict:
    assert main(["--report", "--json", "--section", name, *more, str(folder)]) == 0
    return json.loads(capsys.readouterr().out)["sections"][name]


def test_kl_of_every_corpus_side_by_side(two, capsys) -> None:
    folder, first, second = two
    made = section(folder, "corpora", capsys)
    assert [c["sha256"] for c in made["corpora"]] == [first, second]
    assert [len(c["vectors"]) for c in made["corpora"]] == [8, 4]
    assert len(made["pairs"]) == 6  # of the four models on both
    for sha256 in (first, second):
        with kltui.open(folder, over=sha256[:8]) as ws:
            m = ws.map()
            for pair in made["pairs"]:
                kl = next(k for k in pair["kl"] if k["corpus"] == sha256)
                own = m.pair(pair["a"], pair["b"])
                assert kl["kl_bits_per_byte"] == own.value and kl["se"] == own.se
    (one,) = made["agreement"]
    assert one["models"] == 4 and one["pairs"] == 6 and one["pearson_ln_kl"] > 0.8 and one["pearson_se"] > 0


def test_the_correlation_is_that_of_the_pairs_and_needs_four_models():
    from scipy.stats import pearsonr, spearmanr

    rng = np.random.default_rng(2)
    x = np.exp(rng.normal(size=(9, 9)))
    x = x + x.T
    y = 3 * x * np.exp(0.3 * rng.normal(size=(9, 9)))
    y = np.sqrt(y * y.T)
    upper = np.triu_indices(9, 1)
    found = agreement(x, y)
    assert found.pearson == pytest.approx(pearsonr(np.log(x[upper]), np.log(y[upper]))[0])
    assert found.spearman == pytest.approx(spearmanr(x[upper], y[upper])[0])
    assert found.ratio == pytest.approx(np.median(y[upper] / x[upper])) and found.n_pairs == 36
    assert math.isnan(agreement(x[:3, :3], y[:3, :3]).pearson)
    x[0, 1] = x[1, 0] = np.nan
    assert agreement(x, y).n_pairs == 35


def test_the_jackknife_s_error_is_the_spread_over_models():
    rng = np.random.default_rng(3)

    def drawn() -> tuple[np.ndarray, np.ndarray]:
        z, noise = rng.normal(size=(12, 40)), 0.6 * rng.normal(size=(2, 12, 40))
        return tuple(((p[:, None] - p[None]) ** 2).mean(axis=2) for p in z + noise)  # type: ignore[return-value]

    spread = np.std([agreement(*drawn()).pearson for _ in range(150)])
    stated = np.median([agreement(*drawn()).pearson_se for _ in range(30)])
    assert 0.6 < stated / spread < 1.7


def test_a_corpus_is_chosen_for_every_section(two, capsys) -> None:
    folder, first, second = two
    for sha256, n in ((first, 60), (second, 140)):
        assert main(["--report", "--json", "--section", "kl", "--over", sha256[:9], str(folder)]) == 0
        made = json.loads(capsys.readouterr().out)
        assert made["provenance"]["key"]["corpus"] == sha256 and f"{n} texts" in made["vectors"]
    assert main(["--report", "--over", "zz", str(folder)]) == 2
    assert "no corpus matches" in capsys.readouterr().err
    assert main(["--report", "--over", first, "--map", "m", str(folder)]) == 2
    assert main(["--over", "zz", str(folder)]) == 2
    with pytest.raises(UsageError, match="match"):
        kltui.open(folder, over="zz")


def test_one_corpus_is_said(suite) -> None:
    (made,) = report(suite, ["corpora"]).sections
    assert made.status == "missing" and "second corpus" in made.hint


def test_a_tree_with_support_and_whom_a_model_descends_from(two, capsys) -> None:
    folder = two[0]
    made = section(folder, "tree", capsys)
    assert set(made["models"]) == {"one", "two", "three", "four", "five", "walk@3"}
    assert re.findall(r"'([^']+)':", made["newick"]) and made["newick"].endswith(";")
    assert [d["parent"] for d in made["descents"] if d["name"] == "two"] == ["one"]
    for d in made["descents"]:
        assert sum(c["probability"] for c in d["candidates"]) == pytest.approx(1.0)
    inner = [made["neighbour_joining"]]
    supports = []
    while inner:
        node = inner.pop()
        inner += node.get("children", [])
        supports += [node["support"]] if node.get("support") is not None else []
    assert len(supports) == 3 and all(0 <= s <= 1 for s in supports)
    asked = section(folder, "tree", capsys, "--pair", "two", "walk@1")
    assert [d["name"] for d in asked["descents"]] == ["two"]
    assert "walk@1" in [c["name"] for c in asked["descents"][0]["candidates"]]


def test_the_export_has_the_tree(two, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("kltui.view.sections.context.PERPLEXITY", 10_000)
    assert main(["--export", str(tmp_path / "out"), str(two[0])]) == 0
    text = (tmp_path / "out" / "tree.nwk").read_text()
    assert text.count("(") == text.count(")") == 4 and text.endswith(";\n") and "'walk@3':" in text
    assert main(["--export", str(tmp_path / "out"), "--pair", "one", "nobody", str(two[0])]) == 2


def test_where_a_step_moved_to(builder: Builder, capsys) -> None:
    size = builder.corpus.text_bytes
    code = np.array([d == "code" for d in builder.corpus.domains])
    noise = 3.0 * builder.rng.standard_normal(builder.n_texts)
    after = builder.base_N + np.where(code, 0.2, 0.05) * size * math.log(2) + noise
    builder.add(builder.checkpoint("run", 1), builder.base_N)
    builder.add(builder.checkpoint("run", 2), after)
    builder.add(builder.checkpoint("other"), builder.base_N)
    builder.open().close()
    made = section(builder.folder, "directions", capsys)
    (step,) = made["steps"]
    assert (step["from"], step["to"]) == ("run@1", "run@2") and len(made["between_neighbours"]) == 1
    first, last = step["domains"]
    assert first["domain"] == "code" and first["gain_bits_per_byte"] == pytest.approx(0.2, abs=0.01)
    assert first["against_rest_bits_per_byte"] == pytest.approx(0.15, abs=0.01) and first["z"] > 5
    assert last["against_rest_bits_per_byte"] == -first["against_rest_bits_per_byte"]
    back = section(builder.folder, "directions", capsys, "--pair", "run@2", "run@1")["steps"][0]["domains"]
    assert back[-1]["gain_bits_per_byte"] == -first["gain_bits_per_byte"]


def test_texts_of_one_domain_have_no_direction(tmp_path: Path) -> None:
    builder = Builder(tmp_path / "w", domains=False)
    builder.run("run", [1, 2])
    with builder.open() as ws:
        (made,) = report(ws, ["directions"], choice=ReportChoice()).sections
    assert made.status == "missing" and "domain" in made.hint
