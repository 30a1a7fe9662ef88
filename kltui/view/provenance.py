"""Which libraries made a picture: t-SNE is another picture under another scikit-learn, PCA's axes are numpy's."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from kltui.version import __version__

LIBRARIES = ("numpy", "scikit-learn", "scipy")


def versions() -> dict[str, str]:
    """{library: version} of kltui and of what its pictures are computed with, "" for one that is not installed."""
    return {"kltui": __version__, **{name: _installed(name) for name in LIBRARIES}}


def version_words() -> str:
    """The same in one line."""
    return ", ".join(f"{name} {number}" for name, number in versions().items() if number)


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
