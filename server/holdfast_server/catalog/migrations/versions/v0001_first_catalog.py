"""The first catalog."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "sources",
        sa.Column("source_id", sa.String(63), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("path", sa.LargeBinary, nullable=False),
        sa.Column("ignore", sa.JSON, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "tasks",
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
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("owner", sa.String(36)),
        sa.Column("lease_expires", sa.BigInteger),
        sa.Column("dispatch_time", sa.BigInteger),
        sa.Column("recovering", sa.Boolean, nullable=False),
        sa.Column("fruitless", sa.Integer, nullable=False),
        sa.Column("high_water", sa.BigInteger, nullable=False),
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
    )
    op.create_table(
        "task_sources",
        sa.Column("task_id", sa.String(36), primary_key=True),
        sa.Column("source_id", sa.String(63), primary_key=True),
    )
    op.create_table(
        "task_events",
        sa.Column("task_id", sa.String(36), primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
    )
    op.create_table(
        "task_log",
        sa.Column("task_id", sa.String(36), primary_key=True),
        sa.Column("line_number", sa.BigInteger, primary_key=True),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("level", sa.String(8), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )
    op.create_table(
        "problems",
        sa.Column("task_id", sa.String(36), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("source_id", sa.String(63), nullable=False),
        sa.Column("backup_id", sa.String(36)),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "locks",
        sa.Column("resource", sa.Text, primary_key=True),
        sa.Column("task_id", sa.String(36), primary_key=True),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("held", sa.Boolean, nullable=False),
    )
    op.create_table(
        "request_ids",
        sa.Column("principal", sa.Text, primary_key=True),
        sa.Column("method", sa.String(64), primary_key=True),
        sa.Column("request_id", sa.String(36), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("result", sa.JSON, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "backups",
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
        sa.Column("complete", sa.Boolean),
        sa.Column("ignore", sa.JSON, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("complete_time", sa.BigInteger),
        sa.Column("update_time", sa.BigInteger, nullable=False),
        sa.Column("statistics", sa.JSON, nullable=False),
    )
    op.create_table(
        "verifications",
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
    op.create_table(
        "workers",
        sa.Column("owner", sa.String(36), primary_key=True),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("start_time", sa.BigInteger, nullable=False),
        sa.Column("heartbeat", sa.BigInteger, nullable=False),
    )
    op.create_index("tasks_by_state", "tasks", ["state"])
    op.create_index("tasks_by_create_time", "tasks", ["create_time", "task_id"])
    op.create_index("tasks_by_update_time", "tasks", ["update_time"])
    op.create_index("task_sources_by_source", "task_sources", ["source_id"])
    op.create_index("locks_by_task", "locks", ["task_id"])
    op.create_index("request_ids_by_time", "request_ids", ["create_time"])
    op.create_index("backups_by_source", "backups", ["source_id", "create_time"])
    op.create_index("backups_by_task", "backups", ["task_id"])
    op.create_index("backups_by_create_time", "backups", ["create_time", "backup_id"])
