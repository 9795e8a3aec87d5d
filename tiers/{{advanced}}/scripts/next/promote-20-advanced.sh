. .venv/bin/activate
spine db upgrade  # adds what this tier needs to the tables
