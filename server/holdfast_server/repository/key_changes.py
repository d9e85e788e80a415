"""Key slots that are added and removed, and new content keys (docs/format.md, "Epochs").

Each of these may be interrupted between any two steps: then it has happened or not, everything opens as before, and it
can be done again. The caller sees to it that a node does one at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from holdfast_server.errors import (
    DataLoss,
    FailedPrecondition,
    HoldfastError,
    NotFound,
    Reason,
    ResourceExhausted,
    Unavailable,
)
from holdfast_server.repository.config import FIRST_EPOCH
from holdfast_server.repository.content_keys import ContentKeys, key_required, new_private_key, public_half
from holdfast_server.repository.facts import KeyEpoch, KeyRemoved
from holdfast_server.repository.format import damaged, epoch_claim_name, is_object_id, slot_name
from holdfast_server.repository.json_object import to_json
from holdfast_server.repository.log import Log, LogReader, LogWriter
from holdfast_server.repository.log_state import LogState
from holdfast_server.repository.repository import Repository
from holdfast_server.repository.slots import MAX_SLOT, MadeSlot, NewSlot, OpenedSlot, Slot, SlotInfo, make_slot
from holdfast_server.storage.objects import ObjectMissing

__all__ = [
    "MAX_EPOCHS",
    "MAX_SLOTS",
    "KeySlots",
    "NewEpoch",
    "add_slot",
    "begin_epoch",
    "key_slots",
    "lacking_keys",
    "remove_slot",
]

#: Key slots of a repository: every epoch is sealed to each of them.
MAX_SLOTS: Final = 64
#: Epochs of a repository: every slot that is added later holds the keys of all.
MAX_EPOCHS: Final = 500
#: Numbers of epochs that interrupted rotations may have claimed one behind the other.
_CLAIMS: Final = 1_000
#: How often a rotation begins again because another node added a slot meanwhile.
_ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class KeySlots:
    """The slots of a repository that count, oldest first; the errors of damaged ones, by slot id; and the present epoch
    of its content key."""

    slots: tuple[SlotInfo, ...]
    damaged: Mapping[str, DataLoss | FailedPrecondition]
    epoch: int


@dataclass(frozen=True, slots=True, repr=False)
class NewEpoch:
    """A content key that was begun, `private` being its private half. Never shown, and refuses to be pickled."""

    epoch: int
    private: bytes

    def __repr__(self) -> str:
        return f"NewEpoch({self.epoch}, …)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys of a repository are never pickled")


def key_slots(repository: Repository) -> KeySlots:
    """What there is now. Raises DataLoss/CHECKSUM_MISMATCH for a damaged log."""
    _, state = _read_log(repository)
    whole, broken = _whole_slots(repository, state)
    infos = sorted(
        (slot.info(repository.index_keys) for slot in whole), key=lambda info: (info.create_us, info.slot_id)
    )
    return KeySlots(tuple(infos), broken, state.epoch)


def add_slot(repository: Repository, new: NewSlot, content: ContentKeys, now_us: int) -> MadeSlot:
    """Make a slot that gives all content keys there are; takes 0.2 s for a passphrase. Durable on return.

    Raises InvalidArgument/INVALID_FIELD as `make_slot`; FailedPrecondition/KEY_REQUIRED when `content` lacks the key of
    an epoch; ResourceExhausted/QUOTA_EXCEEDED for a slot too many; Unavailable/CATALOG_BUSY when another node began an
    epoch meanwhile; DataLoss/CHECKSUM_MISMATCH for a damaged log, and for a key that is not that of its epoch.
    """
    _, state = _read_log(repository)
    whole, _ = _whole_slots(repository, state)
    if len(whole) >= MAX_SLOTS:
        raise ResourceExhausted(
            Reason.QUOTA_EXCEEDED,
            f"the repository has {len(whole)} keys, and at most {MAX_SLOTS} fit: remove one first",
            metadata={"limit": str(MAX_SLOTS)},
        )
    opened = OpenedSlot(repository.keys.index_key, _every_epoch(repository, state, content))
    made = make_slot(new, repository.index_keys, opened, now_us)
    try:
        repository.store.put(made.name, [made.content])
        if _read_log(repository)[1].epochs.keys() - state.epochs.keys():
            raise Unavailable(
                Reason.CATALOG_BUSY, "the key of the repository was rotated while one was added", retry_after=1.0
            )
    except BaseException:
        with contextlib.suppress(HoldfastError):
            repository.store.delete(made.name)
        raise
    return made


def remove_slot(repository: Repository, slot_id: str, now_us: int, *, listed: bool = False) -> None:
    """Remove a slot, and see to it that it counts no more if the store brings it back. `listed`: it was there once.

    Raises NotFound/KEY_NOT_FOUND; FailedPrecondition/LAST_KEY when nothing else would open all of a sealed repository;
    DataLoss/CHECKSUM_MISMATCH for a damaged log.
    """
    log, state = _read_log(repository)
    there = is_object_id(slot_id) and _is_own(repository, slot_id)
    if not there and not listed:
        raise NotFound(
            Reason.KEY_NOT_FOUND,
            f"the repository has no key {slot_id or 'without an id'}",
            metadata={"key_id": slot_id},
        )
    if slot_id not in state.removed_slots:
        if repository.config.sealed:
            _require_others(repository, state, slot_id)
        # A key that must not open anything any more is taken away on a full disk, too.
        with repository.store.use_reserve():
            _append(repository, log, KeyRemoved((slot_id,)), now_us)
    repository.store.delete(slot_name(bytes.fromhex(slot_id)))


def begin_epoch(
    repository: Repository,
    now: Callable[[], int],
    *,
    keep: Callable[[int, bytes], None] | None,
    listed: Collection[str] = (),
) -> NewEpoch:
    """Make a new content key, give it to every slot, and tell of it: from then on backups that begin use it.

    `keep` is called with epoch and private key before anybody learns of them, and keeps them for good; None for a
    sealed repository, whose slots alone keep it. `listed` are ids of slots that were there: they must be there still.
    `now` gives microseconds.

    Raises DataLoss/CHECKSUM_MISMATCH, and nothing is told, for a slot that is damaged, gone, or whose public key is not
    proved to be its own, and for a damaged log; ResourceExhausted/QUOTA_EXCEEDED for an epoch too many;
    FailedPrecondition/STORE_UNSUITABLE when the store let two create the same object.
    """
    for round_ in range(_ROUNDS):
        log, state = _read_log(repository)
        if len(state.epochs) + 1 >= MAX_EPOCHS:
            raise ResourceExhausted(
                Reason.QUOTA_EXCEEDED,
                f"the key of the repository was rotated {len(state.epochs)} times, and at most {MAX_EPOCHS - 1} fit: "
                "begin another repository",
                metadata={"limit": str(MAX_EPOCHS)},
            )
        slots = _bound_slots(repository, state, listed)
        epoch, private = _claim(repository, state, now()), new_private_key()
        sealed = {slot.slot_id.hex(): slot.seal_epoch(repository.index_keys, epoch, private) for slot in slots}
        if keep is not None:
            keep(epoch, private)
        told = KeyEpoch(epoch, public_half(private), sealed)
        _append(repository, log, told, now())
        log, after = _read_log(repository)
        if after.epochs.get(epoch) != told:
            raise _let_two_create(repository, epoch_claim_name(epoch))
        # Told twice: of a sealed repository nothing but the log gives this key to its slots.
        _append(repository, log, told, now())
        # A slot that another node added between both looks lacks this key; it gets the next one.
        present, _ = _whole_slots(repository, after)
        if {slot.slot_id.hex() for slot in present} <= sealed.keys() or round_ == _ROUNDS - 1:
            break
    return NewEpoch(epoch, private)


def lacking_keys(repository: Repository, content: ContentKeys) -> dict[int, bytes]:
    """The content private keys by epoch that this node of a repository that is not sealed should keep and does not, as
    far as `content` has them: another node began those epochs, or its data directory is an older copy.

    Raises DataLoss/CHECKSUM_MISMATCH for a damaged log.
    """
    own = repository.keys.content
    if own is None or not set(content.epochs) - set(own.epochs):
        return {}
    _, state = _read_log(repository)
    return {
        epoch: content.private(epoch)
        for epoch, told in state.epochs.items()
        if epoch in content.epochs and epoch not in own.epochs and content.public(epoch).raw == told.public
    }


def _read_log(repository: Repository) -> tuple[Log, LogState]:
    log = LogReader(repository.store, repository.index_keys).read()
    return log, LogState.of(log)


def _append(repository: Repository, log: Log, fact: KeyEpoch | KeyRemoved, now_us: int) -> None:
    writer = LogWriter(repository.store, repository.index_keys, repository.keys.writer, log.vector)
    writer.append([fact], now_us)


def _whole_slots(
    repository: Repository, state: LogState
) -> tuple[list[Slot], dict[str, DataLoss | FailedPrecondition]]:
    """The slots that count, and the errors of those that are damaged, by slot id."""
    broken: list[tuple[str, DataLoss | FailedPrecondition]] = []
    whole: list[Slot] = []
    for slot in repository.key_slots(
        state.removed_slots, lambda error: broken.append((str(error.metadata["object"]), error))
    ):
        try:
            slot.info(repository.index_keys)
            whole.append(slot)
        except DataLoss as error:
            broken.append((slot.name, error))
    return whole, {name.rpartition("/")[2]: error for name, error in broken}


def _bound_slots(repository: Repository, state: LogState, listed: Collection[str]) -> list[Slot]:
    """The slots that count, all of which are whole, and proved to be what they were made as."""
    whole, broken = _whole_slots(repository, state)
    for error in broken.values():
        raise error
    for slot in whole:
        slot.require_bound(repository.index_keys)
    present = {slot.slot_id.hex() for slot in whole}
    for slot_id in sorted(set(listed) - present - state.removed_slots):
        raise damaged(
            slot_name(bytes.fromhex(slot_id)),
            f"the key slot is gone, so no new key can be sealed to it: put it back, or remove key {slot_id}",
            key_id=slot_id,
        )
    if repository.config.sealed and not whole:
        raise damaged("keys/", "no key slot is left of a sealed repository, so a new key would be lost")
    return whole


def _claim(repository: Repository, state: LogState, now_us: int) -> int:
    """A number that no other epoch has had or will have."""
    content = repository.keys.content
    first = max([state.epoch, *(content.epochs if content else ())]) + 1
    claim = {"version": 1, "writer": repository.keys.writer.writer_id.hex(), "time": now_us}
    name = epoch_claim_name(first)
    for epoch in range(first, min(first + _CLAIMS, 1 << 32)):
        name = epoch_claim_name(epoch)
        if repository.store.create_if_absent(name, repository.index_keys.seal(name, to_json(claim))):
            return epoch
    raise _let_two_create(repository, name)


def _let_two_create(repository: Repository, name: str) -> FailedPrecondition:
    location = str(repository.store)
    return FailedPrecondition(
        Reason.STORE_UNSUITABLE,
        f"the store at {location} does not keep apart who creates an object: {name} was claimed, and is not its "
        "writer's; the present key stays in use",
        metadata={"location": location, "object": name},
    )


def _every_epoch(repository: Repository, state: LogState, content: ContentKeys) -> ContentKeys:
    """The keys of all epochs that were told of. Others go with them while there is room: an epoch that was never used,
    or one whose entry in the log is lost."""
    publics = {FIRST_EPOCH: repository.config.public_key.raw}
    publics.update((epoch, told.public) for epoch, told in state.epochs.items())
    for epoch, public in publics.items():
        if epoch not in content.epochs:
            raise key_required(epoch)
        if public_half(content.private(epoch)) != public:
            raise damaged(f"content key {epoch}", "the private key at hand is not that of this epoch")
    if len(content.epochs) <= MAX_EPOCHS:
        return content
    return ContentKeys({epoch: content.private(epoch) for epoch in publics})


def _is_own(repository: Repository, slot_id: str) -> bool:
    """Whether there is such an object, and it is none that an interrupted creation left; it may be damaged."""
    name = slot_name(bytes.fromhex(slot_id))
    try:
        return Slot(name, repository.store.get(name, 0, MAX_SLOT + 1)).uuid == repository.config.uuid
    except ObjectMissing:
        return False
    except (DataLoss, FailedPrecondition):
        return True


def _require_others(repository: Repository, state: LogState, slot_id: str) -> None:
    """Raises FailedPrecondition/LAST_KEY unless what is left of the slots opens every epoch."""
    left = [slot for slot in _whole_slots(repository, state)[0] if slot.slot_id.hex() != slot_id]
    opened = {epoch for slot in left for epoch in slot.epochs}
    opened.update(t.epoch for slot in left for t in state.epochs.values() if slot.slot_id.hex() in t.sealed)
    closed = {FIRST_EPOCH, *state.epochs} - opened
    if closed:
        what = "the repository" if not left else f"what was written with its key of epoch {min(closed)}"
        raise FailedPrecondition(
            Reason.LAST_KEY,
            f"key {slot_id} is the last one that opens {what}, which is sealed: add another key first",
            metadata={"key_id": slot_id},
        )
