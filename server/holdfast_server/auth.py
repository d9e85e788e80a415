"""Who calls: the administrator's token, made at the first start and kept in the data directory.

More principals and roles come with the access service; until then every authenticated caller is the administrator.
"""

from __future__ import annotations

import fcntl
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
    """Read `admin.token`, or make it (mode 0600, 256 random bits) at the first start.

    It appears whole or not at all; an empty one, which would let in whoever sends none, is made anew.
    """
    folder = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # the supervisor, the edge and the workers start together
        path = data_dir / TOKEN_FILE
        if path.exists() and (token := path.read_text().strip()):
            return token
        token = "hf_" + secrets.token_urlsafe(32)
        temporary = data_dir / f".{TOKEN_FILE}.new"
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(token + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        os.fsync(folder)
        return token
    finally:
        os.close(folder)


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
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise _bad("the authorization is not of the form `Bearer <token>`")
        if not hmac.compare_digest(_digest(token), self._admin):
            raise _bad("the token is not valid")
        return Principal("admin")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _bad(what: str) -> Unauthenticated:
    return Unauthenticated(Reason.BAD_CREDENTIALS, what)
