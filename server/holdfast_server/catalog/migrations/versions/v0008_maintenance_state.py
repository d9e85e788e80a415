"""How the maintenance after a backup stands."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("maintenance_state", sa.String(16), nullable=False, server_default="NONE"))
