"""`holdfast wallet unlock` and `lock`: whether backups of a wallet encrypt its coins."""

from __future__ import annotations

import click

from holdfast.cli.password import password_file_option, read_password
from holdfast.cli.session import Command, Session, pass_session
from holdfast.cli.span import for_option
from holdfast.text import local_time, safe

__all__ = ["lock", "unlock"]


@click.command(
    cls=Command,
    epilog="\b\nExamples:\n  holdfast wallet unlock default\n"
    "  pass show wallets/default | holdfast wallet unlock default --for 1h --password-file -",
)
@click.argument("source_id")
@for_option
@password_file_option
@pass_session
def unlock(session: Session, source_id: str, seconds: float | None, password_file: str | None) -> int:
    """Unlock a wallet: its backups encrypt every coin until it locks itself.

    The first unlock of a wallet SETS ITS PASSWORD, so it is asked for twice. Whoever loses it loses the coins of the
    backups made with it. A wallet that holds encrypted coins already takes their password.
    """
    password = read_password(password_file, confirm=True)
    opened = session.client.wallets.unlock(source_id, password, ttl=seconds)
    session.emit("unlocked", opened)
    session.line(f"unlocked {safe(source_id)} until {local_time(opened.expire_time)}, key {opened.key_id}")
    if opened.password_set:
        session.note(
            f"{safe(source_id)} had no password: this is its password now. Keep it safe; nobody can open its encrypted "
            "backups without it."
        )
    return 0


@click.command(cls=Command)
@click.argument("source_id")
@pass_session
def lock(session: Session, source_id: str) -> int:
    """Lock a wallet: its key is forgotten at once.

    Backups that have not begun fail, one that runs goes on encrypting. New backups store the coins as they are in the
    wallet, IN CLEAR.
    """
    was_unlocked = session.client.wallets.lock(source_id)
    session.emit("locked", {"source_id": source_id, "was_unlocked": was_unlocked})
    session.line(f"{'locked' if was_unlocked else 'was locked already:'} {safe(source_id)}")
    return 0
