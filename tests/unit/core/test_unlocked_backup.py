"""What a backup of an unlocked wallet holds: envelopes where coins were, all else as it is, never a coin in clear."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive import manifest
from holdfast_server.archive.contents import open_contents
from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.manifest import ManifestEntry
from holdfast_server.archive.member import MemberKind
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.reader import Limits, open_reader
from holdfast_server.core import backup as backup_module
from holdfast_server.core.control import Control, Progress
from holdfast_server.core.export import BackupExport, ExportPlan, archive_contents
from holdfast_server.core.plaintext_guard import PlaintextGuard
from holdfast_server.core.reading import FileReader
from holdfast_server.core.statistics import Statistics
from holdfast_server.core.verify import VerifyLevel, open_archive, verify_stored
from holdfast_server.core.wallet_files import WalletFiles
from holdfast_server.errors import DataLoss, Reason
from holdfast_server.wallets import envelope, exposure
from holdfast_server.wallets.census import Census
from holdfast_server.wallets.coin_file import read_coin_file
from holdfast_server.wallets.envelope import CHUNK
from tests.unit.core.wallets import (
    CANARY,
    FORMATS,
    KEY,
    MARKER,
    OTHER_KEY,
    Wallet,
    ans,
    entries_of,
    exposed,
    harmless,
    on_disk,
    opened,
    png,
    zipped,
)  # fmt: skip

ENVELOPE = b".hfcc"


@pytest.fixture(scope="module")
def pool() -> Iterator[CompressorPool]:
    pool = CompressorPool(2, 32 << 20)
    yield pool
    pool.close()


@pytest.fixture
def wallet(tmp_path: Path, pool: CompressorPool) -> Iterator[Wallet]:
    wallet = Wallet(tmp_path, pool)
    wallet.source.mkdir()
    yield wallet
    assert pool.held == 0


def fill(wallet: Wallet) -> None:
    for name, (content, _) in exposed(3).items():
        wallet.put(name, content)
    for name, content in harmless().items():
        wallet.put(name, content)


def totals(wallet: Wallet) -> dict[str, Any]:
    if wallet.format is ArchiveFormat.ZIP:
        with zipfile.ZipFile(wallet.archive) as archive:
            return dict(json.loads(archive.read("holdfast-manifest.json")))
    with wallet.archive.open("rb") as file:
        reader = open_reader(wallet.format, file, limits=Limits(), check=lambda: None)
        contents = open_contents(reader, check=lambda: None, on_progress=lambda *_: None)
        list(contents.entries())
        return dict(contents.totals)


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
@pytest.mark.parametrize("archive_format", FORMATS)
def test_every_kind_of_coin_file_goes_in_as_an_envelope(
    wallet: Wallet, archive_format: ArchiveFormat, sealed: bool
) -> None:
    wallet.format, wallet.sealed = archive_format, sealed
    fill(wallet)
    before = on_disk(wallet.source)
    written = wallet.backup(None)
    assert CANARY.in_bytes(wallet.plain_archive(), "locked"), "the search finds nothing where coins lie in clear"
    assert wallet.restored() == before
    written = wallet.backup()
    assert wallet.problems == []
    assert CANARY.in_bytes(wallet.plain_archive(), "unlocked") == []
    assert CANARY.in_bytes(wallet.archive.read_bytes(), "archive") == []
    entries = wallet.entries()
    assert opened(entries, KEY) == before
    encrypted = {entry.source_path for entry, _ in entries.values() if entry.encryption}
    assert encrypted == {os.fsencode(name) for name in exposed(3)}
    for path, (entry, content) in entries.items():
        if entry.encryption:
            plain = before[entry.source_path]
            assert path == entry.source_path + ENVELOPE
            assert content == envelope.encrypt(plain, KEY)
            assert entry.sha256 == hashlib.sha256(content).digest()
            record = (KEY.key_id, len(plain), hashlib.sha256(plain).digest(), None)
            assert record == (
                entry.encryption.key_id, entry.encryption.size, entry.encryption.sha256, entry.encryption.path,
            )  # fmt: skip
    found = written.statistics
    assert found.key_ids == {KEY.key_id}
    assert (found.wallet.files_reencrypted, found.wallet.files_added_plaintext) == (len(exposed(3)), 0)
    assert found.complete
    assert found.wallet.files_added_multi_coin == 1
    if not sealed:
        for level in VerifyLevel:
            verify_stored(wallet.stored(written), level, Control(), Progress())


def test_mode_and_times_are_the_files(wallet: Wallet) -> None:
    path = wallet.put("Bank/a.bin", exposed(1)["Bank/single.bin"][0])
    path.chmod(0o640)
    os.utime(path, ns=(1, 1_600_000_000_123_456_789))
    wallet.backup()
    member = wallet.entries()[b"Bank/a.bin.hfcc"][0].member
    assert (member.mode, member.mtime_ns) == (0o640, 1_600_000_000_123_456_789)


def test_two_backups_hold_the_same_envelopes(wallet: Wallet) -> None:
    fill(wallet)
    wallet.backup()
    first = wallet.entries()
    wallet.backup()
    assert wallet.entries() == first


def test_counters_and_census_are_those_of_the_wallet_whatever_its_state(wallet: Wallet) -> None:
    fill(wallet)
    expected = Census()
    for name, content in on_disk(wallet.source).items():
        for coin in read_coin_file(content).coins:
            expected.add(name.partition(b"/")[0] if b"/" in name else b"", coin)
    assert expected.coins == sum(len(coins) for _, coins in exposed(3).values()) == 11
    locked = wallet.backup(None).statistics
    assert totals(wallet)["key_ids"] == []
    assert totals(wallet)["coins"] == expected.to_record()
    unlocked = wallet.backup().statistics
    assert totals(wallet)["coins"] == expected.to_record()
    assert totals(wallet)["key_ids"] == [KEY.key_id]
    assert totals(wallet)["wallet"]["files_reencrypted"] == len(exposed(3))
    assert locked.wallet.files_reencrypted == 0
    assert locked.wallet.files_added_plaintext > 0
    assert unlocked.wallet.coins_backed_up == locked.wallet.coins_backed_up
    assert unlocked.wallet.money_files == locked.wallet.money_files
    again = Statistics.of_manifest_totals(totals(wallet))
    assert again == unlocked
    assert Statistics.from_record(json.loads(json.dumps(unlocked.to_record()))).wallet == unlocked.wallet


def test_totals_of_older_manifests_are_read(wallet: Wallet) -> None:
    fill(wallet)
    wallet.backup(None)
    older = {key: value for key, value in totals(wallet).items() if key != "coins"}
    found = Statistics.of_manifest_totals(older)
    assert found.census is None
    for broken in ({"coins": {}}, {"coins": 5}, {"key_ids": [5]}, {"key_ids": "x"}):
        with pytest.raises(ValueError, match=r"totals|coins"):
            Statistics.of_manifest_totals({**older, **broken})


def test_what_is_encrypted_already_is_stored_as_it_is(wallet: Wallet) -> None:
    """Also an envelope of the key itself. Its coins are counted when the key is at hand, and opaque otherwise."""
    coin = exposed(7)["Bank/single.bin"][0]
    wallet.put("Bank/mine.bin.hfcc", mine := envelope.encrypt(coin, KEY))
    wallet.put("Bank/theirs.bin.hfcc", theirs := envelope.encrypt(coin, OTHER_KEY))
    wallet.put("Recovery/old.hfcc", envelope.encrypt(b"journal", OTHER_KEY))
    wallet.put("Bank/foreign.bin", foreign := harmless()["Bank/locked elsewhere.bin"])
    wallet.put("Bank/broken.bin.hfcc", mine[:-1])
    for key, coins in ((KEY, 1), (None, 0)):
        found = wallet.backup(key).statistics
        entries = wallet.entries()
        for name, content in (("mine.bin.hfcc", mine), ("theirs.bin.hfcc", theirs), ("foreign.bin", foreign)):
            assert entries[b"Bank/" + name.encode()][1] == content
            assert entries[b"Bank/" + name.encode()][0].encryption is None
        assert entries[b"Recovery/old.hfcc"][0].encryption is None
        assert found.census is not None
        assert found.census.coins == coins
        # One that only begins like an envelope may be anything.
        assert (b"Bank/broken.bin.hfcc.hfcc" in entries) is (key is not None)
        assert wallet.restored(KEY) == on_disk(wallet.source)


def test_names_that_are_taken(wallet: Wallet) -> None:
    coin = [exposed(seed)["Bank/single.bin"][0] for seed in range(8)]
    wallet.put("Bank/x.bin", coin[0])
    wallet.put("Bank/x.bin.hfcc", b"verbatim")
    wallet.put("Bank/x.bin-2", coin[1])
    wallet.put("Bank/x.bin-3.hfcc", coin[2])
    wallet.put("Bank/y.bin", coin[3])
    (wallet.source / "Bank/y.bin.hfcc").mkdir()
    wallet.put("Bank/y.bin.hfcc/z.bin", coin[4])
    wallet.put("Bank/w.bin", coin[5])
    (wallet.source / "Bank/w.bin.hfcc").symlink_to("w.bin")
    for at, length in enumerate((249, 250, 251, 255)):
        wallet.put("Bank/" + "é" * (length // 2) + "n" * (length % 2), coin[at])
        wallet.put(b"Bank/" + b"\xff" * length, coin[at])
    wallet.put("Bank/" + "é" * 127 + "m", coin[6])
    wallet.backup()
    before, entries = on_disk(wallet.source), wallet.entries()
    assert opened(entries, KEY) == before
    assert CANARY.in_bytes(wallet.plain_archive(), "archive") == []
    names = {entry.source_path: path for path, (entry, _) in entries.items()}
    assert names[b"Bank/x.bin"] == b"Bank/x.bin-4.hfcc"
    assert names[b"Bank/x.bin.hfcc"] == b"Bank/x.bin.hfcc"
    assert names[b"Bank/x.bin-2"] == b"Bank/x.bin-2.hfcc"
    assert names[b"Bank/y.bin"] == b"Bank/y.bin-2.hfcc"
    assert names[b"Bank/w.bin"] == b"Bank/w.bin-2.hfcc"
    assert entries[b"Bank/w.bin.hfcc"][0].member.kind is MemberKind.SYMLINK
    assert all(len(part) <= 255 for path in entries for part in path.split(b"/"))


@pytest.mark.parametrize("archive_format", FORMATS)
def test_hard_links_to_encrypted_files(wallet: Wallet, archive_format: ArchiveFormat) -> None:
    wallet.format = archive_format
    first = wallet.put("Bank/a.bin", exposed(1)["Bank/single.bin"][0])
    os.link(first, wallet.source / "Bank/b.bin")
    wallet.put("Bank/b.bin.hfcc", b"taken")
    (wallet.source / "Sent").mkdir()
    os.link(first, wallet.source / "Sent/c")
    note = wallet.put("Notes", b"a note")
    (wallet.source / "Recovery").mkdir()
    os.link(note, wallet.source / "Recovery/note")
    os.link(note, wallet.source / "Zotes")
    unknown = wallet.put("Data/unknown", b"neither this nor that")
    (wallet.source / "Vault").mkdir()
    os.link(unknown, wallet.source / "Vault/unknown.bin")
    found = wallet.backup().statistics
    entries = wallet.entries()
    assert opened(entries, KEY) == on_disk(wallet.source)
    assert CANARY.in_bytes(wallet.plain_archive(), "archive") == []
    links = {path: entry.member.link_target for path, (entry, _) in entries.items()
             if entry.member.kind is MemberKind.HARDLINK}  # fmt: skip
    expected = {
        b"Bank/b.bin-2.hfcc": b"Bank/a.bin.hfcc",
        b"Sent/c.hfcc": b"Bank/a.bin.hfcc",
        # Stored once more where it must not be in clear, and that is what later names link to.
        b"Zotes.hfcc": b"Recovery/note.hfcc",
    }
    assert links == (expected if archive_format.has_hardlinks else {})
    assert found.hardlinks == len(links)
    assert found.census is not None
    assert found.census.to_record()["folders"] == {
        "Bank": {"coins": 2, "amount": "0.2"}, "Sent": {"coins": 1, "amount": "0.1"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("archive_format", "sealed"), [*((one, False) for one in FORMATS), (FORMATS[0], True)], ids=str
)
def test_files_too_large_to_be_parsed(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch, archive_format: ArchiveFormat, sealed: bool
) -> None:
    monkeypatch.setattr(backup_module, "PARSE_LIMIT", 100)
    wallet.format, wallet.sealed = archive_format, sealed
    for name, (content, _) in exposed(3).items():
        wallet.put(name, content)
    large = wallet.put("Export/large.zip", zipped({f"{n}.bin": os.urandom(300) + ans(n) for n in range(2_000)}, 0))
    assert large.stat().st_size > CHUNK
    wallet.put("Receipts/log.txt", b"line\n" * 1000)
    wallet.put("Recovery/log.txt", b"line\n" * 1000)
    wallet.put("Bank/foreign.bin", harmless()["Bank/locked elsewhere.bin"])
    wallet.put("Bank/mine.bin.hfcc", envelope.encrypt(b"x" * 200, KEY))
    with (wallet.source / "Bank/sparse.bin").open("wb") as sparse:
        sparse.truncate(3 << 20)
        sparse.seek(2 << 20)
        sparse.write(ans(1))
    os.link(large, wallet.source / "Export/second name.zip")
    before = on_disk(wallet.source)
    found = wallet.backup().statistics
    assert wallet.problems == []
    entries = wallet.entries()
    assert opened(entries, KEY) == before
    assert CANARY.in_bytes(wallet.plain_archive(), "archive") == []
    stored = {path for path, (entry, _) in entries.items() if not entry.encryption}
    assert {b"Receipts/log.txt", b"Bank/foreign.bin", b"Bank/mine.bin.hfcc"} <= stored
    assert b"Recovery/log.txt.hfcc" in entries
    assert found.wallet.files_added_plaintext == 0
    entry, content = entries[b"Export/large.zip.hfcc"]
    header = envelope.read_header(content)
    assert header is not None
    assert header.random_tag is sealed
    if not sealed:
        assert content == envelope.encrypt(before[entry.source_path], KEY)


class Restless:
    """Makes a file change while it is read, `times` times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path, new: list[bytes]) -> None:
        self.path, self.new = path, new
        original = FileReader.blocks

        def blocks(reader: FileReader) -> Iterator[bytes]:
            for block in original(reader):
                if self.new and os.fstat(reader.fd).st_ino == self.path.stat().st_ino:
                    self.path.write_bytes(self.new.pop(0))
                yield block

        monkeypatch.setattr(FileReader, "blocks", blocks)


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
@pytest.mark.parametrize(
    ("times", "change"), [(1, 0), (2, 0), (3, 0), (9, 0), (1, 2000), (9, 2000), (1, -2_000_000), (9, -2_000_000)]
)
def test_a_large_file_that_changes_between_and_while_it_is_read(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch, sealed: bool, times: int, change: int
) -> None:
    monkeypatch.setattr(backup_module, "PARSE_LIMIT", 100)
    monkeypatch.setattr(Control, "wait", lambda *_: None)
    wallet.sealed = sealed
    size = 3 << 20
    contents = [(MARKER + bytes([n])) * ((size + n * change) // 9 + 1) for n in range(10)]
    contents = [content[: max(size + min(n, 1) * change, 0)] for n, content in enumerate(contents)]
    path = wallet.put("Bank/large.bin", contents[0])
    Restless(monkeypatch, path, contents[1 : 1 + times])
    written = wallet.backup()
    assert CANARY.in_bytes(wallet.plain_archive(), "archive") == []
    [(entry, content)] = [item for path, item in wallet.entries().items() if path == b"Bank/large.bin.hfcc"]
    plain = opened({b"x": (entry, content)}, KEY)[b"Bank/large.bin"]
    assert entry.encryption is not None
    assert entry.encryption.sha256 == hashlib.sha256(plain).digest()
    if entry.changed:
        assert [problem.reason for problem in wallet.problems] == ["CHANGED_WHILE_READ"]
    else:
        assert plain in contents
        assert not sealed
    assert written.statistics.complete


def test_a_large_file_that_fails_in_a_sealed_backup_is_filled_with_zeros(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_module, "PARSE_LIMIT", 100)
    wallet.sealed = True
    content = MARKER * (3 << 17)
    wallet.put("Bank/large.bin", content)
    original = FileReader.blocks

    def blocks(reader: FileReader) -> Iterator[bytes]:
        for number, block in enumerate(original(reader)):
            if number == 1:
                raise OSError(5, "Input/output error")
            yield block

    monkeypatch.setattr(FileReader, "blocks", blocks)
    written = wallet.backup()
    assert wallet.restored(KEY)[b"Bank/large.bin"] == content[: 1 << 20].ljust(len(content), b"\0")
    assert [problem.reason for problem in wallet.problems] == ["READ_ERROR"]
    assert f"past {1 << 20} bytes" in wallet.problems[0].message
    assert not written.statistics.complete
    assert CANARY.in_bytes(wallet.plain_archive(), "archive") == []


# -- the proof ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "sealed"),
    [(exposure.PARSE_LIMIT, False), (100, False), (100, True)],
    ids=["parsed", "streamed", "streamed and sealed"],
)
@pytest.mark.parametrize(
    "name", [name for name in exposed(3) if name not in ("Corrupted/headless.bin", "Corrupted/cut.stack")]
)
def test_the_guard_stops_a_coin_that_nobody_decided_to_encrypt(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch, name: str, limit: int, sealed: bool
) -> None:
    monkeypatch.setattr(backup_module, "PARSE_LIMIT", limit)
    monkeypatch.setattr(WalletFiles, "_encrypts", lambda *_: False)
    monkeypatch.setattr(WalletFiles, "_encrypts_large", lambda *_: False)
    wallet.sealed = sealed
    wallet.put(name, exposed(3)[name][0])
    with pytest.raises(DataLoss) as caught:
        wallet.backup()
    assert caught.value.reason is Reason.PLAINTEXT_COIN
    assert caught.value.metadata["path"] == name
    assert CANARY.in_bytes(str(caught.value).encode() + repr(caught.value.metadata).encode(), "error") == []


@pytest.mark.parametrize(
    "broken", [lambda content, _: content, lambda content, key: ENCRYPT(content[:-1], key)], ids=["clear", "cut"]
)
def test_the_guard_opens_what_was_encrypted(wallet: Wallet, monkeypatch: pytest.MonkeyPatch, broken: Any) -> None:
    wallet.put("Bank/a.bin", exposed(3)["Bank/single.bin"][0])
    monkeypatch.setattr(envelope, "encrypt", broken)
    with pytest.raises(DataLoss) as caught:
        wallet.backup()
    assert caught.value.reason is Reason.PLAINTEXT_COIN


ENCRYPT = envelope.encrypt


def test_without_the_guard_a_broken_decision_would_leak(wallet: Wallet, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests above prove is not that nothing was stored anyway."""
    monkeypatch.setattr(WalletFiles, "_encrypts", lambda *_: False)
    monkeypatch.setattr(PlaintextGuard, "_inspect", lambda *_: None)
    wallet.put("Bank/a.bin", exposed(3)["Bank/single.bin"][0])
    wallet.backup()
    assert CANARY.in_bytes(wallet.plain_archive(), "archive")


# -- what is exposed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "first", "expected"),
    [
        (b"Bank/a.bin", b"whatever", True),
        (b"Sent/a.ZIP", b"whatever", True),
        (b"a", b"PK\x03\x04", True),
        (b"a", b"\x89PNG\r\n", True),
        (b"a", b"\xff\xd8\xff", True),
        (b"a", bytes([9, 1, 0, 6]) + bytes(28), True),
        (b"a", bytes([9, 1, 0, 6, 0, 4]) + bytes(26), False),
        (b"a", bytes(40), True),
        (b"a", b"\xef\xbb\xbf \r\n{", True),
        (b"a", b"\xff\xfe{\0", True),
        (b"a", b" " * 4096, True),
        (b"a", b"2026-01-01 withdrawn", False),
        (b"Recovery/a", b"2026-01-01 withdrawn", True),
        (b"recovery/b/a", b"2026-01-01 withdrawn", True),
        (b"Recovery", b"a file", False),
    ],
)
def test_large_files_by_their_beginning(path: bytes, first: bytes, expected: bool) -> None:
    assert exposure.may_be_exposed(path, 20 << 20, first) is expected


def test_an_envelope_is_no_longer_exposed_and_a_part_of_one_is() -> None:
    sealed = envelope.encrypt(png(exposed(1)["Bank/single.bin"][0]), KEY)
    assert not exposure.may_be_exposed(b"Recovery/a.bin", len(sealed), sealed)
    assert exposure.may_be_exposed(b"Recovery/a.bin", len(sealed) + 1, sealed)
    assert not exposure.is_exposed(b"Recovery/a.bin", sealed, read_coin_file(sealed))
    assert exposure.is_exposed(b"a", sealed + b"\0", read_coin_file(sealed + b"\0"))


# -- exports ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "chosen"),
    [(ArchiveFormat.ZIP, ()), (ArchiveFormat.TAR_ZST, ()), (ArchiveFormat.TAR_GZ, (b"Bank", b"Sent"))],
    ids=str,
)
def test_an_export_carries_the_encryption_over(wallet: Wallet, to: ArchiveFormat, chosen: tuple[bytes, ...]) -> None:
    fill(wallet)
    wallet.put("Bank/x.bin", exposed(9)["Bank/single.bin"][0])
    wallet.put("Bank/x.bin.hfcc", b"taken")
    wallet.put("Bank/large.bin", os.urandom(2 << 20))
    (wallet.source / "Sent").mkdir()
    os.link(wallet.source / "Import/old.stack", wallet.source / "Sent/link.stack")
    written = wallet.backup()
    of_backup, stored = totals(wallet), wallet.stored(written)
    target = wallet.base / "export"
    plan = ExportPlan("id", to, chosen, 1_700_000_000_000_000, "test")
    with open_archive(stored) as file, target.open("w+b", buffering=0) as out:
        contents = archive_contents(file, stored.format, Control(), Progress())
        exported = BackupExport(contents, plan, Control(), Progress()).write(out.fileno(), wallet.pool, lambda _: None)
    entries = entries_of(target.read_bytes(), to)
    before = on_disk(wallet.source)
    expected = {path: content for path, content in before.items() if not chosen or path.startswith(chosen)}
    assert opened(entries, KEY) == expected
    assert CANARY.in_bytes(target.read_bytes(), "export") == []
    assert exported.statistics.key_ids == {KEY.key_id}
    found, was = exported.statistics.wallet, written.statistics.wallet
    if not chosen:
        assert found.files_reencrypted >= was.files_reencrypted
        assert (found.money_files, found.files_added_plaintext) == (was.money_files, 0)
        assert found.coins_backed_up >= was.coins_backed_up
        assert exported.statistics.census is not None
        assert exported.statistics.census.to_record() == of_backup["coins"]
    else:
        assert exported.statistics.census is None


# -- the manifest -------------------------------------------------------------------------------------------------


def test_the_suffix_is_the_same_everywhere() -> None:
    assert manifest.ENVELOPE_SUFFIX == envelope.SUFFIX


@pytest.mark.parametrize(
    "encryption",
    [
        {"key_id": 5, "size": 1, "sha256": "00" * 32},
        {"key_id": "a", "size": -1, "sha256": "00" * 32},
        {"key_id": "a", "size": True, "sha256": "00" * 32},
        {"key_id": "a", "size": 1, "sha256": "00"},
        {"key_id": "a", "size": 1},
        {"key_id": "a", "size": 1, "sha256": "00" * 32, "path": 5},
        [],
    ],
)
def test_a_malformed_encryption_is_refused(encryption: Any) -> None:
    record = {"path": "a.hfcc", "type": "file", "mode": "0644", "mtime": "0.000000000", "uid": 0, "gid": 0, "size": 1,
              "sha256": "00" * 32}  # fmt: skip
    assert ManifestEntry.from_record(record).encryption is None
    with pytest.raises(DataLoss):
        ManifestEntry.from_record({**record, "encryption": encryption})
    good = {"key_id": "a", "size": 1, "sha256": "00" * 32}
    assert ManifestEntry.from_record({**record, "encryption": good}).source_path == b"a"
    with pytest.raises(DataLoss, match="name"):
        ManifestEntry.from_record({**record, "path": "a", "encryption": good})
