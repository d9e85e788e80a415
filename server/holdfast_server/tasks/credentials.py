"""A call's secret, and its one way from the edge to the worker that runs the task.

A worker process makes an HPKE key pair at its start. The edge seals the secret once to each live worker, in the
transaction that creates the task; only the process that holds the private half opens its row. What the sealed bytes
are for (task, worker, expiry) is bound into them, so that a row that was moved or altered does not open.

Python cannot wipe strings: what is promised is that nothing keeps a reference once the task has ended.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, NoReturn

__all__ = ["SECRET_SECONDS", "Credentials", "WorkerKey", "seal"]

#: How long a secret waits for a worker to start the task.
SECRET_SECONDS = 15 * 60

_PURPOSE = "holdfast task secret 1"
#: ML-KEM-768 public keys are this long; the X25519 key follows.
_KEM_BYTES = 1184
#: Sealed content is filled up to a multiple of this, so that its length does not tell that of a passphrase.
_PADDED = 256


@dataclass(frozen=True, slots=True, weakref_slot=True, repr=False)
class Credentials:
    """What opens sealed content: exactly one secret. Never shown, and refuses to be pickled."""

    passphrase: str | None = None
    private_key: str | None = None
    age_identity: str | None = None
    wallet_password: str | None = None

    def __post_init__(self) -> None:
        if sum(getattr(self, field.name) is not None for field in fields(self)) != 1:
            raise ValueError("exactly one secret must be given")

    def __repr__(self) -> str:
        return "Credentials(hidden)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials are handed over sealed, never pickled")


class WorkerKey:
    """The key pair of one worker process. `public` is for its row; the private half stays in this object."""

    def __init__(self, owner: str) -> None:
        from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
        from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

        kem, exchange = mlkem.MLKEM768PrivateKey.generate(), x25519.X25519PrivateKey.generate()
        self.owner = owner
        self.public = kem.public_key().public_bytes_raw() + exchange.public_key().public_bytes_raw()
        self._private = MLKEM768X25519PrivateKey(kem, exchange)

    def open(self, sealed: bytes, task_id: str, expires: int) -> Credentials | None:
        """What was sealed to this process for this task with this expiry; None when it was not, or was altered."""
        from cryptography.exceptions import InvalidTag

        try:
            content = _suite().decrypt(sealed, self._private, info=_info(task_id, self.owner, expires))
        except InvalidTag:
            return None
        kind, secret = json.loads(content)
        return Credentials(**{kind: secret})


def seal(credentials: Credentials, public: bytes, task_id: str, owner: str, expires: int) -> bytes:
    """The secret for one worker alone. `public` is that worker's `WorkerKey.public`, `expires` in microseconds."""
    # Imported here and above: an edge that is given no secret needs none of it.
    from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
    from cryptography.hazmat.primitives.hpke import MLKEM768X25519PublicKey

    key = MLKEM768X25519PublicKey(
        mlkem.MLKEM768PublicKey.from_public_bytes(public[:_KEM_BYTES]),
        x25519.X25519PublicKey.from_public_bytes(public[_KEM_BYTES:]),
    )
    values = ((field.name, getattr(credentials, field.name)) for field in fields(credentials))
    content = json.dumps(next(pair for pair in values if pair[1] is not None)).encode()
    padded = content.ljust(-(-len(content) // _PADDED) * _PADDED)
    sealed: bytes = _suite().encrypt(padded, key, info=_info(task_id, owner, expires))
    return sealed


def _suite() -> Any:
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _info(task_id: str, owner: str, expires: int) -> bytes:
    return json.dumps([_PURPOSE, task_id, owner, expires]).encode()
