"""Sealing with age: what is refused, what survives, and that nothing damaged is ever given out as whole."""

from __future__ import annotations

import errno
import gc
import io
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_server.archive import sealing
from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.reader import Limits, open_reader
from holdfast_server.archive.sealing import (
    MAX_RECIPIENTS,
    SealedSource,
    SealingFile,
    is_sealed,
    parse_identity,
    parse_recipients,
)
from holdfast_server.archive.verify import verify_archive
from holdfast_server.errors import Cancelled, DataLoss, FailedPrecondition, InvalidArgument, Reason
from tests.keys import OTHER_PRIVATE, PRIVATE, PUBLIC
from tests.unit.archive import archives

SECRET = "AGE-SECRET-KEY-1"
KEY = pyrage.x25519.Identity.from_str(PRIVATE)
IDENTITY = parse_identity(PRIVATE)
RECIPIENTS = parse_recipients([PUBLIC], "r")
CHUNK = 64 << 10


def nothing() -> None:
    pass


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("age-"):
            thread.join(60)
            assert not thread.is_alive(), thread


def seal(path: Path, content: bytes, step: int = 100_000) -> bytes:
    with path.open("x+b", buffering=0) as file:
        sealing_file = SealingFile(file, RECIPIENTS)
        for at in range(0, len(content), step):
            view = memoryview(content)[at : at + step]
            while view:
                view = view[sealing_file.write(view) :]
        result = sealing_file.finish()
        assert result == sealing_file.finish()
    sealed = path.read_bytes()
    assert (result.size, result.sha256) == (len(sealed), sealing.hashlib.sha256(sealed).hexdigest())
    return sealed


def opened(path: Path, content: bytes, identity: sealing.Identity = IDENTITY) -> bytes:
    """All plain bytes of a sealed file with this content, read as a stream."""
    path.write_bytes(content)
    with path.open("rb") as file, SealedSource(file, identity, nothing) as source:
        return source.read(0, source.size)


# -- keys ----------------------------------------------------------------------------------------------------------


def ssh_key(folder: Path, kind: str, passphrase: str = "") -> tuple[str, str]:
    path = folder / f"{kind}{passphrase}"
    made = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "a comment", "-f", os.fspath(path)]
    try:
        subprocess.run(made, check=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        pytest.skip("ssh-keygen is not installed")
    return path.with_suffix(".pub").read_text(), path.read_text()


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_ssh_keys(tmp_path: Path, kind: str) -> None:
    public, private = ssh_key(tmp_path, kind)
    recipients = parse_recipients([PUBLIC, public], "r")
    assert len(recipients) == 2
    with (tmp_path / "s").open("x+b", buffering=0) as file:
        sealing_file = SealingFile(file, recipients)
        sealing_file.write(b"both open it")
        sealing_file.finish()
        for identity in (IDENTITY, parse_identity(private)):
            with SealedSource(file, identity, nothing) as source:
                assert source.read(0, source.size) == b"both open it"


def test_ssh_keys_that_are_refused(tmp_path: Path) -> None:
    public, private = ssh_key(tmp_path, "ecdsa")
    with pytest.raises(InvalidArgument, match=r"^r\[0\]: this is no recipient"):
        parse_recipients([public], "r")
    with pytest.raises(InvalidArgument, match="passphrase"):
        parse_identity(private)
    _, protected = ssh_key(tmp_path, "ed25519", "passphrase")
    with pytest.raises(InvalidArgument, match="passphrase"):
        parse_identity(protected)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "^f: no recipient is given"),
        ([PUBLIC] * (MAX_RECIPIENTS + 1), "^f: 101 recipients are more than 100"),
        ([PUBLIC, ""], r"^f\[1\]: a recipient is empty"),
        ([PUBLIC, " \n"], r"^f\[1\]: a recipient is empty"),
        ([PUBLIC[:-1]], r"^f\[0\]: this is no recipient"),
        ([PUBLIC + "\n" + PUBLIC], r"^f\[0\]: this is no recipient"),
        (["age1" + "q" * 20_000], r"^f\[0\]: a recipient has at most"),
        (["age1yubikey1qwerty"], r"^f\[0\]: this is no recipient"),
        (["age1pq1" + "q" * 100], r"^f\[0\]: post-quantum"),
        ([PUBLIC, PRIVATE], r"^f\[1\]: this is a secret key"),
        (["ssh-ed25519 AAAA"], r"^f\[0\]: this is no recipient"),
        (["caf\u00e9"], r"^f\[0\]: this is no recipient"),
        (["age1\udc80"], r"^f\[0\]: this is no recipient"),
    ],
)
def test_recipients_that_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        parse_recipients(texts, "f")
    assert caught.value.reason is Reason.INVALID_FIELD
    shown = f"{caught.value.message}{caught.value.metadata}{caught.value.violations}"
    assert not any(text in shown for text in texts if text.strip())


