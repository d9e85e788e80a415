"""`holdfast source ...`: the folders that are backed up."""

from __future__ import annotations

import click

from holdfast.cli.session import Command, Session, pass_session
from holdfast.enums import SourceKind
from holdfast.models import Source
from holdfast.text import count, local_time, safe

__all__ = ["source"]


@click.group()
def source() -> None:
    """Register and manage the folders that are backed up."""


@source.command(cls=Command, epilog="\b\nExample:\n  holdfast source register ~/wallets --discover-wallets")
@click.argument("path")
@click.option("--id", "source_id", help="Id to use, such as `default`; derived from the folder's name if left out.")
@click.option("--kind", type=click.Choice(["wallet", "directory"]), help="What the folder is. [default: directory]")
@click.option("--name", default="", help="Name for people; the folder's name if left out.")
@click.option("--ignore", multiple=True, metavar="PATTERN", help="Leave these out of every backup (gitignore syntax).")
@click.option("--discover-wallets", is_flag=True, help="Register each wallet directly below PATH instead.")
@pass_session
def register(
    session: Session,
    path: str,
    source_id: str | None,
    kind: str | None,
    name: str,
    ignore: tuple[str, ...],
    discover_wallets: bool,
) -> int:
    """Register the folder PATH of the server.

    A relative PATH is taken from here if the server is on this machine.
    """
    where = session.server_path(path)
    if not discover_wallets:
        made = session.client.sources.register(
            where,
            source_id=source_id,
            kind=SourceKind[(kind or "directory").upper()],
            display_name=name,
            ignore=ignore,
        )
        _show(session, made)
        return 0
    if source_id or name or kind == "directory":
        raise click.UsageError("--discover-wallets goes with neither --id nor --name nor --kind directory")
    found = session.client.sources.discover_wallets(where, ignore=ignore)
    _list(session, found.sources)
    for folder in found.skipped:
        session.emit("skipped", folder)
        session.line(f"skipped {safe(folder.path)}: {safe(folder.message)} ({folder.reason})")
    return 0


@source.command("list", cls=Command)
@pass_session
def list_sources(session: Session) -> int:
    """List all sources."""
    _list(session, tuple(session.client.sources.list()))
    return 0


@source.command(cls=Command)
@click.argument("source_id")
@pass_session
def get(session: Session, source_id: str) -> int:
    """Show one source."""
    _show(session, session.client.sources.get(source_id))
    return 0


@source.command(cls=Command, epilog="\b\nExample:\n  holdfast source update mail --ignore '*.tmp' --ignore cache/")
@click.argument("source_id")
@click.option("--path", help="New folder.")
@click.option("--name", help="New name for people.")
@click.option("--ignore", multiple=True, metavar="PATTERN", help="New patterns; they replace the whole list.")
@click.option("--no-ignore", is_flag=True, help="Ignore nothing any more.")
@pass_session
def update(
    session: Session, source_id: str, path: str | None, name: str | None, ignore: tuple[str, ...], no_ignore: bool
) -> int:
    """Change what is given; everything else stays."""
    if ignore and no_ignore:
        raise click.UsageError("--ignore and --no-ignore exclude each other")
    if path is None and name is None and not ignore and not no_ignore:
        raise click.UsageError("name what to change: --path, --name, --ignore or --no-ignore")
    changed = session.client.sources.update(
        source_id,
        path=None if path is None else session.server_path(path),
        display_name=name,
        ignore=ignore if ignore or no_ignore else None,
    )
    _show(session, changed)
    return 0


@source.command(cls=Command)
@click.argument("source_id")
@pass_session
def suspend(session: Session, source_id: str) -> int:
    """Refuse backups and restores of a source until `resume`."""
    _show(session, session.client.sources.suspend(source_id))
    return 0


@source.command(cls=Command)
@click.argument("source_id")
@pass_session
def resume(session: Session, source_id: str) -> int:
    """Allow backups and restores of a suspended source again."""
    _show(session, session.client.sources.resume(source_id))
    return 0


@source.command(cls=Command)
@click.argument("source_id")
@pass_session
def unregister(session: Session, source_id: str) -> int:
    """Forget a source. Its folder and its backups stay."""
    left = session.client.sources.unregister(source_id)
    session.emit("unregistered", left)
    session.line(f"forgot {safe(source_id)}; {count(left.backups_kept, 'backup')} kept")
    if left.reserved_coins_kept:
        coins = count(left.reserved_coins_kept, "coin")
        session.note(f"warning: {coins} in its folder .holdfast belong to exports that have not ended")
    return 0


def _list(session: Session, sources: tuple[Source, ...]) -> None:
    for one in sources:
        session.emit("source", one)
    rows = [
        (one.source_id, one.kind.lower(), str(one.state), local_time(one.latest_backup_time), one.path)
        for one in sources
    ]
    session.table(["ID", "KIND", "STATE", "LATEST BACKUP", "PATH"], rows)


def _show(session: Session, one: Source) -> None:
    session.emit("source", one)
    session.record(
        [
            ("id", one.source_id),
            ("name", one.display_name),
            ("kind", one.kind.lower()),
            ("state", str(one.state)),
            ("path", one.path),
            ("ignore", "  ".join(one.ignore)),
            ("registered", local_time(one.create_time)),
            ("latest backup", local_time(one.latest_backup_time)),
            ("latest proved", local_time(one.latest_proved_time)),
        ]
    )
