"""Which folders and files a wallet has, what makes a folder a wallet, and how coin files are named.

Source: the consortium's "program-file-structure", "create-wallet" and "coin-file-naming-convention" documents. The
lists are what is known, not what is allowed: a wallet may hold any other folder, and a backup takes the whole tree.
"""

from __future__ import annotations

import os
import stat

__all__ = [
    "COIN_FOLDERS",
    "IMPORT_FOLDER",
    "CONFIG_FILE",
    "LATER_FOLDERS",
    "MANDATORY_FOLDERS",
    "MONEY_FOLDERS",
    "RESERVED_FOLDER",
    "STANDARD_FOLDERS",
    "TRANSACTIONS_FILE",
    "UNHELD_FOLDERS",
    "amount_text",
    "is_wallet",
    "missing_parts",
    "single_coin_name",
]

CONFIG_FILE = "config.toml"
TRANSACTIONS_FILE = "transactions.csv"

#: What a new wallet of the present generation is created with.
STANDARD_FOLDERS = (
    "Bank",
    "Corrupted",
    "Counterfeit",
    "Duplicates",
    "Encryption_Failed",
    "Errored",
    "Export",
    "Fracked",
    "Grade",
    "Import",
    "Imported",
    "Limbo",
    "Lockered",
    "Pending",
    "Receipts",
    "Sent",
    "Suspect",
    "Trash",
    "Withdrawn",
)

#: Folders that newer or other versions of the wallet program add.
LATER_FOLDERS = ("BillPay", "Data", "EmailIn", "EmailOut", "Exported", "Gallery", "Recovery", "Templates")

#: Folders the wallet program cannot work without. The test for a wallet asks for less, see `missing_parts`.
MANDATORY_FOLDERS = ("Bank", "Fracked", "Import", "Export", "Receipts", "Trash")

#: Folders whose coins can be spent: their sum is the balance. Limbo is counted apart, the rest is no balance.
MONEY_FOLDERS = ("Bank", "Fracked")

#: Holdfast's own folder in a wallet; coins reserved by an unfinished export lie in it.
RESERVED_FOLDER = ".holdfast"

_WITHOUT_COINS = {"Receipts", "Data", "Recovery", "Templates"}

#: Folders where a `.bin` file is a coin file, even one whose header nobody can read.
COIN_FOLDERS = frozenset((*STANDARD_FOLDERS, *LATER_FOLDERS, RESERVED_FOLDER)) - _WITHOUT_COINS

#: Where the wallet program looks for coin files to take in.
IMPORT_FOLDER = "Import"

#: Folders whose coins the wallet does not hold: not taken in yet; exported, sent or lockered; originals of what was
#: taken in; cast off. A coin that lies only there may be taken in again. Folders nobody knows count as holding.
UNHELD_FOLDERS = frozenset(
    {IMPORT_FOLDER}
    | {"Export", "Exported", "Sent", "EmailOut", "Withdrawn", "Lockered"}
    | {"Imported", "Duplicates", "Corrupted", "Counterfeit", "Trash"}
    | _WITHOUT_COINS
)


def missing_parts(dir_fd: int) -> list[str]:
    """What the opened folder lacks to be a wallet, of transactions.csv, config.toml, Bank and Fracked, in this order.

    A part counts if it is a regular file or a folder itself: a symbolic link does not, since a backup stores the link
    and not the coins behind it. Raises OSError for everything but absence, so that a folder which may not be read is
    not mistaken for one that is no wallet.
    """
    parts = [
        (TRANSACTIONS_FILE, stat.S_ISREG),
        (CONFIG_FILE, stat.S_ISREG),
        *((f, stat.S_ISDIR) for f in MONEY_FOLDERS),
    ]
    missing = []
    for name, is_kind in parts:
        try:
            present = is_kind(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            present = False
        if not present:
            missing.append(name)
    return missing


def is_wallet(dir_fd: int) -> bool:
    """Whether the opened folder is a wallet: nothing is missing."""
    return not missing_parts(dir_fd)


def amount_text(units: int) -> str:
    """An amount, given in units of 1e-8, as coin file names print it.

    A comma every 3 whole digits, a hyphen after every 4 fraction digits, trailing zeros dropped: `1,000`, `0.01`,
    `12,441.0000-034`. The document's own samples disagree on the zeros; names are for people, no reader may trust them.
    """
    whole, fraction = divmod(units, 10**8)
    digits = f"{fraction:08d}".rstrip("0")
    text = f"{whole:,}"
    if digits:
        text += "." + "-".join(digits[at : at + 4] for at in range(0, len(digits), 4))
    return text


def single_coin_name(value: int, serial: int, tag: str = "") -> str:
    """The documented name of a file of one coin: `1,000 CloudCoin #7998 'From Ron'.bin`; `value` in units of 1e-8.

    The tag must hold neither `/` nor NUL; everything else is legal in a name.
    """
    if "/" in tag or "\0" in tag:
        raise ValueError(f"tag {tag!r} cannot be part of a file name")
    return f"{amount_text(value)} CloudCoin #{serial} '{tag}'.bin"
