"""The version of this package, without any import."""

__version__ = "0.1.0"
