"""The contract of object stores, held by each of them, and what only the one in a folder does."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.errors import FailedPrecondition, Reason, ResourceExhausted, Unavailable
from holdfast_server.storage import local_objects
from holdfast_server.storage.objects import (
    MAX_CREATED,
    Buffer,
    LocalObjects,
    MemoryObjects,
    ObjectInfo,
    ObjectMissing,
    ObjectStore,
    checked_name,
    probe,
    remove_probes,
)
from tests.stores import CrashingObjects, FailingObjects, Fault

from .conftest import Mounter, Opener

ID = "0123456789abcdef0123456789abcdef"
RUN = "0b53a3a0-3c1c-4f0c-8a55-54f6e9ad1a6b"
NAMES = [
    "config",
    f"keys/{ID}",
    f"packs/{ID}",
    f"index/{ID}",
    f"snapshots/{RUN}",
    f"runs/{RUN}",
    f"log/{ID}/0000000000000001",
]
HOSTILE = [
    "",
    "/",
    "packs",
    "packs/",
    "/packs/a",
    "packs//a",
    "packs/.",
    "packs/..",
    "packs/.tmp",
    "packs/../config",
    "packs/a/b",
    "packs/a/../../config",
    "../packs/a",
    ".tmp/a",
    "config/a",
    "config\n",
    "packs/a\n",
    "packs/a\0",
    "packs/A",
    "packs/\u00e4",
    "packs/\u0663",
    "packs/a b",
    "packs/a_b",
    "packs/-a",
    "packs/" + "a" * 129,
    "log/a",
    "log/a/",
    "log/../a",
    "log/a/..",
    "log/a/b/c",
    "other/a",
]


@pytest.fixture(params=["memory", "local", "failing", "crashing"])
def store(request: pytest.FixtureRequest, roomy: Path) -> Iterator[ObjectStore]:
    """Each member of the contract; another store joins by a name and an empty instance here."""
    if request.param != "local":
        memory = MemoryObjects()
        failing = FailingObjects(memory, 0, Fault.EIO)
        yield {"memory": memory, "failing": failing, "crashing": CrashingObjects(memory)}[request.param]
        return
    fd = os.open(roomy, os.O_RDONLY)  # in memory if possible: a thousand syncs take long on a busy disk
    with LocalObjects(fd, str(roomy)) as objects:
        os.close(fd)
        yield objects


@pytest.fixture
def local(tmp_path: Path, opened: Opener) -> Iterator[LocalObjects]:
    with LocalObjects(opened(tmp_path), "/srv/repository") as objects:
        yield objects


def listed(store: ObjectStore, prefix: str = "") -> dict[str, int]:
    found = list(store.list(prefix))
    assert len({info.name for info in found}) == len(found)
    return dict(found)


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What each of `count` threads returned; all start at once."""
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count

    def run(number: int) -> None:
        barrier.wait()
        results[number] = work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# --- the contract -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_object_is_what_was_put(store: ObjectStore, name: str) -> None:
    store.put(name, [b"first ", bytearray(b"second "), memoryview(b"third")])
    assert store.get(name) == b"first second third"
    assert store.size(name) == 18
    assert list(store.list("")) == [ObjectInfo(name, 18)]


@pytest.mark.parametrize("parts", [[], [b""], [b"", b"", b""]])
def test_an_object_may_be_empty(store: ObjectStore, parts: list[bytes]) -> None:
    store.put("packs/a", parts)
    assert store.create_if_absent("packs/b", b"")
    assert (store.get("packs/a"), store.get("packs/b"), store.size("packs/b")) == (b"", b"", 0)
    assert listed(store) == {"packs/a": 0, "packs/b": 0}


def test_views_are_stored_as_the_bytes_that_they_show(store: ObjectStore) -> None:
    numbers = memoryview(bytearray(range(16)))
    store.put("packs/a", [numbers[4:8], numbers.cast("I")[2:3], numbers[12:].toreadonly()])
    assert store.get("packs/a") == bytes(range(4, 16))


def test_what_becomes_of_a_buffer_later_does_not_matter(store: ObjectStore) -> None:
    buffer = bytearray(b"before")
    store.put("packs/a", [buffer])
    assert store.create_if_absent("packs/b", memoryview(buffer))  # type: ignore[arg-type]
    buffer[:] = b"after!"
    assert store.get("packs/a") == store.get("packs/b") == b"before"


