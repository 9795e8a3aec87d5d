. .venv/bin/activate
spine db upgrade                    # makes the tables, in a Postgres of this folder or DATABASE_URL's
spine db check                      # names tables of your own that have no migration yet
spine db import sqlite:///spine.db  # brings the store of the tier below over, if you have one
