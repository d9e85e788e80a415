"""The catalog's tables, for queries. The migrations make them; a test holds both together.

Times are microseconds since the epoch (UTC). Paths are text in the escaped form of `storage.names` where people read
them and raw bytes where files are opened. JSON columns hold what only whole rows are read for.
"""

from __future__ import annotations

import sqlalchemy as sa

__all__ = [
    "backups",
    "locks",
    "metadata",
    "problems",
    "repositories",
    "request_ids",
    "sources",
    "task_events",
    "task_log",
    "task_secrets",
    "task_sources",
    "tasks",
    "verifications",
    "wallet_keys",
    "wallet_unlocks",
    "workers",
]

metadata = sa.MetaData()

sources = sa.Table(
    "sources",
    metadata,
    sa.Column("source_id", sa.String(63), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("display_name", sa.Text, nullable=False),
    sa.Column("path", sa.LargeBinary, nullable=False),
    sa.Column("ignore", sa.JSON, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("update_time", sa.BigInteger, nullable=False),
)

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("task_id", sa.String(36), primary_key=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("state", sa.String(32), nullable=False),
    sa.Column("origin", sa.String(16), nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("dry_run", sa.Boolean, nullable=False),
    sa.Column("source_ids", sa.JSON, nullable=False),
    sa.Column("source_count", sa.Integer, nullable=False),
    sa.Column("queue", sa.String(16), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("start_time", sa.BigInteger),
    sa.Column("end_time", sa.BigInteger),
    sa.Column("update_time", sa.BigInteger, nullable=False),
    # Ownership: the attempt fences every write; a running one has an owner and a lease.
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("owner", sa.String(36)),
    sa.Column("lease_expires", sa.BigInteger),
    sa.Column("dispatch_time", sa.BigInteger),
    sa.Column("recovering", sa.Boolean, nullable=False),
    sa.Column("fruitless", sa.Integer, nullable=False),
    sa.Column("high_water", sa.BigInteger, nullable=False),
    # Control columns, read by the worker's control thread.
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("committing", sa.Boolean, nullable=False),
    sa.Column("progress", sa.JSON, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("error", sa.JSON),
    sa.Column("warning_count", sa.BigInteger, nullable=False),
    sa.Column("log_lines", sa.BigInteger, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("cleanup", sa.JSON),
    sa.Column("result", sa.JSON),
    sa.Column("checkpoint", sa.JSON, nullable=False),
    # That the call came with a secret; the secret itself is in task_secrets, sealed.
    sa.Column("has_credentials", sa.Boolean, nullable=False, server_default=sa.false()),
    # Of the repository, after a backup into it.
    sa.Column("maintenance_state", sa.String(16), nullable=False, server_default="NONE"),
    sa.Index("tasks_by_state", "state"),
    sa.Index("tasks_by_create_time", "create_time", "task_id"),
    sa.Index("tasks_by_update_time", "update_time"),
)

task_sources = sa.Table(
    "task_sources",
    metadata,
    sa.Column("task_id", sa.String(36), primary_key=True),
    sa.Column("source_id", sa.String(63), primary_key=True),
    sa.Index("task_sources_by_source", "source_id"),
)

task_events = sa.Table(
    "task_events",
    metadata,
    sa.Column("task_id", sa.String(36), primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("payload", sa.JSON, nullable=False),
)

task_log = sa.Table(
    "task_log",
    metadata,
    sa.Column("task_id", sa.String(36), primary_key=True),
    sa.Column("line_number", sa.BigInteger, primary_key=True),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("level", sa.String(8), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)

problems = sa.Table(
    "problems",
    metadata,
    sa.Column("task_id", sa.String(36), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("source_id", sa.String(63), nullable=False),
    sa.Column("backup_id", sa.String(36)),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("reason", sa.String(64), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("time", sa.BigInteger, nullable=False),
)

locks = sa.Table(
    "locks",
    metadata,
    sa.Column("resource", sa.Text, primary_key=True),
    sa.Column("task_id", sa.String(36), primary_key=True),
    sa.Column("mode", sa.String(16), nullable=False),
    sa.Column("held", sa.Boolean, nullable=False),
    sa.Index("locks_by_task", "task_id"),
)

request_ids = sa.Table(
    "request_ids",
    metadata,
    sa.Column("principal", sa.Text, primary_key=True),
    sa.Column("method", sa.String(64), primary_key=True),
    sa.Column("request_id", sa.String(36), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("result", sa.JSON, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Index("request_ids_by_time", "create_time"),
)

backups = sa.Table(
    "backups",
    metadata,
    sa.Column("backup_id", sa.String(36), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("source_id", sa.String(63), nullable=False),
    sa.Column("task_id", sa.String(36), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("format", sa.String(16), nullable=False),
    sa.Column("folder", sa.LargeBinary, nullable=False),
    sa.Column("file_name", sa.LargeBinary),
    sa.Column("size", sa.BigInteger),
    sa.Column("sha256", sa.String(64)),
    sa.Column("locked", sa.Boolean, nullable=False),
    sa.Column("sealed", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("complete", sa.Boolean),
    sa.Column("ignore", sa.JSON, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("complete_time", sa.BigInteger),
    sa.Column("update_time", sa.BigInteger, nullable=False),
    sa.Column("statistics", sa.JSON, nullable=False),
    # The trash: set together while it waits there, but for the name, which a backup without a file does not have.
    sa.Column("delete_time", sa.BigInteger),
    sa.Column("purge_time", sa.BigInteger),
    sa.Column("trash_name", sa.LargeBinary),
    # From here on the file may be gone, and nothing brings the backup back.
    sa.Column("purge_begun", sa.BigInteger),
    # The repository of a snapshot; archives have none.
    sa.Column("repository_id", sa.String(63)),
    sa.Index("backups_by_source", "source_id", "create_time"),
    sa.Index("backups_by_task", "task_id"),
    sa.Index("backups_by_create_time", "create_time", "backup_id"),
    sa.Index("backups_by_purge_time", "purge_time"),
    sa.Index("backups_by_repository", "repository_id", "create_time"),
)

repositories = sa.Table(
    "repositories",
    metadata,
    sa.Column("repository_id", sa.String(63), primary_key=True),
    sa.Column("display_name", sa.Text, nullable=False),
    sa.Column("location", sa.LargeBinary, nullable=False),
    sa.Column("sealed", sa.Boolean, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("uuid", sa.LargeBinary, nullable=False),
    # Of its config object: what is found under the location later must be this repository.
    sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    sa.Column("format_version", sa.Integer, nullable=False),
    sa.Column("compression_level", sa.Integer, nullable=False),
    sa.Column("key_epoch", sa.Integer, nullable=False),
    sa.Column("keys", sa.JSON, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("update_time", sa.BigInteger, nullable=False),
    sa.Column("statistics", sa.JSON),
    # Until when it is unlocked; the keys are in the memory of the edge that unlocked it.
    sa.Column("unlock_expire", sa.BigInteger),
    sa.Column("last_check_time", sa.BigInteger),
    # Where the last check of a part of the packs stopped, and how deep the check went that found damage.
    sa.Column("check_cursor", sa.String(32), nullable=False),
    sa.Column("damage_level", sa.String(16)),
    # Highest sequence and hash seen of each writer's log.
    sa.Column("log_vector", sa.JSON, nullable=False),
    # What the store did wrong when it was last probed; null: nothing.
    sa.Column("store_problem", sa.Text),
)

verifications = sa.Table(
    "verifications",
    metadata,
    sa.Column("backup_id", sa.String(36), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("level", sa.String(16), nullable=False),
    sa.Column("ok", sa.Boolean, nullable=False),
    sa.Column("files_checked", sa.BigInteger, nullable=False),
    sa.Column("bytes_checked", sa.BigInteger, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("task_id", sa.String(36), nullable=False),
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("owner", sa.String(36), primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("start_time", sa.BigInteger, nullable=False),
    sa.Column("heartbeat", sa.BigInteger, nullable=False),
    # What secrets are sealed to; the private half lives in that process alone.
    sa.Column("public_key", sa.LargeBinary),
)

task_secrets = sa.Table(
    "task_secrets",
    metadata,
    sa.Column("task_id", sa.String(36), primary_key=True),
    sa.Column("owner", sa.String(36), primary_key=True),
    # Whose key it is, such as `source:purse`; see catalog.task_secrets.
    sa.Column("resource", sa.String(80), primary_key=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
)

# What makes a wallet's key of its password, and tells the right one. Neither is a secret, and no key is stored.
wallet_keys = sa.Table(
    "wallet_keys",
    metadata,
    sa.Column("source_id", sa.String(63), primary_key=True),
    sa.Column("key_id", sa.String(32), nullable=False),
    sa.Column("salt", sa.LargeBinary, nullable=False),
    sa.Column("memory_kib", sa.Integer, nullable=False),
    sa.Column("passes", sa.Integer, nullable=False),
    sa.Column("lanes", sa.Integer, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
)

# That a wallet is unlocked until then; the key is in the memory of the edge that unlocked it.
wallet_unlocks = sa.Table(
    "wallet_unlocks",
    metadata,
    sa.Column("source_id", sa.String(63), primary_key=True),
    sa.Column("key_id", sa.String(32), nullable=False),
    sa.Column("expire_time", sa.BigInteger, nullable=False),
)
