"""Keys of age: who an archive is sealed to, and what opens it. Errors never repeat what was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyrage

from holdfast_server.errors import invalid_field

__all__ = ["MAX_RECIPIENTS", "Identity", "Recipients", "parse_identity", "parse_recipients"]

#: A header with this many of the longest recipients stays far below what a reader takes.
MAX_RECIPIENTS = 100

#: Longest texts of a key, in characters.
_MAX_RECIPIENT, _MAX_IDENTITY = 16 << 10, 64 << 10


@dataclass(frozen=True, slots=True, repr=False)
class Recipients:
    """Public keys that an archive is sealed to. `texts` is how they were written; they are no secret."""

    texts: tuple[str, ...]
    keys: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.texts)


class Identity:
    """A private key that opens what was sealed to its public key. Shows nothing of itself."""

    __slots__ = ("keys",)

    def __init__(self, keys: Sequence[Any]) -> None:
        self.keys = tuple(keys)

    def __repr__(self) -> str:
        return "Identity(…)"

    def __reduce__(self) -> str:
        raise TypeError("an identity is not to be stored")


def parse_recipients(texts: Sequence[str], field: str) -> Recipients:
    """The recipients of a request. Raises InvalidArgument/INVALID_FIELD naming `field` and the index, without the text:
    who pastes the wrong half of a key pair must not find it in a log.

    Taken are `age1…` (X25519), `age1tag1…` and `age1tagpq1…`, `ssh-ed25519 …` and `ssh-rsa …`; 1 to MAX_RECIPIENTS.
    """
    if not texts:
        raise invalid_field(field, "no recipient is given")
    if len(texts) > MAX_RECIPIENTS:
        raise invalid_field(field, f"{len(texts)} recipients are more than {MAX_RECIPIENTS}")
    keys = [_recipient(text.strip(), f"{field}[{index}]") for index, text in enumerate(texts)]
    try:
        # Recipients may be valid alone and impossible together, as post-quantum ones beside others.
        pyrage.encrypt(b"", keys)
    except (pyrage.EncryptError, OSError) as error:
        raise invalid_field(field, f"nothing can be sealed to these recipients together: {error}") from None
    return Recipients(tuple(text.strip() for text in texts), tuple(keys))


def parse_identity(text: str, field: str = "credentials.age_identity") -> Identity:
    """The content of an identity file: `AGE-SECRET-KEY-1…` lines with comments, or one SSH private key without a
    passphrase. Raises InvalidArgument/INVALID_FIELD for `field`, never with anything of the text."""
    if len(text) > _MAX_IDENTITY:
        raise invalid_field(field, f"an identity has at most {_MAX_IDENTITY} characters")
    if text.lstrip().startswith("-----BEGIN"):
        try:
            return Identity([pyrage.ssh.Identity.from_buffer(text.strip().encode() + b"\n")])
        except (pyrage.IdentityError, UnicodeError):
            raise invalid_field(
                field, "this is no SSH private key of type Ed25519 or RSA, or it is protected by a passphrase"
            ) from None
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise invalid_field(field, "no identity is given")
    return Identity([_identity(line, field) for line in lines])


def _recipient(text: str, field: str) -> Any:
    if not text:
        raise invalid_field(field, "a recipient is empty")
    if len(text) > _MAX_RECIPIENT:
        raise invalid_field(field, f"a recipient has at most {_MAX_RECIPIENT} characters")
    kind = text.lower()
    if kind.startswith("age-secret-key-"):
        raise invalid_field(field, "this is a secret key; give the recipient that belongs to it, and change the key")
    if kind.startswith("age1pq1"):
        raise invalid_field(field, "post-quantum recipients (age1pq1…) are not supported by this version")
    parsers = (pyrage.x25519, pyrage.tag, pyrage.tagpq) if kind.startswith("age1") else (pyrage.ssh,)
    for parser in parsers:
        try:
            return parser.Recipient.from_str(text)
        except (pyrage.RecipientError, UnicodeError):
            continue
    raise invalid_field(field, "this is no recipient: it has to be age1…, ssh-ed25519 … or ssh-rsa …")


def _identity(line: str, field: str) -> Any:
    try:
        return pyrage.x25519.Identity.from_str(line)
    except (pyrage.IdentityError, UnicodeError):
        if line.upper().startswith("AGE-SECRET-KEY-PQ-"):
            what = "post-quantum identities (AGE-SECRET-KEY-PQ-1…) are not supported by this version"
        elif line.upper().startswith("AGE-PLUGIN-"):
            what = "identities of plugins are not supported"
        else:
            what = "this is no identity: it has to be AGE-SECRET-KEY-1…, or an SSH private key"
        raise invalid_field(field, what) from None
