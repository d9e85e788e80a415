"""What an export of coins has done so far, in `<wallet>/.holdfast/export-<task_id>.json` (docs/format.md).

It is written before what it announces and synced, so that whoever comes after a crash knows where every coin is. It
names coins by file, value and identity; nobody can spend a coin with what it says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from holdfast_server.core.wallet_folder import WalletFolder
from holdfast_server.errors import DataLoss, Reason
from holdfast_server.storage.names import escape, unescape
from holdfast_server.wallets.coin import Generation
from holdfast_server.wallets.layout import RESERVED_FOLDER

__all__ = ["ExportJournal", "ExportState", "OutputFile", "ReservedCoin", "journals", "reserved_identities"]

_VERSION = 1
_NAME = re.compile(rb"export-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.json")


class ExportState(StrEnum):
    """Coins of a COMMITTED export are never returned, those of the others always are."""

    RESERVED = "RESERVED"
    BUILT = "BUILT"
    COMMITTED = "COMMITTED"


@dataclass(frozen=True, slots=True)
class ReservedCoin:
    """A coin's file: `name` in `folder` of the wallet, and since it was reserved in the same folder of the reserve."""

    folder: bytes
    name: bytes
    value: int
    identity: bytes


@dataclass(slots=True)
class OutputFile:
    """A file of coins of one generation. `partial` and `name` are names in the destination, `name` empty until it is
    about to be published; `amount` in units of 1e-8; `first` is the index of its first coin in the journal."""

    partial: bytes
    wanted: bytes
    size: int
    sha256: str
    first: int
    coins: int
    amount: int
    generation: Generation
    name: bytes = b""
    published: bool = False


@dataclass(slots=True)
class ExportJournal:
    """The record. `amount` in units of 1e-8, `created` and `committed` in microseconds. `destination` is the identity
    (device, inode) of the opened folder that the outputs were written into. `balance` is that of the wallet without
    the exported coins, None where not every coin could be read."""

    task_id: str
    attempt: int
    source_id: str
    amount: int
    folder: bytes
    created: int
    state: ExportState = ExportState.RESERVED
    balance: int | None = None
    destination: tuple[int, int] | None = None
    committed: int | None = None
    receipt: bytes = b""
    coins: list[ReservedCoin] = field(default_factory=list)
    outputs: list[OutputFile] = field(default_factory=list)

    @property
    def reserve(self) -> bytes:
        """The folder below `.holdfast/` that the coins lie in."""
        return b"export-" + self.task_id.encode()

    @property
    def is_committed(self) -> bool:
        return self.state is ExportState.COMMITTED

    def save(self, wallet: WalletFolder) -> None:
        """Write it durably: what is read later is wholly this or wholly what was there before."""
        wallet.write_record(_name_of(self.task_id), self._record())

    @classmethod
    def load(cls, wallet: WalletFolder, task_id: str) -> Self | None:
        """The journal of a task; None if there is none. Raises DataLoss/CHECKSUM_MISMATCH for one that cannot be
        understood."""
        name = _name_of(task_id)
        try:
            record = wallet.read_record(name)
            return None if record is None else cls._from_record(record)
        except (ValueError, KeyError, TypeError) as error:
            path = f"{wallet.root.display}/{RESERVED_FOLDER}/{name.decode()}"
            raise DataLoss(
                Reason.CHECKSUM_MISMATCH, f"the journal {path} is damaged", metadata={"path": path}
            ) from error

    def remove(self, wallet: WalletFolder) -> None:
        """Forget it, durably."""
        wallet.remove_record(_name_of(self.task_id))

    def _record(self) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "kind": "export",
            "state": self.state.value,
            "task_id": self.task_id,
            "attempt": self.attempt,
            "source_id": self.source_id,
            "amount": self.amount,
            "folder": escape(self.folder),
            "created": self.created,
            "balance": self.balance,
            "destination": self.destination,
            "committed": self.committed,
            "receipt": escape(self.receipt),
            "coins": [[escape(c.folder), escape(c.name), c.value, c.identity.hex()] for c in self.coins],
            "outputs": [
                {
                    "partial": escape(one.partial),
                    "wanted": escape(one.wanted),
                    "name": escape(one.name),
                    "published": one.published,
                    "size": one.size,
                    "sha256": one.sha256,
                    "first": one.first,
                    "coins": one.coins,
                    "amount": one.amount,
                    "generation": one.generation.value,
                }
                for one in self.outputs
            ],
        }

    @classmethod
    def _from_record(cls, record: dict[str, Any]) -> Self:
        if record["version"] != _VERSION:
            raise ValueError(f"version {record['version']}")
        names = ("partial", "wanted", "name")
        return cls(
            task_id=record["task_id"],
            attempt=record["attempt"],
            source_id=record["source_id"],
            amount=record["amount"],
            folder=unescape(record["folder"]),
            created=record["created"],
            state=ExportState(record["state"]),
            balance=record["balance"],
            destination=None if record["destination"] is None else tuple(record["destination"]),
            committed=record["committed"],
            receipt=unescape(record["receipt"]),
            coins=[
                ReservedCoin(unescape(folder), unescape(name), value, bytes.fromhex(identity))
                for folder, name, value, identity in record["coins"]
            ],
            outputs=[
                OutputFile(
                    **{
                        **one,
                        **{key: unescape(one[key]) for key in names},
                        "generation": Generation(one["generation"]),
                    }
                )
                for one in record["outputs"]
            ],
        )


def journals(wallet: WalletFolder) -> Iterator[str]:
    """Task ids of all exports with a journal in the wallet."""
    try:
        with wallet.folder(RESERVED_FOLDER.encode()) as service:
            names = sorted(map(os.fsencode, os.listdir(service)))
    except FileNotFoundError:
        return
    for name in names:
        if match := _NAME.fullmatch(name):
            yield match[1].decode()


def reserved_identities(wallet: WalletFolder) -> set[bytes]:
    """Identities of the coins that unfinished exports have reserved, as far as their journals can be read."""
    found: set[bytes] = set()
    for task_id in journals(wallet):
        with suppress(DataLoss):
            journal = ExportJournal.load(wallet, task_id)
            if journal is not None:
                found.update(coin.identity for coin in journal.coins)
    return found


def _name_of(task_id: str) -> bytes:
    return f"export-{task_id}.json".encode()
