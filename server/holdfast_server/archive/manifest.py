"""The manifest: what an archive holds, with a SHA-256 for every file, as the archive's last member.

docs/format.md ("Archive manifest") specifies it. The document is one JSON object laid out in lines, so that a million
entries are written and read one by one: the first line ends with `"entries":[`, then one entry a line, then a line
that starts with `],` and carries the totals. Spools are kept compressed in memory (about 70 bytes an entry), because
a sealed archive must not leave names on a disk in clear.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.spool import ByteSpool
from holdfast_server.errors import DataLoss, Reason
from holdfast_server.records import frozen_record

__all__ = [
    "ENVELOPE_SUFFIX",
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "SUMS_NAME",
    "UNHASHED",
    "EntryEncryption",
    "ManifestEntry",
    "ManifestReader",
    "ManifestSpool",
    "ProvedManifest",
    "free_name",
    "is_manifest_name",
    "is_sums_name",
    "pack",
    "sums_line",
    "unpack",
]

FORMAT_NAME = "holdfast-manifest"
FORMAT_VERSION = 1
MANIFEST_NAME = b"holdfast-manifest.json"
SUMS_NAME = b"holdfast-sha256sums.txt"

#: Ends the name of a file that was encrypted on its way into the archive.
ENVELOPE_SUFFIX = b".hfcc"

#: A line longer than this is refused: PATH_MAX is no limit for nested folders, but no real path comes near it.
MAX_LINE = 8 << 20

#: Stands for the digest of a file that was not hashed.
UNHASHED = bytes(32)

_SUMS_STEM, _, _SUMS_SUFFIX = SUMS_NAME.rpartition(b".")


@frozen_record
class EntryEncryption:
    """What a file was before it went into the archive as an envelope.

    `key_id` names the key (hex), `size` and `sha256` (32 bytes) are those of the content inside. `path` is the file's
    own name, None where that is the member's without its last five bytes, `.hfcc`.
    """

    key_id: str
    size: int
    sha256: bytes
    path: bytes | None = None

    def to_json(self) -> str:
        path = "" if self.path is None else "," + _text_field("path", self.path)
        key_id = encode_basestring(self.key_id)
        return f'{{"key_id":{key_id},"size":{self.size},"sha256":"{self.sha256.hex()}"{path}}}'

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> EntryEncryption:
        """Raises KeyError, TypeError or ValueError for what `to_json` did not make."""
        key_id, size, sha256 = record["key_id"], record["size"], bytes.fromhex(record["sha256"])
        if not isinstance(key_id, str) or type(size) is not int or size < 0 or len(sha256) != 32:
            raise ValueError("its encryption is malformed")
        named = "path" in record or "path_base64" in record
        return cls(key_id, size, sha256, _get_bytes(record, "path") if named else None)


@frozen_record
class ManifestEntry:
    """One member as the manifest states it.

    `sha256` is the digest of a FILE's content (32 bytes), None for other kinds. `changed` says that the file changed
    while it was read, three times in a row, so that its content may mix two states. `encryption` is set for a file that
    was encrypted on its way into the archive, and for a hard link to one.
    """

    member: Member
    sha256: bytes | None = None
    changed: bool = False
    encryption: EntryEncryption | None = None

    @property
    def source_path(self) -> bytes:
        """The file's name in the source."""
        if self.encryption is None:
            return self.member.path
        if self.encryption.path is not None:
            return self.encryption.path
        return self.member.path[: -len(ENVELOPE_SUFFIX)]

    def to_line(self) -> bytes:
        """The entry as one line of JSON, without a line end."""
        # By hand: json.dumps of a dict costs twice as much, and this runs once for every file of a backup.
        m = self.member
        parts = [
            _text_field("path", m.path),
            f'"type":"{m.kind.value}","mode":"{m.mode:04o}","mtime":"{format_mtime(m.mtime_ns)}"',
            f'"uid":{m.uid},"gid":{m.gid}',
        ]
        if m.kind is MemberKind.FILE:
            if self.sha256 is None:
                raise ValueError("a file's entry needs its sha256")
            parts.append(f'"size":{m.size},"sha256":"{self.sha256.hex()}"')
            if m.sparse:
                parts.append('"sparse":true')
            if self.changed:
                parts.append('"changed":true')
        elif m.kind in (MemberKind.SYMLINK, MemberKind.HARDLINK):
            parts.append(_text_field("target", m.link_target))
        if self.encryption is not None:
            parts.append(f'"encryption":{self.encryption.to_json()}')
        return ("{" + ",".join(parts) + "}").encode()

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ManifestEntry:
        """Read one entry back. Raises DataLoss/CHECKSUM_MISMATCH when it does not follow the format."""
        try:
            kind = MemberKind(record["type"])
            sha256 = bytes.fromhex(record["sha256"]) if kind is MemberKind.FILE else None
            if sha256 is not None and len(sha256) != 32:
                raise ValueError("sha256 needs 64 hexadecimal digits")
            size = record["size"] if kind is MemberKind.FILE else 0
            if not isinstance(size, int) or size < 0:
                raise ValueError("size must be a whole number")
            has_target = kind in (MemberKind.SYMLINK, MemberKind.HARDLINK)
            member = Member(
                path=_get_bytes(record, "path"),
                kind=kind,
                mode=int(record["mode"], 8),
                mtime_ns=parse_mtime(record["mtime"]),
                uid=int(record["uid"]),
                gid=int(record["gid"]),
                size=size,
                link_target=_get_bytes(record, "target") if has_target else b"",
                sparse=bool(record.get("sparse", False)),
            )
            encryption = EntryEncryption.from_record(record["encryption"]) if "encryption" in record else None
            if encryption and encryption.path is None and not member.path.endswith(ENVELOPE_SUFFIX):
                raise ValueError("an encrypted file does not say its name")
        except (KeyError, TypeError, ValueError, OverflowError, binascii.Error) as error:
            raise _broken(f"an entry is malformed: {error}") from error
        return cls(member, sha256, bool(record.get("changed", False)), encryption)


