"""The main job from registering to comparing the restored tree, with everything odd that a tree can hold."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import resource
import socket
import subprocess
import sys
import tarfile
import threading
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.v1 import backup_pb2, backup_service_pb2, source_pb2, source_service_pb2, task_pb2, task_service_pb2
from tests.harness import PATIENCE, REPOSITORY, Server, make_tree, remove_deep, sha256_of, snapshot
from tests.unit.archive.archives import tar_stream

COMPLETED = task_pb2.TASK_STATE_COMPLETED
WARNED = task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS
FAILED = task_pb2.TASK_STATE_FAILED

ODD_NAMES = [
    b"newline\nin the middle",
    b"tab\there",
    b"\x1b[31mred\x1b[0m",
    "bidi \u202egnp.exe".encode(),
    "zero\u200bwidth".encode(),
    b"x" * 255,
    "\u00e9".encode() * 127,
    b"not utf-8 \xff\xfe\x80",
    b"-rf",
    b"--",
    b"%s%n%d",
    b"trailing dot.",
    b"trailing space ",
    b" leading space",
    b"CON",
    b"back\\slash",
    b"quote'\"`$(id)",
    b"holdfast-manifest.json",
    b"holdfast-sha256sums.txt",
    "\u00e5 composed".encode(),
    "a\u030a composed".encode(),
    *(name.encode() for name in ("case", "Case", "CASE", "cAse", "caSe", "casE", "CAse", "cASE", "caSE")),
    "stra\u00dfe".encode(),
    b"strasse",
]


def deep(root: Path, levels: int) -> None:
    """A chain of directories with a file at its end, made without any path longer than a name."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        child = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = child
    with os.fdopen(os.open("bottom", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd), "w") as file:
        file.write("at the bottom")
    os.close(fd)


def odd_tree(root: Path) -> Path:
    """Every kind of entry and name; mtimes with nanoseconds, modes of all sorts."""
    make_tree(root, 1, files=20)
    names = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    os.mkdir(b"names", dir_fd=names)
    os.close(names)
    for number, name in enumerate(ODD_NAMES):
        path = os.fsencode(root / "names") + b"/" + name
        with open(path, "wb") as file:
            file.write(b"content of %d" % number)
    os.mkdir(os.fsencode(root / "names") + b"/folder \xff\n")
    (root / "empty" / "nested" / "deeper").mkdir(parents=True)
    (root / "zero bytes").touch()
    (root / "links").mkdir()
    for name, target in (
        ("dangling", "nowhere"),
        ("escaping", "../../../../../etc/passwd"),
        ("absolute", "/etc/shadow"),
        ("loop", "loop"),
        ("folder", "../empty"),
        ("long", "x" * 4000),
    ):
        os.symlink(target, root / "links" / name)
    os.symlink(b"\xff\n\x1b", os.fsencode(root / "links") + b"/odd target")
    (root / "hard 1").write_text("one file, two names")
    os.link(root / "hard 1", root / "hard 2")
    with (root / "sparse").open("wb") as file:
        for position in (0, 20 << 20, 48 << 20):
            file.seek(position)
            file.write(os.urandom(4096))
        file.truncate(64 << 20)
    (root / "modes").mkdir()
    for mode in (0o000, 0o400, 0o644, 0o600, 0o777, 0o755):
        path = root / "modes" / f"{mode:o}"
        path.write_text("mode")
        path.chmod(mode)
        os.utime(path, ns=(0, 1_234_567_890_123_456_789))
    (root / "old").write_text("before the epoch of zip")
    os.utime(root / "old", ns=(0, 5_000_000_000))
    deep(root, 2000)
    os.mkfifo(root / "fifo")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as made:
        before = Path.cwd()
        os.chdir(root)  # socket paths are short
        try:
            made.bind("socket")
        finally:
            os.chdir(before)
    return root


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Path]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 65_536, hard))
    yield odd_tree(tmp_path / "odd")
    for name in ("odd", "back"):
        remove_deep(tmp_path / name)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def new_id() -> str:
    return f"b-{uuid.uuid4().hex[:12]}"


