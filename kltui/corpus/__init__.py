"""The texts of a corpus: reading, cutting, sampling, hashing."""

from kltui.corpus.chunk import chunk_document, cut_document
from kltui.corpus.corpus import Corpus
from kltui.corpus.load import load_corpus

__all__ = ["Corpus", "chunk_document", "cut_document", "load_corpus"]
