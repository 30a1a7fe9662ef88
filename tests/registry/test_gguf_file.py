"""GGUF headers: read as the gguf package writes them, and every damaged one refused in words."""

from __future__ import annotations

import math
import random
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from model_folders import make_model

from kltui.errors import KltuiError, UsageError
from kltui.registry.digest import fingerprint
from kltui.registry.entry import ModelEntry, checkpoints_from_entry
from kltui.registry.gguf_entry import original_beside
from kltui.registry.gguf_file import (
    FILE_TYPES,
    TYPES,
    GGUFError,
    first_names,
    model_stem,
    part_names,
    read_model,
)
from kltui.registry.gguf_merge import merge
from kltui.registry.names import made_name


def small_gguf(
    path: Path, *, file_type: int | None = 7, kind: str = "model", parts: int = 1, **more: str
) -> Path:
    """A file of three tensors (640 numbers in Q8_0, 32 in F32 twice), in one part or two."""
    rng = np.random.default_rng(0)
    matrix = gguf.quants.quantize(
        rng.normal(size=(20, 32)).astype(np.float32), gguf.GGMLQuantizationType.Q8_0
    )
    tensors = [("token_embd.weight", matrix, gguf.GGMLQuantizationType.Q8_0)]
    tensors += [
        (f"blk.{k}.attn_norm.weight", np.ones(32, np.float32), gguf.GGMLQuantizationType.F32) for k in (0, 1)
    ]
    paths = (
        [path] if parts == 1 else [path.with_name(n) for n in part_names(f"{path.stem}-00001-of-00002.gguf")]
    )
    for no, where in enumerate(paths):
        writer = gguf.GGUFWriter(where, "llama")
        if no == 0:
            writer.add_type(kind)
            writer.add_token_list(["a", "b", "ü"])
            writer.add_uint32("llama.block_count", 2)
            if file_type is not None:
                writer.add_file_type(file_type)
            for key, value in more.items():
                writer.add_string(key.replace("_", "."), value)
        if parts > 1:
            writer.add_uint16("split.no", no)
            writer.add_uint16("split.count", parts)
            writer.add_int32("split.tensors.count", 3)
        for name, data, type_ in tensors if parts == 1 else (tensors[:2], tensors[2:])[no]:
            writer.add_tensor(name, data, raw_dtype=type_)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths[0]


def test_the_tables_are_those_of_the_package() -> None:
    theirs = {t.value: (t.name, *gguf.GGML_QUANT_SIZES[t]) for t in gguf.GGML_QUANT_SIZES}
    assert theirs == TYPES
    names = {t.value: t.name.removeprefix("MOSTLY_").removeprefix("ALL_") for t in gguf.LlamaFileType}
    assert {k: v for k, v in names.items() if k != 1024} == {k: name for k, (name, _) in FILE_TYPES.items()}
    assert {needs for _, needs in FILE_TYPES.values()} <= {name for name, _, _ in TYPES.values()}


def test_keys_tensors_and_size(tmp_path: Path) -> None:
    model = read_model(small_gguf(tmp_path / "m.gguf"), keep=("tokenizer.ggml.tokens",))
    assert model.first.architecture == "llama" and model.first.number("llama.block_count") == 2
    assert model.first.keys["tokenizer.ggml.tokens"] == ["a", "b", "ü"] and model.first.n_tokens == 3
    first = model.tensors[0]
    assert (first.name, first.shape, first.type, first.n_bytes) == (
        "token_embd.weight",
        (20, 32),
        "Q8_0",
        680,
    )
    # 20 blocks of 34 bytes and 64 float32, over 704 numbers
    assert math.isclose(model.bits_per_weight, 8 * (20 * 34 + 64 * 4) / 704)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert [t.data_offset for t in reader.tensors] == [t.start for t in model.tensors]


