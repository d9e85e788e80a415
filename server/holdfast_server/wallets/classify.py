"""What a backup says about the files of a wallet, from the first 64 bytes of each: no coin is parsed, no key needed.

The counters are those of the two reference backup calls: `coins_backed_up` of the asynchronous one, the `files_…` of
the other. The references define them in half a sentence each; `WalletCounters` states the reading taken.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from holdfast_server.wallets import ccv2, coin_jpeg, coin_png, coin_zip, envelope, format9
from holdfast_server.wallets.coin_file import Container, Encryption
from holdfast_server.wallets.layout import COIN_FOLDERS, MONEY_FOLDERS

__all__ = ["SNIFF_SIZE", "Container", "Encryption", "FileClass", "WalletCounters", "classify"]

#: How many bytes of a file `classify` wants. It reads the header, the first serial number, and in a PNG the header of
#: the coin chunk.
SNIFF_SIZE = 64


@dataclass(frozen=True, slots=True)
class FileClass:
    """One file of a wallet as the counters see it.

    `folder` is the first component of its path below the wallet, empty for files in the wallet's root. `is_bin` says
    that its name ends in `.bin`. `is_coin_file` and `multi_coin` are explained at `classify`.
    """

    folder: bytes
    container: Container
    encryption: Encryption
    is_bin: bool
    is_coin_file: bool
    multi_coin: bool

    @property
    def in_money_folder(self) -> bool:
        """Below Bank or Fracked."""
        return self.folder in _MONEY


_MONEY = frozenset(map(os.fsencode, MONEY_FOLDERS))
_COINS = frozenset(map(os.fsencode, COIN_FOLDERS))

#: Names that the wallet program reads coins from. A ZIP is left out: it is no *individual* coin file.
_COIN_NAMES = (b".bin", b".stack", b".png", b".jpg", b".jpeg")

_PNG_COIN_TYPE = slice(37, 41)  # the chunk after IHDR; its data follows
_STACK = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"cloudcoin"\s*:', re.IGNORECASE)
_EMPTY_STACK = re.compile(_STACK.pattern + rb"\s*\[\s*\]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Content:
    """What the bytes alone say."""

    container: Container
    holds_coins: bool = False
    encryption: Encryption = Encryption.UNKNOWN
    multi_coin: bool = False


def classify(path: bytes, size: int, first: bytes) -> FileClass:
    """Classify one regular file. `path` is relative to the wallet, `size` its length, `first` its first 64 bytes.

    Never raises, whatever the bytes; fewer than 64 say less.

    A **coin file** bears a name the wallet program reads coins from (`.bin .stack .png .jpg .jpeg`, either case) and
    either holds coins by its first bytes, or is a non-empty `.bin` in a folder meant for coins: a coin encrypted in a
    way nobody documents, or damaged, is still a coin file that somebody wants back. Not coin files: empty ones, stacks
    with no coin, ZIPs, picture templates, PNGs whose coin chunk does not come right after the header (every known
    writer puts it there), anything half written under another name. A file of several coins is one coin file.

    **Encryption** of `.bin`: byte 5 is not 0, as the vendor's client decides, for the known formats (byte 0 is 9 or 0)
    and files that have a header at all; in CCv2 files byte 4 too, since programs disagreed; UNKNOWN otherwise. A
    damaged file is thus still reported as plaintext: the coins in it are legible.

    **Envelopes** of this service (`.hfcc`) are encrypted, and judged by the name before that suffix: what is in one,
    and how many coins, nobody can tell.

    **Multi-coin**: the Format 9 header counts more than one coin, encrypted or not, or a CCv2 file is longer than one
    record.
    """
    folder, slash, _ = path.partition(b"/")
    if not slash:
        folder = b""
    name = path.lower()
    if first.startswith(envelope.MAGIC):
        name = name.removesuffix(envelope.SUFFIX)
    is_bin = name.endswith(b".bin")
    content = _content(size, first[:SNIFF_SIZE], is_bin)
    encryption = content.encryption
    if is_bin and encryption is Encryption.UNKNOWN:
        encryption = _bin_encryption(first)
    by_folder = is_bin and size > 0 and folder in _COINS
    return FileClass(
        folder=folder,
        container=content.container,
        encryption=encryption,
        is_bin=is_bin,
        is_coin_file=by_folder or (content.holds_coins and name.endswith(_COIN_NAMES)),
        multi_coin=content.multi_coin,
    )


def _content(size: int, first: bytes, is_bin: bool) -> _Content:
    header = format9.read_header(first, size)
    if header is not None and header.is_cloudcoin:
        return _Content(
            Container.FORMAT9,
            holds_coins=header.count > 0 and header.consistent,
            encryption=Encryption.ENCRYPTED if header.encrypted else Encryption.PLAINTEXT,
            multi_coin=header.count > 1,
        )
    if is_bin and (old := _ccv2(size, first)):
        encryption = Encryption.ENCRYPTED if old.encrypted else Encryption.PLAINTEXT
        return _Content(Container.CCV2, True, encryption, old.count > 1)
    if first.startswith(coin_png.MAGIC):
        return _png(first)
    if first.startswith(coin_jpeg.MAGIC):
        return _Content(Container.JPEG, coin_jpeg.claims(first))
    if first.startswith(coin_zip.MAGICS):
        return _Content(Container.ZIP)
    if first.startswith(envelope.MAGIC):
        return _Content(Container.ENVELOPE, holds_coins=True, encryption=Encryption.ENCRYPTED)
    if _STACK.match(first):
        return _Content(Container.STACK, holds_coins=not _EMPTY_STACK.match(first))
    return _Content(Container.OTHER)


def _bin_encryption(first: bytes) -> Encryption:
    if len(first) < format9.HEADER_SIZE or first[0] not in (format9.FORMAT, 0):
        return Encryption.UNKNOWN
    return Encryption.ENCRYPTED if first[5] else Encryption.PLAINTEXT


def _ccv2(size: int, first: bytes) -> ccv2.Header | None:
    """The header of a CCv2 `.bin`, None if it is none.

    The format has no count and no padding. The first serial number must not be 0, which tells a coin from the run of
    zeros that a crash leaves of a file.
    """
    header = ccv2.read_header(first, size)
    serial = first[ccv2.HEADER_SIZE : ccv2.HEADER_SIZE + 3]
    return header if header is not None and header.count and len(serial) == 3 and any(serial) else None


def _png(first: bytes) -> _Content:
    if first[_PNG_COIN_TYPE] != coin_png.CHUNK:
        return _Content(Container.PNG)
    # The chunk's data is a coin file of any generation, of which 23 bytes are in sight: enough for Format 9's count.
    inner = first[_PNG_COIN_TYPE.stop :]
    if len(inner) < 8:
        return _Content(Container.PNG)
    if inner[0] == format9.FORMAT:
        encryption = Encryption.ENCRYPTED if inner[5] else Encryption.PLAINTEXT
        count = int.from_bytes(inner[6:8], "big")
        return _Content(Container.PNG, count > 0, encryption, count > 1)
    if inner[0] == 0:
        return _Content(Container.PNG, True, Encryption.ENCRYPTED if any(inner[4:6]) else Encryption.PLAINTEXT)
    return _Content(Container.PNG, holds_coins=True)


@dataclass(slots=True)
class WalletCounters:
    """What one backup holds of one wallet, counted in files. Not frozen: it accumulates while the tree is read.

    Only regular files are counted, each path once, and only what is really in the backup; a file replaced or gone
    between listing and reading counts as what was read. Sums over several wallets come from `merge`.
    """

    coins_backed_up: int = 0
    """Individual coin files in the backup, in all folders (see `classify`); a file of several coins counts once.

    The reference says "individual coin files included in the backup(s)": files, not coins and not amounts, and not Bank
    and Fracked alone. So it is at least as large as the coin files among `money_files`.
    """

    money_files: int = 0
    """Files named `.bin` in the backup from Bank and Fracked, whatever is in them, in subfolders too.

    What the reference calls `files_added`, although its archive holds all folders. In a backup's result `files_added`
    is what it says: all files.
    """

    files_added_plaintext: int = 0
    """Coin files in the backup, in all folders, whose coins the wallet left unencrypted, so that whoever reads the
    backup owns them.

    The reference looks at Bank and Fracked only, which would keep quiet about the rest. Encryption by the backup itself
    (a sealed archive, a repository) does not change it. Files whose first bytes do not say (stacks, JPEGs, unknown
    formats) are counted neither as plaintext nor as encrypted.
    """

    files_added_multi_coin: int = 0
    """Those of `money_files` that hold more than one coin; the reference's `files_added_multi_warned`.

    Should be 0: wallet folders hold one coin per file, and several in one file mark a bug of the wallet program. They
    are added all the same. Export, Import, Sent and the like hold such files rightly, so they are not counted.
    """

    files_reencrypted: int = 0
    """Files encrypted on the way into the backup, in all folders: coin files in plaintext, and whatever else may hold
    coins in clear (below Recovery, damaged ones, large ones that nobody looked through).

    0 while the wallet is locked: then files are stored verbatim. The reference counts coin files of Bank and Fracked.
    """

    files_skipped: int = 0
    """Files of the wallet, in any folder and of any name, that the backup wanted and does not hold, because they could
    not be read. What an ignore pattern leaves out is not counted: somebody asked for that.

    The reference lists the counter without a word on it. Any file and any folder is the reading under which 0 means
    that nothing is missing.
    """

    def add(self, file: FileClass, *, reencrypted: bool = False) -> None:
        """Count one file that is in the backup; `file` as it was in the wallet, `reencrypted` if it no longer is so."""
        self.coins_backed_up += file.is_coin_file
        self.files_reencrypted += reencrypted
        self.files_added_plaintext += not reencrypted and file.is_coin_file and file.encryption is Encryption.PLAINTEXT
        if file.is_bin and file.in_money_folder:
            self.money_files += 1
            self.files_added_multi_coin += file.multi_coin

    def skip(self) -> None:
        """Count one file that should be in the backup and is not."""
        self.files_skipped += 1

    def merge(self, other: WalletCounters) -> None:
        """Add the counts of another wallet of the same task."""
        self.coins_backed_up += other.coins_backed_up
        self.money_files += other.money_files
        self.files_added_plaintext += other.files_added_plaintext
        self.files_added_multi_coin += other.files_added_multi_coin
        self.files_reencrypted += other.files_reencrypted
        self.files_skipped += other.files_skipped
