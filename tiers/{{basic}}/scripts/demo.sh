#!/bin/sh
# The whole pipeline over the sample. Doing it again adds a capture and changes nothing else.
set -e

say() { printf '\n$ %s\n' "$*"; "$@"; }

say spine run otc_ingest
say spine run otc_normalize
say spine run otc_compute_daily_metrics
say spine metrics daily ALDRF --start 2025-11-24 --end 2025-12-05
say spine dead-letters list --limit 5
say spine executions list --limit 3
printf '\nThe README goes on from here. For the commands: . .venv/bin/activate && spine --help\n'