def test_many_parts(store: ObjectStore) -> None:
    parts: Sequence[Buffer] = [b"%d," % number for number in range(5000)]
    store.put("packs/a", parts)
    assert store.get("packs/a") == b"".join(parts)


def test_a_large_object(store: ObjectStore) -> None:
    half = bytearray(os.urandom(1 << 20) * 16)
    store.put(f"packs/{ID}", [half, memoryview(half)[1:], b"end"])
    whole = bytes(half) + bytes(half[1:]) + b"end"
    assert store.size(f"packs/{ID}") == len(whole) == (32 << 20) + 2
    assert store.get(f"packs/{ID}") == whole
    assert store.get(f"packs/{ID}", (16 << 20) - 5, 10) == whole[(16 << 20) - 5 :][:10]


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, None),
        (0, 0),
        (0, 4),
        (3, 4),
        (3, None),
        (9, 1),
        (9, 5),
        (10, None),
        (10, 0),
        (10, 7),
        (11, 1),
        (999, None),
        (0, 10),
        (0, 11),
        (1 << 62, 1),
        (0, 1 << 40),
    ],
)
def test_ranges(store: ObjectStore, offset: int, length: int | None) -> None:
    content = b"0123456789"
    store.put("packs/a", [content])
    assert store.get("packs/a", offset, length) == content[offset:][:length]


@pytest.mark.parametrize(("offset", "length"), [(-1, None), (-1, 1), (0, -1), (3, -2)])
def test_negative_ranges_are_refused(store: ObjectStore, offset: int, length: int | None) -> None:
    store.put("packs/a", [b"0123456789"])
    with pytest.raises(ValueError, match="range"):
        store.get("packs/a", offset, length)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing(store: ObjectStore, name: str) -> None:
    for read in (lambda: store.get(name), lambda: store.get(name, 3, 4), lambda: store.size(name)):
        with pytest.raises(ObjectMissing) as caught:
            read()
        assert caught.value.name == name
        assert name in str(caught.value)
    store.delete(name)
    assert listed(store) == {}


def test_a_put_replaces(store: ObjectStore) -> None:
    store.put("runs/a", [b"a long first"])
    store.put("runs/a", [b"second"])
    assert store.get("runs/a") == b"second"
    assert listed(store) == {"runs/a": 6}


def test_a_create_leaves_what_is_there(store: ObjectStore) -> None:
    assert store.create_if_absent("snapshots/a", b"first") is True
    assert store.create_if_absent("snapshots/a", b"second") is False
    assert store.create_if_absent("snapshots/a", b"first") is False
    assert store.get("snapshots/a") == b"first"
    store.put("snapshots/b", [b"put"])
    assert store.create_if_absent("snapshots/b", b"created") is False
    assert store.get("snapshots/b") == b"put"
    store.delete("snapshots/a")
    assert store.create_if_absent("snapshots/a", b"third") is True
    assert store.get("snapshots/a") == b"third"


def test_a_create_takes_one_mebibyte(store: ObjectStore) -> None:
    with pytest.raises(ValueError, match="too many"):
        store.create_if_absent("snapshots/a", bytes(MAX_CREATED + 1))
    assert listed(store) == {}
    assert store.create_if_absent("snapshots/a", bytes(MAX_CREATED))
    assert listed(store) == {"snapshots/a": MAX_CREATED}


def test_a_deleted_object_is_gone(store: ObjectStore) -> None:
    for name in NAMES:
        store.put(name, [b"x"])
    for count, name in enumerate(NAMES, 1):
        store.delete(name)
        store.delete(name)
        with pytest.raises(ObjectMissing):
            store.get(name)
        assert listed(store) == dict.fromkeys(NAMES[count:], 1)


def test_lists(store: ObjectStore) -> None:
    names = [*NAMES, "packs/ab", "packs/abc", "packs/b", "log/a/1", "log/a/12", "log/a/2", "log/ab/1", "runs/packs"]
    for name in names:
        store.put(name, [name.encode()])
    prefixes = [
        "",
        "config",
        "packs/",
        "packs/ab",
        "packs/abcd",
        "log/",
        "log/a",
        "log/a/",
        "log/a/1",
        "runs/p",
        "keys/",
    ]
    for prefix in prefixes:
        assert listed(store, prefix) == {name: len(name) for name in names if name.startswith(prefix)}, prefix


