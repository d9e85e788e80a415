"""Settings: where they come from, which wins, and how a wrong one is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast_server.config import Config, ConfigError, is_local_address, load_config


def load(
    tmp_path: Path, text: str | None = None, flags: dict[tuple[str, str], Any] | None = None, **env: str
) -> Config:
    file = None
    if text is not None:
        file = tmp_path / "server.toml"
        file.write_text(text)
    environment = {"XDG_STATE_HOME": str(tmp_path), **env}
    if file is None:
        environment.setdefault("HOLDFAST_CONFIG", "")
    return load_config(file, environment, flags)


def test_defaults_serve_on_loopback(tmp_path: Path) -> None:
    config = load(tmp_path, "")
    assert config.server.listen == "127.0.0.1:50551"
    assert config.paths.data_dir == tmp_path / "holdfast"
    assert config.paths.roots == (Path("/"),)
    assert config.reflection
    assert config.is_local
    assert config.database_url == f"sqlite:///{tmp_path}/holdfast/state.sqlite"


def test_flags_beat_environment_beats_file_beats_defaults(tmp_path: Path) -> None:
    text = "[tasks]\nlease_seconds = 20\nhistory_days = 30\n[worker]\nmax_tasks = 3\n"
    flags = {("tasks", "lease_seconds"): 40, ("server", "listen"): None}
    config = load(tmp_path, text, flags, HOLDFAST_TASKS_LEASE_SECONDS="30", HOLDFAST_TASKS_HISTORY_DAYS="31")
    assert (config.tasks.lease_seconds, config.tasks.history_days, config.worker.max_tasks) == (40.0, 31, 3)
    assert config.tasks.request_id_days == 7


def test_values_of_every_kind(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        HOLDFAST_SERVER_LISTEN="0.0.0.0:1",
        HOLDFAST_SERVER_ALLOW_PLAINTEXT="yes",
        HOLDFAST_SERVER_REFLECTION="0",
        HOLDFAST_PATHS_ROOTS="/a:/b",
        HOLDFAST_WORKER_DRAIN_SECONDS="0.5",
    )
    assert config.server.allow_plaintext
    assert config.server.reflection is False
    assert config.paths.roots == (Path("/a"), Path("/b"))
    assert config.worker.drain_seconds == 0.5
    assert not config.is_local


@pytest.mark.parametrize(
    ("text", "env", "words"),
    [
        ("[tasks]\nlease_secs = 1", {}, ["lease_secs", "did you mean lease_seconds", "server.toml"]),
        ("[task]\nx = 1", {}, ["[task]", "did you mean tasks"]),
        ("x = 1", {}, ["x must be a [section]"]),
        ("[tasks", {}, ["is no TOML"]),
        ("[tasks]\nlease_seconds = true", {}, ["lease_seconds", "a number"]),
        ("[tasks]\nlease_seconds = 0.5", {}, ["lease_seconds", "1 to 300"]),
        ("[tasks]\nlease_seconds = nan", {}, ["lease_seconds"]),
        ("[worker]\nmax_tasks = 1.5", {}, ["max_tasks", "whole number"]),
        ("[worker]\nmax_tasks = 65", {}, ["max_tasks", "1 to 64"]),
        ("[paths]\ndata_dir = 'relative'", {}, ["data_dir", "absolute path"]),
        ("[paths]\nroots = 'x'", {}, ["roots"]),
        ("[server]\nlisten = ''", {}, ["listen"]),
        ("[server]\nlisten = 'localhost'", {}, ["host:port"]),
        ("[server]\nlisten = '127.0.0.1:65536'", {}, ["host:port"]),
        ("[server]\nlisten = '127.0.0.1:-1'", {}, ["host:port"]),
        ("[server]\nlisten = 'unix:relative'", {}, ["unix:/absolute"]),
        ("[server]\nlisten = '0.0.0.0:1'", {}, ["in clear", "allow_plaintext"]),
        ("[server]\nlisten = '0.0.0.0:1'\nallow_plaintext = true", {}, ["roots is required"]),
        ("", {"HOLDFAST_TASKS_LEASE": "1"}, ["HOLDFAST_TASKS_LEASE", "known: history_days"]),
        ("", {"HOLDFAST_NONSENSE": "1"}, ["HOLDFAST_NONSENSE"]),
        ("", {"HOLDFAST_WORKER_MAX_TASKS": "two"}, ["HOLDFAST_WORKER_MAX_TASKS", "whole number"]),
        ("", {"HOLDFAST_SERVER_REFLECTION": "maybe"}, ["true or false"]),
    ],
)
def test_a_wrong_setting_names_itself_and_the_remedy(
    tmp_path: Path, text: str, env: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **env)
    for word in words:
        assert word in str(caught.value)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "missing.toml", {})
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(None, {"HOLDFAST_CONFIG": str(tmp_path / "missing.toml")})
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path, {})


@pytest.mark.parametrize(
    ("listen", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("example.org:1", False),
        ("10.0.0.1:1", False),
        ("localhost.example.org:1", False),
    ],
)
def test_what_counts_as_loopback(listen: str, local: bool) -> None:
    assert is_local_address(listen) == local
