"""Hostile and odd archives: each has the outcome that stands here, within little memory, and nothing outside changes.

The files lie beside the project's folder and are not part of it; the attacks that they lack are made by code.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.storage.local import remove_tree
from tests.unit.archive.attacks import ATTACKS, COLLIDING, Refused, Restored, full_overlap, quoted_overlap
from tests.unit.archive.restoring import MEMORY, Restorer
from tests.unit.archive.samples import file, forged

HOSTILE = Path(__file__).parents[4] / "shared" / "testdata" / "hostile"
MIB = 1 << 20


#: One entry for each file of the collection. Where tools differ, GNU tar, bsdtar and unzip were asked; where they agree
#: on something safe, so do we.
OUTCOMES: dict[str, Restored | Refused] = {
    "archive-traversal/borg/dotdot_path.tar": Refused("ARCHIVE_INVALID", "a name has the component '..'"),
    "archive-traversal/borg/unusual_paths.tar": Refused("ARCHIVE_INVALID", "a name is absolute"),
    "archive-traversal/google-safearchive/archive.zip": Refused("ARCHIVE_INVALID", "a name has the component '..'"),
    "archive-traversal/google-safearchive/case-insensitive.tar": Restored(1, 0, 1, 0, 0),
    "archive-traversal/google-safearchive/case-insensitive.zip": Restored(1, 0, 1, 0, 0),
    "archive-traversal/google-safearchive/specialfiles.tar": Restored(1, 1, 1, 1, 1),
    "archive-traversal/google-safearchive/specialmodes.tar": Restored(3, 1, 0, 0, 3),
    "archive-traversal/google-safearchive/specialmodes.zip": Restored(3, 1, 0, 0, 3),
    "archive-traversal/google-safearchive/symlinks.zip": Restored(0, 0, 1, 0, 0),
    "archive-traversal/google-safearchive/symlinks2.zip": Refused(
        "ARCHIVE_INVALID", "a name is taken already; two members collide"
    ),
    "archive-traversal/google-safearchive/symlinks3.zip": Refused(
        "ARCHIVE_INVALID", "the entry's file type 0o120000 does not fit its name"
    ),
    "archive-traversal/google-safearchive/traverse-slash-at-the-end.tar": Refused(
        "ARCHIVE_INVALID", "a name has the component ''"
    ),
    "archive-traversal/google-safearchive/traverse-via-links.tar": Refused(
        "ARCHIVE_INVALID", "two members have the same name"
    ),
    "archive-traversal/google-safearchive/traverse.tar": Refused("ARCHIVE_INVALID", "a name is absolute"),
    "archive-traversal/google-safearchive/winshort.tar": Restored(8, 4, 0, 0, 0),
    "archive-traversal/google-safearchive/winshort.zip": Restored(8, 4, 0, 0, 0),
    "archive-traversal/google-safearchive/xattr.tar": Restored(1, 0, 0, 0, 1),
    "archive-traversal/snyk-zip-slip/zip-slip-win.tar": Refused(
        "ARCHIVE_INVALID", "a name leads out of the folder where backslashes separate folders"
    ),
    "archive-traversal/snyk-zip-slip/zip-slip-win.zip": Refused(
        "ARCHIVE_INVALID", "a name leads out of the folder where backslashes separate folders"
    ),
    "archive-traversal/snyk-zip-slip/zip-slip.tar": Refused("ARCHIVE_INVALID", "a name has the component '..'"),
    "archive-traversal/snyk-zip-slip/zip-slip.zip": Refused("ARCHIVE_INVALID", "a name has the component '..'"),
    "tar/tar-rs/7z_long_path.tar": Restored(1, 1, 0, 0, 0),
    "tar/tar-rs/biguid_gnu.tar": Restored(1, 0, 0, 0, 0),
    "tar/tar-rs/biguid_pax.tar": Restored(1, 0, 0, 0, 0),
    "tar/tar-rs/directory.tar": Restored(1, 2, 0, 0, 0),
    "tar/tar-rs/duplicate_dirs.tar": Restored(0, 1, 0, 0, 0),
    "tar/tar-rs/empty_filename.tar": Refused("CHECKSUM_MISMATCH", "the tar archive ends without its end mark"),
    "tar/tar-rs/file_times.tar": Restored(1, 0, 0, 0, 0),
    "tar/tar-rs/link.tar": Restored(1, 0, 1, 0, 0),
    "tar/tar-rs/pax.tar": Restored(2, 0, 0, 0, 0),
    "tar/tar-rs/pax2.tar": Restored(2, 1, 1, 1, 0),
    "tar/tar-rs/pax_size.tar": Restored(1, 0, 0, 0, 0),
    "tar/tar-rs/reading_files.tar": Restored(2, 0, 0, 0, 0),
    "tar/tar-rs/simple.tar": Restored(3, 0, 0, 0, 0),
    "tar/tar-rs/simple_missing_last_header.tar": Restored(3, 0, 0, 0, 0),
    "tar/tar-rs/spaces.tar": Restored(1, 0, 0, 0, 0),
    "tar/tar-rs/sparse-1.tar": Refused("ARCHIVE_INVALID", "sparse tar members are not supported"),
    "tar/tar-rs/sparse-large.tar": Refused("ARCHIVE_INVALID", "sparse tar members are not supported"),
    "tar/tar-rs/sparse.tar": Refused("ARCHIVE_INVALID", "sparse tar members are not supported"),
    "tar/tar-rs/xattrs.tar": Restored(1, 1, 0, 0, 1),
    (
        "zip/yauzl/End of central directory record signature not found Either not a zip file or file is truncated.zip"
    ): Refused("CHECKSUM_MISMATCH", "the zip's end record is missing, the file is cut off"),
    (
        "zip/yauzl/End of central directory record signature not found Either not a zip file or file is truncated_1.zip"
    ): Refused("ARCHIVE_INVALID", "it is no zip file: it has no end record"),
    (
        "zip/yauzl/Invalid comment length Expected 1 Found 0 Are there extra bytes at the end of th"
        "e file Or is the end of central dir signature PK in the com.zip"
    ): Refused("ARCHIVE_INVALID", "the zip's comment is not as long as stated"),
    "zip/yauzl/NtfsTimestamp.zip": Restored(1, 0, 0, 0, 0),
    "zip/yauzl/absolute path C xt.zip": Refused("ARCHIVE_INVALID", "give different names"),
    "zip/yauzl/absolute path atxt.zip": Refused("ARCHIVE_INVALID", "give different names"),
    "zip/yauzl/big-compression.zip": Restored(1, 0, 0, 0, 0),
    "zip/yauzl/big-uncompressed.zip": Restored(1, 0, 0, 0, 0),
    "zip/yauzl/bogus-compression-method.zip": Refused("ARCHIVE_INVALID", "compression method 7 is not supported"),
    "zip/yauzl/compressed uncompressed size mismatch for stored file 2147483647 5.zip": Refused(
        "ARCHIVE_INVALID", "disagree on checksum or sizes"
    ),
    "zip/yauzl/cygwin-info-zip.zip": Restored(2, 0, 0, 0, 0),
    "zip/yauzl/deflate.zip": Restored(1, 0, 0, 0, 0),
    "zip/yauzl/directories.zip": Restored(1, 2, 0, 0, 0),
    "zip/yauzl/empty.zip": Restored(0, 0, 0, 0, 0),
    "zip/yauzl/everything.zip": Restored(1003, 3, 0, 0, 0),
    "zip/yauzl/extra field length exceeds extra field buffer size.zip": Refused(
        "ARCHIVE_INVALID", "an extra field is longer than the space for it"
    ),
    "zip/yauzl/file data overflows file bounds 63 2147483647 308.zip": Refused(
        "ARCHIVE_INVALID", "disagree on checksum or sizes"
    ),
    "zip/yauzl/invalid central directory file header signature 0x1014b50.zip": Refused(
        "ARCHIVE_INVALID", "the central directory has fewer entries than stated, or one is malformed"
    ),
    "zip/yauzl/invalid characters in fileName a txt.zip": Refused("ARCHIVE_INVALID", "give different names"),
    "zip/yauzl/invalid code lengths set.zip": Refused(
        "CHECKSUM_MISMATCH", "a file's compressed bytes are broken (Error -1 Invalid deflate block found)"
    ),
    "zip/yauzl/invalid local file header signature 0x3034b50.zip": Refused(
        "ARCHIVE_INVALID", "no local header lies where the directory says"
    ),
    "zip/yauzl/invalid relative path xt.zip": Refused("ARCHIVE_INVALID", "give different names"),
    "zip/yauzl/invalid zip64 end of central directory record signature.zip": Refused(
        "ARCHIVE_INVALID", "the zip64 end record is malformed"
    ),
    "zip/yauzl/linux-info-zip.zip": Restored(2, 0, 0, 0, 0),
    "zip/yauzl/multi-disk zip files are not supported found disk number 1.zip": Refused(
        "ARCHIVE_INVALID", "the zip is one of several parts"
    ),
    "zip/yauzl/not enough bytes in the stream expected 2048576 got only 1000000.zip": Refused(
        "ARCHIVE_INVALID", "disagree on checksum or sizes"
    ),
    "zip/yauzl/sloppy-filenames.zip": Refused("ARCHIVE_INVALID", "give different names"),
    "zip/yauzl/streaming.zip": Restored(2, 0, 0, 0, 0),
    "zip/yauzl/strong encryption is not supported.zip": Refused("ARCHIVE_INVALID", "disagree on flags or method"),
    "zip/yauzl/too many bytes in the stream expected 82496 got at least 98304.zip": Refused(
        "ARCHIVE_INVALID", "disagree on checksum or sizes"
    ),
    "zip/yauzl/too many length or distance symbols.zip": Refused(
        "CHECKSUM_MISMATCH", "a file's compressed bytes are broken (Error -1 Invalid deflate block found)"
    ),
    "zip/yauzl/traditional-encryption-and-compression.zip": Refused(
        "ARCHIVE_INVALID", "the entry is encrypted or uses an unknown feature"
    ),
    "zip/yauzl/traditional-encryption-and-compression_deprecated.zip": Refused(
        "ARCHIVE_INVALID", "the entry is encrypted or uses an unknown feature"
    ),
    "zip/yauzl/traditional-encryption.zip": Refused(
        "ARCHIVE_INVALID", "the entry is encrypted or uses an unknown feature"
    ),
    "zip/yauzl/traditional-encryption_deprecated.zip": Refused(
        "ARCHIVE_INVALID", "the entry is encrypted or uses an unknown feature"
    ),
    "zip/yauzl/unexpected EOF.zip": Refused("ARCHIVE_INVALID", "a zip64 field is missing"),
    "zip/yauzl/unicode-path-extra-field.zip": Refused("ARCHIVE_INVALID", "extra field 0x7075 appears twice"),
    "zip/yauzl/unicode.zip": Restored(2, 3, 0, 0, 0),
    "zip/yauzl/unix-epoch.zip": Restored(1, 0, 0, 0, 0),
    "zip/yauzl/unsupported compression method 1.zip": Refused("ARCHIVE_INVALID", "disagree on flags or method"),
    "zip/yauzl/windows-7-zip.zip": Restored(2, 0, 0, 0, 0),
    "zip/yauzl/windows-compressed-folder.zip": Restored(2, 0, 0, 0, 0),
    "zip/yauzl/wrong-entry-sizes.zip": Refused("ARCHIVE_INVALID", "the data descriptor and the directory disagree"),
    "zip/yauzl/zip64 extended information extra field does not include compressed size.zip": Refused(
        "ARCHIVE_INVALID", "the zip64 field does not hold exactly the values that need it"
    ),
    ("zip/yauzl/zip64 extended information extra field does not include relative header offset.zip"): Refused(
        "ARCHIVE_INVALID", "the zip64 field does not hold exactly the values that need it"
    ),
    "zip/yauzl/zip64 extended information extra field does not include uncompressed size.zip": Refused(
        "ARCHIVE_INVALID", "the zip64 field does not hold exactly the values that need it"
    ),
    "zip/yauzl/zip64.zip": Restored(2, 0, 0, 0, 0),
}


@pytest.fixture(scope="module")
def restorer() -> Iterator[Restorer]:
    process = Restorer()
    yield process
    process.close()


class Sandbox:
    """A folder to restore into, in the middle of things that must stay as they are."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "guard" / "deep" / "er" / "root"
        self.root.mkdir(parents=True)
        self.guard = folder / "guard"
        self.outside = self.guard / "outside"
        self.outside.mkdir()
        (self.outside / "secret").write_bytes(b"untouched")
        (self.outside / "secret").chmod(0o640)
        (self.guard / "link").symlink_to("outside/secret")
        (self.guard / "deep" / "passwd").write_bytes(b"untouched")
        (self.guard / "deep" / "er" / "evil.txt").write_bytes(b"untouched")
        self._before = self.state()

    def state(self) -> dict[str, Any]:
        """All that lies around the root, by path, and what attacks on the whole system would change."""
        found: dict[str, Any] = {"/": sorted(os.listdir("/"))}
        for path in ("/etc", "/etc/passwd", "/etc/shadow", "/tmp/evil.txt", "/tmp/moo"):
            found[path] = _state(path)
        for base, names, files in os.walk(self.guard):
            if Path(base) == self.root:
                names.clear()
                continue
            for name in (*names, *files):
                if os.path.join(base, name) != os.fspath(self.root):
                    found[os.path.join(base, name)] = _state(os.path.join(base, name))
        return found

    def check(self) -> None:
        assert self.state() == self._before

    def clear(self) -> None:
        """By our own means: a deep tree cannot be removed by its path."""
        fd = os.open(self.root.parent, os.O_RDONLY)
        remove_tree(fd, os.fsencode(self.root.name))
        os.close(fd)


