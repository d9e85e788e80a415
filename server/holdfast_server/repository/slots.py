"""Key slots: objects that give the keys of a repository to whoever has a passphrase, a key file or a recovery key.

Every bound of a slot is checked before a key is derived. Removing a slot takes nothing away from whoever opened it.
"""

from __future__ import annotations

import hmac
import secrets
import struct
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NoReturn

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from holdfast_server.errors import invalid_field
from holdfast_server.key_derivation import MAX_LANES, MAX_MEMORY_KIB, MAX_PASSES, SALT_SIZE, KeyParameters
from holdfast_server.repository.config import unsupported
from holdfast_server.repository.content_keys import (
    HPKE_OVERHEAD,
    KEY,
    ContentKeys,
    hpke_open,
    hpke_seal,
    new_private_key,
    public_half,
)
from holdfast_server.repository.crypto import UUID, IndexKeys, hkdf
from holdfast_server.repository.facts import KeyEpoch
from holdfast_server.repository.format import FORMAT_VERSION, MESSAGE_TAG, PRIVATE_KEY, PUBLIC_KEY, damaged, slot_name
from holdfast_server.repository.json_object import JsonObject, Malformed, damage_of, to_base64, to_json
from holdfast_server.repository.recovery_keys import recovery_secret, recovery_text

__all__ = ["MAX_COST", "MAX_SLOT", "NewSlot", "OpenedSlot", "Slot", "SlotInfo", "SlotKind", "make_slot"]

MAGIC: Final = b"HFKEYSLT"
HEAD = struct.Struct("<8sHHI")
HEADER_MAX: Final = 1 << 20
WRAPPED: Final = KEY + PRIVATE_KEY + MESSAGE_TAG
#: What a slot may make whoever tries it spend: KiB of memory, times passes over it.
MAX_COST: Final = MAX_MEMORY_KIB * MAX_PASSES
MAX_SLOT: Final = HEAD.size + HEADER_MAX + WRAPPED + KEY

CONTEXT_CONTENT_KEY: Final = b"holdfast repository 1 content key"
CONTEXT_KEY_FILE: Final = b"holdfast repository 1 key file"
CONTEXT_RECOVERY: Final = b"holdfast repository 1 recovery key"
ARGON2: Final = "argon2id"
HKDF_NAME: Final = "hkdf-sha256"

MIN_PASSPHRASE: Final = 8
MAX_PASSPHRASE: Final = 1_024
MIN_KEY_FILE: Final = 32
MAX_KEY_FILE: Final = 65_536
LABEL_MAX: Final = 255

_ZERO_NONCE = bytes(12)
_EPOCH = struct.Struct("<I")
_MAX_TIME = (1 << 63) - 1
_KIND = struct.Struct("<H")
#: Of a slot that does not have one.
_UNBOUND = b""
#: A label is sealed as an object: salt, form and length, tag.
_LABEL_OVERHEAD = KEY + 5 + MESSAGE_TAG


class SlotKind(StrEnum):
    """What opens a slot."""

    PASSPHRASE = "PASSPHRASE"  # noqa: S105 - the name of a kind
    KEY_FILE = "KEY_FILE"
    RECOVERY = "RECOVERY"


_NUMBER_OF = {SlotKind.PASSPHRASE: 1, SlotKind.KEY_FILE: 2, SlotKind.RECOVERY: 3}
_KIND_OF = {number: kind for kind, number in _NUMBER_OF.items()}


@dataclass(frozen=True, slots=True, repr=False)
class NewSlot:
    """A slot to make. `secret` is a passphrase of 8 to 1,024 bytes of UTF-8, or the content of a key file, at least 32;
    None for a recovery key, which is made here. Never shown, and refuses to be pickled."""

    kind: SlotKind
    secret: str | None = None
    display_name: str = ""

    def __repr__(self) -> str:
        return f"NewSlot({self.kind}, …)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("secrets are never pickled")


@dataclass(frozen=True, slots=True)
class SlotInfo:
    """What may be told of a slot. `slot_id` is 32 hexadecimal digits, `create_us` in microseconds."""

    slot_id: str
    kind: SlotKind
    display_name: str
    create_us: int


