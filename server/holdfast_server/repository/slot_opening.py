"""The key slots of a store, and which of them a secret opens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Final

from holdfast_server.errors import DataLoss, FailedPrecondition, Reason
from holdfast_server.repository.crypto import IndexKeys
from holdfast_server.repository.format import damaged, is_object_id
from holdfast_server.repository.recovery_keys import is_mistyped_recovery_key
from holdfast_server.repository.slots import MAX_COST, MAX_SLOT, OpenedSlot, Slot
from holdfast_server.storage.objects import ObjectMissing, ObjectStore

__all__ = ["list_slots", "open_slot"]

_SLOTS: Final = "keys/"


def list_slots(
    store: ObjectStore,
    uuid: bytes,
    removed: Collection[str],
    on_damage: Callable[[DataLoss | FailedPrecondition], None],
) -> Iterator[Slot]:
    """The key slots of the repository `uuid` that count, and so not those in `removed`, ids as the log has them.
    Nothing is derived for another's, or with parameters out of bounds."""
    for info in sorted(store.list(_SLOTS)):
        slot_id = info.name.removeprefix(_SLOTS)
        if not is_object_id(slot_id) or slot_id in removed:
            continue
        try:
            slot = Slot(info.name, store.get(info.name, 0, MAX_SLOT + 1))
        except ObjectMissing:
            continue
        except (DataLoss, FailedPrecondition) as error:
            on_damage(error)
            continue
        # A creation that was interrupted leaves slots of a repository that never was.
        if slot.uuid == uuid:
            yield slot


def open_slot(
    store: ObjectStore, uuid: bytes, removed: Collection[str], secret: str, keys: IndexKeys | None = None
) -> tuple[Slot, OpenedSlot]:
    """The slot that a secret opens, and what it gave.

    Who has the store alone can make slots, as many and as costly as it likes: with `keys` those are passed over, and
    without them what costs least is tried first, and no more is spent than one slot may ask for.

    Raises as `Repository.unlock`.
    """
    broken: list[DataLoss | FailedPrecondition] = []
    left = MAX_COST
    for slot in sorted(list_slots(store, uuid, removed, broken.append), key=lambda slot: slot.cost):
        left -= slot.cost
        try:
            if keys is not None:
                slot.info(keys)
            elif left < 0:
                raise damaged(slot.name, "there are more key slots than can be tried: take away those that nobody made")
            opened = slot.open(secret)
        except DataLoss as error:
            broken.append(error)
            continue
        if opened is not None:
            return slot, opened
    if broken:
        raise broken[0]
    why = "no key slot of the repository takes this secret"
    if is_mistyped_recovery_key(secret):
        why = "this recovery key was mistyped: its last letters do not fit the others"
    raise FailedPrecondition(Reason.KEY_WRONG, why, metadata={"location": str(store)})
