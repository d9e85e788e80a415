"""Where the address and the token come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.errors import BadConfiguration
from holdfast.settings import DEFAULT_ADDRESS, default_data_dir, find_settings, is_local


def test_the_data_directory_is_enough(tmp_path: Path) -> None:
    (tmp_path / "admin.token").write_text("hf_secret\n")
    (tmp_path / "server.address").write_text("127.0.0.1:4711\n")
    found = find_settings(environment={"HOLDFAST_PATHS_DATA_DIR": str(tmp_path)})
    assert (found.address, found.token) == ("127.0.0.1:4711", "hf_secret")
    assert "hf_secret" not in repr(found)


def test_an_argument_wins_over_the_environment_over_the_data_directory(tmp_path: Path) -> None:
    (tmp_path / "admin.token").write_text("of-dir")
    (tmp_path / "t").write_text("of-file")
    environment = {"HOLDFAST_TOKEN": "of-env", "HOLDFAST_ADDRESS": "localhost:1"}
    assert find_settings("[::1]:2", token="of-arg", data_dir=tmp_path, environment=environment).token == "of-arg"
    assert find_settings(token_file=tmp_path / "t", environment=environment).token == "of-file"
    assert find_settings(data_dir=tmp_path, environment=environment).token == "of-env"
    assert find_settings(environment={"HOLDFAST_TOKEN_FILE": str(tmp_path / "t")}).token == "of-file"
    assert find_settings(data_dir=tmp_path, environment=environment).address == "localhost:1"
    assert find_settings(data_dir=tmp_path, environment={}).address == DEFAULT_ADDRESS


def test_the_local_admin_token_never_goes_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "admin.token").write_text("hf_secret")
    found = find_settings("backup.example:50551", data_dir=tmp_path, environment={})
    assert found.token is None
    assert "this machine only" in found.note
    assert find_settings("backup.example:50551", token="named", environment={}).token == "named"


def test_what_is_named_must_work(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="cannot be read"):
        find_settings(token_file=tmp_path / "none", environment={})
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(BadConfiguration, match="empty"):
        find_settings(token_file=tmp_path / "empty", environment={})
    for address in ("nonsense", "host:", ":1", "unix:relative", "host:99999"):
        with pytest.raises(BadConfiguration, match="no address"):
            find_settings(address, environment={})


def test_local_addresses() -> None:
    assert all(map(is_local, ("127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/run/x")))
    assert not any(map(is_local, ("10.0.0.1:1", "example.org:1", "[2001:db8::1]:1", "localhost.example.org:1")))


def test_the_default_data_directory_is_the_servers() -> None:
    from holdfast_server.config import default_data_dir as of_server

    for environment in ({}, {"XDG_STATE_HOME": "/x/state"}):
        assert default_data_dir(environment) == of_server(environment)
