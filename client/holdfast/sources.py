"""Sources: the registered folders that are backed up."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator

from holdfast.connection import Connection
from holdfast.convert import from_message, to_number, wire_path
from holdfast.enums import SourceKind, SourceState
from holdfast.models import Discovery, SkippedFolder, Source, Unregistered
from holdfast.pages import pages
from holdfast.v1 import source_pb2, source_service_pb2

__all__ = ["Sources"]


class Sources:
    """`client.sources`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def register(
        self,
        path: str | os.PathLike[str],
        *,
        source_id: str | None = None,
        kind: SourceKind | str = SourceKind.DIRECTORY,
        display_name: str = "",
        ignore: Iterable[str] = (),
        request_id: str | None = None,
    ) -> Source:
        """Register one folder of the server; `path` is absolute. Without `source_id` one is derived from its name."""
        request = source_service_pb2.RegisterSourceRequest(
            source_id=source_id,
            kind=to_number(source_pb2.SourceKind, kind),
            path=wire_path(path),
            display_name=display_name,
            ignore=ignore,
            request_id=request_id or str(uuid.uuid4()),
        )
        return self._register(request).sources[0]

    def discover_wallets(
        self, path: str | os.PathLike[str], *, ignore: Iterable[str] = (), request_id: str | None = None
    ) -> Discovery:
        """Register each wallet directly below `path`; what is skipped comes back with its reason."""
        request = source_service_pb2.RegisterSourceRequest(
            path=wire_path(path),
            ignore=ignore,
            discover_wallets=True,
            request_id=request_id or str(uuid.uuid4()),
        )
        return self._register(request)

    def get(self, source_id: str) -> Source:
        """Raises NotFound/SOURCE_NOT_FOUND."""
        request = source_service_pb2.GetSourceRequest(source_id=source_id)
        return from_message(Source, self._connection.call(self._connection.sources.GetSource, request))

    def list(
        self, *, kinds: Iterable[SourceKind] = (), states: Iterable[SourceState] = (), page_size: int = 0
    ) -> Iterator[Source]:
        """All sources that match, by id."""
        request = source_service_pb2.ListSourcesRequest(
            page_size=page_size,
            kinds=[to_number(source_pb2.SourceKind, kind) for kind in kinds],
            states=[to_number(source_pb2.SourceState, state) for state in states],
        )
        return pages(self._connection, self._connection.sources.ListSources, request, "sources", Source)

    def update(
        self,
        source_id: str,
        *,
        path: str | os.PathLike[str] | None = None,
        display_name: str | None = None,
        ignore: Iterable[str] | None = None,
        suspended: bool | None = None,
    ) -> Source:
        """Change what is given; None leaves it as it is. `ignore` replaces the whole list."""
        request = source_service_pb2.UpdateSourceRequest(
            source_id=source_id,
            path=None if path is None else wire_path(path),
            display_name=display_name,
            ignore=None if ignore is None else source_pb2.IgnorePatterns(patterns=ignore),
            **({} if suspended is None else {"suspended": suspended}),
        )
        return from_message(Source, self._connection.call(self._connection.sources.UpdateSource, request))

    def suspend(self, source_id: str) -> Source:
        """Backups and restores of it are refused until `resume`."""
        return self.update(source_id, suspended=True)

    def resume(self, source_id: str) -> Source:
        """Undo `suspend`."""
        return self.update(source_id, suspended=False)

    def unregister(self, source_id: str) -> Unregistered:
        """Forget a source; its folder and its backups stay."""
        request = source_service_pb2.UnregisterSourceRequest(source_id=source_id)
        # A repeat after a lost answer would say NOT_FOUND of what it did itself.
        reply = self._connection.call(self._connection.sources.UnregisterSource, request, repeatable=False)
        return from_message(Unregistered, reply)

    def _register(self, request: source_service_pb2.RegisterSourceRequest) -> Discovery:
        reply = self._connection.create(self._connection.sources.RegisterSource, request)
        return Discovery(
            sources=tuple(from_message(Source, source) for source in reply.sources),
            skipped=tuple(from_message(SkippedFolder, folder) for folder in reply.skipped),
        )
