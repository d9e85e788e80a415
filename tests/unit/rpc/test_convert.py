"""Rows as the API shows them."""

from __future__ import annotations

from holdfast_server.catalog.rows import BackupRow, VerificationRow
from holdfast_server.rpc.convert import backup_message


def test_the_newest_proofs_of_a_backup_come_first_and_are_at_most_twenty() -> None:
    row = BackupRow("b", "B", "s", "t", "ARCHIVE", "COMPLETED", "ZIP", b"/b", [], 5, 6)
    proofs = [VerificationRow("b", n, n, "CHECKSUM", True, n, 0, "", "t") for n in range(1, 26)]
    assert [one.files_checked for one in backup_message(row, proofs).verifications] == list(range(25, 5, -1))
