"""Texts: load, chunk, draw, fingerprint."""

from kltui.corpus.corpus import Corpus

__all__ = ["Corpus"]
