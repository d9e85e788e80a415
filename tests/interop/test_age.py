"""Sealed bytes against the reference implementation of age, both ways."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from holdfast_server.archive.sealing import SealedSource, SealingFile, parse_identity, parse_recipients
from holdfast_server.errors import InvalidArgument

SIZES = [0, 1, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 5_000_000]


def tool(name: str) -> str:
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed: go install filippo.io/age/cmd/...@v1.3.2")
    return program


def run(program: str, *arguments: str | Path) -> bytes:
    done = subprocess.run([tool(program), *arguments], capture_output=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def key_pair(folder: Path, *options: str) -> tuple[str, Path]:
    """Recipient and identity file, as age-keygen makes them."""
    path = folder / "key.txt"
    run("age-keygen", *options, "-o", path)
    return run("age-keygen", "-y", path).decode().strip(), path


@pytest.mark.parametrize("size", SIZES)
def test_age_opens_what_was_sealed_here(tmp_path: Path, size: int) -> None:
    recipient, identity = key_pair(tmp_path)
    content = random.Random(size).randbytes(size)
    with (tmp_path / "sealed.age").open("xb", buffering=0) as file:
        sealing_file = SealingFile(file, parse_recipients([recipient], "r"))
        view = memoryview(content)
        while view:
            view = view[sealing_file.write(view) :]
        sealing_file.finish()
    assert run("age", "-d", "-i", identity, tmp_path / "sealed.age") == content


@pytest.mark.parametrize("size", SIZES)
def test_what_age_sealed_is_opened_here(tmp_path: Path, size: int) -> None:
    recipient, identity = key_pair(tmp_path)
    content = random.Random(size).randbytes(size)
    (tmp_path / "plain").write_bytes(content)
    run("age", "-r", recipient, "-o", tmp_path / "sealed.age", tmp_path / "plain")
    with (
        (tmp_path / "sealed.age").open("rb") as file,
        SealedSource(file, parse_identity(identity.read_text()), lambda: None) as source,
    ):
        assert source.size == size
        assert source.read(0, size) == content


def test_ssh_keys_both_ways(tmp_path: Path) -> None:
    key = tmp_path / "id_ed25519"
    subprocess.run([tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    public = Path(f"{key}.pub").read_text()
    with (tmp_path / "sealed.age").open("xb", buffering=0) as file:
        sealing_file = SealingFile(file, parse_recipients([public], "r"))
        sealing_file.write(b"content")
        sealing_file.finish()
    assert run("age", "-d", "-i", key, tmp_path / "sealed.age") == b"content"
    run("age", "-R", f"{key}.pub", "-o", tmp_path / "theirs.age", tmp_path / "sealed.age")
    with (
        (tmp_path / "theirs.age").open("rb") as file,
        SealedSource(file, parse_identity(key.read_text()), lambda: None) as source,
    ):
        assert source.read(0, source.size) == (tmp_path / "sealed.age").read_bytes()


def test_post_quantum_keys_are_refused_by_name(tmp_path: Path) -> None:
    recipient, identity = key_pair(tmp_path, "-pq")
    with pytest.raises(InvalidArgument, match="post-quantum"):
        parse_recipients([recipient], "r")
    with pytest.raises(InvalidArgument, match="post-quantum"):
        parse_identity(identity.read_text())
