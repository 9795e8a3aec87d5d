"""${message}."""

import sqlalchemy as sa
from alembic import op

revision = "${up_revision}"
down_revision = "${down_revision}"
branch_labels = None
depends_on = ${repr(depends_on).replace("'", '"')}


def upgrade() -> None:
    """Make the database what schema.py says."""
