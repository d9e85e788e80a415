"""The way in: `connect` finds the server and its token, `Client` groups the calls.

import holdfast

with holdfast.connect() as client:
    client.sources.register("/home/me/wallets/Default", kind=holdfast.SourceKind.WALLET)
    task = client.backups.create(["default"], folder="/srv/backups", format=holdfast.ArchiveFormat.ZIP)
    print(task.result().output_files)
"""

from __future__ import annotations

import os
from types import TracebackType

from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from holdfast.backups import Backups, Restores
from holdfast.connection import Connection
from holdfast.enums import HealthStatus
from holdfast.errors import NotFound, Unimplemented
from holdfast.exports import Exports
from holdfast.models import Health
from holdfast.repositories import Repositories
from holdfast.settings import Settings, find_settings
from holdfast.sources import Sources
from holdfast.task import Tasks
from holdfast.wallets import Wallets

__all__ = ["Client", "connect"]

_SERVICES = (
    "SourceService",
    "WalletService",
    "BackupService",
    "ExportService",
    "RestoreService",
    "TaskService",
    "RepositoryService",
    "ScheduleService",
    "AccessService",
)
_HEALTH = (HealthStatus.UNKNOWN, HealthStatus.SERVING, HealthStatus.NOT_SERVING, HealthStatus.SERVICE_UNKNOWN)


def connect(
    address: str | None = None,
    *,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    timeout: float = 30.0,
    connect_timeout: float = 5.0,
) -> Client:
    """A client of the server at `address`: `host:port`, `[v6]:port` or `unix:/absolute/path`.

    What is not given is looked for: the address in HOLDFAST_ADDRESS, then in the file `server.address` of the data
    directory, then 127.0.0.1:50551; the token in HOLDFAST_TOKEN, HOLDFAST_TOKEN_FILE, then, for a server on this
    machine, in `admin.token` of the data directory. The data directory is HOLDFAST_PATHS_DATA_DIR, or where the
    server keeps it by default.

    `timeout` bounds each call with its repeats, in seconds; `connect_timeout` does so until the server was first
    reached. No call is made here. Raises BadConfiguration.
    """
    settings = find_settings(address, token=token, token_file=token_file, data_dir=data_dir)
    return Client(settings, timeout=timeout, connect_timeout=connect_timeout)


class Client:
    """Calls of one server, in groups; see `connect`. Safe to use from many threads; close it, or use it with `with`."""

    def __init__(self, settings: Settings, *, timeout: float = 30.0, connect_timeout: float = 5.0) -> None:
        self._connection = Connection(settings, timeout=timeout, connect_timeout=connect_timeout)
        self.address = settings.address
        self.sources = Sources(self._connection)
        self.wallets = Wallets(self._connection)
        self.backups = Backups(self._connection)
        self.exports = Exports(self._connection)
        self.restores = Restores(self._connection)
        self.repositories = Repositories(self._connection)
        self.tasks = Tasks(self._connection)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every running call. Idempotent."""
        self._connection.close()

    def health(self) -> Health:
        """What the server says of itself and of each service; needs no token. Raises ConnectionFailed."""
        return Health(
            status=self._health_of(""),
            services={name: self._health_of(f"holdfast.v1.{name}") for name in _SERVICES},
        )

    def _health_of(self, service: str) -> HealthStatus:
        # grpc.health.v1 has one string and one enum, each field 1: on the wire just these wrappers, so that the
        # client needs no further package.
        check = self._connection.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=Int32Value.FromString,
        )
        try:
            status = self._connection.call(check, StringValue(value=service)).value
        except NotFound:
            return HealthStatus.SERVICE_UNKNOWN
        except Unimplemented:
            return HealthStatus.UNKNOWN
        return _HEALTH[status] if status < len(_HEALTH) else HealthStatus.UNKNOWN
