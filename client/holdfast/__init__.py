"""Client of the Holdfast backup service."""

__version__ = "0.1.0"