class ManifestSpool:
    """Collects a manifest entry by entry, compressed in memory, and gives it out as bytes.

    Not thread-safe: one writer owns it. `size` is exact after `finish`.
    """

    def __init__(self, header: Mapping[str, Any]) -> None:
        self._spool = ByteSpool()
        self._finished = False
        self.entries = 0
        first = {"format": FORMAT_NAME, "version": FORMAT_VERSION, **header}
        self._spool.add(_dumps(first)[:-1] + b',"entries":[\n')

    @property
    def size(self) -> int:
        return self._spool.size

    def add(self, entry: ManifestEntry) -> None:
        self.add_lines([entry.to_line()])

    def add_lines(self, lines: Sequence[bytes]) -> None:
        """Entries as `ManifestEntry.to_line` gives them; at least one."""
        joined = b",\n".join(lines)
        self._spool.add(b",\n" + joined if self.entries else joined)
        self.entries += len(lines)

    def finish(self, totals: Mapping[str, Any]) -> None:
        """Close the document. `totals` must not be empty and follows the entries."""
        self._spool.add(b"\n]," + _dumps(totals)[1:] + b"\n")
        self._finished = True

    def blocks(self) -> Iterator[bytes]:
        """The finished document, block by block; may be called again."""
        if not self._finished:
            raise RuntimeError("finish() comes first")
        return self._spool.blocks()


class ManifestReader:
    """Reads a manifest from blocks of bytes: `header` first, then iterate the entries, then `totals`.

    Raises DataLoss/CHECKSUM_MISMATCH for anything that does not follow docs/format.md. `totals` is set only once the
    iteration has ended.
    """

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._lines = _lines(blocks)
        first = next(self._lines, b"")
        if not first.endswith(b'"entries":['):
            raise _broken("its first line does not open the entries")
        self.header: Mapping[str, Any] = _loads(first + b"]}")
        if self.header.get("format") != FORMAT_NAME:
            raise _broken("it does not say holdfast-manifest")
        if self.header.get("version") != FORMAT_VERSION:
            raise _broken(f"its version is {self.header.get('version')!r}, this program reads {FORMAT_VERSION}")
        self.totals: Mapping[str, Any] | None = None

    def __iter__(self) -> Iterator[ManifestEntry]:
        for line in self._lines:
            if line.startswith(b"],"):
                self.totals = _loads(b"{" + line[2:])
                if any(rest for rest in self._lines):
                    raise _broken("text follows its end")
                return
            if line:
                yield ManifestEntry.from_record(_loads(line.removesuffix(b",")))
        raise _broken("it ends before its totals")


