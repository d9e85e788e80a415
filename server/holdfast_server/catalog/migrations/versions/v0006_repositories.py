"""Repositories, the backups that are snapshots in them, and sealed secrets that may be a repository's."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "repositories",
        sa.Column("repository_id", sa.String(63), primary_key=True),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("location", sa.LargeBinary, nullable=False),
        sa.Column("sealed", sa.Boolean, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("uuid", sa.LargeBinary, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("format_version", sa.Integer, nullable=False),
        sa.Column("compression_level", sa.Integer, nullable=False),
        sa.Column("key_epoch", sa.Integer, nullable=False),
        sa.Column("keys", sa.JSON, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
        sa.Column("statistics", sa.JSON),
        sa.Column("unlock_expire", sa.BigInteger),
        sa.Column("last_check_time", sa.BigInteger),
        sa.Column("check_cursor", sa.String(32), nullable=False),
        sa.Column("damage_level", sa.String(16)),
        sa.Column("log_vector", sa.JSON, nullable=False),
    )
    op.add_column("backups", sa.Column("repository_id", sa.String(63)))
    op.create_index("backups_by_repository", "backups", ["repository_id", "create_time"])
    # Made anew, because SQLite cannot change a primary key. Nothing is lost: what lay in it was sealed to processes
    # that have ended before a catalog is migrated.
    op.drop_table("task_secrets")
    op.create_table(
        "task_secrets",
        sa.Column("task_id", sa.String(36), primary_key=True),
        sa.Column("owner", sa.String(36), primary_key=True),
        sa.Column("resource", sa.String(80), primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
    )
