"""Versions of the libraries that compute embeddings, because t-SNE differs between versions of scikit-learn."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from kltui.version import __version__

LIBRARIES = ("numpy", "scikit-learn", "scipy")


def versions() -> dict[str, str]:
    """{library: version} of kltui and of the libraries that compute embeddings; "" if not installed."""
    return {"kltui": __version__, **{name: _installed(name) for name in LIBRARIES}}


def version_words() -> str:
    """`versions` in one line."""
    return ", ".join(f"{name} {number}" for name, number in versions().items() if number)


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
