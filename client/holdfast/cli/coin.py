"""`holdfast coin ...`: coin files encrypted and decrypted where they lie, without any server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from holdfast.cli.password import password_file_option, read_password
from holdfast.cli.session import Command, Session, pass_session, write_error
from holdfast.errors import CLASSES, BadConfiguration, FailedPrecondition, HoldfastError, Reason, TargetExists
from holdfast.text import count, safe

__all__ = ["WRONG_PASSWORD", "coin"]

#: Exit code for a password that is not the one, which another try may mend; damage is 1.
WRONG_PASSWORD = 5


@click.group()
def coin() -> None:
    """Encrypt and decrypt coin files on this machine, without a server."""


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("-r", "--recursive", is_flag=True, help="Folders with all that is below them."),
        password_file_option,
        click.argument("paths", nargs=-1, required=True, metavar="FILE|FOLDER..."),
    ):
        command = option(command)
    return command


@coin.command(
    cls=Command,
    epilog="\b\nExamples:\n  holdfast coin encrypt ~/coins --remove\n  holdfast coin encrypt '100 CloudCoin.bin'",
)
@_options
@click.option("--remove", is_flag=True, help="Remove each file once its envelope is proved.")
@pass_session
def encrypt(session: Session, paths: tuple[str, ...], recursive: bool, password_file: str | None, remove: bool) -> int:
    """Encrypt coin files with a password: FILE becomes FILE.hfcc beside it.

    Of a FOLDER, every file in it whose coins can be read. The envelope is synced, read back from the disk, decrypted
    and compared. The file itself stays unless --remove is given: then what can be spent lies there no longer. Nothing
    is ever overwritten.

    Whoever loses the password loses the coins: there is no other way into an envelope. Removed files are not wiped
    from the disk's blocks.
    """
    with _server_package():
        from holdfast_server.wallets import envelope_files

    wanted = _expand(paths, lambda folder: envelope_files.coin_files(folder, recursive=recursive))
    if not wanted:
        session.note("no coin files there")
        return 0
    password = read_password(password_file, confirm=True)
    folders = sorted({os.path.dirname(path) or b"." for path in wanted})
    with _errors():
        key = envelope_files.key_for_files(password, folders)
    code = _each(session, wanted, lambda path: envelope_files.encrypt_file(path, key, remove=remove), "encrypted")
    if not remove and not session.json:
        session.note("the files themselves are still there, in clear; --remove takes them away")
    return code


@coin.command(
    cls=Command,
    epilog="\b\nExamples:\n  holdfast coin decrypt ~/restored/Bank --remove\n"
    "  holdfast coin decrypt '100 CloudCoin.bin.hfcc' --password-file secret.txt",
)
@_options
@click.option("--remove", is_flag=True, help="Remove each envelope once its file is proved.")
@pass_session
def decrypt(session: Session, paths: tuple[str, ...], recursive: bool, password_file: str | None, remove: bool) -> int:
    """Decrypt coin files: FILE.hfcc becomes FILE beside it.

    Of a FOLDER, every coin envelope in it: what `holdfast coin encrypt` made, and what backups of unlocked wallets
    hold. Nothing is ever overwritten, and the envelope stays unless --remove is given.
    """
    with _server_package():
        from holdfast_server.wallets import envelope_files
        from holdfast_server.wallets.envelope import Keyring

    wanted = _expand(paths, lambda folder: envelope_files.envelopes(folder, recursive=recursive))
    if not wanted:
        session.note("no coin envelopes there")
        return 0
    keyring = Keyring(password=read_password(password_file))
    return _each(session, wanted, lambda path: envelope_files.decrypt_file(path, keyring, remove=remove), "decrypted")


def _expand(paths: Sequence[str], files_of: Callable[[bytes], list[bytes]]) -> list[bytes]:
    """Files as they are named, and what is in the folders; each once."""
    found: dict[bytes, None] = {}
    for path in map(os.fsencode, paths):
        found.update(dict.fromkeys(files_of(path) if os.path.isdir(path) else [path]))
    return list(found)


def _each(session: Session, paths: Sequence[bytes], work: Callable[[bytes], bytes], done: str) -> int:
    """All of them, whatever becomes of one; but a wrong password will not get better."""
    good = bad = 0
    for path in paths:
        shown = os.fsdecode(path)
        try:
            with _errors():
                made = os.fsdecode(work(path))
        except FailedPrecondition as error:
            if error.reason != Reason.KEY_WRONG:
                write_error(error, as_json=session.json)
                bad += 1
                continue
            text = f"{safe(shown)}: the password is not the one it was encrypted with; nothing was changed"
            wrong = FailedPrecondition(text, reason=error.reason, remedy="Try another password.")
            write_error(wrong, as_json=session.json)
            return WRONG_PASSWORD
        except HoldfastError as error:
            write_error(error, as_json=session.json)
            bad += 1
            continue
        good += 1
        session.emit("coin_file", {"path": safe(shown), "made": safe(made)})
        session.line(safe(made))
    if not session.json:
        failed = f", {bad:,} not" if bad else ""
        session.note(f"{count(good, 'file')} {done}{failed}")
    return 1 if bad else 0


@contextmanager
def _server_package() -> Iterator[None]:
    """Around the import of what the client alone does not have."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise BadConfiguration(
            f"coin files are encrypted and decrypted by the server's code, and {error.name} is not installed",
            remedy="Run: pip install 'holdfast[server]'",
        ) from None


@contextmanager
def _errors() -> Iterator[None]:
    """What the server's code raises, as the client's own errors."""
    from holdfast_server.errors import HoldfastError as ServerError

    try:
        yield
    except FileExistsError as error:
        name = safe(os.fsdecode(error.filename or b""))
        raise TargetExists(f"{name}: {error.strerror}", remedy="Move one of the two files away.") from None
    except ValueError as error:
        raise BadConfiguration(str(error), remedy="Name a file that ends in .hfcc.") from None
    except OSError as error:
        name = safe(os.fsdecode(error.filename)) if error.filename else "the file"
        raise BadConfiguration(f"{name}: {error.strerror or error}", remedy="Mend that, and call again.") from None
    except ServerError as error:
        kind = next((one for one in CLASSES.values() if one.__name__ == type(error).__name__), HoldfastError)
        raise kind(error.message, reason=error.reason.value, remedy=error.remedy, metadata=error.metadata) from None
