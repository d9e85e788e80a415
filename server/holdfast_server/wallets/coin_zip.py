"""A ZIP of coin files, as exports are handed around: read with limits, written byte for byte the same each time."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable, Iterator

__all__ = ["MAGICS", "MAX_MEMBERS", "members", "write"]

MAGICS = (b"PK\x03\x04", b"PK\x05\x06")

#: More members than this are no export.
MAX_MEMBERS = 10_000

_DIRECTORY_ENTRY = b"PK\x01\x02"
_LOCAL_HEADER = 30
_DESCRIPTOR = 24  # the most that may follow a member's content
_ENCRYPTED = 0x41  # classic and strong encryption
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})

# What members may expand to altogether: coins hardly compress.
_MAX_BYTES = 64 << 20
_MAX_RATIO = 100
_FREE_BYTES = 1 << 20

_TIME = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_MODE = 0o600


class _Refused(ValueError):
    """A limit of ours, not the library's word on damaged bytes."""


def members(content: bytes) -> Iterator[bytes | None]:
    """The files in it, one after another; None for an encrypted one. Folders are left out.

    Raises ValueError when it is damaged, has bytes that belong to no member, where a removed coin may still lie, or
    goes beyond the limits: members, bytes, bytes per compressed byte, or a compression other than deflate.
    """
    # Each entry of a directory starts with these bytes, so that what counts here bounds what the library makes of it.
    if content.count(_DIRECTORY_ENTRY) > MAX_MEMBERS:
        raise _Refused(f"more than {MAX_MEMBERS} members")
    left = min(_MAX_BYTES, _FREE_BYTES + _MAX_RATIO * len(content))
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _require_no_gaps(content, archive)
            for info in archive.infolist():
                if info.is_dir():
                    continue
                if info.flag_bits & _ENCRYPTED:
                    yield None
                    continue
                if info.compress_type not in _METHODS:
                    raise _Refused(f"a member of compression {info.compress_type}, which is not read")
                with archive.open(info) as member:
                    data = member.read(left + 1)
                left -= len(data)
                if left < 0:
                    raise _Refused("members that expand to more than coins do")
                if len(data) != info.file_size:
                    raise _Refused("a member of another length than it says")
                yield data
    except _Refused:
        raise
    except Exception as error:  # noqa: BLE001  what the library raises for damaged bytes is listed nowhere
        raise ValueError(f"no whole ZIP: {type(error).__name__}") from None


def _require_no_gaps(content: bytes, archive: zipfile.ZipFile) -> None:
    at = 0
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        _require_close(at, info.header_offset)
        name_size, extra_size = struct.unpack_from("<HH", content, info.header_offset + 26)
        at = info.header_offset + _LOCAL_HEADER + name_size + extra_size + info.compress_size
    _require_close(at, archive.start_dir)


def _require_close(end: int, start: int) -> None:
    if not 0 <= start - end <= _DESCRIPTOR:
        raise _Refused("bytes that belong to no member, or to two")


def write(files: Iterable[tuple[str, bytes]]) -> bytes:
    """A ZIP of these names and contents, in their order: stored, of a fixed time, mode 0600."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files:
            info = zipfile.ZipInfo(name, _TIME)
            info.create_system = _UNIX
            info.external_attr = _MODE << 16
            archive.writestr(info, content)
    return target.getvalue()
