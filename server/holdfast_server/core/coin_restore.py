"""What a restore does with coins once all else is proved: opens their envelopes, and proves a new wallet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from holdfast_server.archive.manifest import ProvedManifest
from holdfast_server.archive.tree import Tree
from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.core.new_wallet import NewWalletProof, require_wallet_backup
from holdfast_server.core.opening import Opening
from holdfast_server.wallets.envelope import Keyring

__all__ = ["CoinRestore"]


class CoinRestore:
    """One restore's coins. `new_wallet`: the tree must be a wallet that equals the backup.

    `opened` counts the files that were decrypted, `growth` is how many bytes more of content there are for it (never
    above 0), `removed` counts staged files and folders that the new wallet does not get, `coins` sums up a new wallet's
    coins, None for a folder.
    """

    def __init__(
        self,
        keyring: Keyring,
        *,
        new_wallet: bool,
        control: Control,
        progress: Progress,
        report: Callable[[Problem], None],
        tell: Callable[[str], None],
    ) -> None:
        self.opened = self.growth = 0
        self.removed = (0, 0)
        self.coins: dict[str, Any] | None = None
        self.warnings = 0
        self._keyring = keyring
        self._control = control
        self._progress = progress
        self._told = report
        self._proof = NewWalletProof(keyring, control, self._report, tell) if new_wallet else None

    def arrange(
        self,
        tree: Tree,
        manifest: ProvedManifest | None,
        *,
        root_fd: int,
        select: Callable[[bytes], bool] | None,
        require: Callable[[int], None],
    ) -> None:
        """Make plain files of the envelopes in the tree, and count a new wallet's coins.

        Raises as `Opening` and `NewWalletProof.prove`.
        """
        if self._proof is not None:
            require_wallet_backup(manifest.header if manifest is not None else None)
        self._progress.begin("decrypting")
        opening = Opening(
            tree, self._keyring, select=select, control=self._control, require=require, report=self._still_encrypted
        )
        if manifest is not None:
            opening.listed(manifest)
        else:
            opening.found(root_fd)
        self.opened, self.growth = opening.opened, opening.growth
        if self._proof is not None and manifest is not None:
            self._progress.begin("counting coins")
            self._proof.prove(tree, root_fd, manifest)

    def settle(self, root_fd: int) -> None:
        """What is left to do once the tree is complete."""
        if self._proof is not None:
            self.removed = self._proof.set_reserved_aside(root_fd)
            self.coins = self._proof.summary()

    def _still_encrypted(self, path: bytes, what: str) -> None:
        self._report(Problem(path, "STILL_ENCRYPTED", what))

    def _report(self, problem: Problem) -> None:
        self.warnings += 1
        self._told(problem)
