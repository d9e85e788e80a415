"""The composition root: the only place that constructs things. One function for each process.

Imports of what only one kind of process needs stand inside its function: a worker has no gRPC, an edge no compressors.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast_server.auth import ensure_admin_token
from holdfast_server.clock import SystemClock
from holdfast_server.config import Config, ConfigError
from holdfast_server.process import Child, forbid_core_dumps, keep_what_is_loaded, raise_file_limit

if TYPE_CHECKING:
    from holdfast_server.catalog.database import Database
    from holdfast_server.clock import Clock
    from holdfast_server.rpc.services import Services
    from holdfast_server.storage.folder import OpenFolder
    from holdfast_server.storage.policy import FolderPolicy
    from holdfast_server.tasks.backup_life import BackupLife
    from holdfast_server.tasks.rebuild import Finding, RebuildSummary
    from holdfast_server.tasks.snapshot_downloads import SnapshotDownloads
    from holdfast_server.tasks.wallet_reader import WalletReader

__all__ = ["ADDRESS_FILE", "prepare_data_dir", "rebuild_catalog", "run_edge", "run_worker", "software_version"]

_log = logging.getLogger(__name__)

#: Where the CLI finds a running server: the address it is bound to, beside the token.
ADDRESS_FILE = "server.address"

#: How often the trash is looked through for what is due, and every how many times for what a crash left half done.
_TRASH_SECONDS = 60.0
_REPAIR_ROUNDS = 60

#: How often repositories and the data directory's reserve are looked after.
_CARE_SECONDS = 60.0


def software_version() -> str:
    try:
        return "holdfast " + importlib.metadata.version("holdfast")
    except importlib.metadata.PackageNotFoundError:
        return "holdfast (source tree)"


def prepare_data_dir(config: Config) -> None:
    """Make the data directory (0700) and the administrator's token. Raises ConfigError when that is impossible."""
    path = config.paths.data_dir
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_uid == os.geteuid():
            path.chmod(0o700)
        ensure_admin_token(path)
        _trash_lock(config).touch(mode=0o600)  # a deletion on a full disk could not make it
    except OSError as error:
        raise ConfigError(
            f"[paths] data_dir = {path} cannot be used: {error.strerror}: "
            "name a directory that the service may write to"
        ) from error


def run_edge(config: Config, child: Child, bound: str | None) -> int:
    """Serve gRPC until SIGTERM. A second SIGTERM ends the remaining streams at once."""
    from holdfast_server.auth import Authenticator
    from holdfast_server.rpc.interceptors import CallInterceptor, StreamPlaces
    from holdfast_server.rpc.registry import NOT_BUILT_FILES, register_services
    from holdfast_server.rpc.server import NotBuiltYet, build_server
    from holdfast_server.tasks.snapshot_downloads import SnapshotDownloads
    from holdfast_server.tasks.wallet_reader import WalletReader

    raise_file_limit()
    forbid_core_dumps()
    prepare_data_dir(config)
    reader, downloads = WalletReader(), SnapshotDownloads()
    services = _edge_services(config, reader, downloads)
    places = StreamPlaces(config.server.max_watchers)
    authenticator = Authenticator(ensure_admin_token(config.paths.data_dir))
    try:
        edge = build_server(
            bound or config.server.listen,
            CallInterceptor(authenticator, places, open_reflection=config.is_local),
            lambda server: register_services(server, services),
            lambda served: NotBuiltYet(NOT_BUILT_FILES, served),
            threads=config.server.max_watchers + config.server.unary_threads,
            with_reflection=config.reflection,
        )
    except OSError as error:
        child.report(fatal=f"[server] listen: {error}: stop what runs there, or choose another")
        return 1
    keep_what_is_loaded()
    stop = _stop_signals()
    services.pump.start()
    ticker = threading.Thread(
        target=_tick,
        args=((services.keys.tick, services.repositories.tick, services.engine.tick), stop.first),
        name="ticker",
        daemon=True,
    )
    ticker.start()
    edge.start()
    _write_address(config.paths.data_dir, edge.address)
    child.report(address=edge.address)
    stop.first.wait()
    ended = edge.stop(config.worker.drain_seconds + 15.0)
    # Watchers stay until the workers are done: the supervisor says so with a second signal.
    while not ended.wait(0.05):
        if stop.second.is_set():
            services.pump.stop()
            edge.stop(3.0).wait()
            break
    downloads.close()
    reader.close()
    return 0


