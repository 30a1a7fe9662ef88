"""The version, in a module that imports nothing: every package may name it. pyproject.toml states the same."""

__version__ = "0.2.0"
