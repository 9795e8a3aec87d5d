"""Migrations of the schema: bringing a database up to date, and telling whether it is.

Their files stand in the folder `migrations`, one labelled branch for each tier of the template and
`own` for this repo's. An upgrade is one transaction: if any of it fails, nothing has changed.
"""

import io
import os
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError, to_tuple
from sqlalchemy import Connection, text

from market_spine import database
from market_spine.errors import RequestError, StoreError
from market_spine.schema import metadata
from market_spine.settings import settings

OWN = "own"  # the branch that `revision` adds to
PATIENCE = "5s"  # how long a statement waits for a table that is in use before the upgrade fails


def require_current(connection: Connection) -> None:
    """Refuse a database whose schema is not this version's.

    Raises:
        StoreError: it lacks migrations, or has some that are not known here.
    """
    lacking = sorted(set(_script().get_heads()) - _applied(connection))
    if lacking:
        raise StoreError(
            f"the schema of the store is not up to date (it lacks {', '.join(lacking)}): "
            "bring it up to date with: spine db upgrade"
        )


def upgrade(connection: Connection) -> list[str]:
    """Apply every migration that the database lacks, in the caller's transaction.

    Returns:
        The heads of the branches that have moved.
    """
    # Whoever comes second waits here, and then finds nothing left to do.
    database.store().transaction_lock(connection, "migrations")
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{PATIENCE}'")
    before = _applied(connection)
    command.upgrade(_config(connection), "heads")
    return sorted(_applied(connection) - before)


def revision(message: str) -> Path:
    """Write an empty migration at the end of this repo's own branch; returns its file.

    It runs after all the migrations of the tiers that there are now.
    """
    script = _script()
    own = [head for head in script.get_heads() if OWN in script.get_revision(head).branch_labels]
    if len(own) != 1:
        raise RequestError(f"the branch '{OWN}' of the migrations has {len(own)} heads, not one")
    number = sum(OWN in known.branch_labels for known in script.walk_revisions()) + 1
    others = [script.get_revision(head) for head in script.get_heads() if head not in own]
    # Only the last: of what they depend on themselves, Alembic loses count if it is named again.
    implied = {name for other in others for name in to_tuple(other.dependencies, default=())}
    after: Any = [other.revision for other in others if other.revision not in implied]
    with redirect_stdout(io.StringIO()):  # it says what its caller will say better
        made: Any = command.revision(
            _config(), message, head=own[0], rev_id=f"{OWN}_{number:04}", depends_on=after
        )
    return Path(os.path.relpath(made.path))


def _applied(connection: Connection) -> set[str]:
    """The last applied revision of each branch."""
    heads = MigrationContext.configure(connection).get_current_heads()
    try:
        return {found.revision for found in _script().get_all_current(heads)}
    except CommandError as error:
        reason = f"the database was upgraded by another version of this repo: {error}"
        raise StoreError(reason) from error


@cache
def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config(connection: Connection | None = None) -> Config:
    folder = settings().spine_migrations
    if not (folder / "env.py").is_file():
        raise StoreError(f"SPINE_MIGRATIONS: there are no migrations in the folder '{folder}'")
    branches = [path for path in sorted(folder.iterdir()) if any(path.glob("*.py"))]
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    locations = os.pathsep.join(map(str, branches))
    config.set_main_option("version_locations", locations.replace("%", "%%"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    return config


# --- do the models say what the database has? --------------------------------------------------

# Every column, constraint, index and trigger of a schema's tables, as Postgres would define it.
DESCRIPTION = text(
    """
WITH tables AS (
    SELECT oid, relname FROM pg_class
    WHERE relnamespace = CAST(:schema AS regnamespace) AND relkind IN ('r', 'p')
      AND relname <> 'alembic_version'
      AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e')
)
SELECT relname, 'column ' || attname,
       concat_ws(' ', format_type(atttypid, atttypmod), 'COLLATE ' || collname,
                 CASE WHEN attnotnull THEN 'NOT NULL' END,
                 'DEFAULT ' || pg_get_expr(adbin, adrelid))
FROM tables JOIN pg_attribute ON attrelid = tables.oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_collation ON pg_collation.oid = attcollation AND collname <> 'default'
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
UNION ALL
SELECT relname, 'constraint ' || conname, pg_get_constraintdef(pg_constraint.oid)
FROM tables JOIN pg_constraint ON conrelid = tables.oid AND contype <> 'n'
UNION ALL
SELECT relname, 'index ' || CAST(indexrelid AS regclass),
       concat_ws(' ', pg_get_indexdef(indexrelid), CASE WHEN NOT indisvalid THEN 'INVALID' END)
FROM tables JOIN pg_index ON indrelid = tables.oid
UNION ALL
SELECT relname, 'trigger ' || tgname,
       concat_ws(' ', pg_get_triggerdef(pg_trigger.oid),
                 CASE WHEN tgenabled = 'D' THEN 'DISABLED' END, prosrc)
FROM tables JOIN pg_trigger ON tgrelid = tables.oid AND NOT tgisinternal
JOIN pg_proc ON pg_proc.oid = tgfoid
"""
)


def differences(connection: Connection) -> list[str]:
    """Where `schema.py` and the database differ, a line each.

    The models are made in a schema of their own for that, and taken back: nothing is changed.
    """
    found = _described(connection, connection.execute(text("SELECT current_schema()")).scalar_one())
    with connection.begin_nested() as scratch:
        connection.exec_driver_sql("CREATE SCHEMA spine_check")
        connection.exec_driver_sql("SET LOCAL search_path = spine_check")
        metadata.create_all(connection, checkfirst=False)
        wanted = _described(connection, "spine_check")
        scratch.rollback()
    return [
        f"{table}: {thing}: schema.py says {wanted.get((table, thing), 'nothing')}, "
        f"the database has {found.get((table, thing), 'nothing')}"
        for table, thing in sorted(wanted.keys() | found.keys())
        if wanted.get((table, thing)) != found.get((table, thing))
    ]


def _described(connection: Connection, schema: str) -> dict[tuple[str, str], str]:
    rows = connection.execute(DESCRIPTION, {"schema": schema})
    return {(row[0], row[1]): row[2].replace(f" {schema}.", " ") for row in rows}