def _edge_services(config: Config, reader: WalletReader, downloads: SnapshotDownloads) -> Services:
    """The application below the edge, on a catalog that is ready."""
    from holdfast_server.catalog.database import Database
    from holdfast_server.rpc.services import Services
    from holdfast_server.tasks.backup_orders import BackupOrders
    from holdfast_server.tasks.check_repository import CheckOrders
    from holdfast_server.tasks.engine import TaskEngine
    from holdfast_server.tasks.export import ExportOrders
    from holdfast_server.tasks.export_coins_orders import ExportCoinsOrders
    from holdfast_server.tasks.import_coins import ImportOrders
    from holdfast_server.tasks.maintenance_orders import MaintenanceOrders
    from holdfast_server.tasks.queue import DbosQueue, migrate_queue
    from holdfast_server.tasks.repositories import RepositoryRegistry
    from holdfast_server.tasks.repository_keys import RepositoryKeyring
    from holdfast_server.tasks.restore import RestoreOrders
    from holdfast_server.tasks.restore_archive import RestoreArchiveOrders
    from holdfast_server.tasks.snapshot_queries import SnapshotQueries
    from holdfast_server.tasks.sources import SourceRegistry
    from holdfast_server.tasks.verify import VerifyOrders
    from holdfast_server.tasks.wallet_keys import WalletKeys
    from holdfast_server.tasks.wallet_queries import WalletQueries
    from holdfast_server.tasks.watch import EventPump

    clock = SystemClock()
    database = Database(config.database_url, busy_timeout=2.0)
    database.prepare(_lock_file(config), migrate_queue)
    engine = TaskEngine(database, DbosQueue(config.database_url), clock, config.tasks.lease_seconds)
    policy = _policy(config)
    pump = EventPump(database, engine, clock, config.server.heartbeat_seconds)
    keys = WalletKeys(database, policy, reader, clock)
    data_dir = os.fsencode(config.paths.data_dir)
    repositories = RepositoryRegistry(database, policy, reader, clock, data_dir)
    return Services(
        database=database,
        engine=engine,
        pump=pump,
        sources=SourceRegistry(database, policy, clock),
        backups=BackupOrders(database, engine, policy, clock, keys),
        life=_backup_life(config, database, clock),
        verifications=VerifyOrders(engine, repositories),
        restores=RestoreOrders(engine, policy, clock, keys, repositories),
        archive_restores=RestoreArchiveOrders(engine, policy, clock, keys),
        exports=ExportOrders(engine, policy, clock, repositories),
        coin_exports=ExportCoinsOrders(engine, policy, reader, keys, clock),
        keys=keys,
        imports=ImportOrders(engine, policy, keys),
        wallets=WalletQueries(database, policy, reader, keys),
        repositories=repositories,
        repository_keys=RepositoryKeyring(database, repositories, reader, clock, data_dir),
        checks=CheckOrders(engine, repositories),
        maintenance=MaintenanceOrders(engine, repositories),
        snapshots=SnapshotQueries(database, repositories, reader, downloads, clock, data_dir, software_version()),
    )