@pytest.mark.parametrize(
    ("file_type", "variant"),
    [(7, "gguf-q8_0"), (None, "gguf-q8_0"), (2, "gguf-q8_0"), (999, "gguf-q8_0"), (0, "gguf-f32")],
)
def test_the_variant_is_the_header_s_and_not_the_name_s(
    tmp_path: Path, file_type: int | None, variant: str
) -> None:
    """A type that the file cannot be of (2: Q4_0) gives way to that of most numbers."""
    path = small_gguf(tmp_path / "tiny-Q4_K_M.gguf", file_type=file_type)
    assert read_model(path).variant == variant
    (checkpoint,) = checkpoints_from_entry(ModelEntry(path=path))
    assert checkpoint.name == f"tiny+{variant}" and made_name(checkpoint.name) == (
        "tiny",
        None,
        variant,
        None,
    )


def test_what_follows_a_model_s_name() -> None:
    same = [
        "tiny-Q4_K_M",
        "tiny.IQ2_XXS",
        "tiny-UD-Q4_K_XL",
        "tiny-f16",
        "tiny.i1-Q5_1",
        "tiny_BF16",
        "tiny-MXFP4_MOE",
    ]
    assert {model_stem(f"{name}.gguf") for name in same} == {"tiny"}
    assert model_stem("tiny-Q8_0-00002-of-00003.gguf") == "tiny" and model_stem("Q8_0.gguf") == "Q8_0"
    listed = ["b.gguf", "a-00002-of-00002.gguf", "a-00001-of-00002.gguf", "x.bin", "B.GGUF"]
    assert first_names(listed) == ["B.GGUF", "a-00001-of-00002.gguf", "b.gguf"]


def test_every_cut_is_refused_in_words(tmp_path: Path) -> None:
    whole = small_gguf(tmp_path / "m.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for n in range(0, len(whole), 7):
        cut.write_bytes(whole[:n])
        with pytest.raises(GGUFError, match="download or create it again") as caught:
            read_model(cut)
        assert str(cut) in caught.value.message


def test_no_changed_byte_ends_otherwise_than_in_words(tmp_path: Path) -> None:
    whole = small_gguf(tmp_path / "m.gguf").read_bytes()
    header, draw = whole[:-900], random.Random(7)
    path = tmp_path / "odd.gguf"
    for _ in range(250):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 1, 4))):
            data[draw.randrange(len(header))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        path.write_bytes(data)
        try:
            model = read_model(path)
        except GGUFError as error:
            assert error.hint
        else:
            assert model.variant.startswith("gguf-") and model.bits_per_weight > 0


HUGE = struct.pack("<Q", 2**62)


@pytest.mark.parametrize(
    ("place", "data", "words"),
    [
        (0, b"GGML", "not with b'GGUF'"),
        (0, b"lmgg", "the format before GGUF"),
        (4, struct.pack("<I", 1), "version 1; 2 and 3 are read"),
        (4, struct.pack(">I", 3), "big-endian"),
        (8, HUGE, "keys and 4611686018427387904 tensors"),
        (16, HUGE, "says it has 4611686018427387904 keys"),
        (24, HUGE, "a key has 4611686018427387904 bytes"),
    ],
)
def test_counts_and_lengths_beyond_the_file(tmp_path: Path, place: int, data: bytes, words: str) -> None:
    path = small_gguf(tmp_path / "m.gguf")
    whole = bytearray(path.read_bytes())
    whole[place : place + len(data)] = data
    path.write_bytes(whole)
    with pytest.raises(GGUFError) as caught:
        read_model(path)
    assert words in caught.value.message


def entry_of(value_type: int, payload: bytes, tensors: bytes = b"", n_tensors: int = 0) -> bytes:
    """A file with one key of any type and value, and what may follow it."""
    key = struct.pack("<Q", 1) + b"k" + struct.pack("<I", value_type) + payload
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, 1) + key + tensors


