"""Facts of the log: what happened to a repository beyond its snapshots, as typed records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from holdfast_server.repository.content_keys import HPKE_OVERHEAD
from holdfast_server.repository.crypto import UUID
from holdfast_server.repository.format import PRIVATE_KEY, PUBLIC_KEY, is_object_id
from holdfast_server.repository.json_object import JsonObject, Malformed, is_run_id, to_base64

__all__ = [
    "Checkpoint",
    "Committed",
    "Condemned",
    "Fact",
    "KeyEpoch",
    "KeyRemoved",
    "Locked",
    "Removed",
    "Renamed",
    "Superseded",
    "Swept",
    "TimedFact",
    "decode_fact",
    "encode_fact",
]

SEALED_CONTENT_KEY: Final = PRIVATE_KEY + HPKE_OVERHEAD
#: The highest number of a log entry.
MAX_SEQUENCE: Final = 10**16 - 1
_MAX_NAME = 4_096
_MAX_TIME = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Committed:
    """The run has a snapshot."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Renamed:
    """The snapshot has another name."""

    run_id: str
    name: str


@dataclass(frozen=True, slots=True)
class Locked:
    """The snapshot was locked, or unlocked."""

    run_id: str
    locked: bool


@dataclass(frozen=True, slots=True)
class Removed:
    """These snapshots are gone on purpose."""

    run_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Condemned:
    """These packs (ids of 16 bytes) may be deleted once no run needs them; chunks in them count as unknown.

    `runs` are those that were under way when they had been condemned; None: nobody had looked yet. `damaged`: not
    because nobody needs them, but because they are damaged; backups store again what of them is needed."""

    packs: tuple[bytes, ...]
    runs: tuple[str, ...] | None = None
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class Swept:
    """These condemned packs were deleted."""

    packs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class KeyEpoch:
    """A new content key, from the second epoch on. `sealed`: its private half by slot id, as in a key slot."""

    epoch: int
    public: bytes
    sealed: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class KeyRemoved:
    """These key slots were removed: one that comes back opens nothing any more, and gets no later key."""

    slot_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Superseded:
    """Another writer's entries up to `sequence` are not needed: what was left of them is told in this entry."""

    writer_id: bytes
    sequence: int


@dataclass(frozen=True, slots=True)
class TimedFact:
    """A fact and when it was told, in microseconds."""

    time_us: int
    fact: Fact


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is still needed of all entries of this writer before; they may be deleted then."""

    facts: tuple[TimedFact, ...]


Fact: TypeAlias = (
    Committed | Renamed | Locked | Removed | Condemned | Swept | KeyEpoch | KeyRemoved | Superseded | Checkpoint
)


def encode_fact(fact: Fact) -> dict[str, Any]:
    """The JSON object of a fact."""
    match fact:
        case Committed(run_id):
            return {"type": "committed", "run_id": run_id}
        case Renamed(run_id, name):
            return {"type": "renamed", "run_id": run_id, "name": name}
        case Locked(run_id, locked):
            return {"type": "locked", "run_id": run_id, "locked": locked}
        case Removed(run_ids):
            return {"type": "removed", "run_ids": list(run_ids)}
        case Condemned(packs, runs, damaged):
            told: dict[str, Any] = {} if runs is None else {"runs": list(runs)}
            if damaged:
                told["damaged"] = True
            return {"type": "condemned", "packs": [pack.hex() for pack in packs], **told}
        case Swept(packs):
            return {"type": "swept", "packs": [pack.hex() for pack in packs]}
        case KeyEpoch(epoch, public, sealed):
            keys = {slot_id: to_base64(key) for slot_id, key in sealed.items()}
            return {"type": "key_epoch", "epoch": epoch, "public": to_base64(public), "sealed": keys}
        case KeyRemoved(slot_ids):
            return {"type": "key_removed", "slot_ids": list(slot_ids)}
        case Superseded(writer_id, sequence):
            return {"type": "superseded", "writer": writer_id.hex(), "sequence": sequence}
        case Checkpoint(facts):
            kept = [{**encode_fact(one.fact), "time": one.time_us} for one in facts]
            return {"type": "checkpoint", "state": {"facts": kept}}


def decode_fact(values: JsonObject) -> Fact:
    """The fact of a JSON object. Raises `Malformed`, for types that this version does not have too."""
    decode = _DECODERS.get(values.text("type", 64))
    if decode is None:
        raise Malformed("type is none that a fact has")
    return decode(values)


def _run_ids(values: JsonObject, key: str) -> tuple[str, ...]:
    found = values.items(key)
    if not all(isinstance(run_id, str) and is_run_id(run_id) for run_id in found):
        raise Malformed(f"{key} is no list of run ids")
    return tuple(found)


def _slot_ids(values: JsonObject) -> tuple[str, ...]:
    found = values.items("slot_ids")
    if not all(isinstance(slot_id, str) and is_object_id(slot_id) for slot_id in found):
        raise Malformed("slot_ids is no list of slot ids")
    return tuple(found)


def _packs(values: JsonObject) -> tuple[bytes, ...]:
    found = values.items("packs")
    if not all(isinstance(pack, str) and is_object_id(pack) for pack in found):
        raise Malformed("packs is no list of pack ids")
    return tuple(bytes.fromhex(pack) for pack in found)


def _key_epoch(values: JsonObject) -> KeyEpoch:
    sealed = values.child("sealed")
    slots = sealed.keys()
    if not all(is_object_id(slot_id) for slot_id in slots):
        raise Malformed("sealed has a key that is no slot id")
    return KeyEpoch(
        values.integer("epoch", 2, 0xFFFF_FFFF),
        values.base64("public", PUBLIC_KEY),
        {slot_id: sealed.base64(slot_id, SEALED_CONTENT_KEY) for slot_id in slots},
    )


def _checkpoint(values: JsonObject) -> Checkpoint:
    kept = []
    for child in values.child("state").children("facts"):
        fact = decode_fact(child)
        if isinstance(fact, Checkpoint):
            raise Malformed("a checkpoint holds a checkpoint")
        kept.append(TimedFact(child.integer("time", high=_MAX_TIME), fact))
    return Checkpoint(tuple(kept))


_DECODERS: Final[Mapping[str, Callable[[JsonObject], Fact]]] = {
    "committed": lambda values: Committed(values.run_id("run_id")),
    "renamed": lambda values: Renamed(values.run_id("run_id"), values.text("name", _MAX_NAME)),
    "locked": lambda values: Locked(values.run_id("run_id"), values.flag("locked")),
    "removed": lambda values: Removed(_run_ids(values, "run_ids")),
    "condemned": lambda values: Condemned(
        _packs(values),
        _run_ids(values, "runs") if values.has("runs") else None,
        values.has("damaged") and values.flag("damaged"),
    ),
    "swept": lambda values: Swept(_packs(values)),
    "key_epoch": _key_epoch,
    "key_removed": lambda values: KeyRemoved(_slot_ids(values)),
    "superseded": lambda values: Superseded(
        values.hexadecimal("writer", UUID), values.integer("sequence", 1, MAX_SEQUENCE)
    ),
    "checkpoint": _checkpoint,
}
