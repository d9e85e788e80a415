"""Configuration: defaults, then a TOML file, then environment variables, then command-line flags; checked at start.

Every setting has the name `[section] key` in TOML and `HOLDFAST_SECTION_KEY` in the environment. A wrong setting is
refused with its name, the place it came from and what to do; an unknown one too, so that a typing error is never
ignored.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import platformdirs

__all__ = [
    "BackupsConfig",
    "Config",
    "ConfigError",
    "PathsConfig",
    "ServerConfig",
    "TasksConfig",
    "WorkerConfig",
    "load_config",
]


class ConfigError(Exception):
    """A setting is wrong; the text names it, where it came from and the remedy."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """`[server]`: the gRPC edge."""

    listen: str = "127.0.0.1:50551"  #: host:port (port 0: any free one) or unix:/absolute/path
    allow_plaintext: bool = False  #: serve beyond loopback without TLS; only behind a proxy that encrypts
    reflection: bool | None = None  #: unset: on for loopback and Unix sockets, off elsewhere
    max_watchers: int = 1000  #: streams (watches, Run calls, downloads, logs) at a time; one thread each
    unary_threads: int = 16  #: threads kept for short calls beside the streams
    heartbeat_seconds: float = 15.0  #: quiet time after which a watch sends HEARTBEAT


@dataclass(frozen=True, slots=True)
class PathsConfig:
    """`[paths]`: where data lives and which paths calls may name."""

    data_dir: Path = Path()
    roots: tuple[Path, ...] = ()  #: sources, archive folders and restore targets must lie below one of these


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """`[worker]`: processes that do the work."""

    processes: int = 1
    max_tasks: int = 2  #: data tasks at a time in one process
    threads: int = 0  #: compressor threads in one process; 0: one per CPU
    memory_mib: int = 96  #: buffers of one process, shared by its tasks
    drain_seconds: float = 10.0  #: how long a stopping worker lets tasks finish before it hands them back


@dataclass(frozen=True, slots=True)
class TasksConfig:
    """`[tasks]`: the task engine."""

    history_days: int = 90  #: ended tasks and their logs are kept this long
    request_id_days: int = 7  #: a request_id is remembered this long
    lease_seconds: float = 10.0  #: a worker that is silent for longer loses its tasks


@dataclass(frozen=True, slots=True)
class BackupsConfig:
    """`[backups]`: stored backups."""

    trash_hours: float = 24.0  #: a deleted backup can be taken back for this long; 0: it is removed at once


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration, valid by construction (`load_config`)."""

    server: ServerConfig = field(default_factory=ServerConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    backups: BackupsConfig = field(default_factory=BackupsConfig)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the edge."""
        return is_local_address(self.server.listen)

    @property
    def reflection(self) -> bool:
        return self.is_local if self.server.reflection is None else self.server.reflection

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.paths.data_dir / 'state.sqlite'}"


def load_config(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[tuple[str, str], Any] | None = None,
) -> Config:
    """Read and check the configuration.

    `file` None takes `HOLDFAST_CONFIG` or the default place, where a missing file is no error. `flags` maps
    (section, key) to values given on the command line. Raises ConfigError.
    """
    environment = os.environ if environment is None else environment
    config = Config()
    for section, key, value, origin in [
        *_from_file(file, environment),
        *_from_environment(environment),
        *((s, k, v, "the command line") for (s, k), v in (flags or {}).items() if v is not None),
    ]:
        config = _set(config, section, key, value, origin)
    config = _with_default_paths(config, environment)
    _check(config)
    return config


def default_config_file() -> Path:
    """Where the configuration is looked for: /etc/holdfast/server.toml for root, else below XDG_CONFIG_HOME."""
    if os.geteuid() == 0:
        return Path("/etc/holdfast/server.toml")
    return Path(platformdirs.user_config_dir("holdfast", appauthor=False)) / "server.toml"


def default_data_dir(environment: Mapping[str, str]) -> Path:
    """`/var/lib/holdfast` for root, else `$XDG_STATE_HOME/holdfast`."""
    state = environment.get("XDG_STATE_HOME")
    if state:
        return Path(state) / "holdfast"
    if os.geteuid() == 0:
        return Path("/var/lib/holdfast")
    return Path(platformdirs.user_state_dir("holdfast", appauthor=False))


def is_local_address(listen: str) -> bool:
    """Whether `listen` is a Unix socket or a loopback host."""
    if listen.startswith("unix:"):
        return True
    host = listen.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _from_file(file: Path | None, environment: Mapping[str, str]) -> list[tuple[str, str, Any, str]]:
    named = file or (Path(environment["HOLDFAST_CONFIG"]) if environment.get("HOLDFAST_CONFIG") else None)
    path = named or default_config_file()
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        if named is None:
            return []
        raise ConfigError(f"configuration file {path} does not exist: create it or name another") from None
    except OSError as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error.strerror}") from error
    try:
        document = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path} is no TOML: {error}") from error
    settings = []
    for section, values in document.items():
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: {section} must be a [section], known: {_names(Config)}")
        settings += [(section, key, value, str(path)) for key, value in values.items()]
    return settings


def _from_environment(environment: Mapping[str, str]) -> list[tuple[str, str, Any, str]]:
    settings = []
    reserved = {"HOLDFAST_CONFIG", "HOLDFAST_TOKEN", "HOLDFAST_ADDRESS", "HOLDFAST_TOKEN_FILE"}
    for name, text in environment.items():
        if not name.startswith("HOLDFAST_") or name in reserved:
            continue
        section, _, key = name.removeprefix("HOLDFAST_").lower().partition("_")
        settings.append((section, key, text, f"environment variable {name}"))
    return settings


def _set(config: Config, section: str, key: str, value: Any, origin: str) -> Config:
    sections = {f.name for f in fields(Config)}
    if section not in sections:
        raise ConfigError(
            f"{origin}: there is no section [{section}]{_near(section, sections)}; known: {_names(Config)}"
        )
    part = getattr(config, section)
    known = {f.name: str(f.type) for f in fields(part)}
    if key not in known:
        raise ConfigError(f"{origin}: [{section}] has no setting {key}{_near(key, known)}; known: {_names(part)}")
    return replace(config, **{section: replace(part, **{key: _convert(section, key, known[key], value, origin)})})


def _convert(section: str, key: str, kind: str, value: Any, origin: str) -> Any:
    readers: dict[str, tuple[Callable[[Any], Any], str]] = {
        "str": (_text, "text"),
        "bool": (_boolean, "true or false"),
        "bool | None": (_boolean, "true or false"),
        "int": (_integer, "a whole number"),
        "float": (_number, "a number"),
        "Path": (_path, "an absolute path"),
        "tuple[Path, ...]": (_paths, "a list of absolute paths (in the environment: joined by ':')"),
    }
    reader, expected = readers[kind]
    try:
        return reader(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{origin}: [{section}] {key} = {value!r} is wrong: it must be {expected}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = _text(value).lower()
    if word not in ("true", "1", "yes", "false", "0", "no"):
        raise ValueError
    return word in ("true", "1", "yes")


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    return float(value)


def _path(value: Any) -> Path:
    path = Path(_text(value)).expanduser()
    if not path.is_absolute() or "\0" in str(path):
        raise ValueError
    return path


def _paths(value: Any) -> tuple[Path, ...]:
    items = value.split(":") if isinstance(value, str) else value
    if not isinstance(items, list):
        raise TypeError
    return tuple(_path(item) for item in items)


def _with_default_paths(config: Config, environment: Mapping[str, str]) -> Config:
    paths = config.paths
    if paths.data_dir == Path():
        paths = replace(paths, data_dir=default_data_dir(environment))
    if not paths.roots and config.is_local:
        paths = replace(paths, roots=(Path("/"),))
    return replace(config, paths=paths)


def _check(config: Config) -> None:
    listen = config.server.listen
    if listen.startswith("unix:"):
        if not listen.removeprefix("unix:").startswith("/"):
            raise ConfigError(f"[server] listen = {listen!r} is wrong: write unix:/absolute/path")
    else:
        host, colon, port = listen.rpartition(":")
        if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
            raise ConfigError(
                f"[server] listen = {listen!r} is wrong: write host:port, [v6]:port or unix:/absolute/path"
            )
    if not config.is_local and not config.server.allow_plaintext:
        raise ConfigError(
            f"[server] listen = {listen!r} is reachable from other machines and would carry the token in clear: "
            "listen on 127.0.0.1, or put a proxy that encrypts in front and set [server] allow_plaintext = true"
        )
    if not config.paths.roots:
        raise ConfigError(
            f"[paths] roots is required when [server] listen = {listen!r} is not loopback: "
            "list the folders that calls may name"
        )
    ranges: list[tuple[str, float, float, float]] = [
        ("[server] max_watchers", config.server.max_watchers, 1, 20_000),
        ("[server] unary_threads", config.server.unary_threads, 2, 1_000),
        ("[server] heartbeat_seconds", config.server.heartbeat_seconds, 0.1, 300),
        ("[worker] processes", config.worker.processes, 1, 64),
        ("[worker] max_tasks", config.worker.max_tasks, 1, 64),
        ("[worker] threads", config.worker.threads, 0, 256),
        ("[worker] memory_mib", config.worker.memory_mib, 16, 65_536),
        ("[worker] drain_seconds", config.worker.drain_seconds, 0, 3_600),
        ("[tasks] history_days", config.tasks.history_days, 1, 36_500),
        ("[tasks] request_id_days", config.tasks.request_id_days, 1, 365),
        ("[tasks] lease_seconds", config.tasks.lease_seconds, 1, 300),
        ("[backups] trash_hours", config.backups.trash_hours, 0, 87_600),
    ]
    for name, value, low, high in ranges:
        if not low <= value <= high:
            raise ConfigError(f"{name} = {value:g} is out of range: choose {low:g} to {high:g}")


def _near(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _names(cls: Any) -> str:
    return ", ".join(f.name for f in fields(cls))
