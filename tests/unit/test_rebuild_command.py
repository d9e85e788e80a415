"""The options of `rebuild-catalog`: secrets from files and prompts, never from the command line; ids and folders."""

from __future__ import annotations

import argparse
import getpass
import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from holdfast_server import rebuild_command
from holdfast_server.config import ConfigError
from holdfast_server.secret_options import add_secret_options, read_secret

SECRET = "canary: correct horse"


def read(*arguments: str) -> str | None:
    parser = argparse.ArgumentParser()
    add_secret_options(parser)
    return read_secret(parser.parse_args(arguments))


@pytest.mark.parametrize(
    ("content", "secret"),
    [(f"{SECRET}\nmore\n", SECRET), (f"{SECRET}\r\n", SECRET), (f" {SECRET} ", f" {SECRET} "), ("é" * 512, "é" * 512)],
)
def test_a_passphrase_is_the_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, secret: str
) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(content.encode())
    assert read("--passphrase-file", str(path)) == secret
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content.encode())))
    assert read("--passphrase-file", "-") == secret


def test_a_key_file_is_taken_as_it_is_and_a_recovery_key_without_its_line_end(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for content, secret in ((f" {SECRET}\n\n", f" {SECRET}\n\n"), (" hfrk1-AAAA BBBB\n", "hfrk1-AAAA BBBB")):
        path.write_text(content)
        assert read("--key-file", str(path)) == secret
    assert read() is None


@pytest.mark.parametrize("option", ["--passphrase-file", "--key-file"])
@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff" * 40, b"x" * 65_537])
def test_what_is_no_secret_is_told_without_it(tmp_path: Path, option: str, content: bytes | None) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read(option, str(path))
    assert f"{option} {path}: " in str(caught.value)
    assert "xxxx" not in str(caught.value)


@pytest.mark.parametrize("option", ["--passphrase", "--recovery-key"])
def test_a_prompt_needs_somebody(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return SECRET

    monkeypatch.setattr(getpass, "getpass", ask)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(ConfigError, match="nobody is there"):
        read(option)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    assert read(option) == SECRET
    assert asked == ["Passphrase: " if option == "--passphrase" else "Recovery key: "]
    with pytest.raises(SystemExit):
        read(option, "--key-file", os.devnull)


@pytest.mark.parametrize(
    ("text", "repository_id", "folder"),
    [
        ("vault=/mnt/vault", "vault", "/mnt/vault"),
        ("vault=/mnt/a=b", "vault", "/mnt/a=b"),
        ("/mnt/vault", None, "/mnt/vault"),
        ("/mnt/a=b", None, "/mnt/a=b"),
        ("./a=b", None, "./a=b"),
        ("Vault=/x", None, "Vault=/x"),
        ("vault=", None, "vault="),
    ],
)
def test_an_id_before_a_folder(text: str, repository_id: str | None, folder: str) -> None:
    assert rebuild_command._named(text) == (repository_id, Path(folder))