def run_worker(config: Config, child: Child, owner: str, dead_owners: Sequence[str], dead_before: int | None) -> int:
    """Do tasks until SIGTERM, then drain."""
    from holdfast_server.archive.pool import CompressorPool
    from holdfast_server.catalog.database import Database
    from holdfast_server.catalog.rows import TaskKind
    from holdfast_server.tasks.archive_target import ArchiveTarget
    from holdfast_server.tasks.backup import BackupHandler
    from holdfast_server.tasks.backup_maintenance import BackupMaintenance
    from holdfast_server.tasks.check_repository import CheckHandler
    from holdfast_server.tasks.compact_repository import CompactHandler
    from holdfast_server.tasks.engine import TaskEngine
    from holdfast_server.tasks.export import ExportHandler
    from holdfast_server.tasks.export_coins import ExportCoinsHandler
    from holdfast_server.tasks.housekeeping import Housekeeper
    from holdfast_server.tasks.import_coins import ImportHandler
    from holdfast_server.tasks.prune_repository import PruneHandler
    from holdfast_server.tasks.queue import DbosConsumer, DbosQueue, migrate_queue
    from holdfast_server.tasks.repair_repository import RepairHandler
    from holdfast_server.tasks.repository_care import RepositoryCare
    from holdfast_server.tasks.restore import RestoreHandler
    from holdfast_server.tasks.restore_archive import RestoreArchiveHandler, ServiceLimits
    from holdfast_server.tasks.run import TaskHandler
    from holdfast_server.tasks.snapshot_target import SnapshotTarget
    from holdfast_server.tasks.verify import VerifyHandler
    from holdfast_server.tasks.worker import Worker

    raise_file_limit()
    forbid_core_dumps()
    prepare_data_dir(config)
    clock = SystemClock()
    database = Database(config.database_url, busy_timeout=30.0)
    database.prepare(_lock_file(config), migrate_queue)
    queue = DbosQueue(config.database_url)
    engine = TaskEngine(database, queue, clock, config.tasks.lease_seconds)
    pool = CompressorPool(config.worker.threads or os.cpu_count() or 1, config.worker.memory_mib << 20)
    policy = _policy(config)
    data_dir = os.fsencode(config.paths.data_dir)
    own = config.restore
    limits = ServiceLimits(own.max_entries, own.max_ratio, own.max_depth, own.reserve_mib << 20)
    checks, compactions = CheckHandler(database, clock, data_dir), CompactHandler(database, clock, data_dir)
    handlers: dict[TaskKind, TaskHandler] = {
        TaskKind.BACKUP: BackupHandler(
            database,
            policy,
            ArchiveTarget(database, policy, pool, clock),
            SnapshotTarget(database, pool, clock, data_dir),
            BackupMaintenance(database, clock, data_dir, compactions, checks),
            clock,
            data_dir,
            software_version(),
        ),
        TaskKind.VERIFY: VerifyHandler(database, clock, data_dir),
        TaskKind.RESTORE: RestoreHandler(database, policy, clock, data_dir),
        TaskKind.RESTORE_ARCHIVE: RestoreArchiveHandler(policy, limits, clock),
        TaskKind.EXPORT_BACKUP: ExportHandler(database, policy, pool, clock, data_dir, software_version()),
        TaskKind.EXPORT_COINS: ExportCoinsHandler(database, policy, clock),
        TaskKind.IMPORT_COINS: ImportHandler(database, policy),
        TaskKind.CHECK_REPOSITORY: checks,
        TaskKind.PRUNE_REPOSITORY: PruneHandler(database, clock, data_dir),
        TaskKind.COMPACT_REPOSITORY: compactions,
        TaskKind.REPAIR_REPOSITORY: RepairHandler(database, clock, data_dir),
    }
    housekeeper = Housekeeper(database, queue, clock, config.tasks.history_days, config.tasks.request_id_days)
    worker = Worker(owner, database, engine, handlers, housekeeper, clock, config.tasks.lease_seconds)
    consumer = DbosConsumer(config.database_url, owner, {"data": config.worker.max_tasks, "short": 2}, worker.execute)
    life = _backup_life(config, database, clock)
    keep_what_is_loaded()
    stop = _stop_signals()
    worker.start(dead_owners, dead_before)
    threading.Thread(target=_keep_trash, args=(life, stop.first), name="trash", daemon=True).start()
    care = RepositoryCare(database, clock, data_dir)
    rounds = (database.keep_reserve, care.start_round)
    threading.Thread(target=_look_after, args=(rounds, stop.first), name="care", daemon=True).start()
    consumer.start()
    child.report(worker=owner)
    stop.first.wait()
    worker.drain(config.worker.drain_seconds)
    pool.close()
    # Nothing of ours runs any more; DBOS's own threads hold nothing worth an orderly end.
    sys.stderr.flush()
    os._exit(0)


