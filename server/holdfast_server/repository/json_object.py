"""JSON objects of the format, read strictly: each value has its type and bounds, or the object is refused.

Keys that are not asked for are ignored, as the format demands. No message repeats a value: some are secret.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from holdfast_server.repository.format import damaged

__all__ = ["JsonObject", "Malformed", "damage_of", "from_base64", "is_run_id", "to_base64", "to_json"]

#: Integers of the format are at most i64 or u64.
_MAX_INTEGER = (1 << 64) - 1
_RUN_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Malformed(ValueError):
    """Something is not of the form that the format states; the text says what, without its value."""


@contextlib.contextmanager
def damage_of(name: str) -> Iterator[None]:
    """Makes `Malformed` the damage of the object called `name`."""
    try:
        yield
    except Malformed as error:
        raise damaged(name, str(error)) from None


def to_json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()


def to_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def from_base64(text: str) -> bytes:
    """Raises ValueError for what `to_base64` cannot have made."""
    content = base64.b64decode(text, validate=True)
    if to_base64(content) != text:
        raise ValueError("not canonical")
    return content


class JsonObject:
    """A JSON object whose values are asked for by key; every method but `has` raises `Malformed`."""

    __slots__ = ("_values", "_where")

    def __init__(self, values: object, where: str = "") -> None:
        """`where` is the key that it stands under, with a dot behind."""
        if not isinstance(values, dict):
            raise Malformed(f"{where.rstrip('.') or 'it'} is no JSON object")
        self._values: dict[str, Any] = values
        self._where = where

    @classmethod
    def parse(cls, content: bytes | memoryview) -> JsonObject:
        try:
            values = json.loads(
                bytes(content).decode("utf-8"), object_pairs_hook=_once_each, parse_constant=_no_constant
            )
        except (ValueError, RecursionError):
            raise Malformed("it is no JSON, or has a key twice") from None
        return cls(values)

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self._values.get(key) is not None

    def value(self, key: str) -> Any:
        try:
            return self._values[key]
        except KeyError:
            raise Malformed(f"{self._where}{key} is missing") from None

    def integer(self, key: str, low: int = 0, high: int = _MAX_INTEGER) -> int:
        value = self.value(key)
        if type(value) is not int or not low <= value <= high:
            self._refuse(key, f"is no integer from {low} to {high}")
        return value

    def flag(self, key: str) -> bool:
        value = self.value(key)
        if not isinstance(value, bool):
            self._refuse(key, "is neither true nor false")
        return value

    def text(self, key: str, longest: int = 65_536) -> str:
        """Text of at most `longest` bytes of UTF-8."""
        value = self.value(key)
        # Lone surrogates, which JSON can hold, are no UTF-8.
        if not isinstance(value, str) or len(value.encode(errors="surrogatepass")) > longest or not _is_utf8(value):
            self._refuse(key, f"is no text of at most {longest} bytes")
        return value

    def hexadecimal(self, key: str, size: int) -> bytes:
        """`size` bytes."""
        value = self.value(key)
        if not isinstance(value, str) or re.fullmatch(f"[0-9a-f]{{{2 * size}}}", value) is None:
            self._refuse(key, f"is not {2 * size} hexadecimal digits")
        return bytes.fromhex(value)

    def base64(self, key: str, low: int, high: int | None = None) -> bytes:
        """From `low` to `high` bytes, by default just `low`."""
        high = low if high is None else high
        try:
            content = from_base64(self.text(key, 2 * high + 4))
        except ValueError:
            content = None
        if content is None or not low <= len(content) <= high:
            self._refuse(key, f"is no Base64 of {low} to {high} bytes")
        return content

    def run_id(self, key: str) -> str:
        value = self.value(key)
        if not isinstance(value, str) or not is_run_id(value):
            self._refuse(key, "is no run id")
        return value

    def child(self, key: str) -> JsonObject:
        return JsonObject(self.value(key), f"{self._where}{key}.")

    def children(self, key: str) -> list[JsonObject]:
        return [JsonObject(value, f"{self._where}{key}[{i}].") for i, value in enumerate(self.items(key))]

    def items(self, key: str) -> list[Any]:
        value = self.value(key)
        if not isinstance(value, list):
            self._refuse(key, "is no list")
        return value

    def keys(self) -> list[str]:
        return list(self._values)

    def values(self) -> dict[str, Any]:
        """All of it, unchecked."""
        return self._values

    def expect(self, key: str, wanted: object) -> None:
        """The key's value must be this one."""
        value = self.value(key)
        if type(value) is not type(wanted) or value != wanted:
            self._refuse(key, "is not what it must be here")

    def _refuse(self, key: str, why: str) -> NoReturn:
        raise Malformed(f"{self._where}{key} {why}")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_run_id(text: str) -> bool:
    """Whether it is a UUID in its canonical form."""
    return _RUN_ID.fullmatch(text) is not None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
