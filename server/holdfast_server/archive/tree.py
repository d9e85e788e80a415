"""Creating a tree strictly below one opened directory.

No path is ever resolved as a string: each component is opened from its parent's descriptor without following links. A
directory that somebody swaps for a link or moves away makes the work fail instead of leading it elsewhere.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from holdfast_server.archive.manifest import pack, unpack
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.reading import invalid, show
from holdfast_server.archive.spool import RecordSpool
from holdfast_server.errors import FailedPrecondition, HoldfastError, Reason, ResourceExhausted, Unavailable

__all__ = ["Tree", "changed_by_others", "system_errors"]

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT_OPEN = 128
_MAX_LATE = 100_000
_IMPLICIT_MODE = 0o755
_IMPLICIT, _EXPLICIT = b"i", b"e"


class Tree:
    """The directories that an extraction makes below `root_fd`, which stays the caller's.

    Only directories made here are entered, whatever else has their name. Descriptors of those used last stay open, so
    that a tree in depth-first order costs one open per directory at any depth. No step costs more than its own
    component: a path of thousands of them that is long itself must not be hashed once for each.
    """

    def __init__(self, root_fd: int) -> None:
        self._root = root_fd
        #: By key, the directory used last at the end.
        self._open: OrderedDict[int, int] = OrderedDict()
        #: The keys of directories that exist, with the lowest bit set once a member named them.
        self._made: set[int] = set()
        self._keys = _PathKeys()
        # What `finish` needs of each directory; parents come before what they hold.
        self._spool = RecordSpool()
        self._late: dict[int, Member] = {}
        self.directories = 0

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def place(self, path: bytes, *, make: bool = True) -> tuple[int, bytes]:
        """The descriptor of a path's parent, valid until the next call, and the last component."""
        parent, _, name = path.rpartition(b"/")
        return (self._directory(parent, make=make) if parent else self._root), name

    def add_directory(self, member: Member) -> None:
        """Make a directory, 0700 until `finish`. One that was made before gets these attributes."""
        parent, name = self.place(member.path)
        key = self._keys.of(member.path)[-1]
        if key in self._made or key | 1 in self._made:
            if len(self._late) >= _MAX_LATE:
                raise invalid("too many directories come after their content", member.path)
            self._late[key] = member
        else:
            with system_errors(member.path, parent, name):
                device, inode = _make(parent, name)
            line = (_EXPLICIT, key, device, inode, _pack_xattrs(member.xattrs), pack(member))
            self._spool.add(b"%b %d %d %d %b %b" % line)
        if key | 1 not in self._made:
            self._made.discard(key)
            self._made.add(key | 1)
            self.directories += 1

    def add_link(self, target: bytes, path: bytes) -> None:
        """Give a regular file that was made here another name. Raises `changed_by_others` if it is none any more."""
        with system_errors(target):
            parent, name = self.place(target, make=False)
            # The second place() may close the first descriptor.
            source = os.dup(parent)
        try:
            with system_errors(target):
                before = os.stat(name, dir_fd=source, follow_symlinks=False)
            if not stat.S_ISREG(before.st_mode):
                raise changed_by_others(target)
            parent, new_name = self.place(path)
            with system_errors(path, parent, new_name):
                os.link(name, new_name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
                after = os.stat(new_name, dir_fd=parent, follow_symlinks=False)
            if (after.st_dev, after.st_ino) != (before.st_dev, before.st_ino):
                raise changed_by_others(path)
        finally:
            os.close(source)

    def finish(self, apply: Callable[[int, Member], None], check: Callable[[], None]) -> None:
        """Give every directory its attributes, children before parents.

        All are opened anew from the root: one that was moved away or replaced meanwhile is noticed here.
        """
        self.close()
        for line in reversed(self._spool):
            check()
            if line[:1] == _IMPLICIT:
                self._finish_implicit(line, apply, check)
                continue
            _, key, device, inode, xattrs, record = line.split(b" ", 5)
            member = unpack(record).member
            if xattrs:
                member = replace(member, xattrs=_unpack_xattrs(xattrs))
            fd = self._open.get(int(key), -1)
            if fd < 0:
                fd = self._directory(member.path, make=False)
            _check_identity(fd, int(device), int(inode), member.path)
            apply(fd, self._late.get(int(key), member))
        self.close()

    def _finish_implicit(self, line: bytes, apply: Callable[[int, Member], None], check: Callable[[], None]) -> None:
        """The same for the last directories of a path, which no member had named when they were made."""
        _, identities, record = line.split(b" ", 2)
        path = unpack(record).member.path
        parts, keys = path.split(b"/"), list(self._keys.of(path))
        for identity in reversed(identities.split(b",")):
            check()
            device, _, inode = identity.partition(b":")
            fd = self._walk(parts, keys, make=False)
            _check_identity(fd, int(device), int(inode), path)
            late = self._late.get(keys[-1])
            if late is not None:
                apply(fd, late)
            else:
                os.fchmod(fd, _IMPLICIT_MODE)
            del parts[-1], keys[-1]

    def _directory(self, path: bytes, *, make: bool) -> int:
        """Open a directory that was made here; with `make` it and its parents may have to be made first."""
        keys = self._keys.of(path)
        fd = self._open.get(keys[-1], -1)
        if fd >= 0:
            self._open.move_to_end(keys[-1])
            return fd
        return self._walk(path.split(b"/"), keys, make=make)

    def _walk(self, parts: list[bytes], keys: list[int], *, make: bool) -> int:
        """Open the directory of these components, from the innermost of its parents that is open."""
        start = len(keys)
        while start and keys[start - 1] not in self._open:
            start -= 1
        fd = self._root
        if start:
            self._open.move_to_end(keys[start - 1])
            fd = self._open[keys[start - 1]]
        made: list[bytes] = []
        for index in range(start, len(keys)):
            key, name = keys[index], parts[index]
            try:
                if make and key not in self._made and key | 1 not in self._made:
                    made.append(b"%d:%d" % _make(fd, name))
                    self._made.add(key)
                fd = self._enter(fd, name, key)
            except OSError:
                with system_errors(b"/".join(parts[: index + 1]), fd, name):
                    raise
        if made:
            member = Member(path=b"/".join(parts), kind=MemberKind.DIRECTORY)
            self._spool.add(b"%b %b %b" % (_IMPLICIT, b",".join(made), pack(member)))
        return fd

    def _enter(self, parent: int, name: bytes, key: int) -> int:
        fd = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
        self._open[key] = fd
        if len(self._open) > _KEPT_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return fd


class _PathKeys:
    """Keyed 63-bit hashes of a path and all its parents, each made from its parent's: no path can be made to collide.

    Those of the last path are kept: a tree in depth-first order costs one hash per directory.
    """

    def __init__(self) -> None:
        self._secret = os.urandom(16)
        self._path = b""
        self._keys: list[int] = []

    def of(self, path: bytes) -> list[int]:
        """One key per component, outermost first; even numbers. Valid until the next call."""
        if path == self._path:
            return self._keys
        new, old = path + b"/", self._path + b"/"
        same = _common(new, old)
        del self._keys[new.count(b"/", 0, same) :]
        rest = path[new.rfind(b"/", 0, same) + 1 :]
        key = self._keys[-1] if self._keys else 0
        for part in rest.split(b"/") if rest else ():
            digest = hashlib.blake2b(key.to_bytes(8, "little") + part, key=self._secret, digest_size=8).digest()
            key = int.from_bytes(digest, "little") & ~1
            self._keys.append(key)
        self._path = path
        return self._keys


def _common(one: bytes, other: bytes) -> int:
    """How many bytes two texts share at their beginning."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _pack_xattrs(xattrs: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Extended attributes without spaces and newlines; empty for none."""
    return b",".join(b64encode(name) + b":" + b64encode(value) for name, value in xattrs)


def _unpack_xattrs(packed: bytes) -> tuple[tuple[bytes, bytes], ...]:
    pairs = (pair.partition(b":") for pair in packed.split(b","))
    return tuple((b64decode(name), b64decode(value)) for name, _, value in pairs)


def _make(parent: int, name: bytes) -> tuple[int, int]:
    """Make a directory; gives its device and inode."""
    os.mkdir(name, 0o700, dir_fd=parent)
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    return status.st_dev, status.st_ino


def _check_identity(fd: int, device: int, inode: int, path: bytes) -> None:
    status = os.fstat(fd)
    if (status.st_dev, status.st_ino) != (device, inode):
        raise changed_by_others(path)


def changed_by_others(path: bytes) -> FailedPrecondition:
    """Somebody else works in the folder: what was made there is no longer what it was."""
    return FailedPrecondition(
        Reason.FOLDER_NOT_WRITABLE,
        f"'{show(path)}' was changed by somebody else while it was being restored",
        metadata={"path": show(path)},
    )


@contextmanager
def system_errors(path: bytes, parent: int | None = None, name: bytes = b"") -> Iterator[None]:
    """Turn OSError into the error tree. `parent` and `name` say where to look for what has a name already."""
    try:
        yield
    except FileExistsError as error:
        other = _other_name(parent, name) if parent is not None else None
        what = (
            "a name is taken already"
            if other in (None, name)
            else f"the file system takes it for '{show(other or b'')}'"
        )
        raise invalid(f"{what}; two members collide", path) from error
    except OSError as error:
        raise _translated(error, path) from error


def _translated(error: OSError, path: bytes) -> HoldfastError:
    metadata = {"path": show(path), "errno": errno.errorcode.get(error.errno or 0, str(error.errno))}
    text = f"'{show(path)}' cannot be restored: {error.strerror}"
    if error.errno == errno.ENOSPC:
        return ResourceExhausted(Reason.DISK_FULL, text, metadata=metadata)
    if error.errno == errno.EDQUOT:
        return ResourceExhausted(Reason.QUOTA_EXCEEDED, text, metadata=metadata)
    if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EFBIG, errno.EMLINK):
        return FailedPrecondition(Reason.ARCHIVE_INVALID, text, metadata=metadata)
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE):
        return changed_by_others(path)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return FailedPrecondition(Reason.FOLDER_NOT_WRITABLE, text, metadata=metadata)
    return Unavailable(Reason.STORAGE_UNREACHABLE, text, metadata=metadata)


def _other_name(parent: int, name: bytes) -> bytes | None:
    """The name under which a directory lists what it finds under `name`."""
    try:
        inode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_ino
        for listed in os.listdir(parent):
            found = os.fsencode(listed)
            if os.stat(found, dir_fd=parent, follow_symlinks=False).st_ino == inode:
                return found
    except OSError:
        pass
    return None