def _state(path: str) -> Any:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    target = os.readlink(path) if os.path.islink(path) else None
    content = Path(path).read_bytes() if os.path.isfile(path) and status.st_size < MIB else None
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_nlink, times, target, content


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    made = Sandbox(tmp_path)
    yield made
    made.clear()


def check(answer: dict[str, Any], expected: Restored | Refused) -> None:
    assert answer["status"] == 0, answer
    assert answer["peak"] <= MEMORY
    if isinstance(expected, Refused):
        assert answer.get("reason") == expected.reason, answer
        assert expected.words in answer["message"]
        assert answer["message"].isprintable()
    else:
        assert "restored" in answer, answer
        assert Restored(*answer["restored"], len(answer["warnings"])) == expected, answer


def collection() -> list[Any]:
    if not HOSTILE.is_dir():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"{HOSTILE} is missing"))]
    return [pytest.param(p, id=p.name[:60]) for p in sorted(HOSTILE.rglob("*")) if p.suffix in (".zip", ".tar")]


@pytest.mark.parametrize("path", collection())
def test_file_of_the_collection(path: Path, restorer: Restorer, sandbox: Sandbox) -> None:
    expected = OUTCOMES[str(path.relative_to(HOSTILE))]
    answer = restorer.restore(path, path.suffix.removeprefix("."), sandbox.root)
    check(answer, expected)
    sandbox.check()


