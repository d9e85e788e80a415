"""Unlocked wallets: the edge holds their keys, the catalog says until when, and workers are given what they need.

A wallet is *unlocked* while the catalog says so: then its backups encrypt its coins or fail with KEY_REQUIRED, and
never store one in clear. The key lies in the memory of the edge that unlocked it and nowhere else, so after that
process's end the wallet stays unlocked without a key until it is unlocked again, locked, or its time is over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from holdfast_server.catalog import wallet_keys
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import SourceKind, SourceRow
from holdfast_server.catalog.wallet_keys import UnlockRow, WalletKeyRow
from holdfast_server.clock import Clock
from holdfast_server.core.wallet_password import derive_key, first_key
from holdfast_server.errors import FailedPrecondition, Reason
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.held_keys import Held, HeldKeys
from holdfast_server.tasks.run import TaskRun
from holdfast_server.tasks.sources import open_source, require_source
from holdfast_server.tasks.wallet_reader import WalletReader
from holdfast_server.wallets.envelope import KeyParameters, Keyring, WalletKey

__all__ = ["UnlockedWallet", "WalletKeys", "key_required", "require_wallet", "required_key", "unlocked_others"]


@dataclass(frozen=True, slots=True)
class UnlockedWallet:
    """What unlocking gave. `expire_time` in microseconds; `password_set`: the wallet had no password before, nor coins
    encrypted with one."""

    expire_time: int
    key_id: str
    password_set: bool


class WalletKeys:
    """The edge's keys of unlocked wallets. Thread-safe.

    The catalog is asked on every look, so that a wallet that another edge locked is locked here too.
    """

    def __init__(self, database: Database, policy: FolderPolicy, reader: WalletReader, clock: Clock) -> None:
        self._database = database
        self._policy = policy
        self._reader = reader
        self._clock = clock
        self._held: HeldKeys[WalletKey] = HeldKeys(clock)

    def unlock(
        self, source_id: str, password: str, seconds: float, wanted: Callable[[], bool] = lambda: True
    ) -> UnlockedWallet:
        """Open a wallet for so long from now, whatever was left of an earlier unlock. The first password that a wallet
        is given is its password from then on. `wanted` as for `WalletReader.run`.

        Raises NotFound/SOURCE_NOT_FOUND; FailedPrecondition: NOT_A_WALLET, SOURCE_UNREADABLE, KEY_WRONG (nothing has
        changed then); Unavailable/SOURCE_OFFLINE; and what `WalletReader.run` raises.
        """
        while True:
            with self._database.read() as connection:
                source = require_wallet(connection, source_id)
                known = wallet_keys.get_wallet_key(connection, source_id)
            if known is None:
                key, adopted = self._first_key(source, password, wanted)
            else:
                key, adopted = self._known_key(source, known, password, wanted), False
            done = self._keep(source, known, key, seconds)
            if done is not None:
                return replace(done, password_set=known is None and not adopted)

    def lock(self, source_id: str) -> bool:
        """Forget a wallet's key, for tasks too that no worker has begun; False when it was locked already.

        Raises NotFound/SOURCE_NOT_FOUND, FailedPrecondition/NOT_A_WALLET.
        """
        self._held.forget(source_id)
        with self._database.write() as connection:
            require_wallet(connection, source_id)
            return wallet_keys.forget_unlock(connection, source_id, self._clock.now())

    def unlocked(self, source_id: str) -> WalletKey | None:
        """The key of an unlocked wallet; None for one that is locked, or whose key was in a process that has ended."""
        return self._usable([source_id], None).get(source_id)

    def attach(
        self,
        source_ids: Collection[str],
        credentials: Credentials | None = None,
        connection: sa.Connection | None = None,
    ) -> Credentials | None:
        """The credentials with the keys of the unlocked wallets among the sources. `connection`: ask inside this
        transaction."""
        texts = tuple(key.to_text() for key in self._usable(source_ids, connection).values())
        if not texts:
            return credentials
        return replace(credentials, wallet_keys=texts) if credentials else Credentials(wallet_keys=texts)

    def keyring(self, source_id: str, credentials: Credentials | None = None) -> Keyring:
        """What opens a wallet's envelopes in the edge's reader process: its key if it is unlocked, and the call's
        password."""
        key = self.unlocked(source_id)
        return Keyring([key] if key else (), credentials.wallet_password if credentials else None)

    def tick(self) -> None:
        """Forget what has expired, and what another edge has locked. To be called every second."""
        now = self._clock.now()
        held = self._held.present()
        with self._database.read() as connection:
            known = wallet_keys.unlocks(connection, now)
            expired = wallet_keys.any_expired(connection, now)
        self._drop_locked(held, known)
        if expired:
            with self._database.write(durable=False) as connection:
                wallet_keys.forget_expired(connection, now)

    def _first_key(self, source: SourceRow, password: str, wanted: Callable[[], bool]) -> tuple[WalletKey, bool]:
        with open_source(self._policy, source.source_id, source.path) as folder:
            text, adopted = self._reader.run(first_key, source.path, folder.identity, password, wanted=wanted)
        return WalletKey.from_text(text), adopted

    def _known_key(
        self, source: SourceRow, known: WalletKeyRow, password: str, wanted: Callable[[], bool]
    ) -> WalletKey:
        open_source(self._policy, source.source_id, source.path).close()
        parameters = KeyParameters(known.salt, known.memory_kib, known.passes, known.lanes)
        key = WalletKey.from_text(self._reader.run(derive_key, password, parameters, wanted=wanted))
        if not key.is_named(known.key_id):
            raise FailedPrecondition(
                Reason.KEY_WRONG,
                f"this is not the password of wallet {source.source_id}",
                metadata={"source_id": source.source_id},
            )
        return key

    def _keep(
        self, source: SourceRow, known: WalletKeyRow | None, key: WalletKey, seconds: float
    ) -> UnlockedWallet | None:
        """Record the unlock; None when the wallet got a password or another folder while its key was derived."""
        source_id, p = source.source_id, key.parameters
        with self._database.write() as connection:
            now = self._clock.now()
            present = wallet_keys.get_wallet_key(connection, source_id)
            if present != known or require_wallet(connection, source_id).path != source.path:
                return None
            if present is None:
                row = WalletKeyRow(source_id, key.key_id, p.salt, p.memory_kib, p.passes, p.lanes, now)
                wallet_keys.insert_wallet_key(connection, row)
            until = now + int(seconds * 1_000_000)
            wallet_keys.keep_unlock(connection, UnlockRow(source_id, key.key_id, until))
        # Only now: a look in between finds it unlocked without a key, never locked with one.
        self._held.keep(source_id, key, until, seconds)
        return UnlockedWallet(until, key.key_id, password_set=False)

    def _usable(self, source_ids: Collection[str], connection: sa.Connection | None) -> dict[str, WalletKey]:
        """The keys, by source id, of those that are unlocked."""
        held = self._held.present(source_ids)
        if not held:
            return {}
        reading: AbstractContextManager[sa.Connection] = (
            self._database.read() if connection is None else nullcontext(connection)
        )
        with reading as asked:
            known = wallet_keys.unlocks(asked, self._clock.now(), held)
        self._drop_locked(held, known)
        return {source_id: one.key for source_id, one in held.items() if _is_known(source_id, one, known)}

    def _drop_locked(self, held: Mapping[str, Held[WalletKey]], known: Mapping[str, UnlockRow]) -> None:
        """`held` was looked up before `known`: what was unlocked in between stays."""
        self._held.drop_unless(held, lambda source_id, one: _is_known(source_id, one, known))


def _is_known(source_id: str, one: Held[WalletKey], known: Mapping[str, UnlockRow]) -> bool:
    return source_id in known and one.key.is_named(known[source_id].key_id)


def required_key(run: TaskRun, database: Database, clock: Clock, entry: Mapping[str, Any]) -> WalletKey | None:
    """The key that a source's backup must encrypt coins with; None while the wallet is locked.

    It must when the order said so (`coin_key_id`), and also when the wallet was unlocked since. Raises
    FailedPrecondition/KEY_REQUIRED when the key did not reach this process: nothing may be stored in clear then.
    """
    source_id, key_id = entry["source_id"], entry.get("coin_key_id")
    if key_id is None:
        with database.read() as connection:
            unlock = wallet_keys.unlocks(connection, clock.now(), [source_id]).get(source_id)
        if unlock is None:
            return None
        key_id = unlock.key_id
    key = run.wallet_key(key_id)
    if key is None:
        raise key_required(source_id, key_id)
    return key


def unlocked_others(database: Database, clock: Clock, source_id: str) -> dict[str, bytes]:
    """The paths of all other wallets that are unlocked now, by source id."""
    with database.read() as connection:
        found = wallet_keys.unlocks(connection, clock.now())
        rows = [require_source(connection, other) for other in found if other != source_id]
    return {row.source_id: row.path for row in rows}


def require_wallet(connection: sa.Connection, source_id: str) -> SourceRow:
    """Raises NotFound/SOURCE_NOT_FOUND, FailedPrecondition/NOT_A_WALLET."""
    source = require_source(connection, source_id)
    if source.kind != SourceKind.WALLET:
        text = f"source {source_id} is registered as a {source.kind} and not as a wallet"
        raise FailedPrecondition(Reason.NOT_A_WALLET, text, metadata={"source_id": source_id, "kind": source.kind})
    return source


def key_required(source_id: str, key_id: str) -> FailedPrecondition:
    return FailedPrecondition(
        Reason.KEY_REQUIRED,
        f"wallet {source_id} is unlocked, or was when the backup was asked for, but its key is not at hand: unlock it "
        "again, or lock it to have its coins stored as they are, and call again",
        metadata={"source_id": source_id, "key_id": key_id},
    )
