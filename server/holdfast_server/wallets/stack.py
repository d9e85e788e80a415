"""The `.stack` coin file: JSON, `{"cloudcoin": [{"nn": "1", "sn": "16777215", "an": [25 x 32 hex], …}, …]}`.

Source of the format: the consortium's stack document, and six real public files. They differ from it and from each
other: numbers or strings, either case of hex, additional keys, nulls, line breaks inside tokens. docs/format.md lists
what is read, and the key `holdfast` by which a stack carries V2 and V3 coins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from holdfast_server.wallets import ccv2
from holdfast_server.wallets.coin import AN_SIZE, POWN_LETTERS, RAIDA, Coin, Generation

__all__ = ["EXPIRY", "MAX_COINS", "MAX_SIZE", "VaultEncryptedError", "claims", "decode", "encode"]

#: Largest stack that is parsed, in bytes; some 25,000 coins. A coin takes about 1,100.
MAX_SIZE = 32 << 20
MAX_COINS = 65_535

#: The expiry date written for every coin. Readers must ignore it; a fixed one makes equal coins equal files.
EXPIRY = "12-2099"

# What 32 MiB of JSON may become in memory depends on how many values are in it. Counted before parsing.
_MAX_COMMAS = 2_500_000

_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{")
_SERIAL = re.compile(r"[0-9]{1,10}")
_EXTENSION = "holdfast"
_LAST_SERIALS = {Generation.V1: 16_777_216, Generation.V2: ccv2.MAX_SERIAL}
_NETWORKS = {Generation.V2: ccv2.COIN_IDS, Generation.V3: {1}}
_V1: dict[str, Any] = {"denomination": 0, "generation": Generation.V1}
_V3_KEYS = {"denomination", "split", "shard"}


class VaultEncryptedError(ValueError):
    """The authenticity numbers are altered by a password: the "vault" of the first programs."""


def claims(content: bytes) -> bool:
    """Whether the bytes are a stack, perhaps a damaged one: an opening brace, and the key somewhere behind."""
    return _START.match(content) is not None and b'"cloudcoin"' in content.translate(None, b"\r\n").lower()


def decode(content: bytes) -> list[Coin]:
    """The coins of a stack, in its order; none for an empty one.

    Raises ValueError, with a text that shows nothing of the file, if anything in it keeps a single coin from being read
    wholly; VaultEncryptedError if that is the first programs' encryption. A stack is read as a whole or not at all.
    """
    entries = _entries(_parse(content))
    if len(entries) > MAX_COINS:
        raise ValueError(f"{len(entries)} coins, more than {MAX_COINS}")
    vaulted = sum(map(_vaulted, entries))
    if vaulted and vaulted == len(entries):
        raise VaultEncryptedError("encrypted by a password of the first programs")
    coins = []
    for number, entry in enumerate(entries, 1):
        try:
            coins.append(_coin(entry))
        except ValueError as error:
            raise ValueError(f"coin {number} of {len(entries)}: {error}") from None
    return coins


def encode(coins: Sequence[Coin]) -> bytes:
    """A stack of coins of any generation, with the key `holdfast` for all but V1. Raises ValueError for none, or for a
    V1 coin that is split or sharded, of which the format knows nothing."""
    if not 1 <= len(coins) <= MAX_COINS:
        raise ValueError(f"{len(coins)} coins instead of 1..{MAX_COINS}")
    entries = ",\n".join(f"\t\t{json.dumps(_entry(coin))}" for coin in coins)
    return f'{{\n\t"cloudcoin": [\n{entries}\n\t]\n}}\n'.encode()


def _parse(content: bytes) -> Any:
    if len(content) > MAX_SIZE:
        raise ValueError(f"{len(content)} bytes of JSON, more than {MAX_SIZE}")
    if content.count(b",") > _MAX_COMMAS:
        raise ValueError("more JSON values than its coins could need")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("no UTF-8 text") from None
    try:
        return _loads(text)
    except ValueError as error:
        # Some real files are wrapped at a fixed width, in the middle of tokens.
        joined = text.replace("\r", "").replace("\n", "")
        if len(joined) == len(text):
            raise
        try:
            return _loads(joined)
        except ValueError:
            raise error from None


def _loads(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("the same key twice in one JSON object")
    return made


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _entries(parsed: Any) -> list[Any]:
    lists = [value for key, value in parsed.items() if key.lower() == "cloudcoin"] if isinstance(parsed, dict) else []
    if len(lists) != 1 or not isinstance(lists[0], list):
        raise ValueError('no array "cloudcoin"')
    return lists[0]


def _vaulted(entry: Any) -> bool:
    ans = entry.get("an") if isinstance(entry, dict) else None
    return isinstance(ans, list) and any(isinstance(an, str) and "(" in an for an in ans)


def _coin(entry: Any) -> Coin:
    if not isinstance(entry, dict):
        raise ValueError("no JSON object")  # noqa: TRY004
    ans = _numbers(entry.get("an"), "authenticity")
    if not any(ans):
        raise ValueError("no authenticity numbers")
    known: dict[str, Any] = {
        "ans": ans,
        "pans": _pans(entry.get("pan")),
        "serial": _integer(entry.get("sn"), "sn"),
        "network": 1 if entry.get("nn") is None else _integer(entry["nn"], "nn"),
        "pown": _pown(entry.get("pown")),
    }
    coin = Coin(**known, **(_extension(entry[_EXTENSION]) if _EXTENSION in entry else _V1))
    if coin.generation is not Generation.V3 and not 1 <= coin.serial <= _LAST_SERIALS[coin.generation]:
        raise ValueError(f"sn is not 1..{_LAST_SERIALS[coin.generation]}")
    if coin.network not in _NETWORKS.get(coin.generation, (coin.network,)):
        raise ValueError(f"an nn that {coin.generation} does not have")
    return coin


def _extension(value: Any) -> dict[str, Any]:
    """What our own key says of a coin beyond the format's keys."""
    rest = dict(value) if isinstance(value, dict) else {}
    generation = rest.pop("generation", None)
    if generation == Generation.V2 and not rest:
        return {"denomination": 0, "generation": Generation.V2}
    if generation == Generation.V3 and set(rest) == _V3_KEYS and all(type(number) is int for number in rest.values()):
        return rest
    raise ValueError(f'a key "{_EXTENSION}" of another version')


