#!/bin/sh
# docker compose over every file in deploy/compose, in the order of their names; a later one adds to
# the earlier ones. Makes the database's password once, in .env, which git ignores.
set -eu

if ! grep -qs '^POSTGRES_PASSWORD=' .env; then
    password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    (umask 077 && printf '\nPOSTGRES_PASSWORD=%s\n' "$password" >>.env && chmod 600 .env)
fi
files=$(printf -- '--file %s ' deploy/compose/*.yaml)
exec docker compose --project-directory . $files "$@"
