"""What opens sealed content, given with the call that reads it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from holdfast.errors import BadConfiguration
from holdfast.v1 import credentials_pb2

__all__ = ["Credentials", "read_key_file", "wire_credentials"]

#: The longest identity file, in bytes, that is read: a slip such as naming an archive must not send it.
_LONGEST = 65_536
#: How a repository's recovery key begins.
_RECOVERY = "HFRK1"


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """Exactly one secret; the kind must fit the content. The server keeps it in memory only, until the task ends."""

    passphrase: str | None = None
    private_key: str | None = None
    age_identity: str | None = None
    wallet_password: str | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in asdict(self).values()) != 1:
            raise BadConfiguration(
                "credentials hold exactly one secret", remedy="Give one of passphrase, private_key, age_identity, "
                "wallet_password."
            )  # fmt: skip

    def __repr__(self) -> str:
        return "Credentials(hidden)"

    @classmethod
    def from_identity_file(cls, path: str | os.PathLike[str]) -> Self:
        """The age identity in a file as `age-keygen` writes it, or an SSH private key. Raises BadConfiguration."""
        try:
            with Path(path).open("rb") as file:
                text = file.read(_LONGEST + 1).decode()
        except (OSError, UnicodeDecodeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "it is no text"
            raise BadConfiguration(
                f"identity file {path} cannot be read: {cause}", remedy="Name a file that holds an age identity."
            ) from None
        return cls.from_identity(text, f"identity file {path}")

    @classmethod
    def from_key_file(cls, path: str | os.PathLike[str]) -> Self:
        """The content of a key file, as it is, or the recovery key in it. Raises BadConfiguration."""
        return cls(private_key=read_key_file(path))

    @classmethod
    def from_identity(cls, text: str, where: str = "the text") -> Self:
        """The age identity in a text without its comments. `where` is for the error, which never shows the text."""
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        if not lines or len(text) > _LONGEST:
            raise BadConfiguration(f"{where} holds no age identity", remedy="Name a file that holds an age identity.")
        return cls(age_identity="\n".join(lines))


def read_key_file(path: str | os.PathLike[str]) -> str:
    """The content of a key file as it is, but for the space around a recovery key. Raises BadConfiguration."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(_LONGEST + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BadConfiguration(f"key file {path} cannot be read: {cause}", remedy="Name a key file of text.") from None
    if not text.strip() or len(text) > _LONGEST:
        raise BadConfiguration(
            f"key file {path} cannot be one", remedy=f"A key file holds 32 to {_LONGEST:,} characters."
        )
    return text.strip() if text.strip().upper().startswith(_RECOVERY) else text


def wire_credentials(credentials: Credentials | None) -> credentials_pb2.Credentials | None:
    """As the message that calls carry."""
    return None if credentials is None else credentials_pb2.Credentials(**asdict(credentials))
