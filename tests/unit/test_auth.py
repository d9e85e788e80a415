"""The administrator's token: made once, kept private, and the only thing that lets a caller in."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from holdfast_server.auth import Authenticator, ensure_admin_token
from holdfast_server.errors import Reason, Unauthenticated

TOKEN = "hf_" + "a" * 43


def test_the_token_is_made_once_and_private(tmp_path: Path) -> None:
    token = ensure_admin_token(tmp_path)
    assert token.startswith("hf_")
    assert len(token) >= 46
    assert stat.S_IMODE((tmp_path / "admin.token").stat().st_mode) == 0o600
    assert ensure_admin_token(tmp_path) == token


def test_two_servers_get_two_tokens(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert ensure_admin_token(tmp_path / "a") != ensure_admin_token(tmp_path / "b")


def test_a_start_that_broke_off_leaves_no_empty_token(tmp_path: Path) -> None:
    """An empty token would let in whoever sends none."""
    (tmp_path / "admin.token").touch(mode=0o600)
    token = ensure_admin_token(tmp_path)
    assert len(token) >= 46
    assert ensure_admin_token(tmp_path) == token


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    found: list[str] = []
    gate = threading.Barrier(8)

    def start() -> None:
        gate.wait()
        found.append(ensure_admin_token(tmp_path))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(found[0]) >= 46


@pytest.mark.parametrize("value", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER {TOKEN}"])
def test_the_token_lets_in(value: str) -> None:
    assert Authenticator(TOKEN).authenticate([value]).name == "admin"


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        ["Bearer"],
        ["Bearer "],
        ["Bearer    "],
        [TOKEN],
        [f"Basic {TOKEN}"],
        [f"Bearer {TOKEN}x"],
        [f"Bearer {TOKEN[:-1]}"],
        [f"Bearer {TOKEN.upper()}"],
        [f"Bearer {TOKEN} {TOKEN}"],
        [f"Bearer\t{TOKEN}"],
        ["Bearer \u00e9\u202e"],
        [f"Bearer {TOKEN}", f"Bearer {TOKEN}"],
        [f"Bearer {TOKEN}", "Bearer x"],
    ],
)
def test_nothing_else_does_and_the_refusal_repeats_no_secret(values: list[str]) -> None:
    with pytest.raises(Unauthenticated) as caught:
        Authenticator(TOKEN).authenticate(values)
    assert caught.value.reason is Reason.BAD_CREDENTIALS
    assert TOKEN[3:-1] not in str(caught.value)
    assert not caught.value.metadata
