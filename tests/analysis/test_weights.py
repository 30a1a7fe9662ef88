"""Weight files and weight distances: known distances, every dtype, tied weights, buffers, mismatches, attacks."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from kltui.analysis.weights import as_float64, banded_distances
from kltui.errors import KltuiError
from kltui.registry.parameters import has_own_head, model_parameters
from kltui.registry.tensors import TensorFileError, open_tensors, parameters, read_header


def distance_matrix(band_Kb: np.ndarray) -> np.ndarray:
    """K x K symmetric matrix with the band filled in, zero diagonal, NaN beyond the band."""
    K, band = band_Kb.shape
    full = np.full((K, K), np.nan)
    np.fill_diagonal(full, 0.0)
    for d in range(1, min(band, K - 1) + 1):
        k = np.arange(K - d)
        full[k, k + d] = full[k + d, k] = band_Kb[: K - d, d - 1]
    return full


NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "uint16": "BF16",
    "int64": "I64",
    "bool": "BOOL",
}


def write(path: Path, tensors: dict[str, np.ndarray], pad: int = 0) -> Path:
    """A safetensors file by hand; uint16 arrays are bfloat16. `pad` spaces shift the data's alignment."""
    header, at = {}, 0
    for name, x in tensors.items():
        header[name] = {
            "dtype": NAMES[x.dtype.name],
            "shape": list(x.shape),
            "data_offsets": [at, at + x.nbytes],
        }
        at += x.nbytes
    raw = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode() + b" " * pad
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + b"".join(x.tobytes() for x in tensors.values()))
    return path