def tensor_of(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return struct.pack("<Q", len(name)) + name.encode() + axes + struct.pack("<IQ", kind, offset)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (entry_of(99, b""), "unknown type 99"),
        (entry_of(8, HUGE), "value of k has 4611686018427387904 bytes"),
        (entry_of(8, struct.pack("<Q", 2) + b"\xff\xfe"), "not UTF-8"),
        (entry_of(9, struct.pack("<I", 4) + HUGE), "4611686018427387904 elements"),
        (entry_of(9, struct.pack("<I", 8) + HUGE), "4611686018427387904 elements"),
        (entry_of(9, struct.pack("<IQ", 9, 1)), "elements of the type 9"),
        (entry_of(9, struct.pack("<IQ", 8, 1) + HUGE), "a part of the value of k has"),
        (entry_of(0, b"x", tensor_of("t", (32,) * 5, 0, 0), 1), "5 axes"),
        (entry_of(0, b"x", tensor_of("t", (33,), 8, 0), 1), "shape [33], which Q8_0 cannot have"),
        (entry_of(0, b"x", tensor_of("t", (), 8, 0), 1), "shape [], which Q8_0 cannot have"),
        (entry_of(0, b"x", tensor_of("t", (2**62, 2**62), 0, 0), 1), "of 111"),
        (entry_of(0, b"x", tensor_of("t", (32,), 99, 0), 1), "unknown type 99"),
        (entry_of(0, b"x", tensor_of("t", (1,), 0, 2**40), 1), "places t at bytes"),
        (entry_of(0, b"x", tensor_of("t", (4,), 0, 0) + tensor_of("u", (4,), 0, 0), 2) + bytes(64), "u over t"),
    ],
)  # fmt: skip
def test_values_and_tensors_that_cannot_be(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(data.ljust(111, b"\0"))
    with pytest.raises(GGUFError) as caught:
        read_model(path)
    assert words in caught.value.message


def test_other_kinds_of_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    projector = small_gguf(tmp_path / "mmproj.gguf", kind="mmproj")
    with pytest.raises(KltuiError, match="of the kind mmproj, not a language model"):
        checkpoints_from_entry(ModelEntry(path=projector))
    small_gguf(tmp_path / "m-Q8_0.gguf")
    assert [c.name for c in checkpoints_from_entry(ModelEntry(path=tmp_path))] == ["m+gguf-q8_0"]
    assert "left out" in caplog.text


def test_parts(tmp_path: Path) -> None:
    first = small_gguf(tmp_path / "m.gguf", parts=2)
    second = first.with_name("m-00002-of-00002.gguf")
    whole = read_model(second)  # any part stands for all
    assert [t.name for t in whole.tensors] == [
        "token_embd.weight",
        "blk.0.attn_norm.weight",
        "blk.1.attn_norm.weight",
    ]
    assert whole.variant == "gguf-q8_0"
    merge(whole, tmp_path / "whole.gguf")
    one = gguf.GGUFReader(tmp_path / "whole.gguf")
    parts = {t.name: t.data for p in (first, second) for t in gguf.GGUFReader(p).tensors}
    assert all(np.array_equal(t.data, parts[t.name]) for t in one.tensors) and len(one.tensors) == 3
    (checkpoint,) = checkpoints_from_entry(ModelEntry(path=tmp_path, files=("m-0*",)))
    assert str(checkpoint.source) == str(first)
    before = fingerprint(first)
    second.write_bytes(second.read_bytes() + b"\0")
    assert fingerprint(first) != before
    moved = second.rename(tmp_path / "aside")
    with pytest.raises(KltuiError, match=r"m-00002-of-00002\.gguf is missing"):
        read_model(first)
    moved.rename(tmp_path / "n-00001-of-00002.gguf")
    first.rename(tmp_path / "n-00002-of-00002.gguf")
    with pytest.raises(KltuiError, match="says that it is part 2 of 2, and its name that it is part 1 of 2"):
        read_model(tmp_path / "n-00001-of-00002.gguf")


def test_a_renamed_copy_is_the_same_model(tmp_path: Path) -> None:
    path = small_gguf(tmp_path / "m.gguf")
    copy = tmp_path / "other.gguf"
    copy.write_bytes(path.read_bytes())
    assert fingerprint(path) == fingerprint(copy)


def test_the_original_beside(tmp_path: Path) -> None:
    quants = tmp_path / "quants"
    quants.mkdir()
    path = small_gguf(quants / "mine-Q8_0.gguf")
    assert original_beside(path) is None
    outer = make_model(tmp_path / "mine")
    assert original_beside(path) == outer
    only = make_model(quants / "other")
    assert original_beside(path) == only
    named = make_model(quants / "mine")
    assert original_beside(path) == named
    inside = small_gguf(outer / "x.gguf")
    assert original_beside(inside) == outer
    assert checkpoints_from_entry(ModelEntry(path=inside))[0].base == str(outer)
    # a model's folder is that model, unless files are asked for
    assert [c.quantization for c in checkpoints_from_entry(ModelEntry(path=outer))] == ["none"]
    assert [c.quantization for c in checkpoints_from_entry(ModelEntry(path=outer, files=("*.gguf",)))] == [
        "gguf-q8_0"
    ]


def test_a_folder_of_models_is_not_taken_for_the_gguf_files_inside_one_of_them(tmp_path: Path) -> None:
    (tmp_path / "mine-gguf").mkdir()
    small_gguf(tmp_path / "mine-gguf" / "mine-Q8_0.gguf")
    make_model(tmp_path / "mine")  # what the file was made from
    assert [c.quantization for c in checkpoints_from_entry(ModelEntry(path=tmp_path))] == ["gguf-q8_0"]
    make_model(tmp_path / "other" / "step5")
    with pytest.raises(KltuiError, match="neither a model nor a run, but contains some: mine, other"):
        checkpoints_from_entry(ModelEntry(path=tmp_path))
    small_gguf(tmp_path / "named-Q8_0.gguf")
    assert len(checkpoints_from_entry(ModelEntry(path=tmp_path))) == 2


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"files": ("*Q2*",)}, "no GGUF file in .* matches '\\*Q2\\*'"),
        ({"quantization": ("bnb-8bit",)}, "quantization cannot be used with GGUF files"),
        ({"revisions": ("main",)}, "revisions are given"),
    ],
)
def test_entries_that_cannot_be_meant(tmp_path: Path, entry: dict[str, tuple[str, ...]], words: str) -> None:
    small_gguf(tmp_path / "m-Q8_0.gguf")
    with pytest.raises(UsageError, match=words):
        checkpoints_from_entry(ModelEntry(path=tmp_path, **entry))  # type: ignore[arg-type]


