"""Repositories in the edge: made whole or not at all, shown as they are, unlocked for a while and locked."""

from __future__ import annotations

import os
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.catalog import repositories
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.requests import RequestKey
from holdfast_server.catalog.rows import RepositoryRow, RepositoryState, SourceKind
from holdfast_server.core.new_repository import WantedSlot, make_repository
from holdfast_server.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    HoldfastError,
    NotFound,
    PermissionDenied,
    Reason,
    Unavailable,
)
from holdfast_server.repository import ContentKeys, LogHead, LogVector
from holdfast_server.repository.facts import Renamed
from holdfast_server.repository.log import LogWriter
from holdfast_server.repository.receipt import Receipt
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.engine import NewTask, TaskKind
from holdfast_server.tasks.repositories import NewRepository, RepositoryOrder, RepositoryRegistry, open_repository
from holdfast_server.tasks.repository_states import ShownRepository
from holdfast_server.tasks.run import Outcome, TaskRun
from holdfast_server.tasks.sources import SourceOrder, SourceRegistry
from holdfast_server.tasks.wallet_reader import WalletReader
from tests.canary import Canary
from tests.unit.tasks.conftest import InProcess, StepClock, World

PASSPHRASE = "canary-staple: correct horse"
KEY_FILE = "canary-staple: the content of a key file, long enough"
PHRASE_SLOT = WantedSlot("PASSPHRASE", PASSPHRASE, "mine")
FILE_SLOT = WantedSlot("KEY_FILE", KEY_FILE)
RECOVERY_SLOT = WantedSlot("RECOVERY", None, "in the safe")
KEY = RequestKey("admin", "CreateRepository", "0" * 36, "f" * 64)
MINUTE = 60


def always() -> bool:
    return True


@pytest.fixture(scope="module")
def reader() -> Iterator[WalletReader]:
    made = WalletReader()
    yield made
    made.close()


class Fixture:
    """A catalog, a data directory, and an edge's registry on them."""

    def __init__(self, world: World, base: Path, reader: Any) -> None:
        self.world, self.base = world, base
        self.data_dir = base / "data"
        self.data_dir.mkdir(mode=0o700)
        self.policy = FolderPolicy(str(self.data_dir), [str(base)])
        self.registry = self.new_edge(reader)

    def new_edge(self, reader: Any) -> RepositoryRegistry:
        arguments = self.world.database, self.policy, reader, self.world.clock, os.fsencode(self.data_dir)
        return RepositoryRegistry(*arguments)

    def create(
        self, repository_id: str = "vault", folder: Path | None = None, key: RequestKey | None = None, **values: Any
    ) -> NewRepository:
        location = os.fsencode(folder or self.base / repository_id)
        order = RepositoryOrder(repository_id, repository_id, location, **{"create_folder": True, **values})
        return self.registry.create(order, key, always)

    def sealed(self) -> RepositoryRow:
        return self.create(sealed=True, slots=(FILE_SLOT, RECOVERY_SLOT)).row

    def refused(self, error: type[HoldfastError], reason: Reason, **values: Any) -> HoldfastError:
        with pytest.raises(error) as caught:
            self.create(**values)
        assert caught.value.reason is reason
        return caught.value

    def rows(self) -> list[str]:
        with self.world.database.read() as connection:
            return [row.repository_id for row in repositories.list_repositories(connection, limit=100)]

    def kept(self, repository_id: str = "vault") -> Path:
        return self.data_dir / "repositories" / repository_id

    def unlock(self, secret: str = KEY_FILE, seconds: float = MINUTE) -> RepositoryRow:
        return self.registry.unlock("vault", Credentials(private_key=secret), seconds, always)

    def look(self) -> ShownRepository:
        return self.registry.get("vault", always)[0]

    def at_work(self, credentials: Credentials | None) -> str:
        """What the worker finds that opens the repository: the keys as text, or a reason."""
        found: list[str] = []
        row = self.registry.list(limit=1, after=None)[0]

        def work(run: TaskRun) -> Outcome:
            with open_repository(row, os.fsencode(self.data_dir)) as opened:
                try:
                    found.append(run.content_keys(opened).to_text())
                except HoldfastError as error:
                    found.append(error.reason.value)
            return Outcome({}, "done")

        self.world.handler.work = work
        new = NewTask(TaskKind.VERIFY, "admin", {}, [], [], credentials=credentials)
        assert self.world.execute(self.world.engine.create(lambda _: new, None).task_id) == "completed"
        return found[0]


