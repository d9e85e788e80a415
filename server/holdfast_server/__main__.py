"""`holdfast-server`: serve, check the configuration, and fill a lost catalog again."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from holdfast_server.app import prepare_data_dir, rebuild_catalog, run_edge, run_worker, software_version
from holdfast_server.config import Config, ConfigError, load_config
from holdfast_server.process import attach
from holdfast_server.storage.names import escape
from holdfast_server.supervisor import Supervisor

if TYPE_CHECKING:
    from holdfast_server.tasks.rebuild import Finding

__all__ = ["main"]

#: How often a large archive says how far it is.
_PROGRESS_SECONDS = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status: 0 ok, 1 failed, 2 wrong usage or configuration, 3 not all found."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"
    )
    for chatty in ("dbos", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        config = _load(options)
        if options.command == "check-config":
            sys.stdout.write(f"the configuration is valid; the data lives in {config.paths.data_dir}\n")
            return 0
        if options.command == "rebuild-catalog":
            return _rebuild(options, config)
        if options.role is not None:
            return _run_role(options, config)
        return _supervise(options, config)
    except ConfigError as error:
        sys.stderr.write(f"holdfast-server: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("holdfast-server: interrupted\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="holdfast-server", description="The Holdfast backup server.")
    parser.add_argument("--version", action="version", version=software_version())
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve until stopped by SIGTERM or Ctrl-C")
    check = commands.add_parser("check-config", help="check the configuration and say where the data lives")
    rebuild = commands.add_parser(
        "rebuild-catalog",
        help="find backups again from their archives, after the data directory was lost",
        description="Read every archive in the folders and add those that the catalog does not know. Nothing in the "
        "folders and no present row is changed. The server must be stopped. Exit status 3: something was skipped or is "
        "missing.",
    )
    rebuild.add_argument("--folder", type=Path, metavar="DIR", nargs="+", action="extend", required=True,
                         help="folders that hold archives")  # fmt: skip
    rebuild.add_argument("--recursive", action="store_true", help="also everything below the folders")
    rebuild.add_argument("--dry-run", action="store_true", help="only tell what would be added")
    for command in (serve, check, rebuild):
        command.add_argument("--config", type=Path, metavar="FILE", help="TOML file (default: server.toml in the "
                             "configuration directory; HOLDFAST_CONFIG)")  # fmt: skip
        command.add_argument("--data-dir", metavar="DIR", help="[paths] data_dir")
    for command in (serve, check):
        command.add_argument("--listen", metavar="ADDRESS", help="[server] listen: host:port or unix:/path")
    serve.add_argument("--workers", type=int, metavar="N", help="[worker] processes")
    serve.add_argument("--role", choices=("edge", "worker"), help="run one role alone, without a supervisor")
    for name in ("--life-fd", "--status-fd", "--parent", "--dead-before"):
        serve.add_argument(name, type=int, help=argparse.SUPPRESS)
    for name in ("--owner", "--dead-owners", "--bound"):
        serve.add_argument(name, help=argparse.SUPPRESS)
    return parser


def _load(options: argparse.Namespace) -> Config:
    return load_config(
        options.config,
        flags={
            ("server", "listen"): getattr(options, "listen", None),
            ("paths", "data_dir"): options.data_dir,
            ("worker", "processes"): getattr(options, "workers", None),
        },
    )


def _run_role(options: argparse.Namespace, config: Config) -> int:
    child = attach(options.life_fd, options.status_fd, options.parent)
    if options.role == "edge":
        return run_edge(config, child, options.bound)
    owner = options.owner or _fresh_owner()
    dead_owners = options.dead_owners.split(",") if options.dead_owners else []
    return run_worker(config, child, owner, dead_owners, options.dead_before)


def _fresh_owner() -> str:
    import uuid

    return str(uuid.uuid4())


def _rebuild(options: argparse.Namespace, config: Config) -> int:
    prepare_data_dir(config)
    reading, said = b"", 0.0

    def tell(finding: Finding) -> None:
        nonlocal reading, said
        if finding.kind == "reading":
            if finding.path == reading and time.monotonic() - said < _PROGRESS_SECONDS:
                return
            reading, said = finding.path, time.monotonic()
        sys.stdout.write(f"{finding.kind:<8} {escape(finding.path)}{': ' if finding.text else ''}{finding.text}\n")
        sys.stdout.flush()

    with _single_instance(config):
        done = rebuild_catalog(
            config, options.folder, tell, recursive=options.recursive, dry_run=options.dry_run
        )  # fmt: skip
    if done.pathless:
        sys.stdout.write(f"give these sources their folders with UpdateSource: {', '.join(done.pathless)}\n")
    verb = "would be added" if options.dry_run else "added"
    sys.stdout.write(f"{done.found} {verb}, {done.known} known, {done.skipped} skipped, {done.missing} missing\n")
    return 3 if done.skipped or done.missing else 0


def _supervise(options: argparse.Namespace, config: Config) -> int:
    prepare_data_dir(config)
    with _single_instance(config):
        shared = ["-m", "holdfast_server", "serve", "--data-dir", str(config.paths.data_dir)]
        shared += ["--listen", config.server.listen]
        if options.config is not None:
            shared += ["--config", str(options.config)]
        supervisor = Supervisor(
            config.worker.processes,
            lambda role: [*shared, "--role", role],
            lambda address: _say_hello(config, address),
            config.worker.drain_seconds,
        )
        return supervisor.run()


def _single_instance(config: Config) -> IO[str]:
    """Hold the data directory: two supervisors on one would fight over its address and its leases."""
    lock = (config.paths.data_dir / "server.lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ConfigError(
            f"[paths] data_dir = {config.paths.data_dir} is in use by another server: "
            "stop it, or name another directory"
        ) from None
    return lock


def _say_hello(config: Config, address: str) -> None:
    token_file = config.paths.data_dir / "admin.token"
    target = f"-unix {address.removeprefix('unix:')}" if address.startswith("unix:") else address
    sys.stdout.write(
        f"holdfast is serving on {address}; paste one of these:\n"
        f"  holdfast --data-dir {config.paths.data_dir} health\n"
        f'  grpcurl -plaintext -H "authorization: Bearer $(cat {token_file})" {target} list\n'
        f"  its data is in {config.paths.data_dir} (token: {token_file})\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
