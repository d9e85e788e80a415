"""How wallets' passwords become keys, which wallets are unlocked, and one sealed row for each secret of a task."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "wallet_keys",
        sa.Column("source_id", sa.String(63), primary_key=True),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("salt", sa.LargeBinary, nullable=False),
        sa.Column("memory_kib", sa.Integer, nullable=False),
        sa.Column("passes", sa.Integer, nullable=False),
        sa.Column("lanes", sa.Integer, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "wallet_unlocks",
        sa.Column("source_id", sa.String(63), primary_key=True),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("expire_time", sa.BigInteger, nullable=False),
    )
    # Made anew, because SQLite cannot change a primary key. Nothing is lost: what lay in it was sealed to processes
    # that have ended before a catalog is migrated.
    op.drop_table("task_secrets")
    op.create_table(
        "task_secrets",
        sa.Column("task_id", sa.String(36), primary_key=True),
        sa.Column("owner", sa.String(36), primary_key=True),
        sa.Column("source_id", sa.String(63), primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
    )
