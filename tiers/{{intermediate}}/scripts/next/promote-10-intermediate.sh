. .venv/bin/activate
spine db upgrade  # makes the tables, in the Postgres of this folder or of DATABASE_URL
spine db check  # a table of your own wants a migration of its own: README.md, "The schema"
spine db import sqlite:///spine.db  # the store of the tier below, if it is there: see "Go up a tier"
