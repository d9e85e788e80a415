"""`holdfast backup ls`: what lies in a folder of a snapshot."""

from __future__ import annotations

import itertools
import stat

import click

from holdfast.cli.repository_key import repository_key_options
from holdfast.cli.session import Command, Session, pass_session
from holdfast.credentials import Credentials
from holdfast.enums import EntryType
from holdfast.models import Entry
from holdfast.text import local_time

__all__ = ["list_entries"]

_LETTERS = {EntryType.DIRECTORY: stat.S_IFDIR, EntryType.SYMLINK: stat.S_IFLNK}


@click.command(
    "ls",
    cls=Command,
    epilog="\b\nExamples:\n  holdfast backup ls BACKUP_ID\n  holdfast backup ls BACKUP_ID world/region --limit 20",
)
@click.argument("backup_id")
@click.argument("path", default="")
@click.option("--limit", default=0, show_default=False, type=click.IntRange(min=0), help="Show no more. [default: all]")
@repository_key_options
@pass_session
def list_entries(
    session: Session,
    backup_id: str,
    path: str,
    limit: int,
    repository_key: Credentials | None,
) -> int:
    """List one folder of a snapshot: the whole backup's, or PATH below it.

    Names are those that a restore makes. A snapshot in a sealed repository needs its key, unless the repository is
    unlocked.
    """
    found = session.client.backups.entries(
        backup_id, path, credentials=repository_key, page_size=min(limit + 1, 1000) if limit else 1000
    )
    shown = list(itertools.islice(found, limit or None))
    for one in shown:
        session.emit("entry", one)
    rows = [(_mode(one), str(one.size), local_time(one.modify_time), _name(one)) for one in shown]
    session.table(["MODE", "BYTES", "CHANGED", "NAME"], rows, right=["BYTES"])
    if limit and next(found, None) is not None:
        session.note("there are more; use --limit 0 to see all")
    return 0


def _mode(one: Entry) -> str:
    return "" if one.mode is None else stat.filemode(_LETTERS.get(one.type, stat.S_IFREG) | one.mode)


def _name(one: Entry) -> str:
    name = one.path.rpartition("/")[2]
    if one.type is EntryType.DIRECTORY:
        return name + "/"
    arrow = {EntryType.SYMLINK: " -> ", EntryType.HARDLINK: " = "}.get(one.type)
    return name if arrow is None else f"{name}{arrow}{one.link_target}"
