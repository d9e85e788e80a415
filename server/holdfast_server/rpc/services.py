"""What the servicers call: handed to each of them by the composition root."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast_server.catalog.database import Database
from holdfast_server.tasks.backup_life import BackupLife
from holdfast_server.tasks.backup_orders import BackupOrders
from holdfast_server.tasks.check_repository import CheckOrders
from holdfast_server.tasks.engine import TaskEngine
from holdfast_server.tasks.export import ExportOrders
from holdfast_server.tasks.export_coins_orders import ExportCoinsOrders
from holdfast_server.tasks.import_coins import ImportOrders
from holdfast_server.tasks.maintenance_orders import MaintenanceOrders
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

__all__ = ["Services"]


@dataclass(frozen=True, slots=True)
class Services:
    """The application below the edge."""

    database: Database
    engine: TaskEngine
    pump: EventPump
    sources: SourceRegistry
    backups: BackupOrders
    life: BackupLife
    verifications: VerifyOrders
    restores: RestoreOrders
    archive_restores: RestoreArchiveOrders
    exports: ExportOrders
    coin_exports: ExportCoinsOrders
    keys: WalletKeys
    imports: ImportOrders
    wallets: WalletQueries
    repositories: RepositoryRegistry
    repository_keys: RepositoryKeyring
    checks: CheckOrders
    maintenance: MaintenanceOrders
    snapshots: SnapshotQueries
