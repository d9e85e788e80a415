from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast_server.errors import (
    FailedPrecondition,
    HoldfastError,
    InvalidArgument,
    PermissionDenied,
    Reason,
)
from holdfast_server.repository import create_repository
from holdfast_server.storage.folder import OpenFolder, open_folder
from holdfast_server.storage.local_objects import LocalObjects
from holdfast_server.storage.policy import FolderPolicy

from .conftest import NOBODY, Mounter


@dataclass
class Place:
    """`root` may be named; `data` (the service's) and `source` lie in it, `outside` does not."""

    base: Path
    source: OpenFolder

    @property
    def root(self) -> Path:
        return self.base / "root"

    @property
    def policy(self) -> FolderPolicy:
        return FolderPolicy(str(self.root / "data"), [str(self.base / "not there"), str(self.root)])

    def destination(self, path: Path | str, *, create: bool = False, dry_run: bool = False) -> OpenFolder | None:
        return self.policy.check_destination(
            str(path), "target.folder", sources=[self.source], create=create, dry_run=dry_run
        )


def make_repository(folder: Path) -> None:
    """A repository, as it lies in a folder."""
    (folder / "packs").mkdir(parents=True)
    with open_folder(str(folder)) as opened, LocalObjects(opened.fd, opened.display) as store:
        create_repository(store, sealed=False, slots=(), compression_level=3, now_us=1)


@pytest.fixture
def place(public: Path) -> Iterator[Place]:
    for name in ["root/data/scratch", "root/source/sub", "root/backups", "outside"]:
        (public / name).mkdir(parents=True)
    if os.geteuid() == 0:
        for path in public.rglob("*"):
            os.chown(path, NOBODY, -1)
    with open_folder(str(public / "root" / "source")) as source:
        yield Place(public, source)


def refused(call: Callable[[], object]) -> HoldfastError:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with pytest.raises(HoldfastError) as caught:
        call()
    caught.value.__traceback__ = None
    if before:
        assert len(os.listdir("/proc/self/fd")) == before, "a descriptor was left open"
    return caught.value


def test_a_source(place: Place) -> None:
    with place.policy.check_source(str(place.root / "source"), "path") as source:
        assert source.identity == place.source.identity
        assert os.listdir(source.fd) == ["sub"]
    with place.policy.check_source(f"{place.root}/source/../source//", "path") as source:
        assert source.identity == place.source.identity
    place.policy.check_source(str(place.root), "path").close()  # contains the data directory: allowed


@pytest.mark.parametrize(
    ("path", "kind", "reason"),
    [
        ("root/missing", FailedPrecondition, Reason.FOLDER_NOT_FOUND),
        ("root/file", FailedPrecondition, Reason.FOLDER_NOT_FOUND),
        ("root/data", FailedPrecondition, Reason.FOLDER_INSIDE_DATA_DIR),
        ("root/data/scratch/", FailedPrecondition, Reason.FOLDER_INSIDE_DATA_DIR),
        ("root/data/missing", FailedPrecondition, Reason.FOLDER_INSIDE_DATA_DIR),
        ("root/to-data", FailedPrecondition, Reason.FOLDER_INSIDE_DATA_DIR),
        ("outside", PermissionDenied, Reason.PATH_NOT_ALLOWED),
        ("outside/missing", PermissionDenied, Reason.PATH_NOT_ALLOWED),
        ("missing", PermissionDenied, Reason.PATH_NOT_ALLOWED),
        ("root/../outside", PermissionDenied, Reason.PATH_NOT_ALLOWED),
        ("root/out", PermissionDenied, Reason.PATH_NOT_ALLOWED),
        ("root/out/missing", PermissionDenied, Reason.PATH_NOT_ALLOWED),
        ("../../etc", PermissionDenied, Reason.PATH_NOT_ALLOWED),
    ],
)
def test_refused_sources(place: Place, path: str, kind: type[HoldfastError], reason: Reason) -> None:
    (place.root / "file").write_bytes(b"")
    (place.root / "out").symlink_to(place.base / "outside")
    (place.root / "to-data").symlink_to("data/scratch")
    error = refused(lambda: place.policy.check_source(f"{place.base}/{path}", "path"))
    assert (type(error), error.reason) == (kind, reason)
    assert error.metadata["path"] == f"{place.base}/{path}"


