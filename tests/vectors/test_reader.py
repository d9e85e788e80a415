"""The second reader by itself, on what the second writer makes: it gives back what is whole and refuses what is not."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.vectors import auditor, reader
from tests.vectors.reader import DATA
from tests.vectors.writer import (
    FILE,
    TIME_NS,
    Writer,
    extent,
    file_tail,
    page,
    record,
    small_file,
    two_levels,
)

Make = Callable[[Writer], Any]


def run(writer: Writer, *command: str) -> int:
    secret = writer.folder.parent / "secret"
    main = auditor.main if command == ("check",) else reader.main
    return main([str(writer.folder), "--key-file", str(secret), *command])


def test_it_is_short() -> None:
    """Whoever has docs/format.md alone needs no more than this: 400 lines in one file, and three packages."""
    text = Path(reader.__file__).read_text()
    assert len(text.splitlines()) <= 400
    assert max(map(len, text.splitlines())) <= 120
    imported = set(re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)) - sys.stdlib_module_names
    assert imported == {"blake3", "cryptography", "zstandard"}
    assert not re.search(r"^[ ]+(from|import) |__import__|importlib", text, re.MULTILINE)


def test_it_runs_by_itself(writer: Writer) -> None:
    run_id = two_levels(writer)
    secret, target = writer.folder.parent / "secret", writer.folder.parent / "out"
    script = [sys.executable, "-I", reader.__file__, str(writer.folder), "--key-file", str(secret)]
    listed = subprocess.run([*script, "list"], cwd="/", capture_output=True, check=True)
    assert json.loads(listed.stdout)["run_id"] == run_id
    subprocess.run([*script, "restore", run_id, str(target)], cwd="/", check=True)
    assert (target / "a").is_file()
    assert subprocess.run(script, cwd="/", capture_output=True, check=False).returncode == 1


def restored(writer: Writer, run_id: str) -> Path:
    target = writer.folder.parent / run_id
    assert run(writer, "restore", run_id, str(target)) == 0
    return target


def test_gives_back_everything(writer: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = two_levels(writer)
    empty = writer.snapshot()
    writer.log(
        {"type": "renamed", "run_id": empty, "name": "nothing"}, {"type": "locked", "run_id": empty, "locked": True}
    )
    assert run(writer, "check") == 0
    assert run(writer, "list") == 0
    listed = {each["run_id"]: each for each in map(json.loads, capsys.readouterr().out.splitlines())}
    assert (listed[empty]["name"], listed[empty]["locked"], listed[run_id]["name"]) == ("nothing", True, "a backup")
    assert os.listdir(restored(writer, empty)) == []
    target = os.fsencode(restored(writer, run_id))
    found = sorted(os.listdir(target))
    assert found == [b"\x01\xff \n", b"a", b"coin.hfcc", b"coin2-2.hfcc", b"d", b"d!"]
    with open(target + b"/\x01\xff \n", "rb") as file:
        assert file.read() == b"one"
    assert stat.S_IMODE(os.stat(target + b"/\x01\xff \n").st_mode) == 0o4711
    assert os.stat(target + b"/a").st_mtime_ns == -1_500_000_000
    assert os.getxattr(target + b"/a", b"user.key") == b"\0value"
    assert os.stat(target + b"/coin.hfcc").st_ino == os.stat(target + b"/coin2-2.hfcc").st_ino
    assert os.stat(target + b"/d/e/a").st_ino == os.stat(target + b"/d!/h").st_ino
    assert os.readlink(target + b"/d/l") == b"../\xff"
    assert (os.stat(target + b"/d").st_mtime_ns, stat.S_IMODE(os.stat(target + b"/d").st_mode)) == (TIME_NS, 0o500)
    big = os.stat(target + b"/d/big")
    assert (big.st_size, big.st_blocks * 512 < 1 << 20) == (1009 + (5 << 32), True)


def test_every_changed_byte_is_found(writer: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    two_levels(writer)
    run_id = "00000000-0000-4000-8000-000000000000"
    writer.put_sealed(f"runs/{run_id}", json.dumps({"version": 1, "run_id": run_id}).encode())
    assert run(writer, "check") == 0
    for name, content in writer.objects.items():
        places = {
            0,
            9,
            40,
            len(content) // 3,
            len(content) // 2,
            len(content) - 70,
            len(content) - 20,
            len(content) - 1,
        }
        for place in places:
            changed = bytearray(content)
            changed[place] ^= 0x20
            (writer.folder / name).write_bytes(changed)
            assert run(writer, "check") == 1, (name, place)
        for other in (content[:-1], content + b"\0", b""):
            (writer.folder / name).write_bytes(other)
            assert run(writer, "check") == 1, (name, len(other))
        (writer.folder / name).write_bytes(content)
    assert run(writer, "check") == 0


def test_a_restore_gives_out_nothing_that_was_changed(writer: Writer) -> None:
    """The reader by itself: what it does not look at may be changed, and what it gives back is right or not there."""
    files = {b"a": b"one" * 50, b"b": os.urandom(300)}
    run_id = writer.snapshot(page((b"", [small_file(writer, name, content) for name, content in files.items()])))
    refused = set()
    for name, content in writer.objects.items():
        for place in range(0, len(content), len(content) // 9):
            changed = bytearray(content)
            changed[place] ^= 0x20
            (writer.folder / name).write_bytes(changed)
            target = writer.folder.parent / f"{name.replace('/', '-')}-{place}"
            status = run(writer, "restore", run_id, str(target))
            found = {os.fsencode(path.name): path.read_bytes() for path in target.iterdir()} if target.exists() else {}
            assert found.items() <= files.items(), (name, place)
            assert status == 1 or found == files, (name, place)
            refused |= {name.split("/")[0]} if status else set()
        (writer.folder / name).write_bytes(content)
    assert refused == {"config", "keys", "packs", "index", "snapshots", "log"}


def test_one_whole_copy_of_a_chunk_is_enough(writer: Writer) -> None:
    content = os.urandom(5000)
    chunk = writer.chunk(DATA, content)
    first = writer.end_pack()
    writer.chunk(DATA, content)
    second = writer.end_pack()
    run_id = writer.snapshot(page((b"", [record(FILE, b"a", file_tail(5000, extent(chunk, 0, 5000)))])))
    damaged = bytearray(writer.objects[first])
    damaged[100] ^= 1
    (writer.folder / first).write_bytes(damaged)
    assert (restored(writer, run_id) / "a").read_bytes() == content
    assert run(writer, "check") == 1
    (writer.folder / second).unlink()
    assert run(writer, "restore", run_id, str(writer.folder.parent / "out")) == 1
    assert os.listdir(writer.folder.parent / "out") == []


def test_a_checkpoint_stands_for_what_is_gone(writer: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = writer.snapshot()
    lost = [writer.log({"type": "renamed", "run_id": run_id, "name": "new"}) for _ in range(3)]
    kept = [{"type": "renamed", "run_id": run_id, "name": "new", "time": 7}]
    writer.log({"type": "checkpoint", "state": {"facts": kept}})
    for name in lost[:2]:
        (writer.folder / name).unlink()
    assert run(writer, "check") == 0
    assert run(writer, "list") == 0
    assert json.loads(capsys.readouterr().out)["name"] == "new"


def test_a_slot_opens_later_epochs(writer: Writer) -> None:
    before = writer.snapshot(page((b"", [small_file(writer, b"a", b"before")])))
    writer.begin_epoch()
    after = writer.snapshot(page((b"", [small_file(writer, b"a", b"after")])))
    assert run(writer, "check") == 0
    assert (restored(writer, before) / "a").read_bytes() == b"before"
    assert (restored(writer, after) / "a").read_bytes() == b"after"


def test_a_slot_opens_the_epochs_that_know_it(writer: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    """One that was added after a rotation holds its key itself; one that a rotation left out has not its key."""
    writer.begin_epoch()
    writer.put_slot(later := os.urandom(16), b"another secret, which came after the rotation")
    second = writer.snapshot(page((b"", [small_file(writer, b"a", b"second")])))
    secret = writer.folder.parent / "secret"
    first_secret = secret.read_bytes()
    secret.write_bytes(b"another secret, which came after the rotation")
    assert (restored(writer, second) / "a").read_bytes() == b"second"
    del writer.slots[later]
    writer.begin_epoch()
    third = writer.snapshot(page((b"", [small_file(writer, b"a", b"third")])))
    assert run(writer, "list") == 0
    capsys.readouterr()
    assert run(writer, "restore", third, str(writer.folder.parent / "refused")) == 1
    assert "epoch 3 is needed" in capsys.readouterr().err
    secret.write_bytes(first_secret)
    assert (restored(writer, third) / "a").read_bytes() == b"third"


def test_what_was_removed_and_came_back_is_ignored(writer: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = writer.snapshot(page((b"", [small_file(writer, b"a", b"text")])))
    writer.put_slot(slot_id := os.urandom(16), b"another secret, which is removed again")
    writer.log({"type": "key_removed", "slot_ids": [slot_id.hex()]})
    assert run(writer, "check") == 0
    writer.log({"type": "removed", "run_ids": [run_id]})
    capsys.readouterr()
    assert run(writer, "list") == 0
    assert capsys.readouterr().out == ""
    assert run(writer, "restore", run_id, str(writer.folder.parent / "refused")) == 1
    (writer.folder.parent / "secret").write_bytes(b"another secret, which is removed again")
    assert run(writer, "list") == 1
    assert "no key slot opens" in capsys.readouterr().err


def test_another_secret_opens_nothing(writer: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    (writer.folder.parent / "secret").write_bytes(b"another file")
    assert run(writer, "list") == 1
    assert "no key slot opens" in capsys.readouterr().err


def test_slots_of_another_attempt_are_ignored(writer: Writer) -> None:
    other = Writer(writer.folder.parent / "other")
    name = next(name for name in other.objects if name.startswith("keys/"))
    writer.put(name, other.objects[name])
    assert run(writer, "check") == 0
    writer.put("keys/" + "0" * 32, other.objects[name])
    assert run(writer, "check") == 1


def test_a_node_of_a_sealed_repository_lists_and_checks(writer: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = two_levels(writer)
    keys = writer.folder.parent / "keys"
    kept: dict[str, Any] = {"version": 1, "uuid": writer.uuid.hex(), "index_key": writer.index_key.hex()}
    keys.write_text(json.dumps(kept))
    command = [str(writer.folder), "--keys-file", str(keys)]
    assert reader.main([*command, "list"]) == 0
    assert auditor.main([*command, "check"]) == 0
    assert "no content key" in capsys.readouterr().out
    assert reader.main([*command, "restore", run_id, str(keys.parent / "out")]) == 1
    assert not (keys.parent / "out").exists()
    kept["content_keys"] = [{"epoch": 1, "private": writer.content.private.hex()}]
    keys.write_text(json.dumps(kept))
    assert reader.main([*command, "restore", run_id, str(keys.parent / "out")]) == 0


def test_other_names_are_ignored(writer: Writer) -> None:
    for name in ("packs/x", "index/x.tmp", "snapshots/x", "log/x", "keys/README", ".tmp/y"):
        writer.put(name, b"nothing")
    assert run(writer, "check") == 0


def test_lists_of_two_levels(writer: Writer) -> None:
    run_id = writer.snapshot(page((b"", [small_file(writer, b"a", b"one")])), list_pages=3)
    assert run(writer, "check") == 0
    assert (restored(writer, run_id) / "a").read_bytes() == b"one"
