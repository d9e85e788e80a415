"""What a pass over an archive is for: the shape of its sinks, and how it says what is damaged."""

from __future__ import annotations

from collections.abc import Callable

from holdfast_server.archive.manifest import ManifestEntry
from holdfast_server.archive.member import Member
from holdfast_server.archive.reading import show
from holdfast_server.errors import DataLoss, Reason

__all__ = ["MAX_DAMAGED", "DamagedArchive", "Progress", "Sink"]

#: Called with the bytes and files read so far and the present path.
Progress = Callable[[int, int, bytes], None]

#: How many damaged paths are named.
MAX_DAMAGED = 100


class DamagedArchive(DataLoss):
    """Members that are not what the manifest says. `damaged` holds their paths, the first MAX_DAMAGED of `count`."""

    def __init__(self, first: str, damaged: list[bytes], count: int) -> None:
        metadata = {"path": show(damaged[0]), "damaged_count": str(count)}
        more = f", and {count - 1} more" if count > 1 else ""
        super().__init__(Reason.CHECKSUM_MISMATCH, f"the archive is damaged: {first}{more}", metadata=metadata)
        self.damaged = tuple(damaged)
        self.count = count


class Sink:
    """What is done with the members of a pass. The base class does nothing with them."""

    def wants(self, member: Member) -> bool:  # noqa: ARG002
        """Whether this member's content is to be read and hashed."""
        return True

    def begin(self, member: Member, expected: ManifestEntry | None) -> None:
        """A wanted member starts; `expected` is its manifest entry where that is known before its content."""

    def write(self, block: bytes) -> None:
        """A block of the content of the file that began last."""

    def end(self) -> None:
        """The member that began last is complete and equals `expected` if that was given."""

    def abort(self) -> None:
        """The pass ends by an exception."""

    def left_out(self, path: bytes, what: str) -> None:
        """Something of a member, or all of it, is of a kind that no member has; `what` says so for people."""

    def withdraw(self, path: bytes) -> None:
        """A member that was begun and ended is the manifest or the list of checksums, not content."""
