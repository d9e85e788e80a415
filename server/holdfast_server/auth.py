"""Who calls: the administrator's token, made at the first start and kept in the data directory.

More principals and roles come with the access service; until then every authenticated caller is the administrator.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from holdfast_server.errors import Reason, Unauthenticated

__all__ = ["Authenticator", "Principal", "ensure_admin_token"]

TOKEN_FILE = "admin.token"  # noqa: S105  a file name, no secret


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller."""

    name: str


def ensure_admin_token(data_dir: Path) -> str:
    """Read `admin.token`, or make it (mode 0600, 256 random bits) at the first start."""
    path = data_dir / TOKEN_FILE
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    token = "hf_" + secrets.token_urlsafe(32)
    with os.fdopen(fd, "w") as file:
        file.write(token + "\n")
        file.flush()
        os.fsync(file.fileno())
    return token


class Authenticator:
    """Checks `authorization` values. Comparison is constant in time and on digests."""

    def __init__(self, admin_token: str) -> None:
        self._admin = _digest(admin_token)

    def authenticate(self, values: list[str]) -> Principal:
        """The caller behind the `authorization` metadata. Raises Unauthenticated/BAD_CREDENTIALS.

        More than one value is refused: which of them counts would be a guess.
        """
        if not values:
            raise _bad("the call carries no authorization")
        if len(values) > 1:
            raise _bad("the call carries more than one authorization")
        scheme, _, token = values[0].partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _bad("the authorization is not of the form `Bearer <token>`")
        if not hmac.compare_digest(_digest(token.strip()), self._admin):
            raise _bad("the token is not valid")
        return Principal("admin")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _bad(what: str) -> Unauthenticated:
    return Unauthenticated(Reason.BAD_CREDENTIALS, what)
