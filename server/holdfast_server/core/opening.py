"""Opening the coin envelopes of a restore: in staging, before anything of it appears.

A file that the backup encrypted becomes the file that it was, under its own name, with its attributes; the envelope
goes. What the source itself held as an envelope is no business of the restore's and stays as it is.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator

from holdfast_server.archive.manifest import EntryEncryption, ProvedManifest
from holdfast_server.archive.reading import show
from holdfast_server.archive.tree import Tree, changed_by_others, system_errors
from holdfast_server.core.control import Control
from holdfast_server.errors import DataLoss, Reason
from holdfast_server.storage.entry import read_xattrs, set_xattrs
from holdfast_server.storage.tree import EntryKind, TreeEntry, walk
from holdfast_server.wallets.envelope import HEADER_SIZE, MAGIC, SUFFIX, Keyring, read_header

__all__ = ["Opening", "open_staged"]

_BLOCK = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Opening:
    """One restore's envelopes, below the directories that the extraction made.

    `opened` counts the files made of them, `growth` is how many bytes more these hold than the envelopes did: never
    above 0. `require` is asked for the room of each file before it is written, `report` is told of an envelope that
    stays as it is because its file's name is taken.

    Raises FailedPrecondition (KEY_REQUIRED, KEY_WRONG), DataLoss/CHECKSUM_MISMATCH that names the file, and what
    `require` and the system raise. What is staged is worthless then.
    """

    def __init__(
        self,
        tree: Tree,
        keyring: Keyring,
        *,
        select: Callable[[bytes], bool] | None,
        control: Control,
        require: Callable[[int], None],
        report: Callable[[bytes, str], None],
    ) -> None:
        self.opened = 0
        self.growth = 0
        self._tree = tree
        self._keyring = keyring
        self._select = select or (lambda _path: True)
        self._control = control
        self._require = require
        self._report = report
        #: Inode of an envelope with further names → where its content lies now.
        self._linked: dict[tuple[int, int], bytes] = {}

    def listed(self, manifest: ProvedManifest) -> None:
        """Open what the manifest says the backup encrypted."""
        for entry in manifest.entries():
            self._control.check()
            if entry.encryption is not None and self._select(entry.member.path):
                self._file(entry.member.path, entry.source_path, entry.encryption)

    def found(self, root_fd: int) -> None:
        """Open everything that is an envelope by its name and its first bytes, where no manifest tells."""

        def is_envelope(entry: TreeEntry) -> bool:
            return entry.kind is EntryKind.FILE and entry.name.endswith(SUFFIX) and entry.name != SUFFIX

        everything = walk(root_fd, keep=lambda _path, _is_directory: True, check=self._control.check)
        paths = [entry.path for entry in everything if isinstance(entry, TreeEntry) and is_envelope(entry)]
        for path in paths:
            self._control.check()
            parent, name = self._tree.place(path, make=False)
            with system_errors(path):
                fd = open_staged(parent, name)
                try:
                    first = os.read(fd, len(MAGIC))
                finally:
                    os.close(fd)
            if first == MAGIC:
                self._file(path, path.removesuffix(SUFFIX), None)

    def _file(self, path: bytes, wanted: bytes, stated: EntryEncryption | None) -> None:
        """Make the file of one envelope, or a further name of the file that was made of it already."""
        plain = _beside(path, wanted)
        if self._link(path, wanted):
            return
        parent, name = self._tree.place(path, make=False)
        with system_errors(path):
            fd = open_staged(parent, name)
            try:
                status = os.fstat(fd)
                header = read_header(os.pread(fd, HEADER_SIZE, 0))
                self._require(header.plain_size if header is not None else 0)
                try:
                    made = os.open(plain, _CREATE, 0o600, dir_fd=parent)
                except FileExistsError:
                    self._taken(path, wanted)
                    return
                try:
                    size = self._copy(fd, made, path, stated)
                    set_xattrs(made, read_xattrs(fd))
                    _give_attributes(made, status)
                finally:
                    os.close(made)
                os.unlink(name, dir_fd=parent)
            finally:
                os.close(fd)
        if status.st_nlink > 1:
            self._linked[status.st_dev, status.st_ino] = wanted
        self.opened += 1
        self.growth += size - status.st_size

    def _copy(self, fd: int, made: int, path: bytes, stated: EntryEncryption | None) -> int:
        sha, size = hashlib.sha256(), 0
        try:
            for block in self._keyring.open_blocks(self._blocks(fd)):
                sha.update(block)
                size += len(block)
                _write_all(made, block)
        except DataLoss as error:
            raise _damaged(path, error.metadata.get("detail", error.message)) from error
        if stated is not None and (size, sha.digest()) != (stated.size, stated.sha256):
            raise _damaged(path, "what it holds is not what the manifest says was encrypted")
        return size

    def _blocks(self, fd: int) -> Iterator[bytes]:
        while block := os.read(fd, _BLOCK):
            self._control.check()
            yield block

    def _link(self, path: bytes, wanted: bytes) -> bool:
        """Give a further name of an envelope to the file that was made of it; False when none was."""
        parent, name = self._tree.place(path, make=False)
        with system_errors(path):
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                raise changed_by_others(path)
            content = self._linked.get((status.st_dev, status.st_ino))
            if content is None:
                return False
            content_parent, content_name = self._tree.place(content, make=False)
            source = os.dup(content_parent)
            try:
                parent, _ = self._tree.place(path, make=False)
                os.link(content_name, _name(wanted), src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
                os.unlink(name, dir_fd=parent)
            except FileExistsError:
                self._taken(path, wanted)
            finally:
                os.close(source)
        return True

    def _taken(self, path: bytes, wanted: bytes) -> None:
        self._report(path, f"it stays encrypted: '{show(wanted)}' is there already")


def _name(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def _beside(path: bytes, wanted: bytes) -> bytes:
    """The name of what an envelope holds, which lay where the envelope lies now."""
    name = _name(wanted)
    if (
        wanted.rpartition(b"/")[0] != path.rpartition(b"/")[0]
        or name in (b"", b".", b"..", _name(path))
        or b"\0" in name
    ):
        raise _damaged(path, "the manifest gives its file a name that it cannot have had")
    return name


def open_staged(parent: int, name: bytes) -> int:
    """A staged file for reading, whatever its mode allows."""
    try:
        return os.open(name, _READ, dir_fd=parent)
    except PermissionError:
        # Its mode denies even its owner the reading. The folder is nobody's but ours.
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        os.chmod(name, 0o600, dir_fd=parent)
        fd = os.open(name, _READ, dir_fd=parent)
        os.fchmod(fd, stat.S_IMODE(mode))
        return fd


def _give_attributes(fd: int, wanted: os.stat_result) -> None:
    """What the extraction gave the envelope, which are the attributes of the file that was encrypted."""
    if os.geteuid() == 0:
        os.fchown(fd, wanted.st_uid, wanted.st_gid)
    os.fchmod(fd, stat.S_IMODE(wanted.st_mode))
    os.utime(fd, ns=(wanted.st_mtime_ns, wanted.st_mtime_ns))


def _damaged(path: bytes, what: str) -> DataLoss:
    shown = show(path)
    return DataLoss(
        Reason.CHECKSUM_MISMATCH,
        f"the coins in '{shown}' cannot be decrypted: {what}",
        metadata={"path": shown, "detail": what},
    )


def _write_all(fd: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(fd, rest) :]