@pytest.mark.parametrize("mode", [0o000, 0o300, 0o400])
def test_unreadable_sources(place: Place, unprivileged: Callable[[], AbstractContextManager[None]], mode: int) -> None:
    (place.root / "source").chmod(mode)
    with unprivileged():
        error = refused(lambda: place.policy.check_source(str(place.root / "source"), "path"))
    assert error.reason is Reason.SOURCE_UNREADABLE


def test_rights_outside_the_roots_stay_unknown(
    place: Place, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    (place.base / "outside").chmod(0)
    with unprivileged():
        error = refused(lambda: place.policy.check_source(str(place.base / "outside"), "path"))
    assert error.reason is Reason.PATH_NOT_ALLOWED


def test_no_root_allows_nothing(place: Place) -> None:
    policy = FolderPolicy(str(place.root / "data"), [])
    error = refused(lambda: policy.check_source(str(place.root / "source"), "path"))
    assert error.reason is Reason.PATH_NOT_ALLOWED


def test_without_a_data_directory_everything_is_refused(place: Place) -> None:
    policy = FolderPolicy(str(place.root / "gone"), ["/"])
    refused(lambda: policy.check_source(str(place.root / "source"), "path"))


def test_a_present_destination(place: Place) -> None:
    for dry_run in (False, True):
        found = place.destination(f"{place.root}/backups/", dry_run=dry_run)
        assert found is not None
        with found:
            assert found.identity == ((place.root / "backups").stat().st_dev, (place.root / "backups").stat().st_ino)


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("root/source", Reason.FOLDER_INSIDE_SOURCE),
        ("root/source/sub", Reason.FOLDER_INSIDE_SOURCE),
        ("root/source/new/er", Reason.FOLDER_INSIDE_SOURCE),
        ("root/to-source/new", Reason.FOLDER_INSIDE_SOURCE),
        ("root/data", Reason.FOLDER_INSIDE_DATA_DIR),
        ("root/data/new", Reason.FOLDER_INSIDE_DATA_DIR),
        ("root/vault", Reason.FOLDER_INSIDE_REPOSITORY),
        ("root/vault/packs", Reason.FOLDER_INSIDE_REPOSITORY),
        ("root/to-vault/new/er", Reason.FOLDER_INSIDE_REPOSITORY),
        ("outside", Reason.PATH_NOT_ALLOWED),
        ("outside/new", Reason.PATH_NOT_ALLOWED),
        ("root/out/new", Reason.PATH_NOT_ALLOWED),
        ("root/file", Reason.FOLDER_NOT_FOUND),
        ("root/file/new", Reason.FOLDER_NOT_FOUND),
        ("root/new/../data", Reason.INVALID_FIELD),
        ("root/new/./x", Reason.INVALID_FIELD),
    ],
)
def test_refused_destinations(place: Place, path: str, reason: Reason, create: bool) -> None:
    (place.root / "file").write_bytes(b"")
    (place.root / "out").symlink_to(place.base / "outside")
    (place.root / "to-source").symlink_to("source")
    make_repository(place.root / "vault")
    (place.root / "to-vault").symlink_to("vault/packs")
    before = sorted(place.base.rglob("*"))
    for dry_run in (False, True):
        error = refused(lambda d=dry_run: place.destination(f"{place.base}/{path}", create=create, dry_run=d))  # type: ignore[misc]
        assert error.reason is reason
    assert sorted(place.base.rglob("*")) == before
    if reason is Reason.FOLDER_INSIDE_SOURCE:
        assert error.metadata["source_path"] == str(place.root / "source")
    if reason is Reason.INVALID_FIELD:
        assert isinstance(error, InvalidArgument)


def test_what_only_looks_like_a_repository_is_none(place: Place) -> None:
    for content in (b"", b"HOLDFAST_SERVER_LISTEN=127.0.0.1:50551\n", b"[core]\n"):
        (place.root / "backups" / "config").write_bytes(content)
        found = place.destination(place.root / "backups")
        assert found is not None
        found.close()