@pytest.mark.skipif(not HOSTILE.is_dir(), reason=f"{HOSTILE} is missing")
def test_the_table_has_no_other_files() -> None:
    assert {str(p.relative_to(HOSTILE)) for p in HOSTILE.rglob("*") if p.suffix in (".zip", ".tar")} == set(OUTCOMES)


def restored_tars() -> list[Any]:
    def wanted(path: Path) -> bool:
        return path.suffix == ".tar" and isinstance(OUTCOMES.get(str(path.relative_to(HOSTILE))), Restored)

    return [one for one in collection() if one.values[0] is None or wanted(one.values[0])]


@pytest.mark.parametrize("path", restored_tars())
def test_what_is_restored_of_a_tar_is_what_gnu_tar_extracts(
    path: Path, restorer: Restorer, sandbox: Sandbox, tmp_path: Path
) -> None:
    if not shutil.which("tar"):
        pytest.skip("tar is not installed")
    restorer.restore(path, "tar", sandbox.root)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    # Devices may need rights that are not there; the rest is extracted all the same.
    subprocess.run(["tar", "xf", path, "-C", theirs, "--delay-directory-restore"], capture_output=True, timeout=60)
    assert contents(sandbox.root) == contents(theirs)


def contents(root: Path) -> dict[str, Any]:
    """Names, kinds, times and contents, without special files."""
    found: dict[str, Any] = {}
    for base, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(base, name)
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                found[str(path.relative_to(root))] = os.readlink(path)
            elif stat.S_ISDIR(status.st_mode):
                found[str(path.relative_to(root))] = "directory"
            elif stat.S_ISREG(status.st_mode):
                found[str(path.relative_to(root))] = path.read_bytes(), status.st_mtime_ns
    return found


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack(attack: str, restorer: Restorer, sandbox: Sandbox, tmp_path: Path) -> None:
    format_name, make, expected, limits = ATTACKS[attack]
    archive = tmp_path / "archive"
    archive.write_bytes(make())
    check(restorer.restore(archive, format_name, sandbox.root, **limits), expected)
    sandbox.check()


def test_the_bombs_are_what_they_claim() -> None:
    """A reader that believed them would produce this much from this little."""
    data = quoted_overlap()
    assert len(data) < 20_000
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert sum(info.file_size for info in archive.infolist()) > 200_000_000
    data = full_overlap()
    assert len(data) < 62_000
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert sum(info.file_size for info in archive.infolist()) == 10_000_000_000


def test_colliding_names_all_come_with_their_own_content(restorer: Restorer, sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(forged([file(n.encode(), n.encode()) for n in COLLIDING]))
    restorer.restore(tmp_path / "archive", "zip", sandbox.root)
    assert {p.name: p.read_text() for p in sandbox.root.iterdir()} == {name: name for name in COLLIDING}


def test_the_child_notices_what_it_is_for(restorer: Restorer, sandbox: Sandbox, tmp_path: Path) -> None:
    """The limit on memory holds, and an exception that is none of ours does not pass for a refusal."""
    answer = restorer.restore(tmp_path / "missing", "zip", sandbox.root)
    assert "FileNotFoundError" in answer["failed"]
    assert answer["status"] == 1
    sandbox.check()
    (sandbox.outside / "secret").chmod(0o600)
    with pytest.raises(AssertionError):
        sandbox.check()
