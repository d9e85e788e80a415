"""`make demo`: the main job on real input, under ./.demo/, every command printed before its output.

A generated wallet and a real directory of this machine are backed up with the progress on the screen; the watch is
dropped on purpose and resumed, the worker is killed in the middle; everything is verified, restored, and compared byte
by byte with our own and with common tools. Then the wallet is backed up encrypted, and coins go from one wallet into
another. Any difference ends with a non-zero status.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import holdfast

ROOT = Path.cwd() / ".demo"
MARK = ROOT / "made-by-make-demo"
BIN = Path(sys.executable).parent
LARGEST = 300 << 20
COINS = 3_000


@dataclass
class Row:
    """One line of the closing table."""

    name: str
    files: int
    size: int
    stored: int
    seconds: float
    archive: Path
    restored: Path


def main() -> int:
    started = time.monotonic()
    prepare()
    wallet = make_wallet()
    directory = choose_directory()
    with server() as process:
        os.environ["HOLDFAST_PATHS_DATA_DIR"] = str(ROOT / "state")
        command("holdfast", "source", "register", str(wallet), "--kind", "wallet", "--id", "wallet")
        command("holdfast", "source", "register", str(directory), "--kind", "directory", "--id", "directory")
        rows = [back_up_wallet(wallet), back_up_directory(directory, process)]
        for row, source in zip(rows, (wallet, directory), strict=True):
            verify_restore_compare(row, source)
        move_coins(wallet)
        fill_repository(directory)
    print_table(rows, time.monotonic() - started)
    return 0


def prepare() -> None:
    """A fresh ./.demo/; one that this program did not make is left alone."""
    if ROOT.exists():
        if not MARK.exists():
            raise SystemExit(f"{ROOT} exists and was not made by make demo: move it away")
        shutil.rmtree(ROOT)
    (ROOT / "backups").mkdir(parents=True)
    MARK.touch()


def make_wallet() -> Path:
    say(f"a wallet of {COINS:,} made-up coins, worth nothing")
    wallet = ROOT / "wallets" / "Default"
    command("python", "-m", "holdfast_server.wallets.generate", str(wallet), "--coins", str(COINS), "--seed", "7")
    return wallet


def choose_directory() -> Path:
    """The largest of some ordinary directories that is not larger than LARGEST."""
    places = ("/usr/share", "/usr/include", "/usr/share/doc", "/usr/share/locale", "/usr/share/perl", "/etc")
    sized = [(tree_size(Path(place)), Path(place)) for place in places if Path(place).is_dir()]
    fallback = (0, Path(os.__file__).parent)
    size, path = max(((size, path) for size, path in sized if 5 << 20 <= size <= LARGEST), default=fallback)
    say(f"a real directory of this machine: {path}, {size / 2**20:.0f} MiB")
    return path


def tree_size(path: Path) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue
        if total > LARGEST:
            break
    return total


@contextmanager
def server() -> Iterator[subprocess.Popen[str]]:
    """A real server on a free port with an embedded catalog."""
    arguments = ["serve", "--listen", "127.0.0.1:0", "--data-dir", str(ROOT / "state")]
    show(["holdfast-server", *arguments, "&"])
    process = subprocess.Popen([BIN / "holdfast-server", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for _ in range(4):
            print(process.stdout.readline(), end="")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def back_up_wallet(wallet: Path) -> Row:
    say("back up the wallet into a .zip, progress on the screen")
    before = time.monotonic()
    create = ["holdfast", "backup", "create", "wallet", "--to", str(ROOT / "backups"), "--format", "zip"]
    command(*create, "--tag", "demo")
    return row("wallet", time.monotonic() - before, ROOT / "restored" / wallet.name)


#: A fast machine may be done with a backup before it can be disturbed.
_TRIES = 5


def back_up_directory(directory: Path, process: subprocess.Popen[str]) -> Row:
    say("back up the directory into a .tar.gz; the watch is dropped with Ctrl-C on the way")
    create = ["holdfast", "backup", "create", "directory", "--to", str(ROOT / "backups"), "--format", "tar.gz"]
    for _ in range(_TRIES):
        before = time.monotonic()
        show(create)
        watcher = subprocess.Popen([BIN / create[0], *create[1:]], stderr=subprocess.PIPE, text=True)
        when_at("directory", 10.0, lambda: watcher.send_signal(signal.SIGINT))  # noqa: B023
        _, hint = watcher.communicate()
        print(hint, end="")
        found = re.search(r"task watch (\S+) --after (\d+)", hint)
        if watcher.returncode:
            break
        say("it was done before Ctrl-C came; once more")
    else:
        return row("directory", time.monotonic() - before, ROOT / "restored" / "directory")
    if watcher.returncode != 130 or found is None:
        raise SystemExit(f"Ctrl-C must detach with status 130 and say how to go on, got {watcher.returncode}")
    say("watch again from the next sequence; meanwhile the worker is killed (SIGKILL), and the task goes on")
    killer = threading.Thread(target=when_at, args=("directory", 30.0, lambda: kill_worker(process.pid)))
    killer.start()
    command("holdfast", "task", "watch", found[1], "--after", found[2])
    killer.join()
    with holdfast.connect() as client:
        task = client.tasks.get(found[1]).task
    print(f"the task ended {task.state} in attempt {task.attempt}")
    return row("directory", time.monotonic() - before, ROOT / "restored" / "directory")


def when_at(source: str, percent: float, action: Callable[[], object]) -> None:
    """Act as soon as the running backup of a source is that far."""
    with holdfast.connect() as client:
        for event in client.tasks.watch_all(source_ids=[source]):
            progress = event.progress or (event.task.progress if event.task else None)
            if progress is not None and (progress.percent or 0.0) >= percent:
                action()
                return


def kill_worker(supervisor: int) -> None:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == supervisor and b"worker" in arguments:
            print(f"\n$ kill -9 {entry.name}   # the worker")
            os.kill(int(entry.name), signal.SIGKILL)
            return
    raise SystemExit("no worker found to kill")


def row(source: str, seconds: float, restored: Path) -> Row:
    with holdfast.connect() as client:
        backup = next(iter(client.backups.list(source_id=source)))
    found = backup.statistics
    if found is None or backup.state != "COMPLETED":
        raise SystemExit(f"the backup of {source} ended {backup.state}")
    return Row(source, found.files, found.original_size, backup.size or 0, seconds, Path(backup.storage_path), restored)


def verify_restore_compare(row: Row, source: Path) -> None:
    with holdfast.connect() as client:
        backup_id = next(iter(client.backups.list(source_id=row.name))).backup_id
    say(f"verify the {row.name}'s archive, restore it to a new folder, compare byte by byte")
    command("holdfast", "backup", "verify", backup_id)
    command("holdfast", "restore", backup_id, "--to", str(row.restored), "--create-parents")
    command("diff", "-r", "--no-dereference", str(source), str(row.restored))
    print("no difference")
    compare_attributes(source, row.restored)
    say("the same with common tools alone")
    if row.archive.suffix == ".zip":
        if shutil.which("unzip") is None:
            command("python", "-m", "zipfile", "-t", str(row.archive))
            return
        command("unzip", "-tq", str(row.archive))
        take_sums = f"unzip -p {shlex.quote(str(row.archive))} holdfast-sha256sums.txt"
    else:
        take_sums = f"tar xzOf {shlex.quote(str(row.archive))} holdfast-sha256sums.txt"
    shell(f"{take_sums} | (cd {shlex.quote(str(row.restored))} && sha256sum --quiet -c -) && echo all sums match")


def move_coins(wallet: Path) -> None:
    """Unlock, back up without a coin in clear, export an exact amount, import it into a second wallet."""
    say("unlock the wallet: from now on its backups hold no coin in clear")
    password, sent, second = ROOT / "password.txt", ROOT / "sent", ROOT / "wallets" / "Second"
    password.write_text("correct horse battery")
    command("holdfast", "wallet", "balance", "wallet")
    command("holdfast", "wallet", "unlock", "wallet", "--password-file", str(password))
    create = ["holdfast", "backup", "create", "wallet", "--to", str(ROOT / "backups"), "--format", "zip"]
    command(*create, "--tag", "encrypted")
    sealed = next((ROOT / "backups").glob("*encrypted*.zip"))
    look_for_coins(wallet, sealed)
    command("holdfast", "wallet", "lock", "wallet")

    say("export an exact amount as a picture, and import it into a second wallet")
    command("python", "-m", "holdfast_server.wallets.generate", str(second), "--coins", "20", "--seed", "8")
    command("holdfast", "source", "register", str(second), "--kind", "wallet", "--id", "second")
    export = ["holdfast", "wallet", "export", "wallet", "1234.56", "--to", str(sent), "--create-folder"]
    command(*export, "--format", "png", "--tag", "demo")
    command("holdfast", "wallet", "import", "second", *map(str, sorted(sent.iterdir())))

    say("restore the encrypted backup as a wallet of its own: every coin is counted again")
    with holdfast.connect() as client:
        backup_id = next(iter(client.backups.list(source_id="wallet"))).backup_id
    restore = ["holdfast", "restore", backup_id, "--to-new-wallet", str(ROOT / "restored" / "Again"), "--id", "again"]
    command(*restore, "--password-file", str(password))
    for source_id in ("wallet", "second", "again"):
        command("holdfast", "wallet", "balance", source_id)


def fill_repository(directory: Path) -> None:
    """Back up both sources into a repository, twice: the second time stores next to nothing. Then restore from it."""
    say("a repository: deduplicated, compressed and encrypted; two backups of the same cost little more than one")
    command("holdfast", "repository", "create", "vault", "--folder", str(ROOT / "vault"), "--create-folder")
    stored = []
    for _ in range(2):
        command("holdfast", "backup", "create", "wallet", "directory", "--repository", "vault")
        with holdfast.connect() as client:
            latest = [next(iter(client.backups.list(source_id=name))) for name in ("wallet", "directory")]
        found = [backup.statistics for backup in latest if backup.repository_id == "vault"]
        stored.append(sum(one.stored_size for one in found if one is not None))
    command("holdfast", "repository", "show", "vault")
    print(f"stored by the first pair of backups: {stored[0]:,} bytes; by the second: {stored[1]:,}")
    if not 0 <= stored[1] < stored[0] / 100:
        raise SystemExit("the second backup stored the same content again")
    restored = ROOT / "restored" / "from the repository"
    command("holdfast", "restore", latest[1].backup_id, "--to", str(restored))
    command("diff", "-r", "--no-dereference", str(directory), str(restored))
    print("no difference")
    compare_attributes(directory, restored)


def look_for_coins(wallet: Path, archive: Path) -> None:
    """No authenticity number of Bank and Fracked may be in the archive, and they are in the one made before."""
    numbers = [path.read_bytes()[-16:] for folder in ("Bank", "Fracked") for path in (wallet / folder).iterdir()]

    def found(path: Path) -> int:
        with zipfile.ZipFile(path) as opened:
            content = b"".join(map(opened.read, opened.namelist()))
        return sum(number in content for number in numbers)

    clear = next(path for path in archive.parent.glob("*.zip") if path != archive)
    print(f"coins in clear: {found(clear):,} in {clear.name}, {found(archive)} in {archive.name}")
    if not found(clear) or found(archive):
        raise SystemExit("a backup of the unlocked wallet holds coins in clear")


def compare_attributes(source: Path, restored: Path) -> None:
    """Modes and times, which diff does not look at."""
    for folder, folders, names in os.walk(source):
        for name in [*folders, *names]:
            one = Path(folder, name)
            a, b = one.lstat(), (restored / one.relative_to(source)).lstat()
            if one.is_symlink():
                continue
            if (a.st_mode & 0o777, a.st_mtime_ns) != (b.st_mode & 0o777, b.st_mtime_ns):
                raise SystemExit(f"{one}: mode or time differs after the restore")
    print("modes and times agree")


def print_table(rows: list[Row], seconds: float) -> None:
    say("what was done")
    print(f"{'source':<10} {'files':>8} {'MiB':>8} {'stored':>8} {'ratio':>6} {'s':>6}  archive, restored to")
    for row in rows:
        ratio = row.stored / row.size if row.size else 0.0
        print(
            f"{row.name:<10} {row.files:>8,} {row.size / 2**20:>8.1f} {row.stored / 2**20:>8.1f} {ratio:>6.2f} "
            f"{row.seconds:>6.1f}  {row.archive}\n{'':<52}{row.restored}"
        )
    print(f"\nEverything is under {ROOT}; the demo took {seconds:.0f} s. No difference was found.")


def say(text: str) -> None:
    print(f"\n— {text}", flush=True)


def show(arguments: list[str]) -> None:
    print("$ " + shlex.join(arguments), flush=True)


def command(*arguments: str) -> None:
    """Run a command of ours or of the system; its failure is the demo's."""
    show(list(arguments))
    ours = {"holdfast": BIN / "holdfast", "python": Path(sys.executable)}
    status = subprocess.run([ours.get(arguments[0], arguments[0]), *arguments[1:]], check=False).returncode
    if status:
        raise SystemExit(f"{arguments[0]} ended with status {status}")


def shell(line: str) -> None:
    print("$ " + line, flush=True)
    if subprocess.run(["bash", "-o", "pipefail", "-c", line], check=False).returncode:
        raise SystemExit("the command failed")


if __name__ == "__main__":
    sys.exit(main())
