"""A fingerprint follows what can change a log-likelihood, and nothing else."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from model_folders import make_model, make_sharded

from kltui.errors import KltuiError
from kltui.registry.digest import fingerprint, sha256_file, weight_files_digest
from kltui.registry.layout import weight_names


def test_it_is_the_documented_hash(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    lines = ""
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        data = (folder / name).read_bytes()
        lines += f"{name}\0{len(data)}\0{hashlib.sha256(data).hexdigest()}\n"
    assert fingerprint(folder) == hashlib.sha256(b"kltui fingerprint 1\n" + lines.encode()).hexdigest()


def test_copies_agree_and_every_relevant_byte_counts(tmp_path: Path) -> None:
    first = fingerprint(make_model(tmp_path / "a"))
    copy = make_model(tmp_path / "elsewhere")
    (copy / "README.md").write_text("new")
    (copy / "optimizer.pt").write_bytes(b"x")
    (copy / "pytorch_model.bin").write_bytes(b"not loaded beside safetensors")
    assert fingerprint(copy) == first
    for name, content in [
        ("config.json", '{"x": 1}'),
        ("tokenizer.json", "[]"),
        ("model.safetensors", "WEIGHTS"),
    ]:
        changed = make_model(tmp_path / name)
        (changed / name).write_text(content)
        assert fingerprint(changed) != first
    (copy / "vocab.json").write_text("{}")
    assert fingerprint(copy) != first


def test_a_rewritten_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one")
    first = sha256_file(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert sha256_file(path) == hashlib.sha256(b"two").hexdigest() != first


def test_shards_come_from_the_index(tmp_path: Path) -> None:
    folder = make_sharded(tmp_path / "s", {"model-1.safetensors": b"1", "model-2.safetensors": b"2"})
    (folder / "stray.safetensors").write_bytes(b"x")
    assert weight_names(folder) == [
        "model-1.safetensors",
        "model-2.safetensors",
        "model.safetensors.index.json",
    ]
    before = fingerprint(folder)
    (folder / "model-2.safetensors").write_bytes(b"longer")
    assert fingerprint(folder) != before


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a\\b", "", ".hidden", 7])
def test_an_index_names_only_files_of_its_folder(tmp_path: Path, name: object) -> None:
    folder = make_sharded(tmp_path / "s", {})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"t": name}}))
    with pytest.raises(KltuiError, match="not a file of its folder"):
        fingerprint(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": []}}', '{"weight_map": {}}']
)
def test_a_damaged_index_is_an_error(tmp_path: Path, text: str) -> None:
    folder = make_sharded(tmp_path / "s", {})
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(KltuiError, match="weight index"):
        weight_names(folder)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(KltuiError, match=r"1 of 2 weight files are missing .*model-2.safetensors"):
        fingerprint(
            make_sharded(
                tmp_path / "s", {"model-1.safetensors": b"1"}, ["model-1.safetensors", "model-2.safetensors"]
            )
        )
    with pytest.raises(KltuiError, match="No weights"):
        (tmp_path / "empty").mkdir()
        fingerprint(tmp_path / "empty")
    with pytest.raises(KltuiError, match="cannot be read"):
        fingerprint(tmp_path / "nowhere")


def test_importing_the_registry_and_corpus_imports_nothing_heavy() -> None:
    code = (
        "import sys, kltui.registry, kltui.corpus\n"
        "print([m for m in ('torch', 'transformers', 'huggingface_hub', 'httpx2', 'textual') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_digest_of_the_weight_files_alone_tells_equal_weights(tmp_path: Path) -> None:
    """Whatever lies beside them and whatever they are called; a link to a blob is taken at its name."""
    one, other = make_model(tmp_path / "a"), make_model(tmp_path / "b")
    (other / "config.json").write_text('{"transformers_version": "9"}')
    assert fingerprint(one) != fingerprint(other)
    digest = weight_files_digest(one)
    assert digest == weight_files_digest(other) != ""
    blob = tmp_path / hashlib.sha256((other / "model.safetensors").read_bytes()).hexdigest()
    (other / "model.safetensors").rename(blob)
    (other / "model.safetensors").symlink_to(blob)
    assert weight_files_digest(other) == digest
    (one / "model.safetensors").write_bytes(b"other weights")
    assert weight_files_digest(one) != digest
    (one / "model.safetensors").unlink()
    assert weight_files_digest(one) == ""