def test_as_many_recipients_as_allowed(tmp_path: Path) -> None:
    others = [str(pyrage.x25519.Identity.generate().to_public()) for _ in range(MAX_RECIPIENTS - 1)]
    recipients = parse_recipients([*others, f"  {PUBLIC}\n"], "f")
    assert recipients.texts[-1] == PUBLIC
    with (tmp_path / "s").open("x+b", buffering=0) as file:
        SealingFile(file, recipients).finish()
        with SealedSource(file, IDENTITY, nothing) as source:
            assert source.size == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment\n",
        PRIVATE[:-1],
        PRIVATE + "x",
        f"{PRIVATE}\ngarbage",
        PUBLIC,
        SECRET.replace("1", "PQ-1") + "QQQ",
        "AGE-PLUGIN-YUBIKEY-1QQQ",
        "caf\u00e9",
        "A\udc80",
        PRIVATE * 900,
        "-----BEGIN OPENSSH PRIVATE KEY-----\nsecretsecret\n-----END OPENSSH PRIVATE KEY-----\n",
        "-----BEGIN \udc80",
    ],
)
def test_identities_that_are_refused_without_being_shown(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_identity(text)
    assert caught.value.reason is Reason.INVALID_FIELD
    shown = f"{caught.value.message}{caught.value.metadata}{caught.value.violations}{caught.value.__cause__}"
    assert shown.startswith("credentials.age_identity: ")
    assert "secretsecret" not in shown
    for line in text.split():
        assert len(line) < 10 or line not in shown


def test_identity_files(tmp_path: Path) -> None:
    sealed = seal(tmp_path / "s", b"content")
    other = OTHER_PRIVATE
    text = f"# created: 2026-11-20\r\n# public key: {PUBLIC}\r\n{other}\r\n\r\n  {PRIVATE.lower()}\n"
    identity = parse_identity(text)
    assert opened(tmp_path / "o", sealed, identity) == b"content"
    assert PRIVATE not in f"{identity!r}{identity}{identity:}"
    with pytest.raises(FailedPrecondition) as caught:
        opened(tmp_path / "o", sealed, parse_identity(other))
    assert caught.value.reason is Reason.KEY_WRONG
    assert other not in str(caught.value)


# -- sealing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (5 << 20) + 77]
)
def test_round_trip(tmp_path: Path, size: int) -> None:
    content = random.Random(size).randbytes(size)
    sealed = seal(tmp_path / "s", content, step=3_000_000)
    assert is_sealed(sealed[:24])
    assert opened(tmp_path / "o", sealed) == content == pyrage.decrypt(sealed, [KEY])


def write_on(sealing_file: SealingFile) -> None:
    for _ in range(100):
        sealing_file.write(bytes(100_000))
    sealing_file.finish()


class Full(io.RawIOBase):
    """A disk with room for so many bytes."""

    def __init__(self, room: int) -> None:
        self.left = room

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        if not self.left:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = min(len(data), self.left, 50_000)
        self.left -= taken
        return taken


@pytest.mark.parametrize("room", [0, 100, 300_000, 2_000_000])
def test_a_full_disk_is_raised_to_the_writer(room: int) -> None:
    sealing_file = SealingFile(Full(room), RECIPIENTS)
    with pytest.raises(OSError, match="No space") as caught:
        write_on(sealing_file)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="No space"):
        sealing_file.finish()
    sealing_file.abort()


