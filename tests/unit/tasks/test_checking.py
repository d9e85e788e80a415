"""What a check that found something says in one line."""

from __future__ import annotations

import pytest

from holdfast_server.errors import Reason
from holdfast_server.repository import BackupDamage, CheckLevel, CheckReport, Damage
from holdfast_server.tasks.checking import damage_error


@pytest.mark.parametrize(
    ("objects", "backups", "said"),
    [
        (1, 0, "object packs/0 is damaged or missing"),
        (2, 1, "2 objects are damaged or missing, the first packs/0; 1 backup has lost something"),
        (0, 3, "3 backups have lost something"),
    ],
)
def test_damage_is_counted_in_words(objects: int, backups: int, said: str) -> None:
    report = CheckReport(
        CheckLevel.CHECKSUM,
        damaged=[Damage(f"packs/{number}", "another byte") for number in range(objects)],
        backups_damaged=[BackupDamage(str(number)) for number in range(backups)],
    )
    error = damage_error("repository vault", report, {"repository_id": "vault"})
    assert error.message == f"repository vault is damaged: {said}"
    assert error.reason is Reason.CHECKSUM_MISMATCH
    assert error.metadata["damaged_objects"] == str(objects)


def test_what_was_rolled_back_is_said_so() -> None:
    report = CheckReport(CheckLevel.STRUCTURE, rolled_back=True, damaged=[Damage("log/0/1", "it is gone")])
    error = damage_error("repository vault", report, {"repository_id": "vault"})
    assert error.reason is Reason.REPOSITORY_ROLLED_BACK
    assert "rolled back" in error.message
    assert "log/0/1" in error.message
    assert error.metadata == {
        "repository_id": "vault", "damaged_objects": "1", "damaged_backups": "0", "objects": "log/0/1"
    }  # fmt: skip