@pytest.fixture
def fixture(world: World, tmp_path: Path) -> Fixture:
    return Fixture(world, tmp_path, InProcess())


# -- made ----------------------------------------------------------------------------------------------------------


def test_a_new_repository_opens_with_the_keys_of_the_data_directory(fixture: Fixture) -> None:
    made = fixture.create(compression_level=9, slots=(FILE_SLOT,))
    row = made.row
    assert (row.state, row.sealed, row.compression_level, row.key_epoch) == ("READY", False, 9, 1)
    assert [(key["kind"], key["display_name"]) for key in row.keys] == [("KEY_FILE", "")]
    assert made.recovery_key is None
    assert stat.S_IMODE((fixture.base / "vault").stat().st_mode) == 0o700
    for path, mode in ((fixture.kept().parent, 0o700), (fixture.kept(), 0o700), (fixture.kept() / "keys", 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert sorted(os.listdir(fixture.kept())) == ["config", "keys", "place"]
    with open_repository(row, os.fsencode(fixture.data_dir)) as opened:
        assert opened.keys.content is not None
        assert opened.keys.content.to_text() == opened.repository.unlock(KEY_FILE).to_text()


def test_a_sealed_one_keeps_no_content_key(fixture: Fixture) -> None:
    row = fixture.sealed()
    with open_repository(row, os.fsencode(fixture.data_dir)) as opened:
        assert opened.keys.content is None
        text = opened.repository.unlock(KEY_FILE).to_text()
    private = bytes.fromhex(text.split(":")[1])
    for form in (private[:32], private[-32:], KEY_FILE.encode()):
        assert Canary(form).search(fixture.data_dir, fixture.base / "state.sqlite", fixture.base / "vault") == []
    with open_repository(fixture.create("open").row, os.fsencode(fixture.data_dir)) as opened:
        assert opened.keys.content is not None
        kept = opened.keys.content.private(1)
    assert Canary(kept[:32]).search(fixture.kept("open")), "the search finds what is there"


def test_a_recovery_key_opens_it_and_is_shown_once(fixture: Fixture) -> None:
    made = fixture.create(key=KEY, sealed=True, slots=(RECOVERY_SLOT,))
    assert made.recovery_key
    again = fixture.create(key=KEY, sealed=True, slots=(RECOVERY_SLOT,))
    assert again.recovery_key is None
    assert again.row == made.row
    assert made.recovery_key not in repr(made)
    fixture.unlock(made.recovery_key)
    assert Canary(made.recovery_key[6:30].encode()).search(fixture.base) == []
    other = RequestKey(KEY.principal, KEY.method, KEY.request_id, "e" * 64)
    fixture.refused(AlreadyExists, Reason.REQUEST_ID_REUSED, key=other)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"repository_id": "Vault"}, "repository_id"),
        ({"repository_id": "../x"}, "repository_id"),
        ({"compression_level": 20}, "compression_level"),
        ({"compression_level": -6}, "compression_level"),
        ({"sealed": True}, "keys"),
        ({"slots": (FILE_SLOT,) * 17}, "keys"),
        ({"slots": (RECOVERY_SLOT,) * 2}, "keys"),
    ],
)
def test_what_no_repository_can_be(fixture: Fixture, values: dict[str, Any], field: str) -> None:
    error = fixture.refused(HoldfastError, Reason.INVALID_FIELD, folder=fixture.base / "new", **values)
    assert [one.field for one in error.violations] == [field]
    assert not (fixture.base / "new").exists()


