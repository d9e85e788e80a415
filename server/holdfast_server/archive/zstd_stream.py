"""A strict reader of zstd files with one or more frames (RFC 8878).

The frames' structure is walked here, block by block, so that it is known before a call how much it can unpack (a block
at most 128 KiB), and where a frame ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NoReturn

from zstandard import ZstdDecompressor, ZstdError

from holdfast_server.archive.reading import BLOCK, Budget, Source, damage, invalid
from holdfast_server.archive.seek_table import TABLE_FRAME, TABLE_MAGIC, FrameList

__all__ = ["zstd_blocks"]

_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"  # after a byte from 0x50 to 0x5f
_CHUNK = 256 << 10

_SINGLE_SEGMENT, _UNKNOWN_FLAGS, _CHECKSUM = 0x20, 0x18, 0x04
_DICTIONARY_SIZES = (0, 1, 2, 4)
_CONTENT_SIZES = (0, 2, 4, 8)

_MAX_BLOCK = 128 << 10
_AT_ONCE = BLOCK // _MAX_BLOCK
_RLE, _RESERVED = 1, 3


def zstd_blocks(source: Source, budget: Budget, check: Callable[[], None], max_window: int) -> Iterator[bytes]:
    """What a zstd file unpacks to, in blocks of at most BLOCK bytes.

    Sizes and checksums that the frames state are checked before a frame's end is passed. Skippable frames are passed
    over, but a seek table at the file's end must be the frames' own. Refused: dictionaries, and frames that need more
    than `max_window` bytes of what came before.
    """
    return _Zstd(source, budget, check, max_window).frames()


class _Forward:
    """A source read once from its beginning. `at` is the offset of the next byte."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._chunk = b""
        self._start = 0
        self.at = 0

    @property
    def left(self) -> int:
        return self._source.size - self.at

    def take(self, size: int) -> bytes:
        """Exactly the next `size` bytes. Raises DataLoss when the file ends before."""
        if size > self.left:
            raise damage("the zstd file is cut off", offset=self._source.size)
        parts = []
        while size:
            offset = self.at - self._start
            part = self._chunk[offset : offset + size]
            if not part:
                self._start = self.at
                self._chunk = self._source.read(self.at, min(_CHUNK, self.left))
                continue
            parts.append(part)
            self.at += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip(self, size: int) -> None:
        if size > self.left:
            raise damage("the zstd file is cut off", offset=self._source.size)
        self.at += size
        if self.at > self._start + len(self._chunk):
            self._start, self._chunk = self.at, b""


class _Zstd:
    def __init__(self, source: Source, budget: Budget, check: Callable[[], None], max_window: int) -> None:
        self._file = _Forward(source)
        self._budget = budget
        self._check = check
        self._max_window = max_window
        self._decompressor = ZstdDecompressor(max_window_size=max_window)
        self._list = FrameList()

    def frames(self) -> Iterator[bytes]:
        file = self._file
        while file.left or not file.at:
            self._check()
            start = file.at
            magic = file.take(min(4, file.left))
            size = 0
            if magic == _MAGIC:
                for block in self._frame(start):
                    size += len(block)
                    yield block
            elif len(magic) == 4 and magic[0] & 0xF0 == 0x50 and magic[1:] == _SKIPPABLE:
                self._skippable(magic, start)
            else:
                _refuse(magic, start)
            self._list.add(file.at - start, size)

    def _frame(self, start: int) -> Iterator[bytes]:
        """The content of the frame whose magic was read."""
        file = self._file
        header, stated, has_checksum = self._header(start)
        unpack = self._decompressor.decompressobj(write_size=BLOCK)
        unpack.decompress(_MAGIC + header)
        produced, last = 0, False
        while not last:
            self._check()
            at = file.at
            data, last = self._blocks()
            if last and has_checksum:
                data += file.take(4)
            try:
                block = unpack.decompress(data)
            except ZstdError as error:
                raise damage(f"the compressed bytes are broken ({error})", offset=at) from error
            produced += len(block)
            self._budget.produced(len(block))
            if block:
                yield block
        if not unpack.eof or unpack.unused_data:
            raise damage("a zstd frame does not end with its last block", offset=start)
        if stated not in (None, produced):
            raise damage("the length of a zstd frame does not match", offset=start)

    def _blocks(self) -> tuple[bytes, bool]:
        """As many of a frame's next blocks as unpack to at most BLOCK bytes, and whether the last is among them."""
        file, last = self._file, False
        parts: list[bytes] = []
        while len(parts) < 2 * _AT_ONCE and not last:
            at = file.at
            head = file.take(3)
            value = int.from_bytes(head, "little")
            last, kind, size = bool(value & 1), value >> 1 & 3, value >> 3
            if kind == _RESERVED or size > _MAX_BLOCK:
                raise damage("the compressed bytes are broken (no such block)", offset=at)
            parts += (head, file.take(1 if kind == _RLE else size))
        return b"".join(parts), last

    def _header(self, start: int) -> tuple[bytes, int | None, bool]:
        """A frame's header behind its magic, the content's size if it is stated, and whether a checksum follows."""
        file = self._file
        head = file.take(1)
        flags = head[0]
        if flags & _UNKNOWN_FLAGS:
            raise invalid("a zstd frame has unknown flags", offset=start)
        single = bool(flags & _SINGLE_SEGMENT)
        window = 0
        if not single:
            head += file.take(1)
            base = 1 << 10 + (head[1] >> 3)
            window = base + (base >> 3) * (head[1] & 7)
        dictionary = file.take(_DICTIONARY_SIZES[flags & 3])
        if any(dictionary):
            number = int.from_bytes(dictionary, "little")
            raise invalid(f"a zstd frame needs dictionary {number}, and none can be given", offset=start)
        length = _CONTENT_SIZES[flags >> 6] or single
        content = file.take(length)
        stated = int.from_bytes(content, "little") + (256 if length == 2 else 0) if length else None
        if stated is not None and single:
            window = stated
        if window > self._max_window:
            what = f"a zstd frame needs a window of {window} bytes, more than the {self._max_window} allowed"
            raise invalid(what, offset=start)
        return head + dictionary + content, stated, bool(flags & _CHECKSUM)

    def _skippable(self, magic: bytes, start: int) -> None:
        file = self._file
        size = int.from_bytes(file.take(4), "little")
        if size != file.left:
            file.skip(size)
            return
        # The file's last frame. Whatever looks like a seek table has to be one.
        tail = b""

        def take(count: int) -> bytes:
            nonlocal tail
            self._check()
            tail = file.take(count)
            return tail

        agrees = self._list.agrees(size, take)
        if (magic == TABLE_FRAME or tail.endswith(TABLE_MAGIC)) and not (agrees and magic == TABLE_FRAME):
            raise invalid("the seek table does not fit the frames", offset=start)


def _refuse(magic: bytes, at: int) -> NoReturn:
    if at == 0 and not (magic and _MAGIC.startswith(magic)):
        raise invalid("it is no zstd file", offset=at)
    if _MAGIC.startswith(magic) or (magic[0] & 0xF0 == 0x50 and _SKIPPABLE.startswith(magic[1:])):
        raise damage("the zstd file is cut off", offset=at)
    raise invalid("bytes follow the zstd frames that belong to nothing", offset=at)
