"""A wallet's own records of a withdrawal: a row of `transactions.csv` and a receipt, in the style that is there.

Two layouts are known. That of the present program has a header and the newest row directly under it; its receipts are
texts named after time and kind. That of the one before has no header, appends
`message,unixtime,amount,receiptId,type` with commas as `\\,` and counts whole coins; its receipts are named after their
id. A file in any other layout is left as it is. Neither record tells an authenticity number.
"""

from __future__ import annotations

import csv
import io
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from holdfast_server.core.wallet_folder import WalletFolder, free_names
from holdfast_server.storage import local
from holdfast_server.wallets.amounts import COIN, decimal_text, fixed_text
from holdfast_server.wallets.layout import TRANSACTIONS_FILE

__all__ = ["HistoryUnknown", "Withdrawal", "receipt_name", "record_withdrawal", "write_receipt"]

_COLUMNS = ["Symbol", "Task ID", "Date & Time", "Remarks", "Deposit", "Withdraw", "Description", "Balance"]
_BOM = b"\xef\xbb\xbf"
_OLD_ROW = re.compile(rb"(?:\\,|[^,])*,[0-9]+,-?[0-9]+,[^,]*,[^,]*")
_RECEIPTS = b"Receipts"
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DESCRIPTION = "Withdrawn to file"
#: How often the table is written anew because the wallet program wrote to it at the same time.
_TRIES = 5
_MAX_TABLE = 256 << 20


