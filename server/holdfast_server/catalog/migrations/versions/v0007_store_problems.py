"""What a repository's store did wrong when it was last probed."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("repositories", sa.Column("store_problem", sa.Text))