@pytest.mark.parametrize(
    "prefix",
    ["/", ".", "..", "p", "packs", "packs//", "packs/../", "log", "log/..", "log/a/b/c", "config/", ".tmp/", "x/"],
)
def test_prefixes_that_no_name_has_are_refused_at_once(store: ObjectStore, prefix: str) -> None:
    with pytest.raises(ValueError, match="can begin with"):
        store.list(prefix)


def test_a_list_goes_on_while_objects_come_and_go(store: ObjectStore) -> None:
    stay = {f"packs/stay{number}" for number in range(60)}
    for name in stay:
        store.put(name, [b""])
    entries = store.list("packs/")
    found = [next(entries).name]
    for number in range(20):
        store.put(f"packs/new{number}", [b""])
        store.delete(f"packs/new{number}")
    found += [info.name for info in entries]
    assert len(found) == len(set(found))
    assert stay <= set(found)
    assert set(found) - stay <= {f"packs/new{number}" for number in range(20)}


def test_two_lists_at_once_do_not_disturb_each_other(store: ObjectStore) -> None:
    names = {f"packs/{number}": 0 for number in range(40)}
    for name in names:
        store.put(name, [])
    one, other = store.list("packs/"), store.list("packs/")
    begun = [next(one), next(other), next(one)]
    assert dict([begun[1], *other]) == names
    assert dict([begun[0], begun[2], *one]) == names
    assert together(4, lambda _: listed(store, "packs/")) == [names] * 4


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(store: ObjectStore, name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.put(name, [b"x"]),
        lambda: store.create_if_absent(name, b"x"),
        lambda: store.get(name),
        lambda: store.size(name),
        lambda: store.delete(name),
        lambda: checked_name(name),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="no object can be named"):
            call()
    assert listed(store) == {}


def test_of_many_creators_exactly_one_wins(store: ObjectStore) -> None:
    for attempt in range(10):
        name = f"snapshots/{attempt}"
        results = together(8, lambda number, name=name: store.create_if_absent(name, b"%d" % number))
        assert results.count(True) == 1
        assert store.get(name) == b"%d" % results.index(True)


def test_concurrent_puts_of_one_name_leave_one_of_them_whole(store: ObjectStore) -> None:
    contents = [bytes([number]) * (100_000 + number) for number in range(6)]
    together(6, lambda number: [store.put("runs/a", [contents[number]]) for _ in range(3)])
    assert store.get("runs/a") in contents


def test_a_reader_sees_an_object_that_is_replaced_wholly_old_or_new(store: ObjectStore) -> None:
    contents = [bytes([number]) * 50_000 * (number + 1) for number in range(3)]
    store.put("runs/a", [contents[0]])
    done = threading.Event()
    seen: list[bytes] = []

    def read(number: int) -> None:
        if number == 0:
            for turn in range(30):
                store.put("runs/a", [contents[turn % 3]])
            done.set()
        while not done.is_set():
            seen.append(store.get("runs/a"))

    together(3, read)
    seen.append(store.get("runs/a"))
    assert set(seen) <= set(contents)


def test_threads_store_many_objects(store: ObjectStore) -> None:
    together(4, lambda number: [store.put(f"log/w{number}/{turn}", [b"%d" % turn]) for turn in range(10)])
    assert listed(store) == {f"log/w{number}/{turn}": 1 for number in range(4) for turn in range(10)}


def test_a_store_says_where_it_is(store: ObjectStore, roomy: Path) -> None:
    assert str(store) in ("memory", "failing memory", "crashing memory", str(roomy))


# --- the probe --------------------------------------------------------------------------------------------------------


def test_an_honest_store_passes_the_probe_and_keeps_nothing_of_it(store: ObjectStore) -> None:
    store.put(f"runs/{RUN}", [b"a run"])
    probe(store)
    assert listed(store) == {f"runs/{RUN}": 5}


