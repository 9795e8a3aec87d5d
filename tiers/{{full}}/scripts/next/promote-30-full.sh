. .venv/bin/activate
spine db upgrade  # adds what this tier needs to the tables
spine keys list   # none yet: until there is one, the API answers on this machine alone
make guards       # your migrations are older than its rules: excuse what it finds, where it says
