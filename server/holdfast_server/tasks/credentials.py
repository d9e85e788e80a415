"""What a task must know in secret, and its one way from the edge to the worker that runs it.

That is the secret of a call, the keys of the unlocked wallets among its sources, the content keys of an unlocked
repository, and what a request says that must not be stored in clear. A worker process makes an HPKE key pair at its
start. The edge seals each secret once to each live worker, in the transaction that creates the task; only the process
that holds the private half opens its row. What the sealed bytes are for (task, worker, wallet or repository, expiry) is
bound into them, so that a row that was moved or altered does not open. Each wallet and each repository has a row of its
own: it expires with that unlock and goes when that one is locked, and no other of the task loses its key.

Python cannot wipe strings: what is promised is that nothing keeps a reference once the task has ended.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

__all__ = ["CONTENT_KEYS", "HIDDEN", "SECRET_SECONDS", "WALLET_KEY", "Binding", "Credentials", "WorkerKey", "seal"]

#: How long a call's secret waits for a worker to start the task.
SECRET_SECONDS = 15 * 60

#: The kinds of what does not come as the secret of a call; the other kinds are the fields of `Credentials`.
WALLET_KEY = "wallet_key"
CONTENT_KEYS = "content_keys"
HIDDEN = "hidden"

_PURPOSE = "holdfast task secret 3"
_CALL_SECRETS = ("passphrase", "private_key", "age_identity", "wallet_password")
#: ML-KEM-768 public keys are this long; the X25519 key follows.
_KEM_BYTES = 1184
#: Sealed content is filled up to a multiple of this, so that its length does not tell that of a passphrase.
_PADDED = 256


@dataclass(frozen=True, slots=True, weakref_slot=True, repr=False)
class Credentials:
    """What opens or seals content: at most one secret of the call, keys of unlocked wallets (`WalletKey.to_text`), and
    those of unlocked repositories (`ContentKeys.to_text`) by repository id. And `hidden`: what the request says that
    must not be stored in clear, as JSON can hold it, such as paths that name files of a sealed repository.

    Never empty, never shown, and refuses to be pickled.
    """

    passphrase: str | None = None
    private_key: str | None = None
    age_identity: str | None = None
    wallet_password: str | None = None
    wallet_keys: tuple[str, ...] = ()
    content_keys: Mapping[str, str] = field(default_factory=dict)
    hidden: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        given = sum(getattr(self, name) is not None for name in _CALL_SECRETS)
        if given > 1:
            raise ValueError("at most one secret of a call may be given")
        if not (given or self.wallet_keys or self.content_keys or self.hidden is not None):
            raise ValueError("a secret must be given")

    @property
    def call_secret(self) -> tuple[str, str] | None:
        """(kind, secret) of what came with the call."""
        values = ((name, getattr(self, name)) for name in _CALL_SECRETS)
        return next((pair for pair in values if pair[1] is not None), None)

    @classmethod
    def assemble(cls, secrets: Iterable[tuple[str, str, str]]) -> Credentials:
        """Of (kind, secret, resource) as they were sealed one by one."""
        values: dict[str, Any] = {}
        wallet_keys: dict[str, None] = {}
        content_keys: dict[str, str] = {}
        for kind, secret, resource in secrets:
            if kind == WALLET_KEY:
                wallet_keys[secret] = None
            elif kind == CONTENT_KEYS:
                content_keys[resource.partition(":")[2]] = secret
            else:
                values[kind] = json.loads(secret) if kind == HIDDEN else secret
        return cls(**values, wallet_keys=tuple(wallet_keys), content_keys=content_keys)

    def __repr__(self) -> str:
        return "Credentials(hidden)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials are handed over sealed, never pickled")


@dataclass(frozen=True, slots=True)
class Binding:
    """What a sealed secret is for. `resource` is the wallet or repository whose key it is, as
    `catalog.task_secrets` names them; `expires` in microseconds."""

    task_id: str
    owner: str
    resource: str
    expires: int

    def to_bytes(self) -> bytes:
        return json.dumps([_PURPOSE, self.task_id, self.owner, self.resource, self.expires]).encode()


class WorkerKey:
    """The key pair of one worker process. `public` is for its row; the private half stays in this object."""

    def __init__(self, owner: str) -> None:
        from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
        from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

        kem, exchange = mlkem.MLKEM768PrivateKey.generate(), x25519.X25519PrivateKey.generate()
        self.owner = owner
        self.public = kem.public_key().public_bytes_raw() + exchange.public_key().public_bytes_raw()
        self._private = MLKEM768X25519PrivateKey(kem, exchange)

    def open(self, sealed: bytes, binding: Binding) -> tuple[str, str] | None:
        """(kind, secret) that was sealed for just this; None when it was not, or was altered."""
        from cryptography.exceptions import InvalidTag

        if binding.owner != self.owner:
            return None
        try:
            content = _suite().decrypt(sealed, self._private, info=binding.to_bytes())
        except InvalidTag:
            return None
        kind, secret = json.loads(content)
        return kind, secret


def seal(kind: str, secret: str, public: bytes, binding: Binding) -> bytes:
    """A secret for one worker alone. `public` is that worker's `WorkerKey.public`."""
    # Imported here and above: an edge that is given no secret needs none of it.
    from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
    from cryptography.hazmat.primitives.hpke import MLKEM768X25519PublicKey

    key = MLKEM768X25519PublicKey(
        mlkem.MLKEM768PublicKey.from_public_bytes(public[:_KEM_BYTES]),
        x25519.X25519PublicKey.from_public_bytes(public[_KEM_BYTES:]),
    )
    content = json.dumps([kind, secret]).encode()
    padded = content.ljust(-(-len(content) // _PADDED) * _PADDED)
    sealed: bytes = _suite().encrypt(padded, key, info=binding.to_bytes())
    return sealed


def _suite() -> Any:
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
