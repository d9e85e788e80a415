"""`holdfast-server`: serve, check the configuration, and fill a lost catalog again."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from holdfast_server.app import prepare_data_dir, run_edge, run_worker, software_version
from holdfast_server.config import Config, ConfigError, load_config
from holdfast_server.process import attach, collect_no_garbage_yet
from holdfast_server.rebuild_command import COMMAND as REBUILD
from holdfast_server.rebuild_command import add_command as add_rebuild
from holdfast_server.rebuild_command import run as run_rebuild
from holdfast_server.supervisor import Supervisor

__all__ = ["main"]


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
        if options.command == REBUILD:
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
    rebuild = add_rebuild(commands)
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
    collect_no_garbage_yet()
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
    with _single_instance(config):
        return run_rebuild(options, config)


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
