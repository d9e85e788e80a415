"""Filing exports of coins, and taking up again those that could not be finished."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from holdfast_server.archive.sealing import parse_recipients
from holdfast_server.catalog.requests import RequestKey
from holdfast_server.catalog.rows import LockMode, LockWish, SourceRow, SourceState, TaskKind, TaskRow
from holdfast_server.clock import Clock
from holdfast_server.core.coin_export import plan_export
from holdfast_server.core.coin_journal import ExportJournal, journals
from holdfast_server.core.coin_outputs import Packaging
from holdfast_server.core.control import Control, Progress
from holdfast_server.core.wallet_folder import WalletFolder
from holdfast_server.errors import DataLoss, FailedPrecondition, Reason, invalid_field
from holdfast_server.storage.folder import READING_FLAGS, OpenFolder, open_folder
from holdfast_server.storage.local import translate_os_error
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.engine import NewTask, TaskEngine
from holdfast_server.tasks.publishing import require_space
from holdfast_server.tasks.sources import open_source, source_suspended
from holdfast_server.tasks.wallet_keys import WalletKeys, require_wallet
from holdfast_server.tasks.wallet_reader import WalletReader
from holdfast_server.wallets.amounts import parse_amount
from holdfast_server.wallets.envelope import Keyring
from holdfast_server.wallets.layout import LATER_FOLDERS, RESERVED_FOLDER, STANDARD_FOLDERS, is_wallet, missing_parts
from holdfast_server.wallets.packing import CoinForm
from holdfast_server.wallets.picture import MAX_TEMPLATE

__all__ = [
    "RECIPIENTS_FIELD",
    "ExportCoinsOrder",
    "ExportCoinsOrders",
    "check_export",
    "open_coin_destination",
    "read_template",
]

RECIPIENTS_FIELD = "age_recipients"

_TAG = re.compile(r"[A-Za-z0-9._-]{0,64}")
_TEMPLATE_FIELD = "png_template"
#: Folders of a wallet with a meaning of their own: what is written there would be taken for something else.
_CLOSED_FOLDERS = (*(name for name in (*STANDARD_FOLDERS, *LATER_FOLDERS) if name != "Export"), RESERVED_FOLDER)


@dataclass(frozen=True, slots=True)
class ExportCoinsOrder:
    """What ExportCoins asks for; `amount` as it came, paths as bytes, `template` that of a PNG."""

    source_id: str
    amount: str
    folder: bytes
    form: CoinForm
    create_folder: bool = False
    tag: str = ""
    template: bytes | None = None
    recipients: tuple[str, ...] = ()
    dry_run: bool = False


class ExportCoinsOrders:
    """Files exports of coins. Thread-safe."""

    def __init__(
        self, engine: TaskEngine, policy: FolderPolicy, reader: WalletReader, keys: WalletKeys, clock: Clock
    ) -> None:
        self._engine = engine
        self._policy = policy
        self._reader = reader
        self._keys = keys
        self._clock = clock

    def create(
        self, order: ExportCoinsOrder, principal: str, key: RequestKey | None, credentials: Credentials | None = None
    ) -> TaskRow:
        """Check everything that can be checked now, the coins too, create the folder if asked to, and queue the task.

        Raises InvalidArgument, NotFound/SOURCE_NOT_FOUND, FailedPrecondition (NOT_A_WALLET, SOURCE_SUSPENDED,
        INSUFFICIENT_BALANCE, NO_EXACT_CHANGE, FOLDER_…, FILE_NOT_FOUND, KEY_REQUIRED, KEY_WRONG),
        PermissionDenied/PATH_NOT_ALLOWED, ResourceExhausted/DISK_FULL, Unavailable/SOURCE_OFFLINE or NO_WORKER,
        AlreadyExists/REQUEST_ID_REUSED, and what `WalletReader.run` raises.
        """
        amount = _check_order(order)
        if key is not None and (known := self._engine.recall(key)) is not None:
            return known
        source = self._engine.inside(partial(_exportable, order.source_id))
        packaging = self._packaging(order)
        with ExitStack() as stack:
            root = stack.enter_context(open_source(self._policy, source.source_id, source.path))
            if not is_wallet(root.fd):
                raise _no_wallet(source.source_id, f"its folder lacks {', '.join(missing_parts(root.fd))}")
            wallet = WalletFolder(root)
            # Before a folder is made for it: an amount that cannot be exported changes nothing.
            open_coin_destination(
                self._policy, wallet, order.folder, create=order.create_folder, dry_run=True, into=stack
            )
            keyring = self._keys.keyring(order.source_id, credentials)
            arguments = (source.path, amount, packaging.form.value, packaging.template, keyring.to_texts())
            self._reader.run(check_export, *arguments)
            if not order.dry_run:
                folder = open_coin_destination(
                    self._policy, wallet, order.folder, create=order.create_folder, dry_run=False, into=stack
                )
                if folder is not None:
                    require_space(folder, 0)
            return self._engine.create(partial(self._file, order, amount, principal, credentials), key)

    def resume(self, task_id: str) -> TaskRow:
        """Begin a new attempt of an export that FAILED with EXPORT_UNPUBLISHED. A task that has not ended, such as one
        that was resumed a moment ago, stays as it is.

        Raises NotFound/TASK_NOT_FOUND, FailedPrecondition/TASK_ENDED, Unavailable/NO_WORKER.
        """

        def attach(row: TaskRow) -> Credentials | None:
            return self._keys.attach(row.source_ids, None)

        return self._engine.resume(task_id, lambda row: _wishes(row.request["source_id"], dry_run=False), attach)

    def _packaging(self, order: ExportCoinsOrder) -> Packaging:
        recipients = parse_recipients(order.recipients, RECIPIENTS_FIELD) if order.recipients else None
        template = None if order.template is None else read_template(self._policy, order.template)
        return Packaging(order.form, order.tag, recipients, template)

    def _file(
        self,
        order: ExportCoinsOrder,
        amount: int,
        principal: str,
        credentials: Credentials | None,
        connection: sa.Connection,
    ) -> NewTask:
        source = _exportable(order.source_id, connection)  # once more: the world may have moved
        template = order.template
        return NewTask(
            kind=TaskKind.EXPORT_COINS,
            principal=principal,
            request={
                "source_id": source.source_id,
                "path": base64.b64encode(source.path).decode(),
                "amount": amount,
                "folder": base64.b64encode(order.folder).decode(),
                "format": order.form.value,
                "tag": order.tag,
                "template": None if template is None else base64.b64encode(template).decode(),
                "recipients": list(order.recipients),
                "created": self._clock.now(),
            },
            source_ids=[source.source_id],
            wishes=_wishes(source.source_id, dry_run=order.dry_run),
            dry_run=order.dry_run,
            message="waiting",
            credentials=self._keys.attach([source.source_id], credentials, connection),
        )


def check_export(path: bytes, amount: int, form: str, template: bytes | None, keys: Sequence[str]) -> None:
    """Whether the wallet's coins can make the amount now; runs in the reader process. `keys` are of
    `Keyring.to_texts`.

    While another export may give coins back, it is left to the worker to find out. Raises as `plan_export`, and
    InvalidArgument/INVALID_FIELD for a template that cannot carry coins.
    """
    packaging = Packaging(CoinForm(form), template=template)
    packaging.picture.check()
    with open_folder(path) as root:
        wallet = WalletFolder(root)
        try:
            plan_export(wallet, amount, packaging, Keyring.from_texts(keys), Control(), Progress())
        except FailedPrecondition as error:
            short = error.reason in (Reason.INSUFFICIENT_BALANCE, Reason.NO_EXACT_CHANGE)
            if not (short and _may_grow(wallet)):
                raise
        except OSError as error:
            raise translate_os_error(error, f"reading the coins of {root.display}") from error


def open_coin_destination(
    policy: FolderPolicy,
    wallet: WalletFolder,
    path: bytes,
    *,
    create: bool,
    dry_run: bool,
    into: ExitStack | None = None,
) -> OpenFolder | None:
    """The folder that exported coins go to. It may lie in the wallet, but in none of its folders that mean something,
    `Export/` apart; None for a dry run of one that does not exist. It is closed by `into`, or by the caller.

    Raises as `FolderPolicy.check_destination`; InvalidArgument/INVALID_FIELD for a folder of the wallet.
    """
    with ExitStack() as stack:
        closed = []
        for name in _CLOSED_FOLDERS:
            try:
                fd = os.open(name.encode(), READING_FLAGS | os.O_NOFOLLOW, dir_fd=wallet.root.fd)
            except OSError:
                continue
            closed.append(stack.enter_context(OpenFolder(fd, wallet.root.path.rstrip(b"/") + b"/" + name.encode())))
        try:
            opened = policy.check_destination(path, "folder", sources=closed, create=create, dry_run=dry_run)
        except FailedPrecondition as error:
            if error.reason is not Reason.FOLDER_INSIDE_SOURCE:
                raise
            place = error.metadata["source_path"]
            text = f"must not lie in {place}, which means something to the wallet program; `Export` may hold it"
            raise invalid_field("folder", text, path=error.metadata["path"]) from error
    return into.enter_context(opened) if into is not None and opened is not None else opened


def read_template(policy: FolderPolicy, path: bytes) -> bytes:
    """The picture that is to carry coins. Raises as `FolderPolicy.open_file`; InvalidArgument/INVALID_FIELD."""
    with policy.open_file(path, _TEMPLATE_FIELD) as file:
        content = file.read(MAX_TEMPLATE + 1)
    if len(content) > MAX_TEMPLATE:
        raise invalid_field(_TEMPLATE_FIELD, f"must name a picture of at most {MAX_TEMPLATE >> 20} MiB")
    return content


def _check_order(order: ExportCoinsOrder) -> int:
    """The amount in units. Raises InvalidArgument/INVALID_FIELD."""
    amount = parse_amount(order.amount, "amount")
    if not _TAG.fullmatch(order.tag):
        raise invalid_field("tag", "must be at most 64 of the characters A-Z a-z 0-9 . _ -", value=order.tag[:80])
    if order.template is not None and order.form is not CoinForm.PNG:
        raise invalid_field(_TEMPLATE_FIELD, "goes with format PNG only")
    return amount


def _exportable(source_id: str, connection: sa.Connection) -> SourceRow:
    row = require_wallet(connection, source_id)
    if row.state == SourceState.SUSPENDED:
        raise source_suspended(source_id)
    return row


def _no_wallet(source_id: str, why: str) -> FailedPrecondition:
    text = f"source {source_id} is no wallet: {why}"
    return FailedPrecondition(Reason.NOT_A_WALLET, text, metadata={"source_id": source_id})


def _wishes(source_id: str, *, dry_run: bool) -> list[LockWish]:
    return [LockWish(f"source:{source_id}", LockMode.SHARED if dry_run else LockMode.EXCLUSIVE)]


def _may_grow(wallet: WalletFolder) -> bool:
    """Whether an export that is not committed has coins reserved, which may come back."""
    for task_id in journals(wallet):
        try:
            journal = ExportJournal.load(wallet, task_id)
        except DataLoss:
            continue
        if journal is not None and not journal.is_committed:
            return True
    return False
