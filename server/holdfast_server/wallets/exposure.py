"""Which files of a wallet may show coins to whoever reads them: what a backup of an unlocked wallet encrypts.

`read_coin_file` says what parses. Here is added what nobody can be sure of: files that only look like coins, by their
first bytes or by their name, and everything below Recovery, where the wallet program keeps key material in clear. An
envelope too many costs nothing; a coin in clear costs the coin.
"""

from __future__ import annotations

from holdfast_server.wallets import envelope, format9
from holdfast_server.wallets.classify import SNIFF_SIZE, Container, Encryption, classify
from holdfast_server.wallets.coin_file import CoinFile, read_coin_file

__all__ = ["FIRST_SIZE", "PARSE_LIMIT", "in_recovery", "is_doubtful", "is_envelope", "is_exposed", "may_be_exposed"]

#: Files up to this size are held in memory and parsed; larger ones are judged by their first bytes.
PARSE_LIMIT = 16 << 20

#: How many of them `may_be_exposed` wants.
FIRST_SIZE = 4096

_RECOVERY = b"recovery"

#: Names that coins go by, or the keys of an identity.
_NAMES = (b".bin", b".stack", b".png", b".jpg", b".jpeg", b".zip", b".key")

#: PNG, JPEG, ZIP, CCv2, and UTF-16, in which a stack may be written.
_BEGINNINGS = (b"\x89PNG", b"\xff\xd8", b"PK", b"\0", b"\xff\xfe", b"\xfe\xff")
_BLANK = b"\xef\xbb\xbf \t\r\n"


def is_envelope(first: bytes, size: int) -> bool:
    """Whether a file of `size` bytes is an envelope of ours, by its first bytes (`envelope.HEADER_SIZE`)."""
    header = envelope.read_header(first)
    return header is not None and header.size == size


def in_recovery(path: bytes) -> bool:
    """Whether a file lies below the wallet's Recovery folder, which holds key material in clear in no fixed format."""
    folder, slash, _ = path.partition(b"/")
    return bool(slash) and folder.lower() == _RECOVERY


def is_doubtful(path: bytes) -> bool:
    """Whether a file is taken for coins by where it lies and what it is called, as long as it is not known for else."""
    return in_recovery(path) or path.lower().endswith(_NAMES)


def is_exposed(path: bytes, content: bytes, parsed: CoinFile) -> bool:
    """Whether a file may show coins; `parsed` is what `read_coin_file` found in its whole content."""
    if is_envelope(content, len(content)):
        return False
    if in_recovery(path) or parsed.legible or parsed.problem or parsed.container is Container.ENVELOPE:
        return True
    if parsed.encryption is Encryption.ENCRYPTED:
        return False
    if parsed.container is not Container.OTHER or not content:
        return False
    # Nobody knows what it is: then one look at its beginning, or its name, that takes it for coins is enough.
    seen = classify(path, len(content), content[:SNIFF_SIZE])
    return seen.container is not Container.OTHER or is_doubtful(path)


def may_be_exposed(path: bytes, size: int, first: bytes) -> bool:
    """The same of a file too large to be parsed, by its first bytes (FIRST_SIZE; fewer only if it is shorter)."""
    if is_envelope(first, size):
        return False
    if in_recovery(path):
        return True
    header = format9.read_header(first, size)
    if header is not None and header.is_cloudcoin:
        return not header.encrypted
    text = first.lstrip(_BLANK)
    looks = first.startswith(_BEGINNINGS) or not text or text[:1] in b"{["
    return looks or is_doubtful(path) or read_coin_file(first).legible
