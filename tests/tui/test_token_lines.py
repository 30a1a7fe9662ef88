"""Tokens kept beside the store: one text's are read, and a file that is not whole is an error in words."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from kltui.errors import KltuiError
from kltui.registry.checkpoint import Checkpoint, LocalSource
from kltui.tui.widgets.token_lines import Part, TokenLine, _difference, _kept, _spans

LENGTHS = np.array([3, 0, 5, 2], np.int64)
LOGPROBS = -np.arange(10, dtype=np.float32) / 7


def side_file(folder: Path, **arrays: np.ndarray) -> Path:
    path = folder / "tokens.safetensors"
    save_file({"lengths": LENGTHS, "logprobs": LOGPROBS} | arrays, path)
    return path


def test_each_text_has_its_own(tmp_path: Path) -> None:
    path = side_file(tmp_path)
    for index, right in enumerate(np.split(LOGPROBS, np.cumsum(LENGTHS)[:-1])):
        assert np.array_equal(_kept(path, index), right)


def test_what_is_not_whole_is_said(tmp_path: Path) -> None:
    path = side_file(tmp_path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        os.truncate(path, length)
        with pytest.raises(KltuiError, match=r"tokens\.safetensors"):
            _kept(path, 0)
        path.write_bytes(whole)
    for wrong in ({"lengths": LENGTHS * 9}, {"lengths": -LENGTHS}, {"lengths": LENGTHS[:1]}):
        with pytest.raises(KltuiError, match="cannot be read"):
            _kept(side_file(tmp_path, **wrong), 2)
    save_file({"other": LOGPROBS}, path)
    with pytest.raises(KltuiError, match="KeyError"):
        _kept(path, 0)
    path.unlink()
    with pytest.raises(KltuiError, match="FileNotFoundError"):
        _kept(path, 0)


def test_tokens_are_those_that_were_scored(tmp_path: Path) -> None:
    """By the tokenizer of the run or of the entry, and with the strings of special tokens as text."""
    from tiny_models import build_tokenizer

    text = "a<|endoftext|>b the lazy dog"
    named = tmp_path / "named"
    build_tokenizer().save_pretrained(named)
    model = tmp_path / "run" / "step5"
    model.mkdir(parents=True)
    core = build_tokenizer().backend_tokenizer
    core.encode_special_tokens = True
    want = core.encode(text, add_special_tokens=False).offsets
    assert len(want) > 10
    assert list(_spans(Checkpoint("m", LocalSource(model), tokenizer=str(named)), text, len(want))) == want
    assert _spans(Checkpoint("m", LocalSource(model)), text, len(want)) == ()
    build_tokenizer().save_pretrained(model.parent)
    assert list(_spans(Checkpoint("m", LocalSource(model)), text, len(want) - 1)) == want[1:]


def test_a_first_token_that_has_no_log_p_alone_is_in_the_total_of_the_difference() -> None:
    spans = ((0, 1), (1, 2), (2, 3))
    given = Part("g", TokenLine(spans, np.array([-1, -2, -3], np.float32)), -6.0)
    alone = Part("a", TokenLine(spans[1:], np.array([-2.5, -2.5], np.float32)), -5.0)
    made = _difference(given, alone)
    assert made.line.spans == spans[1:] and made.line.logprobs.tolist() == [0.5, -0.5]
    assert made.total == -1.0
    nothing = Part("a", TokenLine((), np.zeros(0, np.float32)), 0.0)
    assert _difference(given, nothing).line.spans == ()