def bf16(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def folders(tmp_path: Path, models: list[dict[str, np.ndarray]]) -> list[Path]:
    return [write(tmp_path / str(k) / "model.safetensors", m).parent for k, m in enumerate(models)]


def test_known_distance(tmp_path: Path) -> None:
    a = {"w.weight": np.zeros((2, 3), np.float32), "b.bias": np.zeros(4, np.float32)}
    b = {
        "w.weight": np.full((2, 3), 0.25, np.float32),
        "b.bias": np.array([0.5, 0.5, 0.5, 0.35355339], np.float32),
    }
    got = banded_distances([open_tensors(f) for f in folders(tmp_path, [a, b])], 1)
    assert got[0, 0] == pytest.approx(1.25, abs=1e-6)
    assert np.isnan(got[1, 0])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("band", [1, 3, 9])
def test_band_against_a_float64_loop(tmp_path: Path, dtype: str, band: int) -> None:
    rng = np.random.default_rng(0)
    models, truth = [], []
    for _ in range(5):
        layers = [rng.normal(size=s) for s in ((70_001,), (3, 5), ())]
        cast = [bf16(x) if dtype == "bfloat16" else x.astype(dtype) for x in layers]
        models.append({f"l{i}.weight": c for i, c in enumerate(cast)})
        exact = [
            (c.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else c
            for c in map(np.atleast_1d, cast)
        ]
        truth.append(np.concatenate([x.ravel().astype(np.float64) for x in exact]))
    seen: list[tuple[int, int]] = []
    opened = [open_tensors(f) for f in folders(tmp_path, models)]
    got = banded_distances(opened, band, progress=lambda done, total: seen.append((done, total)))
    for k in range(5):
        for d in range(1, band + 1):
            want = ((truth[k + d] - truth[k]) ** 2).sum() if k + d < 5 else np.nan
            assert got[k, d - 1] == pytest.approx(
                want, rel=1e-12 if dtype == "float64" else 2e-7, nan_ok=True
            )
    assert seen[-1][0] == seen[-1][1] == sum(t.data.nbytes for m in opened for t in m.values())
    full = distance_matrix(got)
    assert full[0, 1] == full[1, 0] == got[0, 0]
    assert full[2, 2] == 0
    assert np.isnan(full[0, 4]) == (band < 4)


def test_dtypes_may_differ_between_checkpoints(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=999)
    models = [{"w.weight": x.astype(np.float32)}, {"w.weight": x.astype(np.float16)}, {"w.weight": bf16(x)}]
    opened = [open_tensors(f) for f in folders(tmp_path, models)]
    values = [as_float64(o["w.weight"].data, o["w.weight"].dtype) for o in opened]
    got = banded_distances(opened, 2)
    assert got[0, 1] == pytest.approx(((values[2] - values[0]) ** 2).sum())


def test_buffers_are_no_parameters(tmp_path: Path) -> None:
    one = {
        "gpt_neox.layers.0.attention.bias": np.ones((1, 1, 4, 4), np.bool_),
        "h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32),
        "gpt_neox.layers.0.attention.masked_bias": np.full((), -1e9, np.float32),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": np.ones(8, np.float32),
        "steps": np.array([1], np.int64),
        "gpt_neox.layers.0.attention.dense.bias": np.zeros(4, np.float32),
        "encoder.attn.bias": np.zeros(4, np.float32),
    }
    two = {k: v + 1 if v.dtype != np.bool_ else ~v for k, v in one.items()}
    opened = [open_tensors(f) for f in folders(tmp_path, [one, two])]
    assert list(parameters(opened[0])) == ["encoder.attn.bias", "gpt_neox.layers.0.attention.dense.bias"]
    assert banded_distances(opened, 1)[0, 0] == pytest.approx(8.0)


@pytest.mark.parametrize("config", [{}, {"tie_word_embeddings": True}, {"tie_word_embeddings": False}])
@pytest.mark.parametrize("own", [False, True])
def test_the_files_say_what_is_tied_and_not_the_config(
    tmp_path: Path, config: dict[str, bool], own: bool
) -> None:
    e = np.random.default_rng(2).normal(size=(10, 4)).astype(np.float32)
    models = [
        {"lm_head.weight": e * k + own * k**2, "model.embed_tokens.weight": e * k, "model.n.w": e[0]}
        for k in (1, 3)
    ]
    opened = []
    for folder in folders(tmp_path, models):
        (folder / "config.json").write_text(json.dumps(config))
        opened.append(open_tensors(folder))
    found = model_parameters(opened[0])
    assert list(found.once) == ["embed_tokens.weight", *["lm_head.weight"] * own, "n.w"]
    assert found.tied == ({} if own else {"lm_head.weight": "embed_tokens.weight"})
    assert has_own_head(opened[0]) is own
    truth = sum(
        np.square(models[1][n].astype(float) - models[0][n]).sum()
        for n in ("model.embed_tokens.weight", *["lm_head.weight"] * own)
    )
    assert banded_distances(opened, 1)[0, 0] == pytest.approx(truth, rel=2e-7)


def test_a_head_counts_where_either_of_two_has_one_of_its_own(tmp_path: Path) -> None:
    """Files without a head, with the embedding once more, and with another one, in one run: each pair by itself."""
    rng = np.random.default_rng(8)
    e = rng.normal(size=(4, 10, 4)).astype(np.float32)
    heads = [None, e[1], e[2] + 1, None]
    models = [
        {
            "transformer.wte.weight": w,
            "transformer.h.0.w": w[0],
            **({"lm_head.weight": h} if h is not None else {}),
        }
        for w, h in zip(e, heads, strict=True)
    ]
    got = banded_distances([open_tensors(f) for f in folders(tmp_path, models)], 3)
    for k in range(4):
        for j in range(k + 1, 4):
            both = [(e[k], e[j]), (e[k][0], e[j][0])]
            if heads[k] is heads[2] or heads[j] is heads[2]:
                both.append((e[k] if heads[k] is None else heads[k], e[j] if heads[j] is None else heads[j]))
            truth = sum(np.square(b.astype(float) - a).sum() for a, b in both)
            assert got[k, j - k - 1] == pytest.approx(truth, rel=2e-7), (k, j)
    assert np.isnan(got[3]).all()


def test_names_with_the_bodys_prefix_and_without_it_agree(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    bare = {"decoder.embed_tokens.weight": x, "decoder.layers.0.fc.weight": x, "lm_head.weight": x + 1}
    whole = {(n if n.startswith("lm") else f"model.{n}"): t + 2 for n, t in bare.items()}
    opened = [open_tensors(f) for f in folders(tmp_path, [bare, whole])]
    assert banded_distances(opened, 1)[0, 0] == 3 * 6 * 4.0


def test_sharded_equals_single(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    tensors = {f"l{i}.weight": rng.normal(size=(5, 7)).astype(np.float32) for i in range(4)}
    (single,) = folders(tmp_path, [tensors])
    sharded = tmp_path / "sharded"
    weight_map = {}
    for s in range(2):
        part = {n: x for i, (n, x) in enumerate(tensors.items()) if i % 2 == s}
        name = f"model-0000{s + 1}-of-00002.safetensors"
        write(sharded / name, part, pad=s * 3)  # the second shard's floats are not aligned
        weight_map |= dict.fromkeys(part, name)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert banded_distances([open_tensors(single), open_tensors(sharded)], 1)[0, 0] == 0.0


def test_every_tensor_of_a_shard_counts_and_none_lies_in_two(tmp_path: Path) -> None:
    """As transformers reads them: the index says which files, not which tensors."""
    x = np.ones((2, 2), np.float32)
    for name, tensors in (("a", {"l.a.weight": x, "l.b.weight": x}), ("b", {"l.c.weight": x})):
        write(tmp_path / f"{name}.safetensors", tensors)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {"l.a.weight": "a.safetensors", "l.c.weight": "b.safetensors"}})
    )
    assert sorted(open_tensors(tmp_path)) == ["l.a.weight", "l.b.weight", "l.c.weight"]
    write(tmp_path / "b.safetensors", {"l.c.weight": x, "l.a.weight": x + 1})
    with pytest.raises(TensorFileError, match=r"l\.a\.weight is in two of its files"):
        open_tensors(tmp_path)


def test_mismatches_name_both_checkpoints(tmp_path: Path) -> None:
    x = np.zeros(3, np.float32)
    opened = [open_tensors(f) for f in folders(tmp_path, [{"a.weight": x}, {"a.weight": x, "b.weight": x}])]
    with pytest.raises(KltuiError, match=r"new has b\.weight, old does not"):
        banded_distances(opened, 1, labels=["old", "new"])
    shaped = [open_tensors(f) for f in folders(tmp_path / "s", [{"a.weight": x}, {"a.weight": x[:2]}])]
    with pytest.raises(KltuiError, match=r"a.weight is \[3\] in old and \[2\] in new"):
        banded_distances(shaped, 1, labels=["old", "new"])
    (empty,) = folders(tmp_path / "e", [{"n": np.zeros(3, np.int64)}])
    with pytest.raises(KltuiError, match="no parameters"):
        banded_distances([open_tensors(empty)], 1)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    (folder,) = folders(tmp_path, [{"w.weight": np.zeros(3, np.int64)}])
    with pytest.raises(TensorFileError, match="stored as I64"):
        parameters(open_tensors(folder))


def test_a_pointer_in_place_of_weights_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n")
    with pytest.raises(TensorFileError, match="is a Git LFS pointer: its content has not been downloaded"):
        read_header(path)


def test_our_files_are_what_safetensors_reads(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    x = np.random.default_rng(4).normal(size=(6, 2)).astype(np.float32)
    path = write(tmp_path / "model.safetensors", {"x.weight": x})
    np.testing.assert_array_equal(load_file(path)["x.weight"], x)
    (tmp_path / "b").mkdir()
    save_file({"x.weight": x}, tmp_path / "b" / "model.safetensors")
    np.testing.assert_array_equal(
        as_float64(open_tensors(tmp_path / "b")["x.weight"].data, "F32").reshape(6, 2), x
    )


def header(entries: object, data: bytes = b"") -> bytes:
    raw = json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw + data


F = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}

ATTACKS = {
    "empty": b"",
    "short": b"\x01\x02",
    "header beyond the file": struct.pack("<Q", 1 << 20) + b"{}",
    "header of exabytes": struct.pack("<Q", (1 << 63) - 1) + b"{}",
    "no json": struct.pack("<Q", 4) + b"\xff\xfe\x00\x00",
    "no object": header([1, 2]),
    "deep": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "twice": struct.pack("<Q", 13) + b'{"a":1,"a":2}',
    "no dtype": header({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"0000"),
    "unknown dtype": header({"a": F | {"dtype": "F31"}}, b"0000"),
    "dtype is a list": header({"a": F | {"dtype": ["F32"]}}, b"0000"),
    "negative shape": header({"a": F | {"shape": [-1]}}, b"0000"),
    "shape of text": header({"a": F | {"shape": ["1"]}}, b"0000"),
    "boolean shape": header({"a": F | {"shape": [True]}}, b"0000"),
    "shape that overflows": header({"a": F | {"shape": [1 << 62, 1 << 62]}}, b"0000"),
    "offsets backwards": header({"a": F | {"data_offsets": [4, 0]}}, b"0000"),
    "offsets beyond": header({"a": F | {"data_offsets": [0, 400]}}, b"0000"),
    "offsets of three": header({"a": F | {"data_offsets": [0, 2, 4]}}, b"0000"),
    "size and shape differ": header({"a": F | {"shape": [2]}}, b"0000"),
    "overlap": header({"a": F, "b": F}, b"0000"),
    "hole": header({"a": F | {"data_offsets": [4, 8]}}, b"00000000"),
    "trailing bytes": header({"a": F}, b"00000000"),
    "truncated": header({"a": F}, b"00"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_malformed_files_are_refused_by_name(tmp_path: Path, attack: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(ATTACKS[attack])
    with pytest.raises(TensorFileError, match=r"model\.safetensors"):
        open_tensors(tmp_path)


def test_an_empty_model_is_well_formed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(header({}))
    assert read_header(path)[0] == {}


@pytest.mark.parametrize(
    ("index", "what"),
    [
        ("{", "not an index"),
        ('{"weight_map": [1]}', "not an index"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "outside"),
        ('{"weight_map": {"a": "x.safetensors"}}', "missing"),
        ('{"weight_map": {"nope": "here.safetensors"}}', "does not contain it"),
    ],
)
def test_malformed_indices(tmp_path: Path, index: str, what: str) -> None:
    write(tmp_path / "here.safetensors", {"a": np.zeros(1, np.float32)})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(TensorFileError, match=what):
        open_tensors(tmp_path)


def test_pickled_weights_only_when_allowed(tmp_path: Path) -> None:
    import torch

    e = torch.arange(12, dtype=torch.bfloat16).reshape(3, 4)
    tied = {"lm_head.weight": e, "model.embed_tokens.weight": e, "n": torch.tensor([1])}
    for old in (False, True):
        folder = tmp_path / str(old)
        folder.mkdir()
        torch.save(tied, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not old)
        with pytest.raises(TensorFileError, match="a pickle"):
            open_tensors(folder)
        found = open_tensors(folder, allow_bin=True)
        assert sorted(found) == ["model.embed_tokens.weight", "n"]
        t = found["model.embed_tokens.weight"]
        np.testing.assert_array_equal(as_float64(t.data, t.dtype), np.arange(12.0))


def test_hostile_pickle_is_not_run(tmp_path: Path) -> None:
    import torch

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "ran"),)

    torch.save({"w": Bomb()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(TensorFileError, match="tensors only"):
        open_tensors(tmp_path, allow_bin=True)
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(TensorFileError, match="contains no weights"):
        open_tensors(tmp_path)
