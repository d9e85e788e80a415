"""`holdfast coin`: files encrypted and decrypted by a real process, with no server anywhere."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli.app import main
from holdfast_server.errors import DataLoss, FailedPrecondition
from holdfast_server.wallets import envelope_files
from holdfast_server.wallets.envelope import KeyParameters, Keyring, WalletKey, read_header
from holdfast_server.wallets.generate import generate_wallet

PASSWORD = "a password \u0416"
KEY = WalletKey.derive(PASSWORD, KeyParameters(bytes(16), 8, 1, 1))


COMMAND = [sys.executable, "-c", "import sys; from holdfast.cli import main; sys.exit(main())", "coin"]

#: The command, killed by itself before or after the second call of a function of `envelope_files`.
KILLED = """
import os, signal, sys
from holdfast.cli import main
from holdfast_server.wallets import envelope_files as module
place, moment = sys.argv.pop(1), sys.argv.pop(1)
owner, calls = (os if place == "unlink" else module), []
original = getattr(owner, place)
def deadly(*arguments, **values):
    calls.append(place)
    if moment == "before" and len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    done = original(*arguments, **values)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return done
setattr(owner, place, deadly)
sys.exit(main())
"""


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def holdfast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `holdfast coin` in this process."""

    def run(*words: str | Path, password: str = PASSWORD) -> Done:
        secret = tmp_path / "secret"
        secret.write_text(password + "\n")
        code = main(["coin", *map(str, words), "--password-file", str(secret)])
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    generate_wallet(tmp_path / "wallet", 8, 1)
    folder = tmp_path / "wallet" / "Bank"
    (folder / "note.txt").write_text("no coin")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_coins_go_into_envelopes_and_come_back(bank: Path) -> None:
    """By a real process, with the password on its stdin."""

    def process(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, *map(str, words), "--password-file", "-"]
        return subprocess.run(command, input=PASSWORD + "\n", capture_output=True, text=True, timeout=60, check=False)

    before = contents(bank)
    coins = sorted(name for name in before if name != "note.txt")
    done = process("encrypt", bank)
    assert done.returncode == 0, done.stderr
    assert "--remove" in done.stderr, "it says that the coins are still there in clear"
    assert sorted(contents(bank)) == sorted([*before, *(name + ".hfcc" for name in coins)])
    assert {name: content for name, content in contents(bank).items() if not name.endswith(".hfcc")} == before

    for name in coins:
        (bank / name).unlink()
    done = process("decrypt", bank, "--remove")
    assert done.returncode == 0, done.stderr
    assert contents(bank) == before


def test_removed_is_only_what_was_proved_and_modes_and_times_are_kept_close(holdfast: Run, bank: Path) -> None:
    before = contents(bank)
    coin = next(path for path in bank.iterdir() if path.suffix == ".bin")
    os.utime(coin, ns=(1_600_000_000_000_000_007, 1_600_000_000_000_000_007))
    done = holdfast("encrypt", coin, "--remove")
    assert done.returncode == 0, done.stderr
    made = coin.with_name(coin.name + ".hfcc")
    assert not coin.exists()
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert made.stat().st_mtime_ns == 1_600_000_000_000_000_007
    assert before[coin.name] not in made.read_bytes()
    assert holdfast("decrypt", made, "--remove").returncode == 0
    assert coin.read_bytes() == before[coin.name]
    assert stat.S_IMODE(coin.stat().st_mode) == 0o600
    assert coin.stat().st_mtime_ns == 1_600_000_000_000_000_007


def test_one_salt_for_a_run_and_that_of_what_lies_there(holdfast: Run, bank: Path) -> None:
    first, *rest = sorted(path for path in bank.iterdir() if path.suffix == ".bin")
    assert holdfast("encrypt", first).returncode == 0
    assert holdfast("encrypt", *rest).returncode == 0
    headers = [read_header(path.read_bytes()) for path in bank.glob("*.hfcc")]
    assert len(headers) == 1 + len(rest)
    assert len({header.key_id for header in headers if header}) == 1
    assert holdfast("encrypt", bank / "note.txt", password="another").returncode == 0
    other = read_header((bank / "note.txt.hfcc").read_bytes())
    assert other is not None
    assert other.parameters.salt not in {header.parameters.salt for header in headers if header}


