"""The root of a snapshot: the source folder's own attributes, where the tree is, and what the backup said about itself.

docs/format.md ("Root") specifies the JSON.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from holdfast_server.records import frozen_record
from holdfast_server.repository.entries import MODE_MAX
from holdfast_server.repository.format import CHUNK_MAX, FORMAT_VERSION, damaged
from holdfast_server.repository.tree import TreeRoot

__all__ = ["MAX_PROBLEMS", "RootInfo", "RootProblem", "SourceAttributes", "decode_root", "encode_root"]

#: As many problems are kept.
MAX_PROBLEMS: Final = 1_000

_OCTAL, _CHUNK_ID = re.compile(r"[0-7]{1,5}"), re.compile(r"[0-9a-f]{64}")


@frozen_record
class SourceAttributes:
    """Of the source folder itself: permission bits, time in nanoseconds, owner, extended attributes."""

    mode: int
    mtime_ns: int
    uid: int
    gid: int
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


@frozen_record
class RootProblem:
    """What was not handled as asked. `path` is relative to the source."""

    path: bytes
    reason: str
    message: str


@frozen_record
class RootInfo:
    """The content of a root.

    `tree` is None without entries. `ignore` are the patterns that left entries out; `key_ids` (32 hexadecimal digits
    each) of the wallet keys that files were encrypted with; `coins` of a wallet, as in an archive's manifest.
    """

    attributes: SourceAttributes
    tree: TreeRoot | None
    ignore: tuple[str, ...] = ()
    problems: tuple[RootProblem, ...] = ()
    key_ids: tuple[str, ...] = ()
    coins: Mapping[str, Any] | None = None


def encode_root(info: RootInfo) -> bytes:
    """The content of the root chunk.

    Of the problems it keeps the first thousand, or as many as fit into a chunk. Raises ValueError when the rest alone
    does not fit.
    """
    attributes = info.attributes
    record: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "attributes": {
            "mode": f"{attributes.mode:04o}",
            "mtime_ns": attributes.mtime_ns,
            "uid": attributes.uid,
            "gid": attributes.gid,
            "xattrs": [[_base64(name), _base64(value)] for name, value in sorted(attributes.xattrs)],
        },
        "tree": None if info.tree is None else {"level": info.tree.level, "id": info.tree.id.hex()},
        "ignore": info.ignore,
        "key_ids": info.key_ids,
    }
    if info.coins is not None:
        record["coins"] = info.coins
    content = _dumps(record)[:-1] + b',"problems":['
    room = CHUNK_MAX - len(content) - 2
    if room < 0:
        raise ValueError(f"a root of {len(content)} bytes does not fit into a chunk")
    problems: list[bytes] = []
    for problem in info.problems[:MAX_PROBLEMS]:
        text = _dumps({**_path(problem.path), "reason": problem.reason, "message": problem.message})
        room -= len(text) + 1
        if room < 0:
            break
        problems.append(text)
    return content + b",".join(problems) + b"]}"


def decode_root(content: bytes, where: str) -> RootInfo:
    """Read a root back. Raises DataLoss/CHECKSUM_MISMATCH, naming `where`, for one that is not as the format says."""
    try:
        record = json.loads(content)
        if _typed(record["version"], int) != FORMAT_VERSION:
            raise ValueError(f"its version is {record['version']}, this program reads {FORMAT_VERSION}")
        problems = _typed(record["problems"], list)
        coins = record.get("coins")
        if len(problems) > MAX_PROBLEMS:
            raise ValueError(f"it has more than {MAX_PROBLEMS} problems")
        return RootInfo(
            attributes=_attributes(_typed(record["attributes"], dict)),
            tree=None if record["tree"] is None else _tree(record["tree"]),
            ignore=_texts(record["ignore"]),
            problems=tuple(_problem(problem) for problem in problems),
            key_ids=_texts(record["key_ids"]),
            coins=None if coins is None else _typed(coins, dict),
        )
    # UnicodeDecodeError, JSONDecodeError and binascii.Error are ValueErrors.
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise damaged(where, f"it is malformed: {error}") from None


def _attributes(record: Mapping[str, Any]) -> SourceAttributes:
    digits = _typed(record["mode"], str)
    if not _OCTAL.fullmatch(digits) or int(digits, 8) > MODE_MAX:
        raise ValueError("its mode is not permission bits")
    return SourceAttributes(
        mode=int(digits, 8),
        mtime_ns=_number(record["mtime_ns"], -(1 << 63), (1 << 63) - 1),
        uid=_number(record["uid"], 0, 0xFFFFFFFF),
        gid=_number(record["gid"], 0, 0xFFFFFFFF),
        xattrs=tuple((_bytes(name), _bytes(value)) for name, value in _typed(record["xattrs"], list)),
    )


def _tree(record: Mapping[str, Any]) -> TreeRoot:
    digits = _typed(record["id"], str)
    if not _CHUNK_ID.fullmatch(digits):
        raise ValueError("the id of its tree does not have 64 hexadecimal digits")
    return TreeRoot(_number(record["level"], 0, 255), bytes.fromhex(digits))


def _problem(record: Mapping[str, Any]) -> RootProblem:
    path = _typed(record["path"], str).encode() if "path" in record else _bytes(record["path_base64"])
    return RootProblem(path, _typed(record["reason"], str), _typed(record["message"], str))


def _typed(value: Any, kind: type) -> Any:
    # bool is an int to isinstance.
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} is expected where {type(value).__name__} stands")
    return value


def _number(value: Any, least: int, most: int) -> int:
    number: int = _typed(value, int)
    if not least <= number <= most:
        raise ValueError("a number is outside its range")
    return number


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(_typed(value, str) for value in _typed(values, list))


def _bytes(text: Any) -> bytes:
    return base64.b64decode(_typed(text, str), validate=True)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _path(path: bytes) -> dict[str, str]:
    try:
        return {"path": path.decode()}
    except UnicodeDecodeError:
        return {"path_base64": _base64(path)}


def _dumps(record: Mapping[str, Any] | Sequence[Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