@dataclass(frozen=True, slots=True, repr=False)
class OpenedSlot:
    """What a slot gave: the keys of the repository that are in it. Never shown, and refuses to be pickled.

    `private` is the slot's own key, to which the keys of later epochs are sealed (`Slot.open_epoch`)."""

    index_key: bytes
    content: ContentKeys
    private: bytes = b""

    def __repr__(self) -> str:
        return "OpenedSlot(…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys of a repository are never pickled")


@dataclass(frozen=True, slots=True, repr=False)
class MadeSlot:
    """A new slot: its object, and the recovery key, to be shown once, if it has one. Never shown itself."""

    info: SlotInfo
    name: str
    content: bytes
    recovery_key: str | None

    def __repr__(self) -> str:
        return f"MadeSlot({self.name}, …)"


def make_slot(new: NewSlot, keys: IndexKeys, opened: OpenedSlot, now_us: int) -> MadeSlot:
    """A slot that gives what `opened` holds; takes 0.2 s and 64 MiB of memory for a passphrase.

    Raises InvalidArgument/INVALID_FIELD for a secret or display name out of bounds.
    """
    secret, recovery_key = _secret_of(new)
    label = new.display_name.encode(errors="replace")
    if len(label) > LABEL_MAX:
        raise invalid_field("keys.display_name", f"a name has at most {LABEL_MAX} bytes of UTF-8")
    slot_id, private = secrets.token_bytes(UUID), new_private_key()
    public, name = public_half(private), slot_name(slot_id)
    parameters = KeyParameters.new() if new.kind is SlotKind.PASSPHRASE else None
    salt = parameters.salt if parameters else secrets.token_bytes(KEY)
    header = to_json(
        {
            "uuid": keys.uuid.hex(),
            "slot_id": slot_id.hex(),
            "create_time": now_us,
            "kdf": _kdf_json(parameters, salt),
            "public": to_base64(public),
            "binding": to_base64(_binding(keys, slot_id, new.kind, public)),
            "label": to_base64(keys.seal(_label_name(name), label)),
            "content": [
                {
                    "epoch": epoch,
                    "sealed": to_base64(
                        hpke_seal(public, _content_info(keys.uuid, slot_id, epoch), opened.content.private(epoch))
                    ),
                }
                for epoch in opened.content.epochs
            ],
        }
    )
    if len(header) > HEADER_MAX:
        raise ValueError(f"{len(opened.content.epochs)} epochs do not fit into a key slot")
    head = HEAD.pack(MAGIC, FORMAT_VERSION, _NUMBER_OF[new.kind], len(header)) + header
    wrapping = _wrapping_key(new.kind, secret, parameters, salt, keys.uuid)
    content = head + AESGCM(wrapping).encrypt(_ZERO_NONCE, opened.index_key + private, head)
    info = SlotInfo(slot_id.hex(), new.kind, label.decode(), now_us)
    return MadeSlot(info, name, content + blake3(content).digest(), recovery_key)


