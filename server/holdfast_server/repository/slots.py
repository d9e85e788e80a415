"""Key slots: objects that give the keys of a repository to whoever has a passphrase, a key file or a recovery key.

Every bound of a slot is checked before a key is derived. Removing a slot takes nothing away from whoever opened it.
"""

from __future__ import annotations

import base64
import binascii
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
from holdfast_server.repository.format import FORMAT_VERSION, MESSAGE_TAG, PRIVATE_KEY, PUBLIC_KEY, damaged, slot_name
from holdfast_server.repository.json_object import JsonObject, Malformed, damage_of, to_base64, to_json

__all__ = [
    "MAX_COST",
    "MAX_SLOT",
    "NewSlot",
    "OpenedSlot",
    "Slot",
    "SlotInfo",
    "SlotKind",
    "make_slot",
    "recovery_secret",
]

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
CONTEXT_RECOVERY_CHECK: Final = b"holdfast recovery key"
ARGON2: Final = "argon2id"
HKDF_NAME: Final = "hkdf-sha256"

MIN_PASSPHRASE: Final = 8
MAX_PASSPHRASE: Final = 1_024
MIN_KEY_FILE: Final = 32
MAX_KEY_FILE: Final = 65_536
LABEL_MAX: Final = 255
RECOVERY_PREFIX: Final = "HFRK1"
RECOVERY_CHECK: Final = 3

_ZERO_NONCE = bytes(12)
_EPOCH = struct.Struct("<I")
_MAX_TIME = (1 << 63) - 1
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
    """What a slot gave: all keys of the repository. Never shown, and refuses to be pickled."""

    index_key: bytes
    content: ContentKeys

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
        self._label = values.base64("label", _LABEL_OVERHEAD, _LABEL_OVERHEAD + LABEL_MAX)
        self._content_keys = {
            key.integer("epoch", 1, 0xFFFF_FFFF): key.base64("sealed", PRIVATE_KEY + HPKE_OVERHEAD)
            for key in values.children("content")
        }

    @property
    def cost(self) -> int:
        """What it costs to try a secret: KiB of memory, times passes; 0 where that is next to nothing."""
        return self._parameters.memory_kib * self._parameters.passes if self._parameters else 0

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
        return OpenedSlot(index_key, self._open_content(private))

    def _open_content(self, private: bytes) -> ContentKeys:
        opened: dict[int, bytes] = {}
        for epoch, sealed in self._content_keys.items():
            content = hpke_open(private, _content_info(self.uuid, self.slot_id, epoch), sealed)
            if content is None:
                raise damaged(self.name, f"the content key of epoch {epoch} does not open")
            opened[epoch] = content
        if not opened:
            raise damaged(self.name, "it has no content key")
        return ContentKeys(opened)

    def __repr__(self) -> str:
        return f"Slot({self.name})"


def recovery_text(secret: bytes) -> str:
    """A recovery key's 32 bytes as they are shown: `HFRK1-` and 56 letters and digits in groups of four."""
    letters = base64.b32encode(secret + _recovery_check(secret)).decode()
    return "-".join([RECOVERY_PREFIX, *(letters[at : at + 4] for at in range(0, len(letters), 4))])


def recovery_secret(text: str) -> bytes | None:
    """The 32 bytes of a recovery key as somebody typed it; None when it is none, or was mistyped."""
    letters = _recovery_letters(text)
    if letters is None:
        return None
    try:
        content = base64.b32decode(letters)
    except binascii.Error:
        return None
    secret, check = content[:KEY], content[KEY:]
    return secret if len(secret) == KEY and check == _recovery_check(secret) else None


def is_mistyped_recovery_key(text: str) -> bool:
    """Whether it looks like a recovery key and cannot be one."""
    return _recovery_letters(text) is not None and recovery_secret(text) is None


def _recovery_letters(text: str) -> str | None:
    bare = "".join(text.split()).replace("-", "").upper()
    return bare.removeprefix(RECOVERY_PREFIX) if text.isascii() and bare.startswith(RECOVERY_PREFIX) else None


def _recovery_check(secret: bytes) -> bytes:
    return blake3(CONTEXT_RECOVERY_CHECK + secret).digest(RECOVERY_CHECK)


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
