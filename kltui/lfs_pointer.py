"""Recognises pointers of Git LFS: a few lines in place of a file whose content has not been downloaded."""

from __future__ import annotations

BEGIN = b"version https://git-lfs.github.com/spec/"
MAX_BYTES = 1024  # of a pointer, by its specification
WORDS = "is a Git LFS pointer: its content has not been downloaded"
HINT = "Download it: git lfs pull, in the folder of the repository."
