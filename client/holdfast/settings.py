"""Finds the server and the token by itself, so that on the server's own machine nothing needs to be given.

Arguments win over the environment, the environment over what the server left in its data directory.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import BadConfiguration

__all__ = ["DEFAULT_ADDRESS", "Settings", "find_settings", "is_local"]

DEFAULT_ADDRESS = "127.0.0.1:50551"
ADDRESS_FILE = "server.address"
TOKEN_FILE = "admin.token"  # noqa: S105  a file name, no secret


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the server is and what to show it. `note` says why there is no token, for the error that follows."""

    address: str
    token: str | None
    note: str = ""

    def __repr__(self) -> str:
        # Secrets must not reach logs through a traceback's locals.
        return f"Settings(address={self.address!r}, token={'set' if self.token else None})"


def find_settings(
    address: str | None = None,
    *,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Look in the order of the module's docstring. Raises BadConfiguration if something that was named does not work.

    The administrator's token of this machine is sent to this machine only: for an address elsewhere a token or a
    token file must be named.
    """
    environment = os.environ if environment is None else environment
    folder = Path(data_dir or environment.get("HOLDFAST_PATHS_DATA_DIR") or default_data_dir(environment))
    where = address or environment.get("HOLDFAST_ADDRESS") or _address_file(folder) or DEFAULT_ADDRESS
    _check_address(where)
    named = token_file or (None if token else environment.get("HOLDFAST_TOKEN_FILE"))
    if token:
        return Settings(where, token)
    if token_file is None and environment.get("HOLDFAST_TOKEN"):
        return Settings(where, environment["HOLDFAST_TOKEN"].strip())
    if named:
        return Settings(where, _named_token(Path(named)))
    if not is_local(where):
        return Settings(where, None, f"no token was given, and {folder / TOKEN_FILE} is used for this machine only")
    found, note = _default_token(folder / TOKEN_FILE)
    return Settings(where, found, note)


def default_data_dir(environment: Mapping[str, str]) -> Path:
    """Where the server keeps its data unless told otherwise: `$XDG_STATE_HOME/holdfast`; root: /var/lib/holdfast."""
    state = environment.get("XDG_STATE_HOME")
    if state:
        return Path(state) / "holdfast"
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/holdfast")
    return Path("~/.local/state/holdfast").expanduser()


def is_local(address: str) -> bool:
    """Whether an address is a Unix socket or on loopback."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_address(address: str) -> None:
    host, colon, port = address.rpartition(":")
    tcp = bool(colon and host and port.isascii() and port.isdigit() and int(port) < 65536)
    if not (tcp or address.startswith("unix:/")):
        raise BadConfiguration(
            f"{address!r} is no address of a server", remedy="Write host:port, [v6]:port or unix:/absolute/path."
        )


def _address_file(folder: Path) -> str:
    try:
        return (folder / ADDRESS_FILE).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _named_token(path: Path) -> str:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is no token"
        raise BadConfiguration(
            f"token file {path} cannot be read: {cause}", remedy="Name a file that holds a token and that you may read."
        ) from error
    if not text:
        raise BadConfiguration(f"token file {path} is empty", remedy="Name a file that holds a token.")
    return text


def _default_token(path: Path) -> tuple[str | None, str]:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is no token"
        return None, f"no token was given, and {path} cannot be read: {cause}"
    return (text, "") if text else (None, f"no token was given, and {path} is empty")
