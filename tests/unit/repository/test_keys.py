"""The keys in the data directory: private to the service, and nothing more than the node may have."""

from __future__ import annotations

import os
import pickle
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_server.repository.crypto import ContentKeys
from holdfast_server.repository.keys import RepositoryKeys, WriterKey, is_signed, writer_id_of
from tests.unit.repository.samples import CONTENT, INDEX_KEY, UUID, refused, shows

WRITER = WriterKey.generate()
KEYS = RepositoryKeys(INDEX_KEY, CONTENT, UUID, WRITER)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_they_are_read_as_they_were_saved(folder: int, tmp_path: Path) -> None:
    both = ContentKeys({1: CONTENT.private(1), 2: ContentKeys.generate().private(1)})
    RepositoryKeys(INDEX_KEY, both, UUID, WRITER).save(folder)
    status = (tmp_path / "keys").stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    again = RepositoryKeys.load(folder)
    assert (again.index_key, again.uuid, again.writer.private()) == (INDEX_KEY, UUID, WRITER.private())
    assert again.content is not None
    assert again.content.to_text() == both.to_text()
    KEYS.save(folder)
    assert os.listdir(folder) == ["keys"]
    again = RepositoryKeys.load(folder)
    assert again.content is not None
    assert again.content.epochs == (1,)


def test_a_sealed_repository_leaves_no_content_key_behind(folder: int, tmp_path: Path) -> None:
    KEYS.without_content().save(folder)
    content = (tmp_path / "keys").read_bytes()
    private = CONTENT.private(1)
    for part in (private, private[:64], private[64:], private[:16], private[-16:]):
        assert part not in content
        assert part.hex().encode() not in content.lower()
    assert b"content_keys" not in content
    again = RepositoryKeys.load(folder)
    assert again.content is None
    assert again.index_key == INDEX_KEY


def test_damage_is_told_without_a_key(folder: int, tmp_path: Path) -> None:
    KEYS.save(folder)

    def check() -> None:
        error = refused(lambda: RepositoryKeys.load(folder))
        assert not shows(error.message + repr(error.metadata), INDEX_KEY, CONTENT.private(1), WRITER.private())

    with (tmp_path / "keys").open("r+b", buffering=0) as file:
        whole = file.read()
        for at in range(len(whole)):
            os.pwrite(file.fileno(), b"?", at)
            check()
            os.pwrite(file.fileno(), whole[at : at + 1], at)
        assert RepositoryKeys.load(folder).index_key == INDEX_KEY
        for length in range(len(whole) - 1, -1, -1):
            os.ftruncate(file.fileno(), length)
            check()


def test_what_is_no_file_is_not_read(folder: int, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RepositoryKeys.load(folder)
    os.mkfifo(tmp_path / "keys")
    refused(lambda: RepositoryKeys.load(folder))
    (tmp_path / "keys").unlink()
    (tmp_path / "keys").symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        RepositoryKeys.load(folder)


def test_nothing_shows_or_pickles_a_key() -> None:
    shown = repr(KEYS) + repr(WRITER) + str(KEYS)
    assert not shows(shown, INDEX_KEY, CONTENT.private(1), WRITER.private())
    for holder in (KEYS, WRITER):
        with pytest.raises(TypeError):
            pickle.dumps(holder)


def test_a_writer_signs_what_it_says() -> None:
    signature = WRITER.sign(b"message")
    assert is_signed(WRITER.public, b"message", signature)
    assert not is_signed(WRITER.public, b"massage", signature)
    assert not is_signed(WriterKey.generate().public, b"message", signature)
    assert not is_signed(WRITER.public, b"message", signature[:-1])
    assert not is_signed(bytes(31), b"message", signature)
    assert WRITER.writer_id == writer_id_of(WRITER.public)
