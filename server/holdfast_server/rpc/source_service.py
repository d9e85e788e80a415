"""SourceService: registering folders."""

from __future__ import annotations

from collections.abc import Iterable

import grpc

from holdfast.v1 import source_pb2, source_service_pb2_grpc
from holdfast.v1 import source_service_pb2 as pb
from holdfast_server.catalog import backups, sources
from holdfast_server.catalog.rows import SourceKind, SourceRow
from holdfast_server.rpc.convert import source_message
from holdfast_server.rpc.interceptors import current_principal
from holdfast_server.rpc.pages import cut_page, page_limit, page_start
from holdfast_server.rpc.parse import (
    enum_name,
    parse_path,
    request_key,
)
from holdfast_server.rpc.services import Services
from holdfast_server.storage.names import escape
from holdfast_server.tasks.sources import SourceOrder, seen

__all__ = ["SourceServicer"]

#: Stands for a row that the request's states leave out.
_NONE = source_pb2.Source()


class SourceServicer(source_service_pb2_grpc.SourceServiceServicer):
    """Parses, calls the registry, converts."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def RegisterSource(
        self, request: pb.RegisterSourceRequest, context: grpc.ServicerContext
    ) -> pb.RegisterSourceResponse:
        del context
        usual = SourceKind.WALLET if request.discover_wallets else SourceKind.DIRECTORY
        kind = SourceKind(enum_name(source_pb2.SourceKind, request.kind, "kind", default=usual))
        order = SourceOrder(
            path=parse_path(request.path, "path"),
            kind=kind,
            source_id=request.source_id if request.HasField("source_id") else None,
            display_name=request.display_name,
            ignore=tuple(request.ignore),
            discover_wallets=request.discover_wallets,
        )
        key = request_key(request, "RegisterSource", current_principal().name, {"kind": kind.value})
        made = self._services.sources.register(order, key)
        return pb.RegisterSourceResponse(
            sources=[source_message(row) for row in made.sources],
            skipped=[
                source_pb2.SkippedFolder(path=escape(one.path), reason=one.reason, message=one.message)
                for one in made.skipped
            ],
        )

    def GetSource(self, request: pb.GetSourceRequest, context: grpc.ServicerContext) -> source_pb2.Source:
        del context
        return self._messages([seen(self._services.sources.get(request.source_id))])[0]

    def ListSources(self, request: pb.ListSourcesRequest, context: grpc.ServicerContext) -> pb.ListSourcesResponse:
        del context
        start = page_start(request, str)
        kinds = [enum_name(source_pb2.SourceKind, kind, "kinds") for kind in request.kinds]
        states = {enum_name(source_pb2.SourceState, state, "states") for state in request.states}
        with self._services.database.read() as connection:
            rows = sources.list_sources(
                connection, limit=page_limit(request.page_size) + 1, after=start[0] if start else None, kinds=kinds
            )
        # OFFLINE is seen, not stored: so states are chosen after looking, and a page may come out short.
        shown = [row for row in map(seen, rows) if not states or row.state in states]
        messages = {row.source_id: message for row, message in zip(shown, self._messages(shown), strict=True)}
        page, more = cut_page(
            request, rows, [messages.get(r.source_id) or _NONE for r in rows], lambda r: [r.source_id]
        )
        return pb.ListSourcesResponse(sources=[m for m in page if m is not _NONE], next_page_token=more)

    def UpdateSource(self, request: pb.UpdateSourceRequest, context: grpc.ServicerContext) -> source_pb2.Source:
        del context
        row = self._services.sources.update(
            request.source_id,
            path=parse_path(request.path, "path") if request.HasField("path") else None,
            display_name=request.display_name if request.HasField("display_name") else None,
            ignore=list(request.ignore.patterns) if request.HasField("ignore") else None,
            suspended=request.suspended if request.HasField("suspended") else None,
        )
        return self._messages([seen(row)])[0]

    def UnregisterSource(
        self, request: pb.UnregisterSourceRequest, context: grpc.ServicerContext
    ) -> pb.UnregisterSourceResponse:
        del context
        reserved = self._services.wallets.reserved_coins(request.source_id)
        kept = self._services.sources.unregister(request.source_id)
        return pb.UnregisterSourceResponse(backups_kept=kept, reserved_coins_kept=reserved)

    def _messages(self, rows: Iterable[SourceRow]) -> list[source_pb2.Source]:
        rows = list(rows)
        with self._services.database.read() as connection:
            latest = backups.latest_of_sources(connection, [row.source_id for row in rows])
        return [source_message(row, latest.get(row.source_id)) for row in rows]