@dataclass(frozen=True, slots=True)
class ProvedManifest:
    """The manifest of an archive that was read to its end and agreed with it. `blocks` gives its text, any number of
    times."""

    header: Mapping[str, Any]
    totals: Mapping[str, Any]
    blocks: Callable[[], Iterable[bytes]]

    def entries(self) -> Iterator[ManifestEntry]:
        """All entries, in the archive's order; may be called again."""
        return iter(ManifestReader(self.blocks()))


def pack(member: Member, sha256: bytes | None = None, encryption: EntryEncryption | None = None) -> bytes:
    """A member as a record without newlines."""
    return ManifestEntry(member, sha256 or UNHASHED, encryption=encryption).to_line()


def unpack(record: bytes) -> ManifestEntry:
    """What `pack` was given."""
    return ManifestEntry.from_record(json.loads(record))


def is_manifest_name(path: bytes) -> bool:
    """Whether the last member of an archive carries a manifest by its name (docs/format.md)."""
    stem, dot, suffix = path.partition(b".")
    base, _, number = stem.partition(b"holdfast-manifest")
    return (
        not base and dot == b"." and suffix == b"json" and (not number or (number[:1] == b"-" and number[1:].isdigit()))
    )


def is_sums_name(path: bytes) -> bool:
    """Whether a file carries the list of checksums by its name: `holdfast-sha256sums.txt`, or with -2, -3, …"""
    if not path.startswith(_SUMS_STEM):
        return False
    middle = path[len(_SUMS_STEM) :].removesuffix(b"." + _SUMS_SUFFIX)
    ends = path.endswith(b"." + _SUMS_SUFFIX)
    return ends and (not middle or (middle[:1] == b"-" and middle[1:].isdigit()))


def free_name(wanted: bytes, taken: Iterable[bytes]) -> bytes:
    """`wanted`, or `wanted` with -2, -3, … before its suffix when the root of the source has that name already."""
    used = set(taken)
    stem, dot, suffix = wanted.rpartition(b".")
    name, n = wanted, 1
    while name in used:
        n += 1
        name = stem + b"-%d" % n + dot + suffix
    return name


def sums_line(path: bytes, sha256: bytes) -> bytes:
    """One line of `sha256sum` output, line end included."""
    escaped = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    mark = b"\\" if escaped != path else b""
    return mark + sha256.hex().encode() + b"  " + escaped + b"\n"


def format_mtime(mtime_ns: int) -> str:
    """Seconds since the epoch as an exact decimal string: `1700000000.123456789`, `-0.500000000`."""
    sign = "-" if mtime_ns < 0 else ""
    seconds, nanoseconds = divmod(abs(mtime_ns), 1_000_000_000)
    return f"{sign}{seconds}.{nanoseconds:09d}"


def parse_mtime(text: str) -> int:
    """Nanoseconds since the epoch from `format_mtime`'s form. Raises ValueError for any other."""
    sign = -1 if text.startswith("-") else 1
    seconds, dot, fraction = text.removeprefix("-").partition(".")
    if not (
        dot
        and seconds.isascii()
        and seconds.isdigit()
        and len(fraction) == 9
        and fraction.isascii()
        and fraction.isdigit()
    ):
        raise ValueError(f"{text!r} is no time")
    return sign * (int(seconds) * 1_000_000_000 + int(fraction))


def _text_field(key: str, value: bytes) -> str:
    try:
        return f'"{key}":{encode_basestring(value.decode())}'
    except UnicodeDecodeError:
        return f'"{key}_base64":"{base64.b64encode(value).decode()}"'


def _get_bytes(record: Mapping[str, Any], key: str) -> bytes:
    if key in record:
        text = record[key]
        if not isinstance(text, str):
            raise ValueError(f"{key} must be text")
        return text.encode()
    return base64.b64decode(record[key + "_base64"], validate=True)


def _dumps(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()


def _loads(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _broken(f"a line is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise _broken("a line is no JSON object")
    return value


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        yield from whole
        if len(rest) > MAX_LINE:
            raise _broken("a line is too long")
    if rest:
        yield rest


def _broken(what: str) -> DataLoss:
    return DataLoss(
        Reason.CHECKSUM_MISMATCH, f"the archive's manifest cannot be trusted: {what}", metadata={"detail": what}
    )
