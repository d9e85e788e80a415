"""The formats a portable archive can have."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["ArchiveFormat"]


class ArchiveFormat(StrEnum):
    """One kind of archive file; the value is also what stands in configuration and in the catalog."""

    ZIP = "zip"
    TAR_GZ = "tar.gz"

    @property
    def suffix(self) -> str:
        """What the file's name ends with, dot included."""
        return f".{self.value}"

    @property
    def content_type(self) -> str:
        """The media type a download announces."""
        return {ArchiveFormat.ZIP: "application/zip", ArchiveFormat.TAR_GZ: "application/gzip"}[self]
