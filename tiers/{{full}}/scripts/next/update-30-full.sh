. .venv/bin/activate
spine db upgrade  # makes what is new in the schema