def rebuild_catalog(
    config: Config,
    folders: Sequence[OpenFolder],
    repositories: Sequence[tuple[str | None, bytes]],
    secret: str | None,
    tell: Callable[[Finding], None],
    *,
    recursive: bool,
    dry_run: bool,
) -> RebuildSummary:
    """Add to the catalog what it does not know: the backups of archives in opened folders, and those of repositories:
    in these folders, in those given by id and path (None: that whose keys are here), and all others whose keys the
    data directory has. `secret` opens a key slot of those whose keys are lost.

    The data directory must be ours alone. Raises ConfigError when there is nothing to look through.
    """
    from holdfast_server.catalog.database import Database
    from holdfast_server.storage.repository_folder import holds_repository
    from holdfast_server.tasks.new_repository import KEYS_FOLDER
    from holdfast_server.tasks.queue import migrate_queue
    from holdfast_server.tasks.rebuild import CatalogRebuild, RebuildSummary
    from holdfast_server.tasks.rebuild_repositories import RepositoriesRebuild, ToldPlace

    data_dir = os.fsencode(config.paths.data_dir)
    if not folders and not repositories and not os.path.lexists(os.path.join(data_dir, KEYS_FOLDER)):
        raise ConfigError("there is nothing to look through: name --folder DIR or --repository ID=DIR")
    told = [ToldPlace(repository_id, path) for repository_id, path in repositories]
    told += [ToldPlace(None, folder.path) for folder in folders if holds_repository(folder.fd)]
    database = Database(config.database_url, busy_timeout=30.0)
    try:
        database.prepare(_lock_file(config), migrate_queue)
        clock, summary = SystemClock(), RebuildSummary()
        found = RepositoriesRebuild(database, clock, data_dir, tell, summary, secret=secret, dry_run=dry_run)
        found.run(told)
        rebuild = CatalogRebuild(database, clock, data_dir, tell, summary, recursive=recursive, dry_run=dry_run)
        return rebuild.run([folder for folder in folders if not holds_repository(folder.fd)])
    finally:
        database.close()


class _Stop:
    """The first and the second request to stop."""

    def __init__(self) -> None:
        self.first = threading.Event()
        self.second = threading.Event()

    def on_signal(self, *_: object) -> None:
        (self.second if self.first.is_set() else self.first).set()


def _stop_signals() -> _Stop:
    stop = _Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.on_signal)
    return stop


def _tick(steps: Sequence[Callable[[], None]], stop: threading.Event) -> None:
    """Take over and admit from the edge too, so that a dead worker's task is not shown as running; forget keys."""
    from holdfast_server.errors import ResourceExhausted, Unavailable

    while not stop.wait(1.0):
        for step in steps:
            try:
                step()
            except (ResourceExhausted, Unavailable):
                continue
            except Exception:  # noqa: BLE001  logged, and the loop goes on
                _log.exception("the edge's tick failed")


def _keep_trash(life: BackupLife, stop: threading.Event) -> None:
    """Empty the trash of what is due. On a thread of its own: storage that hangs must not keep leases from renewal."""
    from holdfast_server.errors import ResourceExhausted, Unavailable

    rounds = 0
    while True:
        try:
            if rounds % _REPAIR_ROUNDS == 0:
                life.repair(stop.is_set)
            life.purge(stop.is_set)
        except (ResourceExhausted, Unavailable):
            pass
        except Exception:  # noqa: BLE001  logged, and the loop goes on
            _log.exception("keeping the trash failed")
        rounds += 1
        if stop.wait(_TRASH_SECONDS):
            return


def _look_after(steps: Sequence[Callable[[], None]], stop: threading.Event) -> None:
    """Look after the data directory and the repositories, once at the start and then every minute."""
    from holdfast_server.errors import ResourceExhausted, Unavailable

    while True:
        for step in steps:
            try:
                step()
            except (ResourceExhausted, Unavailable):
                continue
            except Exception:  # noqa: BLE001  logged, and the loop goes on
                _log.exception("looking after the repositories failed")
        if stop.wait(_CARE_SECONDS):
            return


def _policy(config: Config) -> FolderPolicy:
    from holdfast_server.storage.policy import FolderPolicy

    return FolderPolicy(os.fsencode(config.paths.data_dir), [os.fsencode(root) for root in config.paths.roots])


def _backup_life(config: Config, database: Database, clock: Clock) -> BackupLife:
    from holdfast_server.tasks.backup_life import BackupLife
    from holdfast_server.tasks.snapshot_life import SnapshotLife

    snapshots = SnapshotLife(database, clock, os.fsencode(config.paths.data_dir))
    return BackupLife(database, clock, config.backups.trash_hours, _trash_lock(config), snapshots)


def _lock_file(config: Config) -> Path:
    return config.paths.data_dir / "catalog.lock"


def _trash_lock(config: Config) -> Path:
    return config.paths.data_dir / "trash.lock"


def _write_address(data_dir: Path, address: str) -> None:
    from holdfast_server.storage.local import write_file

    folder = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        write_file(folder, ADDRESS_FILE.encode(), f"{address}\n".encode(), mode=0o644)
    finally:
        os.close(folder)