class Liar(MemoryObjects):
    """Does everything right but for one thing."""

    def __init__(self, lie: str) -> None:
        super().__init__()
        self.lie = lie

    def create_if_absent(self, name: str, content: bytes) -> bool:
        created = super().create_if_absent(name, content)
        if self.lie == "creates twice":
            self.put(name, [content])
            return True
        if self.lie == "creates nothing":
            self.delete(name)
        if self.lie == "replaces silently" and not created:
            self.put(name, [content])
        return created and self.lie != "denies creating"

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        if self.lie == "invents" and name not in self.contents():
            return b""
        content = super().get(name, offset, length)
        return super().get(name) if self.lie == "ignores ranges" else content

    def size(self, name: str) -> int:
        return super().size(name) + (self.lie == "missizes")

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        if self.lie == "stores the first part":
            parts = parts[:1]
        if self.lie != "ignores puts":
            super().put(name, parts)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        found = [*super().list(prefix)]
        if self.lie == "lists nothing":
            return iter(())
        if self.lie == "lists twice":
            found *= 2
        return iter([ObjectInfo(name, 64) for name, _ in found] if self.lie == "lists old sizes" else found)

    def delete(self, name: str) -> None:
        if self.lie != "keeps":
            super().delete(name)


def test_what_killed_probes_left_is_removed_and_only_that(store: ObjectStore) -> None:
    mine, other = "a" * 32, "b" * 32
    left = [f"runs/probe-{mine}-{'1' * 32}", f"runs/probe-{mine}-{'2' * 32}"]
    stays = [f"runs/probe-{other}-{'1' * 32}", f"runs/probe-{'3' * 32}", f"runs/{RUN}"]
    for name in [*left, *stays]:
        store.put(name, [b"x"])
    assert remove_probes(store, mine) == 2
    assert sorted(info.name for info in store.list("")) == sorted(stays)
    assert remove_probes(store) == 1, "one without an owner is that of a creation"
    assert sorted(info.name for info in store.list("")) == sorted(set(stays) - {stays[1]})