# -- where it may lie ----------------------------------------------------------------------------------------------


def test_places_that_are_refused_stay_as_they_are(fixture: Fixture, tmp_path: Path) -> None:
    source, full, empty = tmp_path / "source", tmp_path / "full", tmp_path / "empty"
    for folder in (source / "below", full, empty):
        folder.mkdir(parents=True)
    (full / "file").write_text("mine")
    registry = SourceRegistry(fixture.world.database, fixture.policy, fixture.world.clock)
    registry.register(SourceOrder(os.fsencode(source), SourceKind.DIRECTORY, "source"), None)
    (tmp_path / "alias").symlink_to(source)
    before = sorted(tmp_path.rglob("*"))
    cases: list[tuple[type[HoldfastError], Reason, Path]] = [
        (FailedPrecondition, Reason.FOLDER_NOT_EMPTY, full),
        (FailedPrecondition, Reason.FOLDER_INSIDE_SOURCE, source / "below" / "new"),
        (FailedPrecondition, Reason.FOLDER_INSIDE_SOURCE, tmp_path / "alias" / "below"),
        (FailedPrecondition, Reason.FOLDER_INSIDE_DATA_DIR, fixture.data_dir / "new"),
        (PermissionDenied, Reason.PATH_NOT_ALLOWED, Path("/holdfast-nowhere")),
    ]
    for error, reason, folder in cases:
        fixture.refused(error, reason, folder=folder)
    fixture.refused(FailedPrecondition, Reason.FOLDER_NOT_FOUND, folder=tmp_path / "none", create_folder=False)
    assert [path for path in sorted(tmp_path.rglob("*")) if "data" not in path.parts] == [
        path for path in before if "data" not in path.parts
    ]
    assert fixture.rows() == []
    assert fixture.create(folder=empty, create_folder=False).row.location == os.fsencode(empty)


def test_neither_an_id_nor_a_folder_is_taken_twice(fixture: Fixture, tmp_path: Path) -> None:
    fixture.create()
    fixture.refused(AlreadyExists, Reason.REPOSITORY_EXISTS, folder=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    for folder in (tmp_path / "vault", tmp_path / "vault" / "packs" / "inner"):
        fixture.refused(AlreadyExists, Reason.REPOSITORY_EXISTS, repository_id="other", folder=folder)
    assert fixture.rows() == ["vault"]
    assert not (tmp_path / "vault" / "packs" / "inner").exists()


def test_a_repository_of_another_service_is_left_alone(fixture: Fixture, tmp_path: Path) -> None:
    fixture.create()
    with fixture.world.database.write() as connection:
        connection.execute(repositories._r.delete())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "data" not in path.parts}
    fixture.refused(AlreadyExists, Reason.REPOSITORY_EXISTS, repository_id="other", folder=tmp_path / "vault")
    # Nor are keys overwritten whose repository the catalog has forgotten.
    keys = (fixture.kept() / "keys").read_bytes()
    fixture.refused(AlreadyExists, Reason.REPOSITORY_EXISTS, folder=tmp_path / "new")
    assert (fixture.kept() / "keys").read_bytes() == keys
    for path, content in before.items():
        if "state" not in path.name:
            assert path.read_bytes() == content


# -- failures and crashes ------------------------------------------------------------------------------------------