class Stuck(io.RawIOBase):
    """A disk that takes nothing until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        assert self.go.wait(60)
        return len(data)


def test_check_is_asked_while_the_disk_is_stuck() -> None:
    disk, asked = Stuck(), 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked > 3:
            raise Cancelled

    sealing_file = SealingFile(disk, RECIPIENTS, check)
    with pytest.raises(Cancelled):
        write_on(sealing_file)
    with pytest.raises(Cancelled):
        sealing_file.finish()
    disk.go.set()
    sealing_file.abort()


@pytest.mark.parametrize("size", [0, 10, CHUNK, 3 << 20])
def test_what_was_aborted_never_opens(tmp_path: Path, size: int) -> None:
    path = tmp_path / "s"
    with path.open("x+b", buffering=0) as file:
        sealing_file = SealingFile(file, RECIPIENTS)
        for _ in range(0, size, 1 << 20):
            sealing_file.write(bytes(min(size, 1 << 20)))
        sealing_file.abort()
        sealing_file.abort()
    rest = path.read_bytes()
    if rest:
        with pytest.raises(DataLoss):
            opened(tmp_path / "o", rest)


def test_a_forgotten_file_ends_its_thread(tmp_path: Path) -> None:
    with (tmp_path / "s").open("x+b", buffering=0) as file:
        sealing_file = SealingFile(file, RECIPIENTS)
        sealing_file.write(b"x")
        thread = next(thread for thread in threading.enumerate() if thread.name == "age-seal")
        del sealing_file
        gc.collect()
        thread.join(60)
        assert not thread.is_alive()


def test_the_interpreter_ends_with_threads_that_nobody_stopped(tmp_path: Path) -> None:
    seal(tmp_path / "s", bytes(20 << 20))
    code = f"""
from holdfast_server.archive.sealing import *
keep = [SealingFile(open({os.fspath(tmp_path / "t")!r}, "x+b", buffering=0), parse_recipients([{PUBLIC!r}], "r"))]
keep[0].write(b"x")
source = SealedSource(open({os.fspath(tmp_path / "s")!r}, "rb"), parse_identity({PRIVATE!r}), lambda: None)
assert source.read(19 << 20, 10) == source.read(0, 10) == bytes(10)
print("ready")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"ready\n", b"")


def test_a_finished_file_takes_nothing_more(tmp_path: Path) -> None:
    with (tmp_path / "s").open("x+b", buffering=0) as file:
        sealing_file = SealingFile(file, RECIPIENTS)
        assert (sealing_file.writable(), sealing_file.seekable(), sealing_file.readable()) == (True, False, False)
        sealing_file.finish()
        with pytest.raises(ValueError, match="finished"):
            sealing_file.write(b"x")
        sealing_file.close()


# -- opening -------------------------------------------------------------------------------------------------------


def test_every_truncation_of_a_small_file(tmp_path: Path) -> None:
    sealed = seal(tmp_path / "s", b"a few bytes")
    for size in range(len(sealed)):
        with pytest.raises((DataLoss, FailedPrecondition)) as caught:
            opened(tmp_path / "o", sealed[:size])
        assert caught.value.reason is (Reason.CHECKSUM_MISMATCH if size else Reason.ARCHIVE_INVALID)


def test_truncations_at_and_around_every_chunk(tmp_path: Path) -> None:
    content = os.urandom(3 * CHUNK)
    sealed = seal(tmp_path / "s", content)
    start = len(sealed) - 3 * (CHUNK + 16)
    for chunk in range(3):
        boundary = start + chunk * (CHUNK + 16)
        for size in (boundary, *(boundary + extra for extra in (-17, -16, -1, 1, 15, 16, 17, CHUNK))):
            with pytest.raises(DataLoss) as caught:
                opened(tmp_path / "o", sealed[:size])
            assert caught.value.reason is Reason.CHECKSUM_MISMATCH
    for more in (b"x", bytes(16), sealed[start : start + CHUNK + 16], sealed):
        with pytest.raises(DataLoss):
            opened(tmp_path / "o", sealed + more)


def test_chunks_in_another_order(tmp_path: Path) -> None:
    sealed = seal(tmp_path / "s", os.urandom(3 * CHUNK + 5))
    step = CHUNK + 16
    start = len(sealed) - 3 * step - 21
    chunks = [sealed[start + n * step : start + (n + 1) * step] for n in range(4)]
    for order in ((1, 0, 2, 3), (0, 2, 3), (0, 1, 1, 2, 3), (0, 1, 3), (3,)):
        with pytest.raises(DataLoss):
            opened(tmp_path / "o", sealed[:start] + b"".join(chunks[n] for n in order))


def test_every_flipped_byte_of_a_small_file(tmp_path: Path) -> None:
    sealed = seal(tmp_path / "s", b"a few bytes")
    reasons = set()
    for at in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[at] ^= 1 << at % 8
        with pytest.raises((DataLoss, FailedPrecondition)) as caught:
            opened(tmp_path / "o", bytes(damaged))
        reasons.add(caught.value.reason)
    # A wrapped key that no longer opens looks like somebody else's.
    assert reasons == {Reason.CHECKSUM_MISMATCH, Reason.KEY_WRONG, Reason.ARCHIVE_INVALID}


