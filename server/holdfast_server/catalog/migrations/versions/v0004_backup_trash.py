"""Backups in the trash."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("backups", sa.Column("delete_time", sa.BigInteger))
    op.add_column("backups", sa.Column("purge_time", sa.BigInteger))
    op.add_column("backups", sa.Column("trash_name", sa.LargeBinary))
    op.add_column("backups", sa.Column("purge_begun", sa.BigInteger))
    op.create_index("backups_by_purge_time", "backups", ["purge_time"])
