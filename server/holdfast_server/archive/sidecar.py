"""The sidecar of a sealed archive: what may be known of it without a key, and nothing that the seal hides.

docs/format.md ("Sealed archives") specifies it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from holdfast_server.errors import FailedPrecondition, Reason

__all__ = ["MAX_SIDECAR", "SIDECAR_SUFFIX", "Sidecar", "parse_sidecar", "sidecar_name"]

SIDECAR_FORMAT = "holdfast-sidecar"
SIDECAR_VERSION = 1
SIDECAR_SUFFIX = b".holdfast.json"
SEALING = "age-encryption.org/v1"
MAX_SIDECAR = 64 << 10

_SHA256 = re.compile(r"[0-9a-f]{64}")


def sidecar_name(archive: bytes) -> bytes:
    """The file name beside a sealed archive's file name."""
    return archive + SIDECAR_SUFFIX


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What a sidecar states. Times in microseconds; `size` and `sha256` (hex) are those of the sealed file; `counts` as
    in the manifest's last line. With `exported_from` the file is an export of backup `backup_id`, and no backup."""

    backup_id: str
    source_id: str
    source_kind: str
    archive_format: str
    recipients: int
    created_us: int
    completed_us: int
    size: int
    sha256: str
    counts: Mapping[str, int]
    complete: bool
    software: str
    exported_from: Mapping[str, Any] | None = None

    def encode(self) -> bytes:
        values = {
            "format": SIDECAR_FORMAT,
            "version": SIDECAR_VERSION,
            **({"exported_from": dict(self.exported_from)} if self.exported_from else {"backup_id": self.backup_id}),
            "source": {"source_id": self.source_id, "kind": self.source_kind},
            "archive_format": self.archive_format,
            "sealing": SEALING,
            "recipients": self.recipients,
            "create_time": _time_text(self.created_us),
            "complete_time": _time_text(self.completed_us),
            "size": self.size,
            "sha256": self.sha256,
            "counts": dict(self.counts),
            "complete": self.complete,
            "software": self.software,
        }
        return json.dumps(values, indent=1, ensure_ascii=False).encode() + b"\n"


def parse_sidecar(data: bytes) -> Sidecar:
    """Raises FailedPrecondition/ARCHIVE_INVALID, saying what is wrong."""
    try:
        values = json.loads(data) if len(data) <= MAX_SIDECAR else None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise _invalid(f"it is no JSON object of at most {MAX_SIDECAR} bytes")
    for key, wanted in (("format", SIDECAR_FORMAT), ("version", SIDECAR_VERSION), ("sealing", SEALING)):
        if values.get(key) != wanted or isinstance(values.get(key), bool):
            raise _invalid(f"its {key} is not {wanted}")
    source, counts = _typed(values, "source", dict), _typed(values, "counts", dict)
    for name in counts:
        _number(counts, name)
    exported_from = _typed(values, "exported_from", dict) if "exported_from" in values else None
    sha256 = _typed(values, "sha256", str)
    if not _SHA256.fullmatch(sha256):
        raise _invalid("its sha256 is no SHA-256")
    return Sidecar(
        backup_id=_typed(values if exported_from is None else exported_from, "backup_id", str),
        source_id=_typed(source, "source_id", str),
        source_kind=_typed(source, "kind", str),
        archive_format=_typed(values, "archive_format", str),
        recipients=_number(values, "recipients"),
        created_us=_time(values, "create_time"),
        completed_us=_time(values, "complete_time"),
        size=_number(values, "size"),
        sha256=sha256,
        counts=counts,
        complete=_typed(values, "complete", bool),
        software=_typed(values, "software", str),
        exported_from=exported_from,
    )


def _typed(values: Mapping[str, Any], key: str, kind: type) -> Any:
    value = values.get(key)
    if not isinstance(value, kind):
        raise _invalid(f"its {key} is missing or of another type")
    return value


def _number(values: Mapping[str, Any], key: str) -> int:
    value = values.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise _invalid(f"its {key} is no number")
    return value


def _time_text(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat().replace("+00:00", "Z")


def _time(values: Mapping[str, Any], key: str) -> int:
    try:
        time = datetime.fromisoformat(_typed(values, key, str))
        if time.tzinfo is None:
            raise ValueError("no time zone")
        return round(time.timestamp() * 1e6)
    except (ValueError, OverflowError):
        raise _invalid(f"its {key} is no time") from None


def _invalid(what: str) -> FailedPrecondition:
    return FailedPrecondition(Reason.ARCHIVE_INVALID, f"the sidecar is invalid: {what}", metadata={"detail": what})
