"""Chunks against the cases of SPEC section 2 and against properties that define them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kltui.corpus import chunk_document, cut_document
from kltui.corpus.chunk import kept_chunks
from kltui.errors import UsageError


@pytest.mark.parametrize(
    ("document", "all_bytes", "kept_bytes"),
    [
        ("é" * 600, [1024, 176], [1024]),
        ("日" * 400, [1023, 177], [1023]),
        ("a" * 256, [256], []),
        ("a" * 257, [257], [257]),
        ("a" * 1024, [1024], [1024]),
        ("a" * 1025, [1024, 1], [1024]),
        ("", [], []),
        ("😀" * 256 + "b" * 300, [1024, 300], [1024, 300]),
    ],
)
def test_cases_of_the_spec(document: str, all_bytes: list[int], kept_bytes: list[int]) -> None:
    assert [len(c.encode()) for c in cut_document(document)] == all_bytes
    assert [len(c.encode()) for c in chunk_document(document)] == kept_bytes
    assert "".join(cut_document(document)) == document


@settings(deadline=None)  # a busy machine may be slow
@given(st.text(max_size=300), st.integers(4, 40))
def test_chunks_join_to_the_document_and_are_as_long_as_they_can_be(document: str, max_bytes: int) -> None:
    chunks = cut_document(document, max_bytes)
    assert "".join(chunks) == document
    sizes = [len(c.encode()) for c in chunks]
    assert all(0 < size <= max_bytes for size in sizes)
    for size, following in zip(sizes, chunks[1:], strict=False):
        assert size + len(following[0].encode()) > max_bytes


@settings(deadline=None)  # a busy machine may be slow
@given(st.lists(st.text(max_size=30), max_size=12), st.integers(4, 40), st.integers(0, 3))
def test_a_document_in_pieces_is_cut_like_the_whole(
    pieces: list[str], max_bytes: int, min_bytes: int
) -> None:
    whole = chunk_document("".join(pieces), max_bytes, min_bytes)
    assert list(kept_chunks(pieces, max_bytes, min_bytes)) == whole


def test_a_lone_surrogate_counts_as_the_replacement_character() -> None:
    assert cut_document("a\ud800b") == ["a\ufffdb"]


@pytest.mark.parametrize(("max_bytes", "min_bytes"), [(3, 0), (0, 0), (-1, 0), (256, 256), (8, -1)])
def test_bounds_that_cannot_work_are_named(max_bytes: int, min_bytes: int) -> None:
    with pytest.raises(UsageError, match="_bytes = "):
        chunk_document("text", max_bytes, min_bytes)
