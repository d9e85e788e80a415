"""A repository that this service knows: where it lies, which one it must be, and which keys the data directory holds.

Everything that opens one goes through `open_place`. The functions at the end are those that the edge has its reader
process run: they derive keys, read and count.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from holdfast_server.errors import DataLoss, FailedPrecondition, HoldfastError, Reason, Unavailable
from holdfast_server.repository import (
    ContentKeys,
    LogHead,
    LogVector,
    Repository,
    RepositoryKeys,
    count_chunks,
    open_from_slots,
    stated_id,
)
from holdfast_server.storage.descent import DIRECTORY_FLAGS
from holdfast_server.storage.folder import OpenFolder, open_folder
from holdfast_server.storage.local import translate_os_error
from holdfast_server.storage.local_objects import LocalObjects
from holdfast_server.storage.names import escape

__all__ = [
    "KEYS",
    "LogHeads",
    "OpenRepository",
    "PlaceLook",
    "RepositoryPlace",
    "SignedReceipt",
    "content_text",
    "counts_of",
    "heads_of",
    "keys_lost",
    "look_at_place",
    "open_by_secret",
    "open_content",
    "open_place",
    "require_newest",
    "store_unreachable",
    "store_unsound",
    "uuid_at",
]


#: The file in a repository's folder of the data directory that holds its keys.
KEYS = b"keys"

#: How long a call counts; the reader process has other things to do.
_COUNT_SECONDS = 10.0

#: Newest log entries as the catalog keeps them: {writer id: [sequence, hash in hexadecimal]}.
LogHeads = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class RepositoryPlace:
    """Where a repository and its keys lie. `location` and `keys_folder` are absolute folders; `fingerprint` is that of
    its config, None if nobody has seen it yet; `store_problem` is what its store did wrong when it was last probed, if
    it did. No secret."""

    repository_id: str
    location: bytes
    keys_folder: bytes
    fingerprint: bytes | None
    store_problem: str | None = None

    @property
    def marks(self) -> bytes:
        """The folder where this node marks its reading runs."""
        return os.path.join(self.keys_folder, b"runs")


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """Proof of the newest log entries seen: (writer id, sequence, hash) of each writer, signed by this node."""

    time_us: int
    positions: tuple[tuple[str, int, bytes], ...]
    signature: bytes
    public_key: bytes

    def heads(self) -> LogHeads:
        return {writer: [sequence, hash_.hex()] for writer, sequence, hash_ in self.positions}


@dataclass(frozen=True, slots=True)
class PlaceLook:
    """What a look at a repository gave; `counts` by the names of the API, None where they were not counted, or not in
    time."""

    receipt: SignedReceipt
    counts: dict[str, int] | None


class OpenRepository:
    """A repository with its keys, closed on leaving the `with` block. `folder` is where it lies.

    `repository` raises as `Repository.open`, when it is first asked for.
    """

    def __init__(self, place: RepositoryPlace, folder: OpenFolder, store: LocalObjects, keys: RepositoryKeys) -> None:
        """Takes over `folder` and `store`."""
        self.place = place
        self.folder = folder
        self.store = store
        self.keys = keys

    @cached_property
    def repository(self) -> Repository:
        return Repository.open(self.store, self.keys, self.place.fingerprint)

    @property
    def repository_id(self) -> str:
        return self.place.repository_id

    def close(self) -> None:
        self.store.close()
        self.folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_place(place: RepositoryPlace, *, look: bool = True) -> OpenRepository:
    """Open a repository for a worker or the reader process; without `look` its config is not read yet.

    Raises Unavailable/STORAGE_UNREACHABLE when its folder or its config is not there; FailedPrecondition:
    REPOSITORY_KEYS_LOST when the data directory has not its keys, STORE_UNSUITABLE when its store broke a promise,
    REPOSITORY_REPLACED; and DataLoss/CHECKSUM_MISMATCH as `Repository.open`.
    """
    keys = _load_keys(place)
    opened = OpenRepository(place, *_open_store(place), keys)
    try:
        if look or place.store_problem is not None:
            _ = opened.repository
        if place.store_problem is not None:
            raise store_unsound(place.repository_id, place.location, place.store_problem)
    except BaseException:
        opened.close()
        raise
    return opened


def open_by_secret(place: RepositoryPlace, secret: str) -> OpenRepository:
    """Open a repository whose keys the data directory has not, by what opens a key slot; `keys` are then all that
    `open_from_slots` gives, and saved nowhere.

    Raises as `open_place`, and FailedPrecondition/KEY_WRONG.
    """
    folder, store = _open_store(place)
    try:
        opened = OpenRepository(place, folder, store, open_from_slots(store, secret).keys)
        _ = opened.repository
    except BaseException:
        store.close()
        folder.close()
        raise
    return opened


def uuid_at(location: bytes) -> bytes:
    """The id, 16 bytes, that the config in a folder states; nothing has proved it. Raises as `open_folder`, and
    Unavailable/STORAGE_UNREACHABLE or DataLoss/CHECKSUM_MISMATCH when there is none."""
    with open_folder(location, "location") as folder, LocalObjects(folder.fd, folder.display) as store:
        return stated_id(store)


def open_content(opened: OpenRepository, secret: str) -> ContentKeys:
    """What a passphrase, the content of a key file or a recovery key opens; a passphrase takes the time and memory that
    its slot asks for. Raises FailedPrecondition/KEY_WRONG."""
    try:
        return opened.repository.unlock(secret)
    except FailedPrecondition as error:
        if error.reason is not Reason.KEY_WRONG:
            raise
        text = f"this opens no key slot of repository {opened.repository_id}"
        if not opened.repository.slots():
            text = f"repository {opened.repository_id} has no key slots, so no secret opens it"
        raise FailedPrecondition(
            Reason.KEY_WRONG, text, metadata={**error.metadata, "repository_id": opened.repository_id}
        ) from error


def content_text(place: RepositoryPlace, secret: str) -> str:
    """The content keys that a secret opens, as text. Raises as `open_place` and `open_content`."""
    with open_place(place) as opened:
        return open_content(opened, secret).to_text()


def look_at_place(place: RepositoryPlace, seen: LogHeads, now_us: int, count: bool) -> PlaceLook:
    """What is there now, and whether it is all that was there before. `seen` are the newest log entries known.

    Raises as `open_place`, DataLoss/REPOSITORY_ROLLED_BACK when the log lacks what was seen, and
    DataLoss/CHECKSUM_MISMATCH for a damaged log entry or snapshot.
    """
    with open_place(place) as opened:
        receipt = opened.repository.receipt(now_us)
        _require_newest(opened, receipt.vector, seen)
        return PlaceLook(
            receipt=SignedReceipt(
                time_us=receipt.time_us,
                positions=tuple((writer.hex(), head.sequence, head.hash) for writer, head in receipt.vector.items()),
                signature=receipt.signature,
                public_key=receipt.public_key,
            ),
            counts=_counts_in_time(opened) if count else None,
        )


def require_newest(opened: OpenRepository, seen: LogHeads) -> None:
    """Raises DataLoss/REPOSITORY_ROLLED_BACK when the log lacks an entry that was seen before: what is written now
    would begin another history. Reads one entry of each writer, two where there are newer ones, and raises
    DataLoss/CHECKSUM_MISMATCH for a damaged one."""
    _require_newest(opened, opened.repository.log_heads(), seen)


def heads_of(opened: OpenRepository) -> dict[str, list[Any]]:
    """The newest log entries, as the catalog keeps them. Raises DataLoss/CHECKSUM_MISMATCH for a damaged one."""
    vector = opened.repository.log_heads()
    return {writer.hex(): [head.sequence, head.hash.hex()] for writer, head in vector.items()}


def counts_of(opened: OpenRepository, check: Callable[[], None]) -> dict[str, int]:
    """Sizes and counts of a repository by the names of the API. `check` may raise; takes a second for some hundred
    thousand chunks. Raises DataLoss/CHECKSUM_MISMATCH for what is damaged."""
    found = opened.repository.statistics()
    chunks = count_chunks(opened.repository, check)
    return {
        "snapshots": found.snapshots,
        "objects": found.objects,
        "packs": found.packs,
        "chunks": chunks.chunks,
        "original_size": found.original_size,
        "deduplicated_size": chunks.size,
        "stored_size": found.stored_size,
        "unused_size": chunks.unused_size,
    }


class _LateError(Exception):
    """Counting took too long for a call."""


def _counts_in_time(opened: OpenRepository) -> dict[str, int] | None:
    deadline = time.monotonic() + _COUNT_SECONDS

    def check() -> None:
        if time.monotonic() > deadline:
            raise _LateError

    try:
        return counts_of(opened, check)
    except _LateError:
        return None


def _require_newest(opened: OpenRepository, vector: LogVector, seen: LogHeads) -> None:
    known = LogVector(
        {bytes.fromhex(writer): LogHead(number, bytes.fromhex(hash_)) for writer, (number, hash_) in seen.items()}
    )
    if behind := opened.repository.lacks(known, vector):
        raise _rolled_back(opened.place, behind[0].hex(), known[behind[0]].sequence)


def _rolled_back(place: RepositoryPlace, writer_id: str, sequence: int) -> DataLoss:
    return DataLoss(
        Reason.REPOSITORY_ROLLED_BACK,
        f"repository {place.repository_id} was rolled back: its log held entry {sequence} of writer {writer_id}, and "
        "holds it no more",
        metadata={"repository_id": place.repository_id, "writer_id": writer_id, "sequence": str(sequence)},
    )


def store_unreachable(repository_id: str, location: bytes) -> Unavailable:
    shown = escape(location)
    return Unavailable(
        Reason.STORAGE_UNREACHABLE,
        f"repository {repository_id} cannot be reached at {shown}",
        metadata={"repository_id": repository_id, "location": shown},
    )


def store_unsound(repository_id: str, location: bytes, problem: str) -> FailedPrecondition:
    shown = escape(location)
    return FailedPrecondition(
        Reason.STORE_UNSUITABLE,
        f"repository {repository_id} is refused: its store at {shown} broke a promise when it was last probed, and is "
        f"tried again when the service starts: {problem}",
        metadata={"repository_id": repository_id, "location": shown, "problem": problem},
    )


def keys_lost(repository_id: str, keys_folder: bytes, detail: str = "") -> FailedPrecondition:
    """`detail`: what is wrong with keys that are there."""
    shown = escape(keys_folder)
    what = f"the data directory's keys of repository {repository_id} are damaged ({detail})"
    if not detail:
        what = f"the data directory has lost the keys of repository {repository_id}"
    return FailedPrecondition(
        Reason.REPOSITORY_KEYS_LOST,
        f"{what}: put {shown} back from a copy of the data directory",
        metadata={"repository_id": repository_id, "path": shown},
    )


def _open_store(place: RepositoryPlace) -> tuple[OpenFolder, LocalObjects]:
    try:
        folder = open_folder(place.location, "location")
    except HoldfastError as error:
        raise store_unreachable(place.repository_id, place.location) from error
    try:
        return folder, LocalObjects(folder.fd, folder.display)
    except BaseException:
        folder.close()
        raise


def _load_keys(place: RepositoryPlace) -> RepositoryKeys:
    try:
        fd = os.open(place.keys_folder, DIRECTORY_FLAGS)
        try:
            return RepositoryKeys.load(fd)
        finally:
            os.close(fd)
    except FileNotFoundError as error:
        raise keys_lost(place.repository_id, place.keys_folder) from error
    except OSError as error:
        raise translate_os_error(error, f"reading the keys of repository {place.repository_id}") from error
    except DataLoss as error:
        raise keys_lost(place.repository_id, place.keys_folder, error.metadata["detail"]) from error