def test_nothing_is_overwritten(holdfast: Run, bank: Path) -> None:
    coin = next(path for path in bank.iterdir() if path.suffix == ".bin")
    made = coin.with_name(coin.name + ".hfcc")
    made.write_text("somebody's")
    done = holdfast("encrypt", bank, "--remove")
    assert done.returncode == 1
    assert f"{made}: it exists" in done.stderr
    assert (made.read_text(), coin.exists()) == ("somebody's", True)
    made.unlink()
    assert holdfast("encrypt", coin).returncode == 0
    done = holdfast("decrypt", made, "--remove")
    assert (done.returncode, made.exists()) == (1, True)
    assert f"{coin}: it exists" in done.stderr
    assert not list(bank.glob(".holdfast-*"))


def test_a_wrong_password_is_told_from_damage(holdfast: Run, bank: Path) -> None:
    coins = sorted(path for path in bank.iterdir() if path.suffix == ".bin")
    assert holdfast("encrypt", bank, "--remove").returncode == 0
    before = contents(bank)
    done = holdfast("decrypt", bank, password="wrong")
    assert done.returncode == 5
    assert "KEY_WRONG" in done.stderr
    assert "wrong\n" not in done.stderr
    assert contents(bank) == before
    damaged = coins[1].with_name(coins[1].name + ".hfcc")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    done = holdfast("decrypt", bank)
    assert done.returncode == 1
    assert f"{damaged} is damaged" in done.stderr
    assert "CHECKSUM_MISMATCH" in done.stderr
    assert sorted(path.name for path in bank.glob("*.bin")) == [one.name for one in coins if one != coins[1]]


def test_json_lines(holdfast: Run, bank: Path) -> None:
    done = holdfast("encrypt", bank, "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["type"] for line in lines} == {"coin_file"}
    assert all(line["made"] == line["path"] + ".hfcc" for line in lines)
    done = holdfast("decrypt", bank, "--json", password="wrong")
    assert json.loads(done.stdout)["reason"] == "KEY_WRONG"


def test_folders_only_with_what_is_below_when_asked(holdfast: Run, bank: Path) -> None:
    done = holdfast("encrypt", bank.parent)
    assert (done.returncode, done.stdout) == (0, "")
    assert "no coin files" in done.stderr
    done = holdfast("encrypt", "-r", bank.parent)
    assert len(done.stdout.splitlines()) == len(list(bank.parent.rglob("*.hfcc"))) == 8
    link = bank.parent / "link"
    link.symlink_to(bank)
    assert holdfast("decrypt", link, "--remove").returncode == 1, "the coins are there: nothing is overwritten"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("encrypt", "nowhere"), "No such file"),
        (("decrypt", "config.toml"), "not named as a coin envelope"),
        (("decrypt", "fake.hfcc"), "damaged"),
        (("encrypt", "fifo"), "no regular file"),
        (("encrypt", "link"), "Too many levels"),
    ],
)
def test_what_cannot_be_done_is_told(holdfast: Run, bank: Path, words: tuple[str, str], told: str) -> None:
    base = bank.parent
    (base / "fake.hfcc").write_text("no envelope")
    os.mkfifo(base / "fifo")
    (base / "link").symlink_to("config.toml")
    done = holdfast(words[0], base / words[1])
    assert done.returncode == 1
    assert told in done.stderr
    assert words[1] in done.stderr
    assert not list(base.glob(".holdfast-*"))