def test_what_lies_before_the_damage_is_given_out(tmp_path: Path) -> None:
    content = os.urandom(10 << 20)
    sealed = bytearray(seal(tmp_path / "s", content))
    sealed[8 << 20] ^= 1
    (tmp_path / "d").write_bytes(sealed)
    with (tmp_path / "d").open("rb") as file, SealedSource(file, IDENTITY, nothing) as source:
        assert source.size == len(content)
        assert source.read(7 << 20, 1000) == content[7 << 20 : (7 << 20) + 1000]
        for offset in (9 << 20, source.size - 1, 8 << 20):
            with pytest.raises(DataLoss):
                source.read(offset, 1)
        assert source.read(0, 1000) == content[:1000]
        with pytest.raises(DataLoss):
            source.read(0, source.size)


def test_a_file_that_is_cut_while_it_is_open(tmp_path: Path) -> None:
    seal(tmp_path / "s", bytes(10 << 20))
    with (tmp_path / "s").open("r+b", buffering=0) as file, SealedSource(file, IDENTITY, nothing) as source:
        file.truncate(9 << 20)
        with pytest.raises(DataLoss):
            source.read(source.size - 1, 1)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"PK\3\4" + bytes(100),
        b"age-encryption.org/v2\n" + bytes(100),
        b"-----BEGIN AGE ENCRYPTED FILE-----\n",
        b"age-encryption.org/v1\n" + b"a" * (2 << 20),
    ],
)
def test_files_that_are_no_age_files(tmp_path: Path, head: bytes) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        opened(tmp_path / "o", head)
    assert caught.value.reason is Reason.ARCHIVE_INVALID


def test_check_stops_a_long_way_forward(tmp_path: Path) -> None:
    seal(tmp_path / "s", bytes(8 << 20))
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked > 10:
            raise Cancelled

    with (tmp_path / "s").open("rb") as file:
        source = SealedSource(file, IDENTITY, check)
        with pytest.raises(Cancelled):
            source.read(source.size - 1, 1)
        source.close()
        with pytest.raises(ValueError, match="closed"):
            source.read(0, 1)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("large") / "s"
    content = random.Random(7).randbytes((9 << 20) + 12345)
    seal(path, content, step=1 << 20)
    return path, content


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, (9 << 20) + 12345), st.sampled_from([0, 1, 4096, 1 << 20, 3 << 20])), max_size=12)
)
def test_any_offset_in_any_order(large: tuple[Path, bytes], reads: list[tuple[int, int]]) -> None:
    path, content = large
    with path.open("rb") as file, SealedSource(file, IDENTITY, nothing) as source:
        for offset, size in reads:
            assert content[offset : offset + size].startswith(source.read_some(offset, size))
            if offset + size <= len(content):
                assert source.read(offset, size) == content[offset : offset + size]
            else:
                with pytest.raises(DataLoss):
                    source.read(offset, size)
        assert len(source._cursors) <= 3


# -- archives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", [ArchiveFormat.ZIP, ArchiveFormat.TAR_GZ, ArchiveFormat.TAR_ZST])
def test_archives_are_read_without_thrashing(
    tmp_path: Path,
    format: ArchiveFormat,  # noqa: A002
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noise = random.Random(3)
    items = [archives.file(b"%05d" % n + b"n" * 200 + b"/" + b"n" * 250, noise.randbytes(500)) for n in range(6000)]
    pool = CompressorPool(2)
    archive = archives.Archive(tmp_path / "plain", format, pool)
    archive.add([*items[:3000], archives.file(b"large", noise.randbytes(5 << 20)), *items[3000:]])
    archive.finish()
    pool.close()
    seal(tmp_path / "s", (tmp_path / "plain").read_bytes(), step=1 << 20)
    started = 0
    begin = SealedSource._start

    def counted(source: SealedSource) -> object:
        nonlocal started
        started += 1
        return begin(source)

    monkeypatch.setattr(SealedSource, "_start", counted)
    with (tmp_path / "s").open("rb") as file, SealedSource(file, IDENTITY, nothing) as source:
        reader = open_reader(format.name, source, limits=Limits(), check=nothing)
        assert verify_archive(reader, check=nothing).files == len(items) + 1
    # The key, a zip's end, its directory, its members, its manifest.
    assert started <= 5
