. .venv/bin/activate
spine db upgrade  # adds what this tier needs to the tables
spine schedules   # what beat is going to submit: name your own source in schedules.toml
