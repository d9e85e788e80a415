"""`client.wallets.unlock` and `holdfast wallet unlock | lock` against a real server."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import holdfast
from holdfast.cli.app import main
from holdfast.v1 import source_pb2
from holdfast_server.wallets.generate import generate_wallet
from tests.harness import PATIENCE, REPOSITORY, Server

PASSWORD = "it's a secret"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def source_id(shared_server: Server, tmp_path: Path) -> str:
    generate_wallet(tmp_path / "wallet", 2, 1)
    name = tmp_path.name.lower().replace("_", "-")[:60]
    shared_server.register(tmp_path / "wallet", name, kind=source_pb2.SOURCE_KIND_WALLET)
    return name


@pytest.fixture
def run(shared_server: Server, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str, str]:
        code = main(["--data-dir", str(shared_server.data_dir), *words])
        captured = capsys.readouterr()
        assert PASSWORD not in captured.out + captured.err
        return code, captured.out, captured.err

    return call


def test_the_client_unlocks_and_locks(shared_server: Server, source_id: str) -> None:
    with holdfast.connect(data_dir=shared_server.data_dir) as client:
        first = client.wallets.unlock(source_id, PASSWORD, ttl=timedelta(minutes=5))
        assert first.password_set
        assert first.expire_time is not None
        assert timedelta(minutes=4) < first.expire_time - datetime.now(UTC) <= timedelta(minutes=5)
        assert client.wallets.balance(source_id).unlocked
        again = client.wallets.unlock(source_id, PASSWORD, ttl=30.5)
        assert (again.key_id, again.password_set) == (first.key_id, False)
        with pytest.raises(holdfast.FailedPrecondition) as caught:
            client.wallets.unlock(source_id, "wrong")
        assert caught.value.reason == "KEY_WRONG"
        assert [client.wallets.lock(source_id) for _ in range(2)] == [True, False]
        assert not client.wallets.balance(source_id).unlocked


def test_the_command_takes_the_password_from_a_file(
    source_id: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    code, out, err = run("wallet", "unlock", source_id, "--password-file", str(file), "--for", "2m")
    assert code == 0
    assert out.startswith(f"unlocked {source_id} until ")
    assert "had no password: this is its password now" in err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PASSWORD.encode())))
    code, out, err = run("wallet", "unlock", source_id, "--password-file", "-", "--json")
    assert (code, err) == (0, "")
    line = json.loads(out)
    assert (line["type"], line["password_set"]) == ("unlocked", False)
    file.write_text("wrong")
    code, out, err = run("wallet", "unlock", source_id, "--password-file", str(file))
    assert (code, out) == (1, "")
    assert "KEY_WRONG" in err
    assert run("wallet", "lock", source_id) == (0, f"locked {source_id}\n", "")
    assert run("wallet", "lock", source_id) == (0, f"was locked already: {source_id}\n", "")


def test_what_the_command_refuses(source_id: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert run("wallet", "unlock", source_id)[0] != 0, "nobody typed a password"
    for text in ("15 minutes", "-1", "1d", ""):
        assert run("wallet", "unlock", source_id, "--password-file", "-", "--for", text)[0] == 2
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PASSWORD.encode())))
    code, _, err = run("wallet", "unlock", source_id, "--password-file", "-", "--for", "2h")
    assert code == 2
    assert "ttl" in err


@pytest.mark.parametrize(("second", "good"), [(PASSWORD, True), ("it's a typo", False)])
def test_the_command_has_the_password_typed_twice(
    shared_server: Server, source_id: str, second: str, good: bool
) -> None:
    ours, theirs = pty.openpty()
    words = ["--data-dir", str(shared_server.data_dir), "wallet", "unlock", source_id]
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; from holdfast.cli.app import main; sys.exit(main())", *words],
        stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "client")},
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = type_at(ours, "Wallet password:", PASSWORD) + type_at(ours, "Repeat for confirmation:", second)
        if not good:
            shown += wait_for(ours, "Wallet password:")
            process.kill()
        out, _ = process.communicate(timeout=PATIENCE)
    os.close(ours)
    assert (process.returncode == 0) is good
    assert (f"unlocked {source_id}" in out.decode()) is good
    assert PASSWORD not in shown + out.decode()
    if not good:
        assert "do not match" in shown
        with holdfast.connect(data_dir=shared_server.data_dir) as client:
            assert client.wallets.unlock(source_id, "any").password_set, "the typing error became the password"


def wait_for(terminal: int, prompt: str) -> str:
    """What the terminal shows, up to the prompt."""
    shown = ""
    while not shown.rstrip().endswith(prompt):
        shown += os.read(terminal, 1024).decode()
    return shown


def type_at(terminal: int, prompt: str, text: str) -> str:
    shown = wait_for(terminal, prompt)
    os.write(terminal, f"{text}\n".encode())
    return shown