def test_aliases_by_bind_mounts(place: Place, mount: Mounter) -> None:
    for name, of in [("m1", "source"), ("m2", "source/sub"), ("m3", "data"), ("m4", "data/scratch")]:
        (place.root / name).mkdir()
        mount("--bind", place.root / of, place.root / name)
    for name, reason in [
        ("m1", Reason.FOLDER_INSIDE_SOURCE),
        ("m2", Reason.FOLDER_INSIDE_SOURCE),
        ("m3", Reason.FOLDER_INSIDE_DATA_DIR),
        ("m4", Reason.FOLDER_INSIDE_DATA_DIR),
    ]:
        assert refused(lambda n=name: place.destination(place.root / n)).reason is reason  # type: ignore[misc]
        error = refused(lambda n=name: place.destination(place.root / n / "new", create=True))  # type: ignore[misc]
        assert error.reason is reason


def test_a_missing_destination(place: Place) -> None:
    new = place.root / "new" / "er"
    assert refused(lambda: place.destination(new)).reason is Reason.FOLDER_NOT_FOUND
    assert place.destination(new, create=True, dry_run=True) is None
    assert not (place.root / "new").exists()
    previous = os.umask(0)
    try:
        made = place.destination(f"{new}/", create=True)
    finally:
        os.umask(previous)
    assert made is not None
    with made:
        assert made.inode == new.stat().st_ino
        assert new.stat().st_mode & 0o777 == new.parent.stat().st_mode & 0o777 == 0o700


