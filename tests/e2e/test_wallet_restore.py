"""Wallets put back: coins decrypted on request, and new wallets that equal their backup or do not appear."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from holdfast.v1 import (
    backup_pb2,
    credentials_pb2,
    restore_pb2,
    source_pb2,
    source_service_pb2,
    task_pb2,
    wallet_service_pb2,
)
from holdfast_server.wallets.coin_file import read_coin_file
from tests.harness import PATIENCE, Server, failure_of, snapshot
from tests.keys import PRIVATE, PUBLIC
from tests.restored_wallets import COINS, EXPORT, PASSWORD, make_wallet, reserve, rewritten

COMPLETED = task_pb2.TASK_STATE_COMPLETED
WARNED = task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS
FAILED = task_pb2.TASK_STATE_FAILED

ZIP, TAR_GZ, TAR_ZST = (
    backup_pb2.ARCHIVE_FORMAT_ZIP,
    backup_pb2.ARCHIVE_FORMAT_TAR_GZ,
    backup_pb2.ARCHIVE_FORMAT_TAR_ZST,
)


class Story:
    """One wallet, unlocked while it is backed up, and what is restored of it."""

    def __init__(self, server: Server, base: Path, name: str) -> None:
        self.server, self.base, self.name = server, base, name
        self.wallet = make_wallet(base / name)
        self.folder = base / f"{name}-archives"
        self.folder.mkdir()
        server.register(self.wallet, name, kind=source_pb2.SOURCE_KIND_WALLET)
        self.made = 0

    def unlock(self) -> None:
        request = wallet_service_pb2.UnlockWalletRequest(source_id=self.name, password=PASSWORD)
        self.server.wallets.UnlockWallet(request, timeout=PATIENCE)

    def lock(self) -> None:
        request = wallet_service_pb2.LockWalletRequest(source_id=self.name)
        self.server.wallets.LockWallet(request, timeout=PATIENCE)

    def backup(self, archive_format: int = ZIP, **values: Any) -> str:
        task = self.server.backup(self.name, self.folder, archive_format=archive_format, **values)
        assert task.state == COMPLETED, task
        return str(task.backup_result.backup_ids[0])

    def archive(self, backup_id: str) -> Path:
        rows = self.server.rows("SELECT folder, file_name FROM backups WHERE backup_id = ?", backup_id)
        return Path(os.fsdecode(rows[0]["folder"]), os.fsdecode(rows[0]["file_name"]))

    def target(self) -> Path:
        self.made += 1
        return self.base / f"{self.name}-back-{self.made}"

    def sources(self) -> dict[str, source_pb2.Source]:
        listed = self.server.sources.ListSources(
            source_service_pb2.ListSourcesRequest(page_size=1000), timeout=PATIENCE
        )
        return {source.source_id: source for source in listed.sources}


def password(text: str = PASSWORD) -> credentials_pb2.Credentials:
    return credentials_pb2.Credentials(wallet_password=text)


def new_wallet(**values: Any) -> restore_pb2.NewWalletTarget:
    return restore_pb2.NewWalletTarget(**values)


def envelopes(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.hfcc"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wallets")


@pytest.fixture(scope="module")
def story(shared_server: Server, base: Path) -> Story:
    """Its backups hold envelopes only."""
    made = Story(shared_server, base, f"guarded-{base.name}")
    made.unlock()
    return made


@pytest.fixture(scope="module")
def backups(story: Story) -> dict[str, str]:
    story.unlock()
    made = {
        "zip": story.backup(ZIP),
        "tar.gz": story.backup(TAR_GZ),
        "tar.zst": story.backup(TAR_ZST),
        "sealed": story.backup(TAR_GZ, recipients=[PUBLIC]),
        "sealed zip": story.backup(ZIP, recipients=[PUBLIC]),
    }
    story.lock()
    return made


@pytest.fixture(scope="module")
def plain(shared_server: Server, base: Path) -> Story:
    """Never unlocked: its backups hold coins as they are."""
    return Story(shared_server, base, f"plain-{base.name}")


@pytest.mark.parametrize("archive_format", ["zip", "tar.gz", "tar.zst"])
def test_coins_are_decrypted_with_the_password_and_only_then(
    story: Story, backups: dict[str, str], archive_format: str
) -> None:
    as_they_are = story.target()
    task = story.server.restore(backups[archive_format], as_they_are)
    assert task.state == COMPLETED, task
    kept = envelopes(as_they_are)
    assert len(kept) == task.restore_result.files_encrypted + task.restore_result.hardlinks
    assert len(kept) == COINS + 1, "a hard link is one file more"
    assert "coins stay encrypted" in task.message
    assert task.restore_result.files_decrypted == 0

    back = story.target()
    task = story.server.restore(backups[archive_format], back, credentials=password())
    assert task.state == COMPLETED, task
    assert snapshot(back) == snapshot(story.wallet)
    result = task.restore_result
    assert result.files_decrypted == len(kept) - result.hardlinks
    assert result.hardlinks == (archive_format != "zip")
    sizes = {path.stat().st_ino: path.stat().st_size for path in back.rglob("*") if path.is_file()}
    assert result.restored_size == sum(sizes.values())


@pytest.mark.parametrize("archive_format", ["zip", "tar.gz"])
def test_a_wrong_password_is_told_from_damage_and_leaves_nothing(
    story: Story, backups: dict[str, str], archive_format: str
) -> None:
    back = story.target()
    task = story.server.restore(backups[archive_format], back, credentials=password("wrong"))
    assert (task.state, task.error.reason) == (FAILED, "KEY_WRONG")
    assert not back.exists()
    assert "wrong" not in str(task)


def test_an_unlocked_wallet_decrypts_when_it_is_asked_to(story: Story, backups: dict[str, str]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        story.server.restore(backups["zip"], story.target(), decrypt_coins=True)
    assert failure_of(caught.value).reason == "KEY_REQUIRED"
    story.unlock()
    try:
        task = story.server.restore(backups["zip"], left := story.target())
        assert task.restore_result.files_encrypted == COINS + 1, "unlocked alone is no request"
        assert envelopes(left)
        task = story.server.restore(backups["zip"], back := story.target(), decrypt_coins=True)
        assert task.state == COMPLETED, task
        assert snapshot(back) == snapshot(story.wallet)
    finally:
        story.lock()


def test_a_password_that_nobody_shall_use_is_refused(story: Story, backups: dict[str, str]) -> None:
    for values, field in (
        ({"decrypt_coins": False, "credentials": password()}, "decrypt_coins"),
        ({"decrypt_coins": False, "new_wallet": new_wallet()}, "decrypt_coins"),
        ({"paths": ["Bank"], "new_wallet": new_wallet()}, "paths"),
        ({"new_wallet": new_wallet(source_id="No")}, "new_wallet.source_id"),
        ({"new_wallet": new_wallet(display_name="two\nlines")}, "new_wallet.display_name"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            story.server.restore(backups["zip"], story.target(), **values)
        failure = failure_of(caught.value)
        assert (failure.reason, failure.metadata["field"]) == ("INVALID_FIELD", field)


def test_only_some_paths_are_decrypted(story: Story, backups: dict[str, str]) -> None:
    task = story.server.restore(
        backups["tar.gz"], back := story.target(), paths=["Trash", "config.toml"], credentials=password()
    )
    assert task.state == COMPLETED, task
    assert task.restore_result.files_decrypted > 0
    whole = snapshot(story.wallet)
    found = {path: entry for path, entry in snapshot(back).items() if path}
    assert found == {p: e for p, e in whole.items() if p == b"config.toml" or p.split(b"/")[0] == b"Trash"}


@pytest.mark.parametrize("archive_format", ["zip", "tar.gz", "tar.zst"])
def test_a_new_wallet_equals_its_backup_and_is_registered(
    story: Story, backups: dict[str, str], archive_format: str
) -> None:
    back = story.target()
    task = story.server.restore(
        backups[archive_format], back, credentials=password(), new_wallet=new_wallet(display_name="Once more")
    )
    assert task.state == COMPLETED, task
    result = task.restore_result
    assert snapshot(back) == snapshot(story.wallet)
    source = story.sources()[result.source_id]
    assert (source.path, source.display_name, source.kind) == (str(back), "Once more", source_pb2.SOURCE_KIND_WALLET)
    assert result.source_id == back.name
    assert result.restored_coins.total.coins == len(result.restored_coins.coins) == COINS + 1
    assert not any(coin.encrypted for coin in result.restored_coins.coins)
    wallet = wallet_service_pb2.GetBalanceRequest(source_id=result.source_id)
    original = wallet_service_pb2.GetBalanceRequest(source_id=story.name)
    found = story.server.wallets.GetBalance(wallet, timeout=PATIENCE)
    assert found.spendable == story.server.wallets.GetBalance(original, timeout=PATIENCE).spendable
    assert f"{result.restored_coins.total.coins} coins" in task.message


@pytest.mark.parametrize("kind", ["sealed", "sealed zip"])
def test_a_sealed_backup_becomes_a_wallet_while_its_own_is_unlocked(
    story: Story, backups: dict[str, str], kind: str
) -> None:
    identity = {"identity": PRIVATE}
    with pytest.raises(grpc.RpcError) as caught:
        story.server.restore(backups[kind], back := story.target(), new_wallet=new_wallet(), **identity)
    assert failure_of(caught.value).reason == "KEY_REQUIRED"
    story.unlock()
    try:
        task = story.server.restore(backups[kind], back, new_wallet=new_wallet(), **identity)
        archived = story.server.restore_archive(
            story.archive(backups[kind]),
            second := story.target(),
            new_wallet=new_wallet(),
            credentials=credentials_pb2.Credentials(age_identity=PRIVATE),
        )
    finally:
        story.lock()
    assert task.state == COMPLETED, task
    assert archived.state == COMPLETED, archived
    assert snapshot(back) == snapshot(second) == snapshot(story.wallet)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_alone_becomes_a_wallet(story: Story, backups: dict[str, str], kind: str) -> None:
    archive = story.archive(backups[kind])
    for values, reason in (({}, "KEY_REQUIRED"), ({"credentials": password("wrong")}, "KEY_WRONG")):
        task = story.server.restore_archive(archive, back := story.target(), new_wallet=new_wallet(), **values)
        assert (task.state, task.error.reason) == (FAILED, reason)
        assert not back.exists()
    wanted = new_wallet(source_id=f"from-{kind}", display_name="From an archive")
    task = story.server.restore_archive(archive, back := story.target(), new_wallet=wanted, credentials=password())
    assert task.state == COMPLETED, task
    assert snapshot(back) == snapshot(story.wallet)
    result = task.restore_archive_result
    assert (result.source_id, result.restored_coins.total.coins) == (f"from-{kind}", COINS + 1)
    assert story.sources()[result.source_id].path == str(back)
    with pytest.raises(grpc.RpcError) as caught:
        story.server.restore_archive(archive, story.target(), new_wallet=wanted, credentials=password())
    assert failure_of(caught.value).reason == "SOURCE_EXISTS"


def test_what_is_no_wallet_becomes_none(plain: Story, tmp_path: Path) -> None:
    server, folder = plain.server, tmp_path / "directory"
    shutil.copytree(plain.wallet, folder)
    server.register(folder, "no-wallet")
    task = server.backup("no-wallet", plain.folder)
    with pytest.raises(grpc.RpcError) as caught:
        server.restore(task.backup_result.backup_ids[0], tmp_path / "a", new_wallet=new_wallet())
    assert failure_of(caught.value).reason == "NOT_A_WALLET"
    foreign = tmp_path / "foreign.zip"
    with zipfile.ZipFile(foreign, "w") as made:
        made.write(plain.wallet / "config.toml", "config.toml")
    wallet = plain.archive(plain.backup())
    lacking = rewritten(
        wallet, tmp_path / "lacking.zip", header=lambda values: {**values, "source": {"kind": "DIRECTORY"}}
    )
    for archive in (Path(task.backup_result.output_files[0]), foreign, lacking):
        for dry_run in (True, False):
            failed = server.restore_archive(archive, tmp_path / "b", new_wallet=new_wallet(), dry_run=dry_run)
            assert (failed.state, failed.error.reason) == (FAILED, "NOT_A_WALLET")
            assert not (tmp_path / "b").exists()


def test_a_wallet_without_its_parts_becomes_none(plain: Story, tmp_path: Path) -> None:
    archive = plain.archive(plain.backup(ignore=["config.toml"]))
    task = plain.server.restore_archive(archive, tmp_path / "back", new_wallet=new_wallet())
    assert (task.state, task.error.reason) == (FAILED, "NOT_A_WALLET")
    assert "config.toml" in task.error.message
    assert not (tmp_path / "back").exists()


def test_coins_that_are_not_those_of_the_manifest_do_not_appear(plain: Story, tmp_path: Path) -> None:
    archive, server = plain.archive(plain.backup()), plain.server

    def other_count(values: dict[str, Any]) -> dict[str, Any]:
        folders = values["coins"]["folders"]
        bank = {**folders["Bank"], "coins": folders["Bank"]["coins"] + 1}
        return {**values, "coins": {**values["coins"], "folders": {**folders, "Bank": bank}}}

    def other_digest(values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "coins": {**values["coins"], "digest": f"{1:064x}"}}

    for number, (lie, told) in enumerate(((other_count, "Bank"), (other_digest, "other ones"))):
        lying = rewritten(archive, tmp_path / f"{number}.zip", totals=lie)
        back = tmp_path / f"back-{number}"
        back.mkdir()
        task = server.restore_archive(lying, back, new_wallet=new_wallet(source_id=f"liar-{number}"))
        assert (task.state, task.error.reason) == (FAILED, "CHECKSUM_MISMATCH")
        assert told in task.error.message
        assert os.listdir(back) == []
        assert f"liar-{number}" not in plain.sources()
        assert server.restore_archive(lying, tmp_path / f"folder-{number}").state == COMPLETED


def test_a_backup_of_an_earlier_version_states_no_count(plain: Story, tmp_path: Path) -> None:
    older = rewritten(
        plain.archive(plain.backup()),
        tmp_path / "older.zip",
        totals=lambda values: {key: value for key, value in values.items() if key != "coins"},
    )
    task = plain.server.restore_archive(older, tmp_path / "back", new_wallet=new_wallet())
    assert task.state == WARNED, task
    assert [problem.reason for problem in plain.server.problems(task.task_id)] == ["COINS_NOT_COUNTED"]
    assert task.restore_archive_result.source_id in plain.sources()
    assert snapshot(tmp_path / "back") == snapshot(plain.wallet)


def test_an_incomplete_backup_says_so(plain: Story, tmp_path: Path) -> None:
    lacking = rewritten(
        plain.archive(plain.backup()), tmp_path / "lacking.zip", totals=lambda values: {**values, "complete": False}
    )
    task = plain.server.restore_archive(lacking, tmp_path / "back", new_wallet=new_wallet())
    assert task.state == WARNED, task
    assert [problem.reason for problem in plain.server.problems(task.task_id)] == ["BACKUP_INCOMPLETE"]


def test_a_damaged_envelope_names_its_file(story: Story, backups: dict[str, str], tmp_path: Path) -> None:
    damaged: list[str] = []

    def flip(record: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
        if record["path"].startswith("Fracked/") and not damaged:
            damaged.append(record["path"])
            content = content[:-1] + bytes([content[-1] ^ 1])
        return record, content

    archive = rewritten(story.archive(backups["zip"]), tmp_path / "damaged.zip", entry=flip)
    for values in ({}, {"new_wallet": new_wallet()}):
        task = story.server.restore_archive(archive, tmp_path / "back", credentials=password(), **values)
        assert (task.state, task.error.reason) == (FAILED, "CHECKSUM_MISMATCH")
        assert damaged[0] in task.error.message
        assert not (tmp_path / "back").exists()


def test_an_envelope_with_another_content_is_damage(story: Story, backups: dict[str, str], tmp_path: Path) -> None:
    """Two envelopes of one key exchanged: each opens, and holds another coin than the manifest says."""
    seen: list[bytes] = []

    def exchange(record: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
        if record["path"].startswith("Bank/"):
            seen.append(content)
            return record, seen[-2] if len(seen) == 2 else content
        return record, content

    archive = rewritten(story.archive(backups["zip"]), tmp_path / "exchanged.zip", entry=exchange)
    task = story.server.restore_archive(archive, tmp_path / "back", credentials=password())
    assert (task.state, task.error.reason) == (FAILED, "CHECKSUM_MISMATCH")
    assert not (tmp_path / "back").exists()


def test_an_archive_of_unknown_origin_opens_with_the_password(
    story: Story, backups: dict[str, str], tmp_path: Path
) -> None:
    """What somebody unpacked and packed again, without our manifest."""
    story.server.restore(backups["zip"], tmp_path / "as-they-are")
    clash = envelopes(tmp_path / "as-they-are" / "Bank")[0]
    clash.with_suffix("").write_text("somebody's")
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "gztar", tmp_path / "as-they-are"))
    kept = story.server.restore_archive(packed, tmp_path / "kept")
    assert (kept.state, len(envelopes(tmp_path / "kept"))) == (COMPLETED, COINS + 1)
    task = story.server.restore_archive(packed, tmp_path / "back", credentials=password())
    assert task.state == WARNED, task
    assert task.restore_archive_result.files_decrypted == COINS
    problems = story.server.problems(task.task_id)
    assert [(one.reason, one.path) for one in problems] == [("STILL_ENCRYPTED", f"Bank/{clash.name}")]
    assert (tmp_path / "back" / "Bank" / clash.with_suffix("").name).read_text() == "somebody's"
    assert len(envelopes(tmp_path / "back")) == 1


def test_reserved_coins_are_set_aside_and_their_journal_dropped(shared_server: Server, tmp_path: Path) -> None:
    story = Story(shared_server, tmp_path, "exporting")
    names = reserve(story.wallet)
    before = snapshot(story.wallet)
    task = shared_server.restore(story.backup(), back := story.target(), new_wallet=new_wallet())
    assert task.state == WARNED, task
    assert [problem.reason for problem in shared_server.problems(task.task_id)] == ["COINS_SET_ASIDE"]
    assert not (back / ".holdfast").exists()
    for name in names:
        assert (back / "Suspect" / name).read_bytes() == (story.wallet / ".holdfast" / EXPORT / name).read_bytes()
    result = task.restore_result
    assert result.restored_coins.total.coins == COINS + 1
    assert {coin.file_name for coin in result.restored_coins.coins if coin.folder == "Suspect"} >= set(names)
    assert result.files == sum(path.is_file() for path in back.rglob("*"))
    assert result.directories == sum(path.is_dir() for path in back.rglob("*"))
    after = snapshot(back)
    changed = {b"", b"Suspect"}
    assert {p: e for p, e in after.items() if p not in changed and not p.startswith(b"Suspect/")} == {
        p: e for p, e in before.items() if p not in changed and p.split(b"/")[0] not in (b".holdfast", b"Suspect")
    }
    balance = shared_server.wallets.GetBalance(
        wallet_service_pb2.GetBalanceRequest(source_id=result.source_id), timeout=PATIENCE
    )
    assert balance.reserved.coins == 0


def test_a_restore_in_a_folder_keeps_the_reserved_coins_where_they_were(shared_server: Server, tmp_path: Path) -> None:
    story = Story(shared_server, tmp_path, "exporting-too")
    reserve(story.wallet)
    task = shared_server.restore(story.backup(), back := story.target())
    assert task.state == COMPLETED, task
    assert snapshot(back) == snapshot(story.wallet)


def test_envelopes_of_the_wallet_itself_are_counted_and_stay(shared_server: Server, tmp_path: Path) -> None:
    """Coins that their owner had encrypted by hand before the backup: stored as they were, opened to be counted."""
    story = Story(shared_server, tmp_path, "by-hand")
    encrypted = shared_server.restore(_unlocked_backup(story), story.target())
    assert encrypted.state == COMPLETED
    own = envelopes(Path(encrypted.restore_result.folder) / "Bank")[:3]
    for path in own:
        shutil.copy2(path, story.wallet / "Bank" / path.name)
        (story.wallet / "Bank" / path.stem).unlink()
    backup_id = _unlocked_backup(story)
    back = story.target()
    task = shared_server.restore(backup_id, back, new_wallet=new_wallet(), credentials=password())
    assert task.state == COMPLETED, task
    assert [path.name for path in envelopes(back)] == sorted(path.name for path in own)
    assert snapshot(back) == snapshot(story.wallet)
    coins = task.restore_result.restored_coins
    assert sum(coin.encrypted for coin in coins.coins) == len(own)
    assert coins.total.coins == sum(
        len(read_coin_file(path.read_bytes()).coins) for path in story.wallet.rglob("*") if path.is_file()
    ) + len(own)


def _unlocked_backup(story: Story) -> str:
    story.unlock()
    try:
        return story.backup()
    finally:
        story.lock()


def test_a_dry_run_tells_and_makes_nothing(story: Story, backups: dict[str, str]) -> None:
    back = story.target()
    values: dict[str, Any] = {"new_wallet": new_wallet(source_id="dry"), "credentials": password(), "dry_run": True}
    task = story.server.restore(backups["zip"], back, **values)
    assert (task.state, task.restore_result.source_id) == (COMPLETED, "")
    task = story.server.restore_archive(story.archive(backups["zip"]), back, **values)
    assert (task.state, task.restore_archive_result.source_id) == (COMPLETED, "")
    assert not back.exists()
    assert "dry" not in story.sources()


def test_an_id_is_kept_for_the_wallet_while_it_is_restored(new_server: Callable[..., Server], tmp_path: Path) -> None:
    server = new_server()
    story = Story(server, tmp_path, "kept")
    backup_id, other = story.backup(), story.backup()
    with server.frozen_worker():
        first = server.start_restore(backup_id, story.target(), new_wallet=new_wallet(source_id="mine"))
        with pytest.raises(grpc.RpcError) as caught:
            server.register(story.wallet, "mine", kind=source_pb2.SOURCE_KIND_WALLET)
        assert failure_of(caught.value).reason == "SOURCE_EXISTS"
        with pytest.raises(grpc.RpcError) as caught:
            server.start_restore(other, story.target(), new_wallet=new_wallet(source_id="mine"))
        assert failure_of(caught.value).reason == "SOURCE_EXISTS"
        server.cancel(first.task_id)
    assert server.ended(first.task_id).state == task_pb2.TASK_STATE_CANCELLED
    assert not (tmp_path / "kept-back-1").exists()
    assert list(story.sources()) == ["kept"]
    task = server.restore(backup_id, story.target(), new_wallet=new_wallet(source_id="mine"))
    assert (task.state, task.restore_result.source_id) == (COMPLETED, "mine")


def test_what_a_restore_was_told_is_kept_nowhere(story: Story, backups: dict[str, str]) -> None:
    task = story.server.restore(backups["zip"], story.target(), credentials=password(), new_wallet=new_wallet())
    row = story.server.task_row(task.task_id)
    assert PASSWORD not in json.dumps({key: str(value) for key, value in row.items()})
    assert PASSWORD not in story.server.log()
