"""Whether a backup's archive is sealed."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("backups", sa.Column("sealed", sa.Boolean, nullable=False, server_default=sa.false()))
