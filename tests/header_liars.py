"""What a store can say in the parts of config and key slots that are not encrypted: it can make their hashes fit.

Lies as in `tests.liars`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any, Final

from blake3 import blake3

from tests.liars import Lies, Objects, Seen, each, fresh_name, of_class, registry

__all__ = ["HEADER_LIES"]

HEADER_LIES: Final[Lies] = {}
lie = registry(HEADER_LIES)

#: What a slot may state at most.
WORST: Final = {"memory_kib": 1 << 20, "passes": 16, "lanes": 16}

_CONFIG_HEAD = struct.Struct("<8sHHI")
_SLOT_TAIL = 144 + 32


def _edited_slot(content: bytes, change: Callable[[dict[str, Any]], object], kind: int | None = None) -> bytes:
    """A key slot with another header; the hash at its end fits, as anybody can make it."""
    magic, version, number, length = _CONFIG_HEAD.unpack_from(content)
    header = json.loads(content[16 : 16 + length])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    head = _CONFIG_HEAD.pack(magic, version, number if kind is None else kind, len(text)) + text
    return _hashed(head + content[-_SLOT_TAIL:-32])


def _hashed(content: bytes) -> bytes:
    return content + blake3(content).digest()


def _slots(seen: Seen, change: Callable[[dict[str, Any]], object]) -> Objects:
    return each(seen, "keys", lambda content: _edited_slot(content, change))


def _is_passphrase(header: dict[str, Any]) -> bool:
    return bool(header["kdf"]["name"] == "argon2id")


@lie("keys")
def derivation_beyond_bounds(seen: Seen, kind: str) -> Objects:
    """Memory and time without end."""
    del kind
    return _slots(seen, lambda header: header["kdf"].update(memory_kib=1 << 32, passes=1 << 31, lanes=1 << 20))


@lie("keys")
def derivation_at_its_worst(seen: Seen, kind: str) -> Objects:
    """A hundred slots, each as costly as a slot may be."""
    del kind
    content = next(one for one in of_class(seen.now, "keys").values() if b"argon2id" in one)
    told = _slots(seen, lambda header: header["kdf"].update(WORST) if _is_passphrase(header) else None)
    for number in range(100):
        name = fresh_name("keys", "", number)

        def change(header: dict[str, Any], name: str = name) -> None:
            header["slot_id"] = name.partition("/")[2]
            header["kdf"].update(WORST)

        told[name] = _edited_slot(content, change)
    return told


@lie("keys")
def weak_derivation(seen: Seen, kind: str) -> Objects:
    """As cheap to guess as can be."""
    del kind
    weak = {"memory_kib": 8, "passes": 1, "lanes": 1}
    return _slots(seen, lambda header: header["kdf"].update(weak) if _is_passphrase(header) else None)


@lie("keys")
def public_key_replaced(seen: Seen, kind: str) -> Objects:
    """Later content keys shall be sealed to a key that the store has."""
    del kind
    public = next(json.loads(content[16:-_SLOT_TAIL])["public"] for content in of_class(seen.other, "keys").values())
    return _slots(seen, lambda header: header.update(public=public))


@lie("keys")
def content_keys_replaced(seen: Seen, kind: str) -> Objects:
    del kind
    sealed = next(json.loads(content[16:-_SLOT_TAIL])["content"] for content in of_class(seen.other, "keys").values())
    return _slots(seen, lambda header: header.update(content=sealed))


@lie("keys")
def labels_swapped(seen: Seen, kind: str) -> Objects:
    del kind
    own = of_class(seen.now, "keys")
    labels = [json.loads(content[16:-_SLOT_TAIL])["label"] for content in own.values()]
    return (
        seen.now
        | {
            name: _edited_slot(own[name], lambda header, label=label: header.update(label=label))  # type: ignore[misc]
            for name, label in zip(own, labels[1:] + labels[:1], strict=True)
        }
    )


@lie("keys")
def another_kind_of_slot(seen: Seen, kind: str) -> Objects:
    """Each slot says that it is for a key file."""
    del kind
    return each(seen, "keys", lambda content: _edited_slot(content, lambda _: None, 2))


@lie("keys")
def slots_of_nobody(seen: Seen, kind: str) -> Objects:
    """Each slot says that it is one of another repository, so that it is passed over."""
    del kind
    return _slots(seen, lambda header: header.update(uuid="ab" * 16))


@lie("keys")
def headers_nested_deep(seen: Seen, kind: str) -> Objects:
    """JSON that exhausts a parser's stack, and numbers that exhaust its time."""
    del kind
    text = b"[" * 200_000 + b"9" * 500_000
    head = _CONFIG_HEAD.pack(b"HFKEYSLT", 1, 1, len(text)) + text
    return each(seen, "keys", lambda content: _hashed(head + content[-_SLOT_TAIL:-32]))


@lie("config", "keys")
def another_version(seen: Seen, kind: str) -> Objects:
    """Version 0, as if there had been one that checked less."""

    def change(content: bytes) -> bytes:
        changed = content[:8] + b"\0\0" + content[10:]
        return changed if kind == "config" else _hashed(changed[:-32])

    return each(seen, kind, change)


@lie("keys")
def one_slot_of_another_version(seen: Seen, kind: str) -> Objects:
    """Beside the slots one of a version that this software does not know."""
    del kind
    content = next(iter(of_class(seen.now, "keys").values()))
    return {fresh_name("keys", ""): _hashed(content[:8] + b"\2\0" + content[10:-32]), **seen.now}


@lie("config", "keys")
def stated_length_too_large(seen: Seen, kind: str) -> Objects:
    def change(content: bytes) -> bytes:
        changed = content[:12] + b"\xff\xff\xff\xff" + content[16:]
        return changed if kind == "config" else _hashed(changed[:-32])

    return each(seen, kind, change)


def _edited_config(seen: Seen, change: Callable[[dict[str, Any]], object]) -> Objects:
    content = seen.now["config"]
    magic, version, zero, length = _CONFIG_HEAD.unpack_from(content)
    values = json.loads(content[16 : 16 + length])
    change(values)
    text = json.dumps(values).encode()
    return seen.now | {"config": _CONFIG_HEAD.pack(magic, version, zero, len(text)) + text + content[-32:]}


@lie("config")
def not_sealed_any_more(seen: Seen, kind: str) -> Objects:
    del kind
    return _edited_config(seen, lambda values: values.update(sealed=not values["sealed"]))


@lie("config")
def content_key_of_the_store(seen: Seen, kind: str) -> Objects:
    """New content shall be sealed to a key that the store has."""
    del kind
    theirs = json.loads(seen.other["config"][16:-32])["content_key"]
    return _edited_config(seen, lambda values: values.update(content_key=theirs))