def test_a_probe_bears_its_owners_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before its end: what is left is just what `remove_probes` of that owner removes."""
    store = MemoryObjects()
    monkeypatch.setattr(store, "delete", lambda name: None)
    with pytest.raises(FailedPrecondition):
        probe(store, "c" * 32)
    monkeypatch.undo()
    assert len(store.contents()) == 1
    assert remove_probes(store) == 0
    assert remove_probes(store, "c" * 32) == 1


@pytest.mark.parametrize(
    ("lie", "problem"),
    [
        ("creates twice", "a second time"),
        ("creates nothing", "a second time"),
        ("replaces silently", "does not hold what was stored"),
        ("denies creating", "could not be created"),
        ("invents", "never stored"),
        ("ignores ranges", "range"),
        ("missizes", "another size"),
        ("stores the first part", "replaced"),
        ("ignores puts", "replaced"),
        ("lists nothing", "list does not show"),
        ("lists twice", "list does not show"),
        ("lists old sizes", "replaced as it is"),
        ("keeps", "was deleted"),
    ],
)
def test_the_probe_names_what_a_store_does_wrong(lie: str, problem: str) -> None:
    liar = Liar(lie)
    with pytest.raises(FailedPrecondition) as caught:
        probe(liar)
    assert caught.value.reason is Reason.STORE_UNSUITABLE
    assert problem in caught.value.message
    assert caught.value.message.startswith("memory cannot hold a repository")
    assert caught.value.metadata["object"].startswith("runs/probe-")
    assert (liar.contents() == {}) is (lie != "keeps")


# --- the store in a folder --------------------------------------------------------------------------------------------


def test_modes_and_places(local: LocalObjects, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        for name in NAMES:
            local.put(name, [b"x"])
    finally:
        os.umask(before)
    for name in NAMES:
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        assert (tmp_path / name).read_bytes() == b"x"
    folders = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    assert not list((tmp_path / ".tmp").iterdir())


def test_reading_makes_nothing(local: LocalObjects, tmp_path: Path) -> None:
    listed(local)
    local.delete("packs/a")
    local.clean(0)
    with pytest.raises(ObjectMissing):
        local.get("log/a/1")
    assert not list(tmp_path.iterdir())


def test_a_second_store_sees_what_the_first_one_stored(local: LocalObjects, tmp_path: Path, opened: Opener) -> None:
    local.put("log/a/1", [b"x"])
    with LocalObjects(opened(tmp_path)) as other:
        assert listed(other) == {"log/a/1": 1}
        assert other.create_if_absent("log/a/1", b"y") is False
        other.put("packs/a", [b"z"])
    assert listed(local) == {"log/a/1": 1, "packs/a": 1}


def test_a_store_keeps_few_folders_open_and_gives_them_back(tmp_path: Path, opened: Opener) -> None:
    folder = opened(tmp_path)
    before = set(os.listdir("/dev/fd"))
    store = LocalObjects(folder)
    for name in NAMES:
        store.put(name, [b""])
    for number in range(15):
        store.put(f"log/w{number}/1", [b""])
        store.get(f"log/w{number}/1")
    assert len(listed(store)) == 15 + len(NAMES)
    next(store.list(""))
    assert len(set(os.listdir("/dev/fd")) - before) <= 9
    store.close()
    assert set(os.listdir("/dev/fd")) == before


@pytest.mark.parametrize("planted", ["link", "dangling link", "folder", "fifo", "socket"])
def test_what_is_no_file_is_no_object(local: LocalObjects, tmp_path: Path, planted: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    local.put("packs/a", [b"x"])
    place = tmp_path / "packs" / "b"
    if planted == "link":
        place.symlink_to(secret)
    elif planted == "dangling link":
        place.symlink_to(tmp_path / "new")
    elif planted == "folder":
        place.mkdir()
    elif planted == "fifo":
        os.mkfifo(place)
    else:
        with socket.socket(socket.AF_UNIX) as server:
            here = os.open(".", os.O_RDONLY)
            os.chdir(place.parent)  # names of sockets must be short
            server.bind("b")
            os.chdir(here)
            os.close(here)
    for read in (local.get, local.size):
        with pytest.raises(ObjectMissing):
            read("packs/b")
    assert listed(local) == {"packs/a": 1}
    assert local.create_if_absent("packs/b", b"y") is False
    if planted == "folder":
        for change in (lambda: local.put("packs/b", [b"y"]), lambda: local.delete("packs/b")):
            with pytest.raises(FailedPrecondition) as caught:
                change()
            assert caught.value.reason is Reason.STORE_UNSUITABLE
            assert "packs/b in /srv/repository" in caught.value.message
    else:
        local.put("packs/b", [b"y"])  # in its place, never through it
        assert local.get("packs/b") == b"y"
    assert secret.read_bytes() == b"secret"
    assert not (tmp_path / "new").exists()
    assert not list((tmp_path / ".tmp").iterdir())


@pytest.mark.parametrize("folder", ["packs", "log", ".tmp", "log/a"])
@pytest.mark.parametrize("planted", ["link", "file"])
def test_folders_are_not_reached_through_links(
    local: LocalObjects, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, folder: str, planted: str
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "a").write_bytes(b"foreign")
    (tmp_path / folder).parent.mkdir(exist_ok=True)
    if planted == "link":
        (tmp_path / folder).symlink_to(elsewhere)
    else:
        (tmp_path / folder).write_bytes(b"")
    name = "packs/a" if folder in ("packs", ".tmp") else "log/a/a"
    calls: list[Callable[[], object]] = [lambda: local.put(name, [b"x"]), lambda: local.create_if_absent(name, b"x")]
    if folder == ".tmp":
        calls.append(lambda: local.clean(0))
    else:
        calls += [lambda: local.get(name), lambda: local.size(name), lambda: local.delete(name)]
    if folder in ("packs", "log"):
        calls.append(lambda: listed(local))
    else:
        assert listed(local) == {}
    for call in calls:
        with pytest.raises(FailedPrecondition) as caught:
            call()
        assert caught.value.reason is Reason.STORE_UNSUITABLE
        assert caught.value.metadata["errno"] in ("ENOTDIR", "ELOOP")
    assert [(path.name, path.read_bytes()) for path in elsewhere.iterdir()] == [("a", b"foreign")]


def test_strangers_in_the_folder_are_left_out(local: LocalObjects, tmp_path: Path) -> None:
    local.put("packs/a", [b"x"])
    local.put("log/w/1", [b"x"])
    for place in ("packs", "log", "log/w", "."):
        for name in (b"\xff\xfe", b".hidden", b"UPPER", b"new\nline", b"lost+found", b"a b"):
            (tmp_path / place / os.fsdecode(name)).write_bytes(b"stranger")
    (tmp_path / "log" / ".dir").mkdir()
    (tmp_path / "log" / ".dir" / "1").write_bytes(b"stranger")
    (tmp_path / "packs" / "dir").mkdir()
    assert listed(local) == {"packs/a": 1, "log/w/1": 1}


def test_a_folder_that_was_removed_has_not_lost_its_objects(tmp_path: Path, opened: Opener) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    with LocalObjects(opened(folder), "/srv/repository") as store:
        folder.rmdir()
        for call in (lambda: store.get("config"), lambda: store.size("packs/a"), lambda: listed(store, "packs/")):
            with pytest.raises(Unavailable) as caught:
                call()
            assert caught.value.reason is Reason.STORAGE_UNREACHABLE
        with pytest.raises(FailedPrecondition) as refused:
            store.put("packs/a", [b"x"])
        assert refused.value.reason is Reason.FOLDER_NOT_FOUND


def test_a_folder_without_the_right_to_write(
    public: Path, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    with unprivileged():
        fd = os.open(public, os.O_RDONLY)
        with LocalObjects(fd, "/srv/repository") as store:
            store.put("packs/a", [b"x"])
            for place in (public, public / "packs", public / ".tmp"):
                place.chmod(0o500)
            calls: list[Callable[[], object]] = [
                lambda: store.put("packs/b", [b"y"]),
                lambda: store.put("packs/a", [b"y"]),
                lambda: store.create_if_absent("snapshots/a", b"y"),
                lambda: store.delete("packs/a"),
                lambda: probe(store),
            ]
            for call in calls:
                with pytest.raises(FailedPrecondition) as caught:
                    call()
                assert caught.value.reason is Reason.FOLDER_NOT_WRITABLE
                assert "in /srv/repository" in caught.value.metadata["what"]
            assert listed(store) == {"packs/a": 1}
            assert store.get("packs/a") == b"x"
        os.close(fd)


def test_a_full_disk(tmp_path: Path, mount: Mounter, opened: Opener) -> None:
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path)
    with LocalObjects(opened(tmp_path), "/srv/repository") as store:
        store.put("packs/a", [bytes(600_000)])
        store.put("runs/a", [b"old"])
        for call in (lambda: store.put("packs/b", [bytes(600_000)]), lambda: store.put("runs/a", [bytes(600_000)])):
            with pytest.raises(ResourceExhausted) as caught:
                call()
            assert caught.value.reason is Reason.DISK_FULL
            assert "in /srv/repository" in caught.value.message
        assert listed(store) == {"packs/a": 600_000, "runs/a": 3}
        assert store.get("runs/a") == b"old"
        assert not list((tmp_path / ".tmp").iterdir())
        store.delete("packs/a")
        store.put("packs/b", [bytes(600_000)])
        assert listed(store, "packs/") == {"packs/b": 600_000}


def test_another_file_system_inside(local: LocalObjects, tmp_path: Path, mount: Mounter) -> None:
    (tmp_path / "packs").mkdir()
    mount("-t", "tmpfs", "tmpfs", tmp_path / "packs")
    with pytest.raises(FailedPrecondition) as caught:
        local.put("packs/a", [b"x"])
    assert caught.value.reason is Reason.STORE_UNSUITABLE
    assert caught.value.metadata["errno"] == "EXDEV"
    assert listed(local) == {}


def test_clean_removes_what_is_old(local: LocalObjects, tmp_path: Path) -> None:
    local.put("packs/a", [b"x"])
    old, new = tmp_path / ".tmp" / "old", tmp_path / ".tmp" / "new"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    (tmp_path / ".tmp" / "folder").mkdir()
    os.utime(old, (0, old.stat().st_mtime - 3600))
    assert local.clean(1800) == 1
    assert (old.exists(), new.exists()) == (False, True)
    assert local.clean(0) == 1
    assert [path.name for path in (tmp_path / ".tmp").iterdir()] == ["folder"]
    assert local.get("packs/a") == b"x"


def test_a_publication_whose_answer_was_lost_counts(local: LocalObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def rename(from_fd: int, name: bytes, to_fd: int, new: bytes) -> None:
        # A network file system that repeats a link that it has made.
        nonlocal calls
        calls += 1
        os.link(name, new, src_dir_fd=from_fd, dst_dir_fd=to_fd)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(local_objects, "rename_file", rename)
    assert local.create_if_absent("snapshots/a", b"mine") is True
    local.put("snapshots/b", [b"mine, too"])
    assert calls == 2
    assert (local.get("snapshots/a"), local.get("snapshots/b")) == (b"mine", b"mine, too")
    assert local.clean(0) == 0
