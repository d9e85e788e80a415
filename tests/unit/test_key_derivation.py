"""Keys of passwords: bounded, those of RFC 9106, and made one at a time."""

from __future__ import annotations

import threading

import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from holdfast_server import key_derivation
from holdfast_server.key_derivation import KeyParameters


def test_a_key_is_that_of_argon2id() -> None:
    parameters = KeyParameters(bytes(range(16)), memory_kib=64, passes=2, lanes=3)
    function = Argon2id(salt=bytes(range(16)), length=32, iterations=2, lanes=3, memory_cost=64)
    assert parameters.derive(b"password") == function.derive(b"password")


def test_new_parameters_are_the_second_recommendation() -> None:
    new = KeyParameters.new()
    assert (new.memory_kib, new.passes, new.lanes, len(new.salt)) == (65_536, 3, 4, 16)
    assert new.salt != KeyParameters.new().salt


@pytest.mark.parametrize(
    ("salt", "memory_kib", "passes", "lanes"),
    [
        (bytes(15), 64, 1, 1),
        (bytes(17), 64, 1, 1),
        (bytes(16), 7, 1, 1),
        (bytes(16), 31, 1, 4),
        (bytes(16), (1 << 20) + 1, 1, 1),
        (bytes(16), 64, 0, 1),
        (bytes(16), 64, 17, 1),
        (bytes(16), 1024, 1, 17),
        (bytes(16), 64, 1, 0),
    ],
)
def test_what_would_cost_too_much_is_refused(salt: bytes, memory_kib: int, passes: int, lanes: int) -> None:
    with pytest.raises(ValueError, match=r"out of range|a salt of"):
        KeyParameters(salt, memory_kib, passes, lanes)


def test_one_key_is_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work = threading.Semaphore(1)
    overlaps: list[bool] = []

    class Watched:
        def __init__(self, **_: object) -> None:
            pass

        def derive(self, _password: bytes) -> bytes:
            overlaps.append(not at_work.acquire(blocking=False))
            # Long enough for the others to come in, if they can.
            threading.Event().wait(0.01)
            if not overlaps[-1]:
                at_work.release()
            return bytes(32)

    monkeypatch.setattr(key_derivation, "Argon2id", Watched)
    threads = [threading.Thread(target=KeyParameters(bytes(16)).derive, args=(b"x",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == [False] * 4
