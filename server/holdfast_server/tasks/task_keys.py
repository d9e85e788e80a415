"""What a task's work finds of the secrets that it was given: as it needs them, for as long as the attempt lasts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast_server.core.repository_place import OpenRepository, open_content
from holdfast_server.errors import FailedPrecondition, Reason
from holdfast_server.repository import ContentKeys
from holdfast_server.tasks.credentials import SECRET_SECONDS, Credentials
from holdfast_server.wallets.envelope import Keyring, WalletKey

__all__ = ["TaskKeys", "content_key_required", "nothing_to_unlock"]


class TaskKeys:
    """The secrets of one attempt. `expected`: the task was given some, whether or not they reached this process."""

    def __init__(self, task_id: str, credentials: Credentials | None, *, expected: bool) -> None:
        self._task_id = task_id
        self._given = credentials
        self._expected = expected
        self._wallet_keys: dict[str, WalletKey] | None = None
        self._content_keys: dict[str, ContentKeys] = {}

    def credentials(self) -> Credentials | None:
        """What the task was given to open or seal content; None when it was given nothing.

        Raises FailedPrecondition/KEY_REQUIRED when it was given something of which this process can open nothing: it
        was sealed to a worker that has ended, or has expired, or the wallet or repository was locked before the task
        started.
        """
        if self._given is None and self._expected:
            raise FailedPrecondition(
                Reason.KEY_REQUIRED,
                "the key for this task was given to a worker process that has ended, waited too long for it to start "
                f"({SECRET_SECONDS // 60} minutes, or until the wallet or repository locked itself), or its wallet or "
                "repository was locked; it is kept nowhere else: call again",
                metadata={"task_id": self._task_id},
            )
        return self._given

    def wallet_key(self, key_id: str) -> WalletKey | None:
        """The key with that id, of an unlocked wallet; None when it did not reach this process."""
        return self._keys_by_id().get(key_id)

    def keyring(self) -> Keyring:
        """What opens coin envelopes: keys of unlocked wallets, and the call's wallet password; empty when the task was
        given neither. Raises as `credentials`."""
        credentials = self.credentials()
        return Keyring(self._keys_by_id().values(), credentials.wallet_password if credentials else None)

    def content_keys(self, opened: OpenRepository) -> ContentKeys:
        """What opens the content of a repository: its own keys where it is not sealed; else those of the unlocked
        repository, or what the call's passphrase, key file or recovery key opens, derived once.

        Raises FailedPrecondition: KEY_REQUIRED without any, KEY_WRONG for a secret that opens none of its slots.
        """
        if opened.keys.content is not None:
            return opened.keys.content
        repository_id = opened.repository_id
        found = self._content_keys.get(repository_id)
        if found is None:
            found = self._content_keys[repository_id] = self._open_content(opened)
        return found

    def hidden(self) -> Mapping[str, Any]:
        """What the request says that is not stored in clear; empty when it says nothing of the kind.

        Raises FailedPrecondition/KEY_REQUIRED when it did not reach this process.
        """
        credentials = self.credentials()
        return (credentials.hidden if credentials else None) or {}

    def drop(self) -> None:
        """Let go of the secrets, because the attempt is over."""
        self._given = self._wallet_keys = None
        self._content_keys = {}

    def _open_content(self, opened: OpenRepository) -> ContentKeys:
        credentials = self.credentials()
        if credentials is not None:
            text = credentials.content_keys.get(opened.repository_id)
            if text is not None:
                return ContentKeys.from_text(text)
            secret = credentials.passphrase or credentials.private_key
            if secret is not None:
                return open_content(opened, secret)
        raise content_key_required(opened.repository_id)

    def _keys_by_id(self) -> dict[str, WalletKey]:
        if self._wallet_keys is None:
            keys = map(WalletKey.from_text, self._given.wallet_keys if self._given else ())
            self._wallet_keys = {key.key_id: key for key in keys}
        return self._wallet_keys


def content_key_required(repository_id: str) -> FailedPrecondition:
    return FailedPrecondition(
        Reason.KEY_REQUIRED,
        f"repository {repository_id} is sealed and not unlocked: unlock it, or call again with a passphrase, a key "
        "file or the recovery key that opens it",
        metadata={"repository_id": repository_id},
    )


def nothing_to_unlock(repository_id: str) -> FailedPrecondition:
    return FailedPrecondition(
        Reason.KEY_REQUIRED,
        f"repository {repository_id} is not sealed, so there is nothing to unlock; a passphrase, a key file or the "
        "recovery key is only tried on its key slots",
        metadata={"repository_id": repository_id},
    )