def test_what_was_made_is_removed_when_a_later_step_fails(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    original, fired = os.mkdir, []

    def mkdir(name: bytes, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if name == b"c":
            fired.append(name)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(name, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", mkdir)
    error = refused(lambda: place.destination(place.root / "a" / "b" / "c", create=True))
    assert fired == [b"c"]
    assert error.reason is Reason.FOLDER_NOT_CREATABLE
    assert error.metadata["errno"] == "ENOSPC"
    assert not (place.root / "a").exists()


def test_a_link_put_in_the_place_of_a_new_folder_is_not_followed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.mkdir

    def mkdir(name: bytes, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        os.symlink(place.base / "outside", name, dir_fd=dir_fd)
        original(name, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", mkdir)
    error = refused(lambda: place.destination(place.root / "a" / "b", create=True))
    assert error.reason is Reason.FOLDER_NOT_CREATABLE
    assert (place.root / "a").is_symlink()
    assert list((place.base / "outside").iterdir()) == []


def test_a_dangling_link_in_the_way(place: Place) -> None:
    (place.root / "dangling").symlink_to(place.base / "outside" / "new")
    for dry_run in (False, True):
        error = refused(lambda d=dry_run: place.destination(place.root / "dangling", create=True, dry_run=d))  # type: ignore[misc]
        assert error.reason is Reason.FOLDER_NOT_CREATABLE
        assert error.metadata["errno"] == "EEXIST"
    assert list((place.base / "outside").iterdir()) == []


def test_too_many_new_folders(place: Place) -> None:
    error = refused(lambda: place.destination(f"{place.root}{'/x' * 65}", create=True))
    assert error.reason is Reason.INVALID_FIELD
    assert not (place.root / "x").exists()


def test_destinations_without_rights(place: Place, unprivileged: Callable[[], AbstractContextManager[None]]) -> None:
    (place.root / "backups").chmod(0o500)
    with unprivileged():
        error = refused(lambda: place.destination(place.root / "backups"))
        assert (error.reason, error.metadata["errno"]) == (Reason.FOLDER_NOT_WRITABLE, "EACCES")
        for dry_run in (True, False):
            error = refused(lambda d=dry_run: place.destination(place.root / "backups/new", create=True, dry_run=d))  # type: ignore[misc]
            assert (error.reason, error.metadata["errno"]) == (Reason.FOLDER_NOT_CREATABLE, "EACCES")
    (place.root / "backups").chmod(0)
    with unprivileged():
        assert refused(lambda: place.destination(place.root / "backups")).reason is Reason.FOLDER_NOT_WRITABLE


def test_a_destination_mounted_read_only(place: Place, mount: Mounter) -> None:
    mount("-t", "tmpfs", "-o", "ro", "tmpfs", place.root / "backups")
    error = refused(lambda: place.destination(place.root / "backups"))
    assert (error.reason, error.metadata["errno"]) == (Reason.FOLDER_NOT_WRITABLE, "EROFS")
    for dry_run in (True, False):
        error = refused(lambda d=dry_run: place.destination(place.root / "backups" / "x", create=True, dry_run=d))  # type: ignore[misc]
        assert (error.reason, error.metadata["errno"]) == (Reason.FOLDER_NOT_CREATABLE, "EROFS")


def test_a_restore_target_that_does_not_exist(place: Place) -> None:
    with place.policy.check_restore_target(f"{place.root}/backups/new/", "folder", create_parents=False) as target:
        assert (target.name, target.existing, target.missing) == (b"new", None, ())
        assert target.parent.inode == (place.root / "backups").stat().st_ino
    assert not (place.root / "backups" / "new").exists()


def test_a_restore_target_with_missing_parents(place: Place) -> None:
    path = f"{place.root}/a/b/new"
    error = refused(lambda: place.policy.check_restore_target(path, "folder", create_parents=False))
    assert error.reason is Reason.FOLDER_NOT_FOUND
    with place.policy.check_restore_target(path, "folder", create_parents=True, dry_run=True) as target:
        assert (target.name, target.missing) == (b"new", (b"a", b"b"))
        assert target.parent.inode == place.root.stat().st_ino
    assert not (place.root / "a").exists()
    with place.policy.check_restore_target(path, "folder", create_parents=True) as target:
        assert (target.name, target.existing, target.missing) == (b"new", None, ())
        assert target.parent.inode == (place.root / "a" / "b").stat().st_ino
    assert not (place.root / "a" / "b" / "new").exists()


def test_a_restore_target_that_is_empty(place: Place) -> None:
    with place.policy.check_restore_target(f"{place.root}/backups", "folder", create_parents=False) as target:
        assert target.existing is not None
        assert target.existing.inode == (place.root / "backups").stat().st_ino
        assert target.parent.inode == place.root.stat().st_ino
    policy = FolderPolicy(str(place.root / "data"), [str(place.root / "backups")])
    policy.check_restore_target(f"{place.root}/backups", "folder", create_parents=False).close()  # a root itself


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("root/source", Reason.FOLDER_NOT_EMPTY),
        ("root/file", Reason.FOLDER_NOT_EMPTY),
        ("root/to-empty", Reason.FOLDER_NOT_EMPTY),
        ("root/dangling", Reason.FOLDER_NOT_EMPTY),
        ("root/file/new", Reason.FOLDER_NOT_FOUND),
        ("root/data/scratch", Reason.FOLDER_INSIDE_DATA_DIR),
        ("root/data/new", Reason.FOLDER_INSIDE_DATA_DIR),
        ("root/data/new/er", Reason.FOLDER_INSIDE_DATA_DIR),
        ("root/to-data/new", Reason.FOLDER_INSIDE_DATA_DIR),
        ("root/vault/new", Reason.FOLDER_INSIDE_REPOSITORY),
        ("root/vault/packs", Reason.FOLDER_INSIDE_REPOSITORY),
        ("root/to-vault/new/er", Reason.FOLDER_INSIDE_REPOSITORY),
        ("outside", Reason.PATH_NOT_ALLOWED),
        ("outside/new", Reason.PATH_NOT_ALLOWED),
        ("outside/new/er", Reason.PATH_NOT_ALLOWED),
        ("file", Reason.PATH_NOT_ALLOWED),
        ("root/backups/..", Reason.INVALID_FIELD),
        ("root/backups/.", Reason.INVALID_FIELD),
        ("root/new/../er", Reason.INVALID_FIELD),
    ],
)
def test_refused_restore_targets(place: Place, path: str, reason: Reason) -> None:
    (place.root / "file").write_bytes(b"")
    (place.base / "file").write_bytes(b"")
    (place.root / "to-empty").symlink_to("backups")
    (place.root / "to-data").symlink_to("data")
    (place.root / "dangling").symlink_to("nowhere")
    make_repository(place.root / "vault")
    (place.root / "to-vault").symlink_to("vault")
    before = sorted(place.base.rglob("*"))
    error = refused(lambda: place.policy.check_restore_target(f"{place.base}/{path}", "folder", create_parents=True))
    assert error.reason is reason
    assert sorted(place.base.rglob("*")) == before


def test_the_root_directory_is_no_restore_target(place: Place) -> None:
    policy = FolderPolicy(str(place.root / "data"), ["/"])
    error = refused(lambda: policy.check_restore_target("/", "folder", create_parents=True))
    assert error.reason is Reason.INVALID_FIELD


def test_restore_targets_without_rights(place: Place, unprivileged: Callable[[], AbstractContextManager[None]]) -> None:
    (place.root / "backups").chmod(0o500)
    for name in ("backups", "backups/new"):
        with unprivileged():
            error = refused(
                lambda n=name: place.policy.check_restore_target(  # type: ignore[misc]
                    f"{place.root}/{n}", "folder", create_parents=False
                )
            )
        assert error.reason is Reason.FOLDER_NOT_WRITABLE


# -- files to be read ------------------------------------------------------------------------------------------------


def test_a_file_to_be_read(place: Place) -> None:
    (place.root / "backups" / "a.zip").write_bytes(b"content")
    with place.policy.open_file(str(place.root / "backups" / "a.zip"), "archive_path") as file:
        assert file.read() == b"content"
    # Links on the way are followed, as everywhere; only the file itself must be named by its own path.
    (place.root / "way").symlink_to(place.root / "backups")
    with place.policy.open_file(str(place.root / "way" / "a.zip"), "archive_path") as file:
        assert file.read() == b"content"


def test_files_that_are_none(place: Place) -> None:
    folder = place.root / "backups"
    (folder / "f").write_bytes(b"x")
    (folder / "link").symlink_to("f")
    (folder / "dangling").symlink_to("nothing")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    for name, words in (
        ("missing", "No such file"),
        ("missing/f", "No such file"),
        ("f/x", "Not a directory"),
        ("link", "symbolic link"),
        ("dangling", "symbolic link"),
        ("loop", "symbolic link"),
        ("loop/x", "symbolic links"),
        ("fifo", "no regular file"),
        ("../source", "no regular file"),
    ):
        error = refused(lambda name=name: place.policy.open_file(f"{folder}/{name}", "archive_path"))
        assert error.reason is Reason.FILE_NOT_FOUND, name
        assert words in error.message, (name, error.message)
    for path in ("", "relative", "/", f"{folder}/", f"{folder}/.", f"{folder}/..", "/a\0b", "/" + "x" * 300):
        error = refused(lambda path=path: place.policy.open_file(path, "archive_path"))
        assert isinstance(error, InvalidArgument), path
        assert error.metadata["field"] == "archive_path"


def test_files_outside_of_the_roots_are_not_even_told_apart(place: Place) -> None:
    (place.base / "outside" / "f").write_bytes(b"x")
    (place.root / "out").symlink_to(place.base / "outside")
    for path in (
        place.base / "outside" / "f",
        place.base / "outside" / "missing",
        place.root / "out" / "f",
        place.root / ".." / "outside" / "f",
        "/etc/passwd",
        "/no/such/file",
    ):
        error = refused(lambda path=path: place.policy.open_file(str(path), "archive_path"))
        assert isinstance(error, PermissionDenied), path
        assert error.reason is Reason.PATH_NOT_ALLOWED


def test_the_services_own_files_are_not_read(place: Place) -> None:
    (place.root / "data" / "admin.token").write_text("secret")
    (place.root / "alias").symlink_to(place.root / "data")
    for path in (place.root / "data" / "admin.token", place.root / "alias" / "admin.token"):
        error = refused(lambda path=path: place.policy.open_file(str(path), "archive_path"))
        assert error.reason is Reason.FOLDER_INSIDE_DATA_DIR
        assert "secret" not in error.message


def test_a_file_without_the_right_to_read_it(place: Place) -> None:
    path = place.root / "backups" / "f"
    path.write_bytes(b"x")
    path.chmod(0)
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    error = refused(lambda: place.policy.open_file(str(path), "archive_path"))
    assert error.reason is Reason.FILE_NOT_FOUND
    assert error.metadata["errno"] == "EACCES"
