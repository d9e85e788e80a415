"""Cutting large content: whatever the reads are like, the same content gives the same pieces."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from holdfast_server.repository import cutting
from holdfast_server.repository.cutting import Cutter, Piece
from holdfast_server.repository.format import CHUNK_MAX, CHUNK_MIN

_MIB = 1 << 20


def reads(content: bytes, sizes: Callable[[], int], holes: dict[int, int] | None = None) -> Callable[[memoryview], int]:
    """Reads content in steps of any size; a hole of a length lies before each position in `holes`."""
    left, position = dict(holes or {}), 0

    def fill(view: memoryview) -> int:
        nonlocal position
        if position in left:
            return -left.pop(position)
        end = min([position + min(sizes(), len(view)), len(content), *(at for at in left if at > position)])
        view[: end - position] = content[position:end]
        count, position = end - position, end
        return count

    return fill


def taken(cutter: Cutter, fill: Callable[[memoryview], int]) -> list[bytes | int]:
    return [bytes(piece.content) if piece.content is not None else piece.length for piece in cutter.pieces(fill)]


@pytest.fixture
def cutter() -> Cutter:
    return Cutter(7, lambda done: None)


def test_equal_content_is_cut_alike_whatever_came_before(cutter: Cutter) -> None:
    rng = random.Random(3)
    content = rng.randbytes(21 * _MIB)
    first = taken(cutter, reads(content, lambda: 8 * _MIB))
    assert b"".join(piece for piece in first if isinstance(piece, bytes)) == content
    for _ in range(4):
        taken(cutter, reads(rng.randbytes(rng.randrange(3 * _MIB)), lambda: _MIB))
        again = taken(cutter, reads(content, lambda: rng.randrange(1, 5 * _MIB)))
        assert again == first
    sizes = [len(piece) for piece in first if isinstance(piece, bytes)]
    assert all(CHUNK_MIN <= size <= CHUNK_MAX for size in sizes[:-1])


def test_an_insertion_moves_the_cuts_around_it_alone(cutter: Cutter) -> None:
    content = random.Random(4).randbytes(24 * _MIB)
    before = set(taken(cutter, reads(content, lambda: 8 * _MIB)))
    after = set(taken(cutter, reads(content[: 9 * _MIB] + b"!" + content[9 * _MIB :], lambda: 8 * _MIB)))
    assert sum(len(piece) for piece in after - before if isinstance(piece, bytes)) < 4 * _MIB


def test_holes_stand_between_pieces(cutter: Cutter) -> None:
    content = os.urandom(3 * _MIB)
    found = taken(cutter, reads(content, lambda: _MIB, {0: 5, _MIB: 1 << 40, 3 * _MIB: 9}))
    assert [piece for piece in found if isinstance(piece, int)] == [5, 1 << 40, 9]
    place = found.index(1 << 40)
    assert b"".join(p for p in found[:place] if isinstance(p, bytes)) == content[:_MIB]
    assert b"".join(p for p in found if isinstance(p, bytes)) == content


def test_nothing_gives_no_piece(cutter: Cutter) -> None:
    assert taken(cutter, reads(b"", lambda: 1)) == []


def test_a_buffer_is_not_read_into_while_a_piece_of_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "_BUFFERS", 2)
    held: list[tuple[Piece, bytes]] = []

    def wait_for(done: Callable[[], bool]) -> None:
        while not done():
            piece, content = held.pop(0)
            assert piece.content == content
            piece.release()
        waits.append(len(held))

    waits: list[int] = []
    content = os.urandom(70 * _MIB)
    for piece in Cutter(7, wait_for).pieces(reads(content, lambda: 8 * _MIB)):
        assert piece.content is not None
        piece.hold()
        held.append((piece, bytes(piece.content)))
    assert waits
    for piece, before in held:
        assert piece.content == before
