"""From a wallet's password to its key: top-level functions that the edge has its reader process run.

A wallet without a password takes the first one that it is unlocked with, unless it holds coins that were encrypted
before: restored ones, or ones encrypted offline. Then it takes the password of these.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from holdfast_server.errors import FailedPrecondition, Reason, Unavailable
from holdfast_server.storage.folder import OpenFolder, open_folder
from holdfast_server.storage.local import translate_os_error
from holdfast_server.storage.names import escape
from holdfast_server.storage.tree import EntryKind, ProblemReason, TreeEntry, TreeProblem, walk
from holdfast_server.wallets.envelope import HEADER_SIZE, SUFFIX, EnvelopeHeader, KeyParameters, WalletKey, read_header
from holdfast_server.wallets.layout import MONEY_FOLDERS

__all__ = ["derive_key", "first_key"]

_MONEY = frozenset(map(os.fsencode, MONEY_FOLDERS))
#: What keeps us from knowing what lies there.
_UNKNOWN = frozenset({ProblemReason.PERMISSION_DENIED, ProblemReason.READ_ERROR})
#: Sets of parameters that a first password is tried with: each costs a derivation, and a wallet has one.
_MOST_DERIVATIONS = 8


def derive_key(password: str, parameters: KeyParameters) -> str:
    """The key of a password, as text."""
    return WalletKey.derive(password, parameters).to_text()


def first_key(path: bytes, identity: tuple[int, int], password: str) -> tuple[str, bool]:
    """The key of a wallet that has no password yet, as text, and whether that of its coins was adopted.

    `identity` is (st_dev, st_ino) of the folder that `path` was when it was checked. Raises FailedPrecondition:
    KEY_WRONG when Bank or Fracked hold coins encrypted with another password, SOURCE_UNREADABLE where it cannot look,
    so that nobody knows; Unavailable/SOURCE_OFFLINE when `path` is another folder now.
    """
    try:
        with open_folder(path) as folder:
            if folder.identity != identity:
                raise _elsewhere(path)
            adopted = _adopted(folder, password)
    except OSError as error:
        raise translate_os_error(error, f"looking for encrypted coins in {escape(path)}") from error
    key = adopted or WalletKey.derive(password, KeyParameters.new())
    return key.to_text(), adopted is not None


def _adopted(wallet: OpenFolder, password: str) -> WalletKey | None:
    """The key of the coins that the wallet holds; None when none of them is encrypted."""
    derived: dict[KeyParameters, WalletKey] = {}
    seen: set[tuple[KeyParameters, str]] = set()
    example, files = "", 0
    for path, header in _envelopes(wallet):
        example, files = example or escape(path), files + 1
        if (header.parameters, header.key_id) in seen:
            continue
        seen.add((header.parameters, header.key_id))
        key = derived.get(header.parameters)
        if key is None and len(derived) < _MOST_DERIVATIONS:
            key = derived[header.parameters] = WalletKey.derive(password, header.parameters)
        if key is not None and key.is_named(header.key_id):
            return key
    if not files:
        return None
    raise FailedPrecondition(
        Reason.KEY_WRONG,
        f"{wallet.display} holds coins that were encrypted with another password, {files} files such as {example}: "
        "unlock it with that one, or move these files away first",
        metadata={"path": wallet.display, "files": str(files), "file": example},
    )


def _envelopes(wallet: OpenFolder) -> Iterator[tuple[bytes, EnvelopeHeader]]:
    """(path below the wallet, header) of every coin envelope in Bank and Fracked."""
    for found in walk(wallet.fd, keep=_may_be_envelope, check=lambda: None):
        if isinstance(found, TreeProblem):
            if found.reason in _UNKNOWN:
                raise _unreadable(wallet, found)
        elif found.kind is EntryKind.FILE and (header := _header(found)) is not None:
            yield found.path, header


def _may_be_envelope(path: bytes, is_directory: bool) -> bool:
    return path.partition(b"/")[0] in _MONEY and (is_directory or path.endswith(SUFFIX))


def _header(entry: TreeEntry) -> EnvelopeHeader | None:
    try:
        fd, _ = entry.open_file()
    except FileNotFoundError:
        return None
    try:
        return read_header(os.read(fd, HEADER_SIZE))
    finally:
        os.close(fd)


def _unreadable(wallet: OpenFolder, problem: TreeProblem) -> FailedPrecondition:
    where = f"{wallet.display}/{escape(problem.path)}"
    return FailedPrecondition(
        Reason.SOURCE_UNREADABLE,
        f"whether the wallet holds encrypted coins cannot be told: {problem.message}",
        metadata={"path": where, "problem": problem.reason.value},
    )


def _elsewhere(path: bytes) -> Unavailable:
    shown = escape(path)
    text = f"{shown} became another folder while it was looked at"
    return Unavailable(Reason.SOURCE_OFFLINE, text, metadata={"path": shown}, retry_after=1.0)