def _numbers(value: Any, kind: str) -> bytes:
    if not isinstance(value, list) or len(value) != RAIDA:
        raise ValueError(f"not {RAIDA} {kind} numbers")
    if any(isinstance(number, str) and "(" in number for number in value):
        raise ValueError(f"encrypted {kind} numbers, while other coins of the file are not encrypted")
    if not all(isinstance(number, str) and len(number) == 2 * AN_SIZE for number in value):
        raise ValueError(f"{kind} numbers that are not {2 * AN_SIZE} hexadecimal digits each")
    try:
        return bytes.fromhex("".join(value))  # skips blanks, but the coin counts its bytes
    except ValueError:
        raise ValueError(f"{kind} numbers that are not {2 * AN_SIZE} hexadecimal digits each") from None


def _pans(value: Any) -> bytes:
    if value is None or value == "" or (isinstance(value, list) and not any(value)):
        return b""
    if isinstance(value, list):
        value = [pan or "0" * (2 * AN_SIZE) for pan in value]
    pans = _numbers(value, "proposed")
    return pans if any(pans) else b""


def _integer(value: Any, key: str) -> int:
    if isinstance(value, str) and _SERIAL.fullmatch(value):
        value = int(value)
    if type(value) is not int or not 0 <= value <= 0xFFFFFFFF:
        raise ValueError(f"{key} is no number in range")
    return value


def _pown(value: Any) -> str:
    # "May be wrong" by the format's own document, so that nothing in it is a reason to refuse a coin.
    if not isinstance(value, str) or len(value) != RAIDA:
        return "u" * RAIDA
    return "".join(letter if letter in POWN_LETTERS else "u" for letter in value.lower())


def _entry(coin: Coin) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "nn": str(coin.network),
        "sn": str(coin.serial),
        "an": _hex(coin.ans),
        "pown": coin.pown,
        "ed": EXPIRY,
        "aoid": [],
    }
    if coin.pans:
        entry["pan"] = _hex(coin.pans)
    if coin.generation is Generation.V3:
        entry[_EXTENSION] = {
            "generation": coin.generation.value,
            "denomination": coin.denomination,
            "split": coin.split,
            "shard": coin.shard,
        }
        return entry
    if coin.split or coin.shard:
        raise ValueError(f"a {coin.generation.value} coin is never split or sharded")
    if coin.generation is Generation.V2:
        entry[_EXTENSION] = {"generation": coin.generation.value}
    return entry


def _hex(numbers: bytes) -> list[str]:
    return [numbers[at : at + AN_SIZE].hex() for at in range(0, len(numbers), AN_SIZE)]
