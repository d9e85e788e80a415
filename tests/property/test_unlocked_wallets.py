"""Any wallet, backed up while it is unlocked: its archive shows no authenticity number, and gives every file back."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.core import backup as backup_module
from holdfast_server.wallets import envelope, exposure
from holdfast_server.wallets.census import Census
from holdfast_server.wallets.coin_file import read_coin_file
from tests.unit.core.wallets import CANARY, FORMATS, KEY, Wallet, exposed, harmless, on_disk

#: Not those that only their name or folder gives away: here they are called anything.
CONTENTS = sorted(exposed(0).keys() - {"Corrupted/headless.bin", "Recovery/deep/raw"})
FOLDERS = [b"", b"Bank", b"Fracked", b"Recovery", b"Export/deep/er", b"Import", b"Odd \xff\n", b"x.bin.hfcc"]
NAMES = st.sampled_from(
    [
        *(b"x", b"x.bin", b"x.bin.hfcc", b"x.bin-2", b"x.bin-2.hfcc", b"x.bin.hfcc.hfcc", b"x.hfcc", b".hfcc"),
        *(b"n" * 255, b"n" * 251, "é".encode() * 125, b"\xff" * 253, b"new\nline.bin", b"holdfast-manifest.json"),
    ]
) | st.binary(min_size=1, max_size=6).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_").strip(b"."))


@dataclass(frozen=True)
class File:
    """One file to make: exposed coins, something harmless, or an envelope; `link` gives it a second name."""

    folder: bytes
    name: bytes
    kind: str
    which: str
    seed: int
    link: bytes | None

    @property
    def content(self) -> bytes:
        coins = exposed(self.seed)[self.which][0]
        if self.kind == "envelope":
            return envelope.encrypt(coins, KEY)
        return coins if self.kind == "coins" else list(harmless().values())[self.seed % len(harmless())]


FILES = st.lists(
    st.builds(
        File,
        folder=st.sampled_from(FOLDERS),
        name=NAMES.filter(bool),
        kind=st.sampled_from(["coins", "coins", "harmless", "envelope"]),
        which=st.sampled_from(CONTENTS),
        seed=st.integers(1, 40),
        link=st.none() | st.sampled_from(FOLDERS),
    ),
    max_size=8,
)


@pytest.fixture(scope="module")
def pool() -> Iterator[CompressorPool]:
    pool = CompressorPool(2, 32 << 20)
    yield pool
    pool.close()


def make(root: bytes, files: list[File]) -> None:
    for file in files:
        path = os.path.join(root, file.folder, file.name)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as out:
                out.write(file.content)
            if file.link is not None:
                second = os.path.join(root, file.link, b"2nd " + file.name[:200])
                os.makedirs(os.path.dirname(second), exist_ok=True)
                os.link(path, second)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue  # an earlier one has the name


def census_of(files: dict[bytes, bytes]) -> Census:
    found = Census()
    for path, content in files.items():
        plain = content
        if exposure.is_envelope(content, len(content)):
            plain = envelope.Keyring([KEY]).open(content)
        for coin in read_coin_file(plain).coins:
            found.add(path.partition(b"/")[0] if b"/" in path else b"", coin)
    return found


@pytest.mark.timeout(900)
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    files=FILES,
    archive_format=st.sampled_from(FORMATS),
    sealed=st.booleans(),
    limit=st.sampled_from([exposure.PARSE_LIMIT, 300]),
)
def test_no_backup_of_an_unlocked_wallet_shows_a_coin(
    pool: CompressorPool,
    monkeypatch: pytest.MonkeyPatch,
    files: list[File],
    archive_format: ArchiveFormat,
    sealed: bool,
    limit: int,
) -> None:
    """`limit` makes most files too large to be parsed, so that they are streamed."""
    monkeypatch.setattr(backup_module, "PARSE_LIMIT", limit)
    with tempfile.TemporaryDirectory() as name:
        wallet = Wallet(Path(name), pool, archive_format, sealed)
        wallet.source.mkdir()
        make(os.fsencode(wallet.source), files)
        before = on_disk(wallet.source)
        written = wallet.backup()
        assert wallet.problems == []
        assert CANARY.in_bytes(wallet.plain_archive(), "archive") == []
        assert wallet.restored(KEY) == before
        found = written.statistics
        assert found.census is not None
        if limit > 300:
            assert found.census.to_record() == census_of(before).to_record()
        assert found.wallet.files_added_plaintext == 0
