"""Sealed secrets of tasks, and the keys of workers that they are sealed to."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "task_secrets",
        sa.Column("task_id", sa.String(36), primary_key=True),
        sa.Column("owner", sa.String(36), primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
    )
    op.add_column("workers", sa.Column("public_key", sa.LargeBinary))
    op.add_column("tasks", sa.Column("has_credentials", sa.Boolean, nullable=False, server_default=sa.false()))
