. .venv/bin/activate
spine db upgrade  # adds what this tier needs to the tables
spine keys list   # none yet: until there is one, the API answers on this machine alone