def test_one_name_for_two_files_is_said(tmp_path: Path) -> None:
    for name in ("m-Q8_0.gguf", "m-UD-Q8_0.gguf"):
        small_gguf(tmp_path / name)
    with pytest.raises(UsageError, match="would both have the name m\\+gguf-q8_0"):
        checkpoints_from_entry(ModelEntry(path=tmp_path))


def test_headers_are_read_without_torch_or_the_package(tmp_path: Path) -> None:
    path = small_gguf(tmp_path / "m.gguf")
    code = (
        "import sys; from pathlib import Path; from kltui.registry.entry import ModelEntry, checkpoints_from_entry;"
        f"print(checkpoints_from_entry(ModelEntry(path=Path({str(path)!r})))[0].name);"
        "assert not {'torch', 'transformers', 'gguf'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "m+gguf-q8_0", done.stderr


def test_a_tensor_without_axes_is_one_number(tmp_path: Path) -> None:
    """As ggml has it: an axis that is not stated has length 1."""
    architecture = b"general.architecture"
    key = struct.pack("<Q", len(architecture)) + architecture + struct.pack("<IQ", 8, 5) + b"llama"
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + key + tensor_of("t", (), 0, 0)
    path = tmp_path / "scalar.gguf"
    path.write_bytes(head + bytes(-len(head) % 32) + struct.pack("<f", 2.0))
    (tensor,) = read_model(path).tensors
    assert (tensor.shape, tensor.n_elements, tensor.n_bytes) == ((), 1, 4)