def manifest_of(archive: Path) -> dict[str, Any]:
    """The manifest, read with Python's own tools: the last member."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            return json.loads(opened.read(opened.infolist()[-1]))  # type: ignore[no-any-return]
    with tarfile.open(fileobj=io.BytesIO(tar_stream(archive))) as opened:
        members = opened.getmembers()
        content = opened.extractfile(members[-1])
        assert content is not None
        return json.load(content)  # type: ignore[no-any-return]


def without_specials(tree: dict[bytes, tuple[Any, ...]]) -> dict[bytes, tuple[Any, ...]]:
    return {path: entry for path, entry in tree.items() if entry[0] != "special"}


@pytest.mark.parametrize(
    "archive_format",
    [backup_pb2.ARCHIVE_FORMAT_ZIP, backup_pb2.ARCHIVE_FORMAT_TAR_ZST],
    ids=["zip", "tar.zst"],
)
def test_the_whole_story_of_an_odd_tree(
    shared_server: Server, odd: Path, tmp_path: Path, archive_format: backup_pb2.ArchiveFormat
) -> None:
    server, source_id = shared_server, new_id()
    if os.geteuid() == 0:
        os.mknod(odd / "device", 0o600 | 0o020000, os.makedev(1, 3))
    before = snapshot(odd)
    specials = [path for path, entry in before.items() if entry[0] == "special"]
    folder = tmp_path / "archives"
    server.register(odd, source_id, display_name="Odd: tree/äöü")

    task = server.backup(source_id, folder, archive_format=archive_format, tag="first run!", create_folder=True)
    assert task.state == WARNED, task
    assert snapshot(odd) == before, (
        "a backup changes nothing in its source, not even an access-time-dependent attribute"
    )
    (name,) = os.listdir(folder)
    assert name.startswith("Odd"), name
    assert "first-run" in name or "first_run" in name
    assert all(c.isascii() and (c.isalnum() or c in "._-") for c in name)
    assert (folder / name).stat().st_mode & 0o777 == 0o600
    problems = server.tasks.ListTaskProblems(task_service_pb2.ListTaskProblemsRequest(task_id=task.task_id)).problems
    assert sorted(p.path for p in problems if p.reason == "SPECIAL_FILE_SKIPPED") == sorted(
        path.decode() for path in specials
    )
    assert task.warning_count == len(problems)
    backup = server.backup_of(task)
    assert backup.complete, "special files are no missing files"
    assert backup.sha256 == sha256_of(folder / name)
    assert backup.size == (folder / name).stat().st_size

    files = [entry for entry in before.values() if entry[0] == "f"]
    assert backup.statistics.files + backup.statistics.hardlinks == len(files)
    assert backup.statistics.symlinks == sum(entry[0] == "l" for entry in before.values())
    assert backup.statistics.directories == sum(entry[0] == "d" for entry in before.values()) - 1
    entries = {
        hashlib.sha256(json.dumps([e.get("path"), e.get("path_base64")]).encode()).digest()
        for e in manifest_of(folder / name)["entries"]
    }
    assert len(entries) == len(before) - 1 - len(specials)

    for level in (
        backup_pb2.VERIFY_LEVEL_STRUCTURE,
        backup_pb2.VERIFY_LEVEL_CHECKSUM,
        backup_pb2.VERIFY_LEVEL_READ_DATA,
    ):
        assert server.verify(backup.backup_id, level).state == COMPLETED
    assert len(server.backup_of(task).verifications) == 4

    planned = server.restore(backup.backup_id, tmp_path / "back", dry_run=True)
    assert planned.state == COMPLETED
    assert not (tmp_path / "back").exists()
    assert planned.restore_result.plan.create == len(before) - 1 - len(specials)

    restored = server.restore(backup.backup_id, tmp_path / "back")
    assert restored.state == COMPLETED, restored
    after = snapshot(tmp_path / "back")
    wanted = without_specials(before)
    assert {
        p: (wanted.get(p), after.get(p)) for p in wanted.keys() | after.keys() if wanted.get(p) != after.get(p)
    } == {}
    sparse = (tmp_path / "back" / "sparse").stat()
    assert sparse.st_blocks * 512 < sparse.st_size // 8, "the holes were filled"
    if archive_format != backup_pb2.ARCHIVE_FORMAT_ZIP:
        assert os.path.samefile(tmp_path / "back" / "hard 1", tmp_path / "back" / "hard 2")
    log = server.log()
    assert "\x1b" not in log
    lines = [row["text"] for row in server.rows("SELECT text FROM task_log WHERE task_id = ?", task.task_id)]
    assert not any(set(line) & {"\n", "\x1b", "\u202e"} for line in lines)


def test_some_paths_alone_are_restored(shared_server: Server, tmp_path: Path) -> None:
    source, source_id = make_tree(tmp_path / "source", 2, files=30), new_id()
    (source / os.fsdecode(b"odd \xff")).write_text("odd")
    shared_server.register(source, source_id)
    task = shared_server.backup(source_id, tmp_path / "out", create_folder=True)
    backup_id = task.backup_result.backup_ids[0]
    wanted = [b"d1", b"odd \xff"]
    restored = shared_server.restore(backup_id, tmp_path / "back", paths=["d1", "odd \\xff"])
    assert restored.state == COMPLETED, restored
    before, after = snapshot(source), snapshot(tmp_path / "back")
    del before[b""], after[b""]
    assert after == {p: e for p, e in before.items() if p in wanted or p.startswith(b"d1/")}


def test_download_gives_the_archive_and_its_digest(shared_server: Server, tmp_path: Path) -> None:
    source, source_id = make_tree(tmp_path / "source", 3, files=5, large=3 << 20), new_id()
    shared_server.register(source, source_id)
    zst = backup_pb2.ARCHIVE_FORMAT_TAR_ZST
    task = shared_server.backup(source_id, tmp_path / "out", archive_format=zst, create_folder=True)
    backup = shared_server.backup_of(task)
    content = Path(backup.storage_path).read_bytes()
    for offset in (0, 1, 1 << 20, len(content) - 1, len(content)):
        request = backup_service_pb2.DownloadBackupRequest(backup_id=backup.backup_id, offset=offset)
        parts = list(shared_server.backups.DownloadBackup(request, timeout=PATIENCE))
        assert parts[0].header.file_name == Path(backup.storage_path).name
        assert parts[0].header.file_name.endswith(".tar.zst")
        assert parts[0].header.content_type == "application/zstd"
        assert parts[0].header.size == len(content)
        assert parts[-1].digest.sha256 == backup.sha256 == hashlib.sha256(content).hexdigest()
        position = offset
        for part in parts[1:-1]:
            assert part.chunk.offset == position
            assert content[position : position + len(part.chunk.data)] == part.chunk.data
            position += len(part.chunk.data)
        assert position == len(content)


def test_a_dry_run_counts_and_changes_nothing(shared_server: Server, tmp_path: Path) -> None:
    source, source_id = make_tree(tmp_path / "source", 4, files=25), new_id()
    shared_server.register(source, source_id)
    before = snapshot(tmp_path)
    task = shared_server.backup(source_id, tmp_path / "new" / "folder", create_folder=True, dry_run=True)
    assert task.state == COMPLETED
    assert task.dry_run
    assert task.backup_result.original_size == sum(e[3] for e in before.values() if e[0] == "f")
    assert not task.backup_result.output_files
    assert not task.backup_result.backup_ids
    assert snapshot(tmp_path) == before
    assert not shared_server.rows("SELECT * FROM backups WHERE source_id = ?", source_id)


def test_ignored_entries_stay_out(shared_server: Server, tmp_path: Path) -> None:
    source, source_id = make_tree(tmp_path / "source", 5, files=5), new_id()
    for name in ("a.log", "b.log", "keep.log", "cache/x", "sub/cache/y", "sub/z.tmp"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    shared_server.register(source, source_id, ignore=["*.log", "!keep.log"])
    task = shared_server.backup(source_id, tmp_path / "out", create_folder=True, ignore=["cache/", "/sub/*.tmp"])
    assert task.state == COMPLETED
    backup = shared_server.backup_of(task)
    assert list(backup.ignore) == ["*.log", "!keep.log", "cache/", "/sub/*.tmp"]
    names = {entry["path"] for entry in manifest_of(Path(backup.storage_path))["entries"]}
    assert {"keep.log", "sub"} <= names
    assert not names & {"a.log", "b.log", "cache", "cache/x", "sub/cache", "sub/cache/y", "sub/z.tmp"}
    assert task.backup_result.files_ignored == 5


def test_several_sources_and_one_that_fails(new_server: Callable[..., Server], tmp_path: Path) -> None:
    server = new_server()
    folder = tmp_path / "out"
    folder.mkdir()
    for number in range(3):
        server.register(make_tree(tmp_path / f"s{number}", number, files=6), f"s{number}")
    task = server.backup(["s0", "s1", "s2"], folder)
    assert task.state == COMPLETED
    assert len(task.backup_result.output_files) == 3
    server.assert_archives(folder)

    with server.frozen_worker():
        created = server.create(["s0", "s1", "s2"], folder)
        os.rename(tmp_path / "s1", tmp_path / "gone")
    task = server.ended(created.task_id)
    assert task.state == WARNED
    assert [one.ok for one in sorted(task.backup_result.sources, key=lambda one: one.source_id)] == [True, False, True]
    assert task.backup_result.sources_failed == 1
    assert task.error.reason
    server.assert_archives(folder)
    listed = server.backups.ListBackups(backup_service_pb2.ListBackupsRequest(task_id=task.task_id)).backups
    assert sorted(b.state for b in listed) == [
        backup_pb2.BACKUP_STATE_COMPLETED,
        backup_pb2.BACKUP_STATE_COMPLETED,
        backup_pb2.BACKUP_STATE_FAILED,
    ]


def test_all_wallets_with_their_counters(new_server: Callable[..., Server], tmp_path: Path) -> None:
    server = new_server()
    wallets = tmp_path / "wallets"
    wallets.mkdir()
    paths = f"{REPOSITORY / 'client'}:{REPOSITORY / 'server'}"
    for name, coins in (("Default", 120), ("Savings", 30)):
        subprocess.run(
            [sys.executable, "-m", "holdfast_server.wallets.generate", str(wallets / name), "--coins", str(coins)],
            env={**os.environ, "PYTHONPATH": paths},
            check=True,
            capture_output=True,
        )
    (wallets / "no wallet").mkdir()
    found = server.sources.RegisterSource(
        source_service_pb2.RegisterSourceRequest(path=str(wallets), discover_wallets=True)
    )
    assert [s.display_name for s in found.sources] == ["Default", "Savings"]
    assert {s.kind for s in found.sources} == {source_pb2.SOURCE_KIND_WALLET}
    assert [one.reason for one in found.skipped] == ["NOT_A_WALLET"]
    server.register(make_tree(tmp_path / "directory", 1, files=3), "a-directory")

    request = backup_service_pb2.CreateBackupRequest(all_wallets=True)
    request.archive.folder, request.archive.create_folder = str(tmp_path / "out"), True
    request.archive.format = backup_pb2.ARCHIVE_FORMAT_ZIP
    task = server.ended(server.backups.CreateBackup(request).task_id)
    assert task.state == COMPLETED, task
    result = task.backup_result
    assert result.wallets_processed == 2
    assert result.coins_backed_up == 150
    # What is held against is counted by hand: every .bin below the money folders is one coin file.
    assert len(result.output_files) == 2
    assert {Path(one).name.split("-")[0] for one in result.output_files} == {"Default", "Savings"}
    assert result.files_skipped == 0
    assert result.files_added_plaintext + result.files_reencrypted <= 150
    server.assert_archives(tmp_path / "out")
    suspended = source_service_pb2.UpdateSourceRequest(source_id=found.sources[1].source_id, suspended=True)
    server.sources.UpdateSource(suspended)
    assert server.ended(server.backups.CreateBackup(request).task_id).backup_result.wallets_processed == 1


def test_a_taken_name_gets_a_number(new_server: Callable[..., Server], tmp_path: Path) -> None:
    """Many backups in one second, and files of others under the very name: nothing is ever overwritten."""
    server = new_server()
    source, folder = make_tree(tmp_path / "source", 1, files=3), tmp_path / "out"
    folder.mkdir()
    server.register(source, "source")
    taken = {}
    now = time.time()
    for offset in range(-1, 120):
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now + offset))
        taken[f"source-{stamp}.zip"] = str(offset)
        (folder / f"source-{stamp}.zip").write_text(str(offset))
    tasks = [server.create("source", folder).task_id for _ in range(4)]
    outputs = [server.ended(task_id).backup_result.output_files[0] for task_id in tasks]
    assert len(set(outputs)) == 4
    assert all(Path(one).stem.endswith(("-2", "-3", "-4", "-5")) for one in outputs)
    assert {name: (folder / name).read_text() for name in taken} == taken
    server.assert_archives(folder, also=list(taken))


@contextlib.contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """A regular file that opens and fails at its first byte."""
    path.touch()
    made = subprocess.run(["mount", "--bind", f"/proc/{os.getpid()}/mem", str(path)], capture_output=True)
    if made.returncode:
        pytest.skip("an unreadable file needs a bind mount here: " + made.stderr.decode().strip())
    try:
        with pytest.raises(OSError, match="Input/output"), path.open("rb") as file:
            file.read(1)
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_an_unreadable_file_is_a_warning_or_a_failure(shared_server: Server, tmp_path: Path) -> None:
    server, source, folder = shared_server, make_tree(tmp_path / "source", 6, files=8), tmp_path / "out"
    folder.mkdir()
    source_id, good_id = new_id(), new_id()
    server.register(source, source_id)
    server.register(make_tree(tmp_path / "good", 7, files=4), good_id)
    with unreadable(source / "broken"):
        task = server.backup(source_id, folder)
        assert task.state == WARNED
        backup = server.backup_of(task)
        assert not backup.complete
        assert task.backup_result.files_skipped == 1
        (problem,) = server.tasks.ListTaskProblems(
            task_service_pb2.ListTaskProblemsRequest(task_id=task.task_id)
        ).problems
        assert (problem.path, problem.reason) == ("broken", "READ_ERROR")
        assert "broken" not in {entry["path"] for entry in manifest_of(Path(backup.storage_path))["entries"]}

        strict = backup_pb2.ON_SOURCE_ERROR_FAIL
        before = os.listdir(folder)
        task = server.backup(source_id, folder, on_source_error=strict)
        assert task.state == FAILED
        assert (task.error.code, task.error.reason) == ("FAILED_PRECONDITION", "SOURCE_UNREADABLE")
        assert task.error.metadata["path"] == "broken"
        assert os.listdir(folder) == before

        task = server.backup([source_id, good_id], folder, on_source_error=strict)
        assert task.state == WARNED
        assert task.error.reason == "SOURCE_UNREADABLE"
        assert len(task.backup_result.output_files) == 1
    server.assert_archives(folder)


class Restless:
    """Files that change all the time, each in a way that tells a mixed copy from a written state."""

    SIZE = 3 << 20

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.root = root
        self.stop = threading.Event()
        self.rounds = 0
        for name in ("in place", "replaced"):
            (root / name).write_bytes(bytes([1]) * self.SIZE)
        for name in ("small in place", "small replaced"):
            (root / name).write_bytes(bytes([1]) * 50_000)
        (root / "grows").write_bytes(b"")
        (root / "shrinks").write_bytes(b"s" * self.SIZE)
        for number in range(200):
            (root / f"still {number}").write_bytes(random.Random(number).randbytes(30_000))
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Restless:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join()

    def _run(self) -> None:
        rng = random.Random(1)
        while not self.stop.is_set():
            self.rounds += 1
            value = bytes([self.rounds % 250 + 1])
            for name, size in (("in place", self.SIZE), ("small in place", 50_000)):
                with (self.root / name).open("r+b", buffering=0) as file:
                    for position in range(0, size, 1 << 16):
                        file.write(value * min(1 << 16, size - position))
            for name, size in (("replaced", self.SIZE), ("small replaced", 50_000)):
                (self.root / ".new").write_bytes(value * size)
                os.replace(self.root / ".new", self.root / name)
            with (self.root / "grows").open("ab", buffering=0) as file:
                file.write(b"%07d\n" % self.rounds * 128)
            with (self.root / "shrinks").open("r+b", buffering=0) as file:
                file.truncate(max(self.SIZE - self.rounds * 4096, 0))
            (self.root / f"comes {self.rounds % 5}").write_bytes(b"c" * 10_000)
            with contextlib.suppress(FileNotFoundError):
                (self.root / f"comes {rng.randrange(5)}").unlink()

    @staticmethod
    def _stood_so(data: bytes) -> bool:
        """Whether the file had this content at one moment: a writer that was held up for a while left the new bytes up
        to somewhere, and the ones of the round before behind them. A reader that raced with it finds other mixtures."""
        new = data[0]
        boundary = len(data) - len(data.lstrip(bytes([new])))
        old = new - 1 or 250
        return boundary == len(data) or (
            boundary % 4096 == 0 and data[boundary:] == bytes([old]) * (len(data) - boundary)
        )

    def is_written_state(self, name: str, data: bytes) -> bool:
        if "replaced" in name:
            return len(data) in (self.SIZE, 50_000) and len(set(data)) == 1
        if "in place" in name:
            return len(data) in (self.SIZE, 50_000) and self._stood_so(data)
        if name == "grows":
            return len(data) % 1024 == 0
        if name == "shrinks":
            return data == b"s" * len(data) and len(data) % 4096 == 0
        if name.startswith("still "):
            return data == random.Random(int(name.split()[1])).randbytes(30_000)
        # A file is empty for a moment after it was made; `.new` is a state of its own kind.
        return len(set(data)) <= 1


@pytest.mark.parametrize("tar", [False, True], ids=["zip", "tar.gz"])
def test_files_that_change_meanwhile(shared_server: Server, tmp_path: Path, tar: bool) -> None:
    server, source_id = shared_server, new_id()
    restless = Restless(tmp_path / "source")
    server.register(restless.root, source_id)
    for number in range(3):
        with restless:
            first = restless.rounds
            task = server.backup(source_id, tmp_path / "out", tar=tar, create_folder=True)
            assert restless.rounds > first, "nothing changed meanwhile"
        restless = _again(restless)
        assert task.state in (COMPLETED, WARNED), task
        backup = server.backup_of(task)
        archive = Path(backup.storage_path)
        contents = dict(_contents(archive))
        entries = {e["path"]: e for e in manifest_of(archive)["entries"] if e["type"] == "file"}
        assert entries.keys() == {n for n in contents if not n.startswith("holdfast-")}
        for name, entry in entries.items():
            assert hashlib.sha256(contents[name]).hexdigest() == entry["sha256"]
            if not entry.get("changed"):
                assert restless.is_written_state(name, contents[name]), f"{name} mixes states in round {number}"
        assert bool(task.warning_count) == (task.state == WARNED)
        assert server.verify(backup.backup_id).state == COMPLETED
    server.assert_archives(tmp_path / "out")


def _again(old: Restless) -> Restless:
    """The same folder and counters with a fresh thread."""
    made = object.__new__(Restless)
    made.root, made.rounds, made.stop = old.root, old.rounds, threading.Event()
    made._thread = threading.Thread(target=made._run)
    return made


def _contents(archive: Path) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                if not info.is_dir():
                    yield info.filename, opened.read(info)
        return
    with tarfile.open(archive) as packed:
        for member in packed:
            if member.isfile():
                file = packed.extractfile(member)
                assert file is not None
                yield member.name, file.read()


def test_the_admins_token_appears_nowhere(new_server: Callable[..., Server], tmp_path: Path) -> None:
    """A planted canary: not in the log, not in the catalog, not in an archive, not in any process's command line."""
    server = new_server(makes_catalog=True)
    token = server.token
    source = make_tree(tmp_path / "source", 1, files=3)
    server.register(source, "source")
    task = server.backup("source", tmp_path / "out", create_folder=True)
    assert task.state == COMPLETED
    for metadata in ([("authorization", f"Basic {token}")], [("authorization", f"Bearer {token[:-1]}")]):
        call = server.channel.unary_unary("/holdfast.v1.TaskService/ListTasks")
        with pytest.raises(Exception, match="UNAUTHENTICATED") as caught:
            call(b"", metadata=metadata)
        assert token[3:-1] not in str(caught.value)
    lines = [process[1] for process in server._processes()]
    assert len(lines) == 3
    assert not any(token in argument for line in lines for argument in line)
    for pid, _ in server._processes():
        assert token.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    assert server.stop() == 0
    secret = token.removeprefix("hf_").encode()
    assert len(secret) > 40
    for path in [server.log_file, *server.data_dir.rglob("*"), *(tmp_path / "out").iterdir()]:
        if path.name != "admin.token" and path.is_file():
            assert secret not in path.read_bytes(), path
    assert (server.data_dir / "admin.token").stat().st_mode & 0o777 == 0o600
    assert server.data_dir.stat().st_mode & 0o777 == 0o700
    assert (server.data_dir / "state.sqlite").stat().st_mode & 0o777 == 0o600