def test_a_failure_leaves_nothing(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise Unavailable(Reason.CATALOG_BUSY, "busy")

    with monkeypatch.context() as patched:
        patched.setattr(repositories, "insert_repository", full)
        fixture.refused(Unavailable, Reason.CATALOG_BUSY)
    assert os.listdir(fixture.base / "vault") == []
    assert os.listdir(fixture.kept().parent) == []
    fixture.create(create_folder=False)


def test_objects_that_somebody_put_there_meanwhile_are_not_removed(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interfering(folder: bytes, *arguments: Any) -> Any:
        (fixture.base / "vault" / "packs").mkdir()
        (fixture.base / "vault" / "packs" / "aa").write_text("somebody's")
        (fixture.base / "vault" / "config").write_text("somebody's")
        return make_repository(folder, *arguments)

    monkeypatch.setattr("holdfast_server.tasks.repositories.make_repository", interfering)
    fixture.refused(AlreadyExists, Reason.REPOSITORY_EXISTS, slots=(FILE_SLOT,))
    assert (fixture.base / "vault" / "config").read_text() == "somebody's"
    assert (fixture.base / "vault" / "packs" / "aa").read_text() == "somebody's"
    assert fixture.rows() == []


def _create_and_die(base: Path, order: RepositoryOrder, dies: Callable[[int], bool]) -> bool:
    """In a process of its own: create a repository and die before the first change of a file system, counted from 1,
    where `dies` says so; whether it came to its end."""
    child = os.fork()
    if child == 0:
        count = 0

        def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **values: Any) -> Any:
                nonlocal count
                count += 1
                if dies(count):
                    os._exit(9)
                return function(*args, **values)

            return call

        try:
            for name in ("fsync", "rename", "unlink", "mkdir", "rmdir"):
                setattr(os, name, deadly(getattr(os, name)))
            database = Database(f"sqlite:///{base / 'state.sqlite'}", busy_timeout=5.0)
            reader: Any = InProcess()
            policy = FolderPolicy(str(base / "data"), [str(base)])
            RepositoryRegistry(database, policy, reader, StepClock(), os.fsencode(base / "data")).create(
                order, KEY, always
            )
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 0


@pytest.mark.parametrize("stride", [pytest.param(9, id="some"), pytest.param(1, id="all", marks=pytest.mark.soak)])
def test_a_kill_at_any_step_is_finished_by_a_repeat(fixture: Fixture, stride: int) -> None:
    slots = (FILE_SLOT, RECOVERY_SLOT)
    killed = 0
    for after in range(1, 500, stride):
        name = f"v{after}"
        folder = fixture.base / name
        order = RepositoryOrder(name, name, os.fsencode(folder), create_folder=True, sealed=True, slots=slots)
        with fixture.world.database.write() as connection:
            connection.exec_driver_sql("DELETE FROM request_ids")
        done = _create_and_die(fixture.base, order, lambda count, after=after: count == after)  # type: ignore[misc]
        recorded = name in fixture.rows()
        made = fixture.registry.create(order, KEY, always)
        assert (made.recovery_key is None) == recorded, "a key that nobody saw must not guard the repository"
        assert made.row.state == RepositoryState.READY
        assert sorted(os.listdir(fixture.kept(name))) == ["config", "keys", "place"]
        with open_repository(made.row, os.fsencode(fixture.data_dir)) as opened:
            opened.repository.unlock(made.recovery_key or KEY_FILE)
        objects = sorted(path.parent.name for path in folder.rglob("*") if path.is_file())
        assert objects == ["keys", "keys", name]
        if done:
            break
        killed += 1
    assert killed > 20 / stride


def test_a_creation_that_cannot_be_cleared_away_refuses_its_id(fixture: Fixture) -> None:
    order = RepositoryOrder("vault", "vault", os.fsencode(fixture.base / "vault"), create_folder=True)
    config = fixture.base / "vault" / "config"
    assert not _create_and_die(fixture.base, order, lambda _: config.exists())
    assert config.exists()
    assert fixture.rows() == []
    (fixture.base / "vault" / "packs").mkdir(exist_ok=True)
    (fixture.base / "vault" / "packs" / "aa").write_text("a pack that nobody can have stored")
    fixture.refused(AlreadyExists, Reason.REPOSITORY_EXISTS, folder=fixture.base / "new")
    assert config.exists()
    assert fixture.create("other").row.state == "READY"


def test_creations_take_turns(fixture: Fixture) -> None:
    errors: list[Reason] = []

    def create() -> None:
        try:
            fixture.create()
        except HoldfastError as error:
            errors.append(error.reason)

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == [Reason.REPOSITORY_EXISTS] * 3
    assert fixture.rows() == ["vault"]


# -- shown ---------------------------------------------------------------------------------------------------------


def test_it_is_counted_after_a_change(fixture: Fixture) -> None:
    fixture.create(slots=(FILE_SLOT,))
    row = fixture.look()
    assert row.statistics is not None
    assert (row.statistics["objects"], row.statistics["snapshots"]) == (2, 0)
    assert row.statistics["stored_size"] == sum(
        path.stat().st_size for path in (fixture.base / "vault").rglob("*") if path.is_file()
    )
    fixture.world.clock.step(1)
    assert fixture.look().statistics == row.statistics, "counted once"
    with fixture.world.database.write() as connection:
        repositories.update_repository(connection, "vault", update_time=fixture.world.clock.now())
    again = fixture.look().statistics
    assert again is not None
    assert again["count_time"] > row.statistics["count_time"]
    assert fixture.registry.list(limit=9, after=None)[0].statistics == again


def test_its_state_is_what_is_seen(fixture: Fixture, tmp_path: Path) -> None:
    vault = tmp_path / "vault"
    fixture.create()
    vault.rename(tmp_path / "away")
    assert fixture.look().state == RepositoryState.OFFLINE
    vault.mkdir()
    assert fixture.look().state == RepositoryState.OFFLINE, "a mount point without its disk"
    assert [one.state for one in fixture.registry.list(limit=9, after=None)] == [RepositoryState.OFFLINE]
    vault.rmdir()
    fixture.create("other")
    (tmp_path / "other").rename(vault)
    assert fixture.look().state == RepositoryState.REFUSED
    vault.rename(tmp_path / "other")
    (tmp_path / "away").rename(vault)
    assert fixture.look().state == RepositoryState.READY
    damaged = bytearray((vault / "config").read_bytes())
    damaged[-1] ^= 1
    (vault / "config").write_bytes(damaged)
    assert fixture.look().state == RepositoryState.DAMAGED
    with pytest.raises(NotFound) as caught:
        fixture.registry.get("none", always)
    assert caught.value.reason is Reason.REPOSITORY_NOT_FOUND


def _no_folder(vault: Path, kept: Path) -> None:
    vault.rename(vault.with_name("away"))


def _no_config(vault: Path, kept: Path) -> None:
    (vault / "config").unlink()


def _no_keys(vault: Path, kept: Path) -> None:
    (kept / "keys").unlink()


def _damaged_keys(vault: Path, kept: Path) -> None:
    (kept / "keys").write_bytes((kept / "keys").read_bytes()[:-9])


def _damaged_config(vault: Path, kept: Path) -> None:
    (vault / "config").write_bytes((vault / "config").read_bytes()[:-9])


@pytest.mark.parametrize(
    ("harm", "state", "reason", "word", "listed"),
    [
        (_no_folder, "OFFLINE", "STORAGE_UNREACHABLE", "/vault", "OFFLINE"),
        (_no_config, "OFFLINE", "STORAGE_UNREACHABLE", "config", "OFFLINE"),
        (_no_keys, "REFUSED", "REPOSITORY_KEYS_LOST", "repositories/vault", "REFUSED"),
        (_damaged_keys, "REFUSED", "REPOSITORY_KEYS_LOST", "are damaged", "READY"),
        (_damaged_config, "DAMAGED", "CHECKSUM_MISMATCH", "config", "READY"),
    ],
)
def test_why_it_is_not_ready_is_said(
    fixture: Fixture,
    tmp_path: Path,
    harm: Callable[[Path, Path], None],
    state: str,
    reason: str,
    word: str,
    listed: str,
) -> None:
    """Counts that were taken before stay, with their time."""
    fixture.create()
    before = fixture.look()
    assert (before.state, before.problem) == ("READY", None)
    harm(tmp_path / "vault", fixture.kept())
    row, receipt = fixture.registry.get("vault", always)
    assert (row.state, receipt) == (state, None)
    assert row.problem is not None
    assert (row.problem["reason"], row.problem["metadata"].get("repository_id", "vault")) == (reason, "vault")
    assert word in row.problem["message"]
    assert row.problem["remedy"]
    assert row.statistics == before.statistics
    (shown,) = fixture.registry.list(limit=9, after=None)
    assert shown.state == listed, "what a glance tells"
    assert (shown.problem is None) is (listed == "READY")


def test_a_log_that_went_back_is_told(fixture: Fixture, tmp_path: Path) -> None:
    row = fixture.create().row
    with open_repository(row, os.fsencode(fixture.data_dir)) as opened:
        writer = LogWriter(opened.store, opened.repository.index_keys, opened.keys.writer, {})
        for number in range(2):
            writer.append([Renamed(str(uuid.UUID(int=number)), "name")], fixture.world.clock.now())
        writer_id = opened.keys.writer.writer_id.hex()
    _, receipt = fixture.registry.get("vault", always)
    assert receipt is not None
    assert [(one, number) for one, number, _ in receipt.positions] == [(writer_id, 2)]
    vector = LogVector({bytes.fromhex(one): LogHead(number, hash_) for one, number, hash_ in receipt.positions})
    signed = Receipt(receipt.time_us, vector, receipt.public_key, receipt.signature)
    assert signed.is_genuine(row.uuid)
    assert not signed.is_genuine(bytes(16))
    entries = sorted((tmp_path / "vault" / "log" / writer_id).iterdir())
    newest = entries[-1].read_bytes()
    entries[-1].unlink()
    for _ in range(2):
        with pytest.raises(DataLoss) as caught:
            fixture.registry.get("vault", always)
        assert caught.value.reason is Reason.REPOSITORY_ROLLED_BACK
        assert caught.value.metadata == {"repository_id": "vault", "writer_id": writer_id, "sequence": "2"}
    entries[-1].write_bytes(newest)
    assert fixture.look().state == RepositoryState.READY


# -- unlocked ------------------------------------------------------------------------------------------------------


def test_unlocked_until_its_time_is_over(fixture: Fixture) -> None:
    fixture.sealed()
    row = fixture.unlock()
    assert row.unlock_expire == fixture.world.clock.now() + MINUTE * 1_000_000
    text = fixture.registry.unlocked("vault")
    assert text is not None
    ContentKeys.from_text(text)
    assert fixture.registry.attach(row, required=True) is not None
    fixture.world.clock.step(MINUTE + 0.001)
    assert fixture.registry.unlocked("vault") is None
    assert fixture.look().unlock_expire is None


def test_a_lock_forgets_at_once_for_tasks_and_for_other_edges_too(fixture: Fixture) -> None:
    row = fixture.sealed()
    fixture.unlock()
    found: list[str] = []

    def work(run: TaskRun) -> Outcome:
        try:
            run.credentials()
        except FailedPrecondition as error:
            found.append(error.reason.value)
        return Outcome({}, "done")

    fixture.world.handler.work = work
    new = NewTask(TaskKind.VERIFY, "admin", {}, [], [], credentials=fixture.registry.attach(row))
    task = fixture.world.engine.create(lambda _: new, None)
    elsewhere = fixture.new_edge(InProcess())
    assert elsewhere.unlocked("vault") is None, "an edge has only what it was given"
    assert elsewhere.lock("vault").unlock_expire is None
    fixture.registry.tick()
    assert fixture.registry._held.present() == {}
    assert fixture.registry.list(limit=9, after=None)[0].unlock_expire is None
    fixture.world.execute(task.task_id)
    assert found == [Reason.KEY_REQUIRED]
    assert fixture.registry.lock("vault").state == RepositoryState.READY, "no error if it was locked"


def test_wrong_keys_and_none(fixture: Fixture) -> None:
    row = fixture.sealed()
    with pytest.raises(FailedPrecondition) as caught:
        fixture.unlock("wrong")
    assert caught.value.reason is Reason.KEY_WRONG
    assert caught.value.metadata["repository_id"] == "vault"
    for attempt in (
        lambda: fixture.registry.unlock("vault", None, MINUTE, always),
        lambda: fixture.registry.attach(row, required=True),
        lambda: fixture.registry.attach(row, Credentials(age_identity="x"), required=True),
    ):
        with pytest.raises(FailedPrecondition) as caught:
            attempt()
        assert caught.value.reason is Reason.KEY_REQUIRED
    assert fixture.registry.unlocked("vault") is None


def test_one_that_is_not_sealed_tries_the_secret_and_changes_nothing(fixture: Fixture) -> None:
    row = fixture.create(slots=(FILE_SLOT,)).row
    assert fixture.unlock().unlock_expire is None
    with pytest.raises(FailedPrecondition):
        fixture.unlock("wrong")
    assert fixture.registry.attach(row, required=True) is None


def test_keys_reach_the_work_by_every_way(fixture: Fixture) -> None:
    row = fixture.sealed()
    assert fixture.at_work(None) == Reason.KEY_REQUIRED
    assert fixture.at_work(Credentials(private_key="wrong")) == Reason.KEY_WRONG
    by_secret = fixture.at_work(fixture.registry.attach(row, Credentials(private_key=KEY_FILE)))
    fixture.unlock()
    assert fixture.at_work(fixture.registry.attach(row)) == by_secret
    with_other = fixture.registry.attach(row, Credentials(wallet_password="p"))
    assert fixture.at_work(with_other) == by_secret
    assert by_secret.startswith("hfrk1 ")


def test_what_is_hidden_reaches_the_work_and_lies_nowhere(fixture: Fixture) -> None:
    found: list[Any] = []

    def work(run: TaskRun) -> Outcome:
        found.append(dict(run.hidden()))
        return Outcome({}, "done")

    fixture.world.handler.work = work
    hidden = {"paths": ["canary-staple/é"], "ignore": []}
    for credentials in (Credentials(hidden=hidden), None):
        new = NewTask(TaskKind.VERIFY, "admin", {}, [], [], credentials=credentials)
        task = fixture.world.engine.create(lambda _, new=new: new, None)  # type: ignore[misc]
        assert Canary(b"canary-staple").search(fixture.base) == []
        fixture.world.execute(task.task_id)
    assert found == [hidden, {}]


def test_a_passphrase_is_derived_in_the_reader_process(world: World, tmp_path: Path, reader: WalletReader) -> None:
    fixture = Fixture(world, tmp_path, reader)
    row = fixture.create(sealed=True, slots=(PHRASE_SLOT,)).row
    opened = fixture.registry.unlock("vault", Credentials(passphrase=PASSPHRASE), MINUTE, always)
    assert opened.unlock_expire is not None
    fixture.registry.lock("vault")
    by_secret = fixture.at_work(Credentials(passphrase=PASSPHRASE))
    assert by_secret.startswith("hfrk1 ")
    assert Canary(b"canary-staple").search(tmp_path) == []
    assert row.keys[0]["display_name"] == "mine"


def test_lost_keys_are_named(fixture: Fixture) -> None:
    row = fixture.create().row
    (fixture.kept() / "keys").unlink()
    assert fixture.look().state == RepositoryState.REFUSED
    with pytest.raises(FailedPrecondition) as caught:
        open_repository(row, os.fsencode(fixture.data_dir))
    assert caught.value.reason is Reason.REPOSITORY_KEYS_LOST
    assert "data directory" in caught.value.message
