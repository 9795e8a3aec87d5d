"""The root of this repo's own migrations: an empty one, which `spine db revision` adds to."""

revision = "own_0001"
down_revision = None
branch_labels = ("own",)
depends_on = "intermediate_0001"


def upgrade() -> None:
    """Nothing yet."""
