. .venv/bin/activate
spine db upgrade  # adds what this tier needs to the tables
spine keys list   # none yet: without a proxy, and on this machine alone, none is asked for
make guards       # what it finds in migrations that were applied: excuse it, where it says
