"""The database: its version, its schema, its clock."""

from collections.abc import Iterator
from datetime import UTC, datetime

from sqlalchemy import text

from market_spine import database, migrations
from market_spine.checks import Finding

OLDEST, NEWEST = 16, 18  # versions that the SQL is tested on
SKEW_SECONDS = 5.0


def check() -> Iterator[Finding]:
    """Ask it; whether it can be reached was said by whoever began."""
    with database.snapshot() as connection:
        before = datetime.now(UTC)
        now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        skew = (now - before).total_seconds()
        version = int(connection.execute(text("SHOW server_version_num")).scalar_one()) // 10_000
    if abs(skew) > SKEW_SECONDS:
        what = f"this machine's clock is {-skew:.0f} s ahead of the database's"
        yield Finding(what=what, todo="let both keep time by NTP")
    if not OLDEST <= version <= NEWEST:
        what = f"Postgres {version} is none of those that this is tested on"
        yield Finding(what=what, todo=f"use one from {OLDEST} to {NEWEST}")
    with database.transaction() as connection:
        different = migrations.differences(connection)
    for difference in different:
        yield Finding(what=difference, todo="spine db upgrade, or write a migration of your own")