class HistoryUnknown(Exception):
    """The wallet keeps its history in a way that is not known, or that cannot hold this; the text says why."""


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Coins that left the wallet. `when` in microseconds, `amount` and `balance` (of the wallet afterwards; None: not
    known) in units of 1e-8; `remarks` is one line, where the coins went; `tag` holds no comma."""

    task_id: str
    when: int
    amount: int
    balance: int | None
    remarks: str
    tag: str = ""

    @property
    def moment(self) -> datetime:
        return datetime.fromtimestamp(self.when / 1e6, UTC)


def record_withdrawal(wallet: WalletFolder, withdrawal: Withdrawal) -> None:
    """Add the row to `transactions.csv`, once however often it is asked for: the row holds the task id.

    The file is replaced as a whole; mode, owner and line ends stay, and so does every other byte. Raises HistoryUnknown
    when it is left as it is, OSError.
    """
    name = TRANSACTIONS_FILE.encode()
    for _ in range(_TRIES):
        status, content = _read_table(wallet.root.fd, name)
        if withdrawal.task_id.encode() in content:
            return
        changed = _with_row(content, withdrawal)
        if _replace(wallet.root.fd, name, status, changed):
            return
    raise HistoryUnknown(f"{TRANSACTIONS_FILE} is written by another program all the time")


def receipt_name(wallet: WalletFolder, withdrawal: Withdrawal) -> bytes:
    """A free name for the receipt, relative to the wallet; to be remembered before `write_receipt`."""
    if _is_old(wallet):
        wanted = f"{withdrawal.task_id}.txt"
    else:
        wanted = f"{withdrawal.moment:%Y-%m-%d_%H-%M-%S}.withdraw-to-file.txt"
    with wallet.folder(_RECEIPTS, create=True) as folder:
        taken = set(map(os.fsencode, os.listdir(folder)))
    return _RECEIPTS + b"/" + next(name for name in free_names(wanted.encode()) if name not in taken)


def write_receipt(wallet: WalletFolder, path: bytes, withdrawal: Withdrawal) -> None:
    """Write the receipt under the name from `receipt_name`, unless it stands there. Raises OSError; FileExistsError
    when something else has taken the name since."""
    folder_name, _, name = path.rpartition(b"/")
    content = _receipt(withdrawal).encode()
    with wallet.folder(folder_name, create=True) as folder:
        temporary = b"." + withdrawal.task_id.encode() + b".receipt.partial"
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)  # of an attempt that died here
        try:
            local.create_file(folder, name, content, temporary=temporary)
        except FileExistsError:
            with open(os.open(name, _FILE_FLAGS, dir_fd=folder), "rb") as file:
                if file.read(len(content) + 1) != content:
                    raise


def _read_table(root_fd: int, name: bytes) -> tuple[os.stat_result, bytes]:
    try:
        fd = os.open(name, _FILE_FLAGS, dir_fd=root_fd)
    except FileNotFoundError:
        raise HistoryUnknown(f"the wallet has no {TRANSACTIONS_FILE}") from None
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_TABLE:
            raise HistoryUnknown(f"{TRANSACTIONS_FILE} is no file that the wallet program writes")
        return status, file.read()


def _with_row(content: bytes, withdrawal: Withdrawal) -> bytes:
    first, newline, rest = _first_line(content)
    if _is_header(first):
        row = io.StringIO(newline="")
        csv.writer(row, lineterminator="").writerow(_cells(rest, withdrawal))
        end = newline or b"\n"
        return first + end + row.getvalue().encode() + end + rest
    if content and _OLD_ROW.fullmatch(first):
        if withdrawal.amount % COIN:
            raise HistoryUnknown(f"{TRANSACTIONS_FILE} counts whole coins; {decimal_text(withdrawal.amount)} is none")
        end = newline or b"\n"
        coins = -(withdrawal.amount // COIN)
        row_text = f"{withdrawal.tag},{withdrawal.when // 10**6},{coins},{withdrawal.task_id},Export"
        whole = content if content.endswith(end) else content + end
        return whole + row_text.encode() + end
    raise HistoryUnknown(f"{TRANSACTIONS_FILE} has a layout that is not known")


def _first_line(content: bytes) -> tuple[bytes, bytes, bytes]:
    at = content.find(b"\n")
    if at < 0:
        return content, b"", b""
    cut = at - 1 if at and content[at - 1 : at] == b"\r" else at
    return content[:cut], content[cut : at + 1], content[at + 1 :]


def _is_header(line: bytes) -> bool:
    try:
        cells = next(csv.reader([line.removeprefix(_BOM).decode()]), [])
    except (UnicodeDecodeError, csv.Error):
        return False
    return cells == _COLUMNS


def _cells(rest: bytes, withdrawal: Withdrawal) -> list[str]:
    """The row, written as the newest withdrawal that is there: its symbol, and how many places it shows."""
    symbol, full = "", False
    with suppress(csv.Error):
        rows = csv.reader(io.StringIO(rest[: 1 << 20].decode(errors="replace"), newline=""))
        for cells in rows:
            if len(cells) != len(_COLUMNS):
                continue
            full = full or bool(re.fullmatch(r"[0-9]+\.[0-9]{8}", cells[7]))
            if cells[6] == _DESCRIPTION:
                symbol = cells[0]
                break
    show = fixed_text if full else decimal_text
    balance = "" if withdrawal.balance is None else show(withdrawal.balance)
    when = f"{withdrawal.moment:%Y-%m-%d %H:%M:%S}"
    return [symbol, withdrawal.task_id, when, withdrawal.remarks, "", show(withdrawal.amount), _DESCRIPTION, balance]


def _replace(root_fd: int, name: bytes, status: os.stat_result, content: bytes) -> bool:
    """Put the new content in the file's place, unless somebody wrote to it since `status`: then False."""
    temporary = b".holdfast-" + name + b".tmp"
    with suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=root_fd)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600, dir_fd=root_fd), "wb") as file:
            file.write(content)
            file.flush()
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
            local.fsync_file(file.fileno())
        now = os.stat(name, dir_fd=root_fd, follow_symlinks=False)
        if (now.st_ino, now.st_size, now.st_mtime_ns) != (status.st_ino, status.st_size, status.st_mtime_ns):
            os.unlink(temporary, dir_fd=root_fd)
            return False
        os.rename(temporary, name, src_dir_fd=root_fd, dst_dir_fd=root_fd)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=root_fd)
        raise
    local.fsync_directory(root_fd)
    return True


def _is_old(wallet: WalletFolder) -> bool:
    try:
        _, content = _read_table(wallet.root.fd, TRANSACTIONS_FILE.encode())
    except (HistoryUnknown, OSError):
        return False
    first, _, _ = _first_line(content)
    return bool(content) and not _is_header(first) and _OLD_ROW.fullmatch(first) is not None


def _receipt(withdrawal: Withdrawal) -> str:
    balance = "" if withdrawal.balance is None else fixed_text(withdrawal.balance)
    return (
        f"{_DESCRIPTION}\nTask: {withdrawal.task_id}\nTime: {withdrawal.moment:%Y-%m-%d %H:%M:%S} UTC\n"
        f"Remarks: {withdrawal.remarks}\nDeposit: {fixed_text(0)}\nWithdraw: {fixed_text(withdrawal.amount)}\n"
        f"Balance: {balance}\n"
    )
