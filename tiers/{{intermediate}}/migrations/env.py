"""What Alembic runs: the migrations, in a transaction that `market_spine.migrations` has begun."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
