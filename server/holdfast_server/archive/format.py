"""The formats an archive can have."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["SEALED_CONTENT_TYPE", "SEALED_SUFFIX", "ArchiveFormat"]

#: What the name of an archive that is sealed with age has behind the format's own suffix.
SEALED_SUFFIX = ".age"
#: age has no registered media type.
SEALED_CONTENT_TYPE = "application/octet-stream"


class ArchiveFormat(StrEnum):
    """One kind of archive file; the value is also what stands in configuration and in the catalog."""

    ZIP = "zip"
    TAR_GZ = "tar.gz"
    TAR_ZST = "tar.zst"
    TAR = "tar"

    @property
    def suffix(self) -> str:
        """What the file's name ends with, dot included."""
        return f".{self.value}"

    @property
    def content_type(self) -> str:
        """The media type a download announces."""
        return _CONTENT_TYPES[self]

    @property
    def writable(self) -> bool:
        """Whether backups are written in it; the others are only read."""
        return self is not ArchiveFormat.TAR

    @property
    def has_hardlinks(self) -> bool:
        """Whether a further name of a file is a link in it; else each name has a copy of the content."""
        return self is not ArchiveFormat.ZIP


_CONTENT_TYPES = {
    ArchiveFormat.ZIP: "application/zip",
    ArchiveFormat.TAR_GZ: "application/gzip",
    ArchiveFormat.TAR_ZST: "application/zstd",
    ArchiveFormat.TAR: "application/x-tar",
}