class Slot:
    """A key slot as it lies in the store. Nothing of it is proved before `open` gave keys, but that it is undamaged."""

    __slots__ = (
        "_binding",
        "_content_keys",
        "_head",
        "_label",
        "_parameters",
        "_public",
        "_salt",
        "_wrapped",
        "create_us",
        "kind",
        "name",
        "slot_id",
        "uuid",
    )

    def __init__(self, name: str, content: bytes) -> None:
        """`name` is the object's.

        Raises DataLoss/CHECKSUM_MISMATCH, and FailedPrecondition/FORMAT_UNSUPPORTED for another version.
        """
        self.name = name
        header = self._split(content)
        with damage_of(name):
            self._read(JsonObject.parse(header))

    def _split(self, content: bytes) -> bytes:
        """Takes the parts apart and gives the header; nothing is used before the hash at the end was compared."""
        if not HEAD.size + WRAPPED + KEY <= len(content) <= MAX_SLOT:
            raise damaged(self.name, f"a key slot cannot have {len(content)} bytes")
        magic, version, number, length = HEAD.unpack_from(content)
        if magic == MAGIC and version != FORMAT_VERSION:
            raise unsupported(self.name, version)
        if magic != MAGIC or blake3(content[:-KEY]).digest() != content[-KEY:]:
            raise damaged(self.name, "it is not what was written")
        end = HEAD.size + length
        if number not in _KIND_OF or length > HEADER_MAX or len(content) != end + WRAPPED + KEY:
            raise damaged(self.name, "its kind or length is not what a key slot can have")
        self.kind = _KIND_OF[number]
        self._head, self._wrapped = content[:end], content[end:-KEY]
        return content[HEAD.size : end]

    def _read(self, values: JsonObject) -> None:
        self.uuid = values.hexadecimal("uuid", UUID)
        self.slot_id = values.hexadecimal("slot_id", UUID)
        if slot_name(self.slot_id) != self.name:
            raise Malformed("slot_id is that of another slot")
        self.create_us = values.integer("create_time", high=_MAX_TIME)
        self._parameters, self._salt = _read_kdf(values.child("kdf"), self.kind)
        self._public = values.base64("public", PUBLIC_KEY)
        self._binding = values.base64("binding", KEY) if values.has("binding") else _UNBOUND
        self._label = values.base64("label", _LABEL_OVERHEAD, _LABEL_OVERHEAD + LABEL_MAX)
        self._content_keys = {
            key.integer("epoch", 1, 0xFFFF_FFFF): key.base64("sealed", PRIVATE_KEY + HPKE_OVERHEAD)
            for key in values.children("content")
        }

    @property
    def cost(self) -> int:
        """What it costs to try a secret: KiB of memory, times passes; 0 where that is next to nothing."""
        return self._parameters.memory_kib * self._parameters.passes if self._parameters else 0

    @property
    def epochs(self) -> frozenset[int]:
        """The epochs of the content keys in it; the log holds those of later ones."""
        return frozenset(self._content_keys)

    def info(self, keys: IndexKeys) -> SlotInfo:
        """What may be told of it. Raises DataLoss/CHECKSUM_MISMATCH when its label is not of this repository."""
        label = keys.open(_label_name(self.name), self._label)
        try:
            shown = label.decode()
        except UnicodeDecodeError:
            raise damaged(self.name, "its label is no UTF-8") from None
        return SlotInfo(self.slot_id.hex(), self.kind, shown, self.create_us)

    def open(self, secret: str) -> OpenedSlot | None:
        """The keys, if `secret` is the slot's own; None if not. A passphrase takes the time that the slot states.

        Raises DataLoss/CHECKSUM_MISMATCH when the secret is right and what it opens is not.
        """
        given = _as_given(self.kind, secret)
        if given is None:
            return None
        wrapping = _wrapping_key(self.kind, given, self._parameters, self._salt, self.uuid)
        try:
            keys = AESGCM(wrapping).decrypt(_ZERO_NONCE, self._wrapped, self._head)
        except InvalidTag:
            return None
        index_key, private = keys[:KEY], keys[KEY:]
        if public_half(private) != self._public:
            raise damaged(self.name, "its key pair does not fit together")
        content = {epoch: self._open_sealed(private, epoch, sealed) for epoch, sealed in self._content_keys.items()}
        if not content:
            raise damaged(self.name, "it has no content key")
        return OpenedSlot(index_key, ContentKeys(content), private)

    def open_epoch(self, opened: OpenedSlot, told: KeyEpoch) -> bytes | None:
        """The content private key of a later epoch, which the log holds for this slot; None when it holds none.

        `opened` is what `open` gave. Raises DataLoss/CHECKSUM_MISMATCH when it does not open.
        """
        sealed = told.sealed.get(self.slot_id.hex())
        return None if sealed is None else self._open_sealed(opened.private, told.epoch, sealed)

    def _open_sealed(self, private: bytes, epoch: int, sealed: bytes) -> bytes:
        content = hpke_open(private, _content_info(self.uuid, self.slot_id, epoch), sealed)
        if content is None:
            raise damaged(self.name, f"the content key of epoch {epoch} does not open")
        return content

    def require_bound(self, keys: IndexKeys) -> None:
        """Raises DataLoss/CHECKSUM_MISMATCH unless its public key is the one that it was made with: whoever can write
        to the store could have put another there, to be given the keys of later epochs."""
        if self._binding == _UNBOUND:
            what = "it does not prove that its public key is its own, as slots of old do not"
        elif not hmac.compare_digest(self._binding, _binding(keys, self.slot_id, self.kind, self._public)):
            what = "its public key is not the one that it was made with"
        else:
            return
        slot_id = self.slot_id.hex()
        raise damaged(
            self.name, f"{what}, so no new key is sealed to it: remove key {slot_id}, or add it anew", key_id=slot_id
        )

    def seal_epoch(self, keys: IndexKeys, epoch: int, private: bytes) -> bytes:
        """A content private key for this slot, to be told in the log. Raises as `require_bound`."""
        self.require_bound(keys)
        return hpke_seal(self._public, _content_info(self.uuid, self.slot_id, epoch), private)

    def __repr__(self) -> str:
        return f"Slot({self.name})"


