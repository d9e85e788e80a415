"""How wallets' keys are made, and which wallets are unlocked. Every function works inside the caller's transaction.

The catalog never holds a key or a password: it says *that* a wallet is unlocked, until when and with which key.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from holdfast_server.catalog import schema, task_secrets

__all__ = [
    "UnlockRow",
    "WalletKeyRow",
    "any_expired",
    "forget_expired",
    "forget_unlock",
    "forget_wallet",
    "get_wallet_key",
    "insert_wallet_key",
    "keep_unlock",
    "unlocks",
    "unlocks_with",
]

_k = schema.wallet_keys
_u = schema.wallet_unlocks


@dataclass(frozen=True, slots=True)
class WalletKeyRow:
    """What makes a wallet's key of its password (Argon2id), and the id that tells the right one."""

    source_id: str
    key_id: str
    salt: bytes
    memory_kib: int
    passes: int
    lanes: int
    create_time: int


@dataclass(frozen=True, slots=True)
class UnlockRow:
    """That a wallet is unlocked with a key until `expire_time` (microseconds)."""

    source_id: str
    key_id: str
    expire_time: int


def get_wallet_key(connection: sa.Connection, source_id: str) -> WalletKeyRow | None:
    """None as long as the wallet has no password."""
    found = connection.execute(sa.select(_k).where(_k.c.source_id == source_id)).mappings().first()
    return None if found is None else WalletKeyRow(**found)


def insert_wallet_key(connection: sa.Connection, row: WalletKeyRow) -> None:
    connection.execute(_k.insert().values(**asdict(row)))


def keep_unlock(connection: sa.Connection, row: UnlockRow) -> None:
    """From now on the wallet is unlocked until then, whatever was said before."""
    connection.execute(_u.delete().where(_u.c.source_id == row.source_id))
    connection.execute(_u.insert().values(**asdict(row)))


def unlocks(connection: sa.Connection, now: int, source_ids: Collection[str] | None = None) -> dict[str, UnlockRow]:
    """The wallets that are unlocked now, by source id: all, or those among `source_ids`."""
    query = sa.select(_u).where(_u.c.expire_time > now)
    if source_ids is not None:
        query = query.where(_u.c.source_id.in_(sorted(source_ids)))
    return {row["source_id"]: UnlockRow(**row) for row in connection.execute(query).mappings()}


def unlocks_with(connection: sa.Connection, now: int, key_ids: Collection[str]) -> list[UnlockRow]:
    """The wallets that are unlocked now with one of the keys."""
    query = sa.select(_u).where(_u.c.expire_time > now, _u.c.key_id.in_(sorted(key_ids)))
    return [UnlockRow(**row) for row in connection.execute(query).mappings()]


def forget_unlock(connection: sa.Connection, source_id: str, now: int) -> bool:
    """Lock a wallet, for tasks that wait too; False when it was locked already."""
    was_unlocked = source_id in unlocks(connection, now, [source_id])
    connection.execute(_u.delete().where(_u.c.source_id == source_id))
    task_secrets.forget_resource(connection, task_secrets.of_wallet(source_id))
    return was_unlocked


def forget_wallet(connection: sa.Connection, source_id: str) -> None:
    """Forget that the wallet had a password."""
    connection.execute(_u.delete().where(_u.c.source_id == source_id))
    connection.execute(_k.delete().where(_k.c.source_id == source_id))


def any_expired(connection: sa.Connection, now: int) -> bool:
    return connection.execute(sa.select(_u.c.source_id).where(_u.c.expire_time <= now).limit(1)).first() is not None


def forget_expired(connection: sa.Connection, now: int) -> None:
    connection.execute(_u.delete().where(_u.c.expire_time <= now))
