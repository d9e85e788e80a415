"""A new repository's keys and first objects, made by the reader process: deriving keys of passphrases takes its time.

The objects are made in memory. The caller publishes them once the keys are durable, the config last: from then on there
is a repository.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from holdfast_server.repository import NewSlot, SlotInfo, SlotKind, create_repository
from holdfast_server.storage.descent import DIRECTORY_FLAGS
from holdfast_server.storage.local import translate_os_error
from holdfast_server.storage.objects import MemoryObjects

__all__ = ["CONFIG", "MadeRepository", "WantedSlot", "make_repository", "slot_record"]

CONFIG = "config"


@dataclass(frozen=True, slots=True, repr=False)
class WantedSlot:
    """A key slot to make: kind PASSPHRASE, KEY_FILE or RECOVERY; `secret` is None for the last, which is made here."""

    kind: str
    secret: str | None
    display_name: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class MadeRepository:
    """A repository that lies nowhere yet. `objects` are its (name, content), the config last; `slots` its key slots as
    the catalog keeps them; `recovery_key` is shown once."""

    objects: tuple[tuple[str, bytes], ...]
    uuid: bytes
    fingerprint: bytes
    format_version: int
    slots: tuple[dict[str, Any], ...]
    recovery_key: str | None


def make_repository(
    keys_folder: bytes, sealed: bool, slots: Sequence[WantedSlot], compression_level: int, now_us: int
) -> MadeRepository:
    """Make keys, save in `keys_folder` those that this machine keeps, and give the objects.

    Without `sealed` the content private key is kept too. Raises what `create_repository` raises, and the error tree's
    translation of a failed write.
    """
    staged = MemoryObjects()
    wanted = [NewSlot(SlotKind(one.kind), one.secret, one.display_name) for one in slots]
    created = create_repository(staged, sealed=sealed, slots=wanted, compression_level=compression_level, now_us=now_us)
    keys = created.keys.without_content() if sealed else created.keys
    try:
        fd = os.open(keys_folder, DIRECTORY_FLAGS)
        try:
            keys.save(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise translate_os_error(error, "saving the keys of a new repository") from error
    objects = staged.contents()
    config = objects.pop(CONFIG)
    return MadeRepository(
        objects=(*sorted(objects.items()), (CONFIG, config)),
        uuid=created.config.uuid,
        fingerprint=created.fingerprint,
        format_version=created.config.format_version,
        slots=tuple(slot_record(slot) for slot in created.slots),
        recovery_key=created.recovery_key,
    )


def slot_record(slot: SlotInfo) -> dict[str, Any]:
    """A key slot as the catalog keeps it."""
    return {
        "key_id": slot.slot_id,
        "kind": str(slot.kind),
        "display_name": slot.display_name,
        "create_time": slot.create_us,
    }