def _secret_of(new: NewSlot) -> tuple[bytes, str | None]:
    """What the slot's wrapping key is made from, and the recovery key to show."""
    if new.kind is SlotKind.RECOVERY:
        if new.secret is not None:
            raise invalid_field("keys.recovery", "a recovery key is made here and cannot be given")
        made = secrets.token_bytes(KEY)
        return made, recovery_text(made)
    given = _as_given(new.kind, new.secret or "")
    if new.kind is SlotKind.PASSPHRASE and (given is None or len(given) < MIN_PASSPHRASE):
        raise invalid_field(
            "keys.passphrase", f"a passphrase has {MIN_PASSPHRASE} to {MAX_PASSPHRASE:,} bytes of UTF-8"
        )
    if given is None:
        raise invalid_field("keys.private_key", f"a key file has {MIN_KEY_FILE} to {MAX_KEY_FILE:,} bytes of UTF-8")
    return given, None


def _as_given(kind: SlotKind, secret: str) -> bytes | None:
    """The bytes that a secret stands for in a slot of that kind; None when it can open none."""
    if kind is SlotKind.RECOVERY:
        return recovery_secret(secret)
    passphrase = kind is SlotKind.PASSPHRASE
    try:
        given = (unicodedata.normalize("NFC", secret) if passphrase else secret).encode()
    except UnicodeEncodeError:
        return None
    low, high = (1, MAX_PASSPHRASE) if passphrase else (MIN_KEY_FILE, MAX_KEY_FILE)
    return given if low <= len(given) <= high else None


def _wrapping_key(kind: SlotKind, given: bytes, parameters: KeyParameters | None, salt: bytes, uuid: bytes) -> bytes:
    if parameters is not None:
        return parameters.derive(given)
    return hkdf(given, salt, (CONTEXT_KEY_FILE if kind is SlotKind.KEY_FILE else CONTEXT_RECOVERY) + uuid)


def _kdf_json(parameters: KeyParameters | None, salt: bytes) -> Mapping[str, object]:
    if parameters is None:
        return {"name": HKDF_NAME, "salt": to_base64(salt)}
    return {
        "name": ARGON2,
        "memory_kib": parameters.memory_kib,
        "passes": parameters.passes,
        "lanes": parameters.lanes,
        "salt": to_base64(salt),
    }


def _read_kdf(values: JsonObject, kind: SlotKind) -> tuple[KeyParameters | None, bytes]:
    if kind is not SlotKind.PASSPHRASE:
        values.expect("name", HKDF_NAME)
        return None, values.base64("salt", KEY)
    values.expect("name", ARGON2)
    salt = values.base64("salt", SALT_SIZE)
    memory_kib = values.integer("memory_kib", 1, MAX_MEMORY_KIB)
    passes, lanes = values.integer("passes", 1, MAX_PASSES), values.integer("lanes", 1, MAX_LANES)
    try:
        return KeyParameters(salt, memory_kib, passes, lanes), salt
    except ValueError as error:
        raise Malformed(f"kdf: {error}") from None


def _label_name(name: str) -> str:
    return f"{name}/label"


def _content_info(uuid: bytes, slot_id: bytes, epoch: int) -> bytes:
    return CONTEXT_CONTENT_KEY + uuid + slot_id + _EPOCH.pack(epoch)


def _binding(keys: IndexKeys, slot_id: bytes, kind: SlotKind, public: bytes) -> bytes:
    return blake3(slot_id + _KIND.pack(_NUMBER_OF[kind]) + public, key=keys.slot).digest()