def test_a_password_needs_a_way_in(
    holdfast: Run, bank: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (bank / "nowhere", bank):
        assert main(["coin", "encrypt", str(bank), "--password-file", str(path)]) == 1
        assert str(path) in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(["coin", "encrypt", str(bank)]) == 1
    assert "--password-file" in capsys.readouterr().err
    assert holdfast("encrypt", bank, password="").returncode == 1


def test_without_the_server_the_client_says_what_to_install(bank: Path) -> None:
    script = (
        "import sys; sys.modules['blake3'] = None\n"
        "from holdfast.cli import main\n"
        "sys.exit(main(['coin', 'encrypt', sys.argv[1], '--password-file', '-']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(bank)], input="x", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "pip install 'holdfast[server]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("doing", "place", "moment"),
    [
        ("encrypt", "fsync_file", "before"),
        ("encrypt", "publish", "before"),
        ("encrypt", "publish", "after"),
        ("encrypt", "unlink", "after"),
        ("decrypt", "publish", "before"),
        ("decrypt", "unlink", "before"),
    ],
)
def test_a_kill_loses_nothing(bank: Path, doing: str, place: str, moment: str) -> None:
    """Each file is there in one of its two forms at any moment, and whole; the command can be called again."""
    before = {name: content for name, content in contents(bank).items() if name.endswith(".bin")}
    if doing == "decrypt":
        for name in before:
            envelope_files.encrypt_file(os.fsencode(bank / name), KEY, remove=True)
    words = [place, moment, "coin", doing, str(bank), "--remove", "--password-file", "-"]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *words], input=PASSWORD, capture_output=True, text=True, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    keyring = Keyring([KEY], PASSWORD)
    for name, content in before.items():
        plain, sealed = bank / name, bank / (name + ".hfcc")
        assert plain.exists() or sealed.exists()
        if plain.exists():
            assert plain.read_bytes() == content
        if sealed.exists():
            assert keyring.open(sealed.read_bytes()) == content


class TestFiles:
    """The module behind the commands, where a process cannot reach."""

    def test_what_does_not_come_back_from_the_disk_is_no_success(
        self, bank: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        coin = next(path for path in bank.iterdir() if path.suffix == ".bin")
        before = contents(bank)
        real = os.pread

        def lying(fd: int, size: int, at: int) -> bytes:
            data = real(fd, size, at)
            # The envelope as it is read back is the one that begins with its magic.
            return (
                data[:-1] + bytes([data[-1] ^ 1]) if at == 0 and data.startswith(b"HFCC") and len(data) > 92 else data
            )

        monkeypatch.setattr(os, "pread", lying)
        with pytest.raises(DataLoss):
            envelope_files.encrypt_file(os.fsencode(coin), KEY, remove=True)
        monkeypatch.undo()
        assert contents(bank) == before

    def test_a_full_disk_leaves_what_was_there(self, bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        coin = next(path for path in bank.iterdir() if path.suffix == ".bin")
        before = contents(bank)

        def full(fd: int, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            envelope_files.encrypt_file(os.fsencode(coin), KEY, remove=True)
        monkeypatch.undo()
        assert contents(bank) == before

    def test_a_file_that_changes_is_not_removed(self, bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        coin = next(path for path in bank.iterdir() if path.suffix == ".bin")
        publish: Any = envelope_files.publish

        def publish_late(*arguments: Any) -> None:
            publish(*arguments)
            time.sleep(0.01)
            coin.write_bytes(b"spent and replaced")

        monkeypatch.setattr(envelope_files, "publish", publish_late)
        with pytest.raises(FailedPrecondition):
            envelope_files.encrypt_file(os.fsencode(coin), KEY, remove=True)
        assert coin.read_bytes() == b"spent and replaced"

    def test_an_envelope_in_an_envelope_is_refused(self, bank: Path) -> None:
        coin = next(path for path in bank.iterdir() if path.suffix == ".bin")
        made = envelope_files.encrypt_file(os.fsencode(coin), KEY, remove=False)
        with pytest.raises(FileExistsError):
            envelope_files.encrypt_file(made, KEY, remove=True)
        assert os.path.exists(made)
