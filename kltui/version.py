"""The version of this kltui: here, so that any module can name it without importing the package's entry points."""

__version__ = "0.2.0"
