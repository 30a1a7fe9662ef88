"""A safetensors file, a weight index and a config: what kltui opens, the safetensors library opens too, and equally."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random

import numpy as np
import scratch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from kltui.registry import layout, tensors
from kltui.registry.discover import discover
from kltui.registry.parameters import model_parameters

WORDS = (
    b'"dtype":"', b'"F32"', b'"BF16"', b'"F4"', b'"F8_E8M0"', b'"C64"', b'"BOOL"', b'"shape":[', b'"data_offsets":[', b"[0,0]",
    b'"__metadata__":{', b'"weight_map":{', b'"model_type":"', b'"tie_word_embeddings":', b'"text_config":{', b'"transformers_weights":"',
    b'"auto_map":{', b'"../../x"', b'"model-00001-of-00002.safetensors"', b"18446744073709551616", b"9223372036854775807", b"-1", b"1e3",
    b"true", b"null", b"\\u0000", b"{}", b"[]", b'"quantization_config":{', b'"_name_or_path":"', b'"a.weight"', b'"lm_head.weight"',
    b'"wte.weight"',
)  # fmt: skip
SHARD = "model-00001-of-00002.safetensors"
FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", SHARD)
SMALL = save({"a.weight": np.arange(4, dtype=np.float32), "b": np.zeros((1, 2), np.int8)})


def one_input(data: bytes) -> None:
    """Reads it as a weight file, and where it looks like JSON as an index and as a config."""
    _folder({"config.json": b"{}", "model.safetensors": data})
    found = scratch.answer(lambda: tensors.open_tensors(scratch.FOLDER))
    if found is not None:
        scratch.answer(lambda: model_parameters(found))
        _check_against_library(found)
    if data.lstrip()[:1] in (b"{", b"["):
        _folder({"config.json": b"{}", "model.safetensors.index.json": data, SHARD: SMALL})
        _as_folder()
        _folder({"config.json": data, "model.safetensors": SMALL})
        _as_folder()


def _as_folder() -> None:
    """Everything that is asked of a model folder before it is loaded."""
    scratch.answer(lambda: layout.weight_names(scratch.FOLDER))
    scratch.answer(lambda: discover(scratch.FOLDER))
    scratch.answer(lambda: tensors.open_tensors(scratch.FOLDER))
    assert isinstance(layout.model_type(scratch.FOLDER), str)


def _folder(files: dict[str, bytes]) -> None:
    """Makes the scratch folder hold these files of a model and no others."""
    for name in FILES:
        (scratch.FOLDER / name).unlink(missing_ok=True)
    for name, data in files.items():
        scratch.put(name, data)


def _check_against_library(found: dict[str, tensors.TensorFile]) -> None:
    path = str(scratch.FOLDER / "model.safetensors")
    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            slices = {n: (file.get_slice(n).get_dtype(), tuple(file.get_slice(n).get_shape())) for n in names}
    except SafetensorError as error:
        raise AssertionError(f"opened what the library refuses: {error}") from error
    assert names == set(found), f"{sorted(found)} for {sorted(names)}"
    assert {n: (t.dtype, t.shape) for n, t in found.items()} == slices


def mutate(data: bytes, random: Random, change: Callable[[bytes, int], bytes]) -> bytes:
    """The same file with its JSON changed and the stated length of it right again."""
    if data[:1] == b"{":
        return _other_json(data, random, change)
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    if random.random() < 0.2:
        return data[: 8 + length] + change(body, len(body) + 16)
    header = _other_json(header, random, change)
    return len(header).to_bytes(8, "little") + header + body


def _other_json(text: bytes, random: Random, change: Callable[[bytes, int], bytes]) -> bytes:
    """JSON with one value replaced, moved or removed; where it is none, other bytes."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    if not isinstance(whole, dict) or random.random() < 0.3:
        return change(text, len(text) + 32)
    node = whole
    while True:
        below = [v for v in node.values() if isinstance(v, dict) and v]
        if not below or random.random() < 0.4:
            break
        node = random.choice(below)
    key = random.choice(list(node)) if node else "a"
    kind = random.randrange(4)
    if kind == 0:
        node.pop(key, None)
    elif kind == 1 and node:
        node[random.choice(("b", "lm_head.weight", "wte.weight", "", "\ud800", "a.weight"))] = node[key]
    elif kind == 2 and isinstance(node.get(key), list):
        node[key] = [
            random.choice((0, 1, 2, 4, 8, -1, 2**63, 2**70, 0.5, "1", None))
            for _ in range(random.randrange(4))
        ]
    else:
        node[key] = random.choice(_VALUES)
    return json.dumps(whole).encode()


_VALUES = (
    "F32",
    "F4",
    "I64",
    "BOOL",
    "x",
    "",
    SHARD,
    "../a",
    None,
    True,
    0,
    2**70,
    1.5,
    [],
    [0, 16],
    [2, 2],
    {},
    {"a": {}},
    "\ud800",
)


def seeds() -> dict[str, bytes]:
    """Small weight files of every sort, indices and configs, and broken ones."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    header = json.dumps({"a": {"dtype": "F4", "shape": [2, 3], "data_offsets": [0, 3]}}).encode()
    config = {
        "model_type": "gpt_neox",
        "tie_word_embeddings": True,
        "text_config": {"tie_word_embeddings": False},
    }
    index = {"metadata": {"total_size": 18}, "weight_map": {"a.weight": SHARD, "b": SHARD}}
    return {
        "plain": save({"a.weight": x, "b.bias": x[0].astype(np.float16)}),
        "tied": save({"wte.weight": x, "lm_head.weight": x, "h.attn.bias": np.ones((1, 1, 2, 2), np.float32)}),
        "integers": save({"a": np.arange(3), "b": np.array(True), "c": np.zeros(0, np.uint8)}, {"format": "pt"}),
        "four_bits": len(header).to_bytes(8, "little") + header + b"abc",
        "no_tensor": save({}),
        "cut": save({"a": x})[:-5],
        "long": (1 << 40).to_bytes(8, "little") + b"{}",
        "short": b"\x02\0\0",
        "config": json.dumps(config).encode(),
        "config_elsewhere": json.dumps({"model_type": "llama", "transformers_weights": "../x", "auto_map": {"AutoModel": "m.M"}}).encode(),
        "index": json.dumps(index).encode(),
        "index_outside": json.dumps({"weight_map": {"a": "../../x.safetensors"}}).encode(),
        "index_odd": json.dumps({"weight_map": {"a": ["x"], "b": None, "c": ""}}).encode(),
        "deep": b'{"a":' * 2000,
    }  # fmt: skip
