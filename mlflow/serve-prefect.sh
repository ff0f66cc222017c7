#!/bin/sh
# Prefect's server for a team, in the foreground: runs in PostgreSQL, one auth string for all of the team.
# compose.yaml runs it in a container, tests/flows/test_team_servers.py on localhost.
set -eu
: "${PREFECT_SERVER_DATABASE_HOST:?}" "${PREFECT_SERVER_DATABASE_PASSWORD:?}"
: "${PREFECT_SERVER_API_AUTH_STRING:?must be NAME:PASSWORD, without it anybody could run commands on the workers}"
: "${PREFECT_ADDRESS:?must be the address that browsers use, such as https://prefect.example.org}"

export DO_NOT_TRACK=true PREFECT_SERVER_ANALYTICS_ENABLED=false
export PREFECT_SERVER_DATABASE_DRIVER=postgresql+asyncpg
export PREFECT_SERVER_DATABASE_USER=prefect PREFECT_SERVER_DATABASE_NAME=prefect
export PREFECT_HOME="${PREFECT_HOME:-$HOME/.prefect}"
export PREFECT_SERVER_UI_STATIC_DIRECTORY="$PREFECT_HOME/pages" # the default is where Prefect is installed, root's
# On disk below PREFECT_HOME: in memory, the GPU slots that are taken would be forgotten with the server.
export PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency.lease_storage.filesystem
# No page but its own may ask, and that one with a token against forged requests.
address=${PREFECT_ADDRESS%/}
export PREFECT_SERVER_CSRF_PROTECTION_ENABLED=true PREFECT_SERVER_CORS_ALLOWED_ORIGINS="$address"
export PREFECT_SERVER_UI_API_URL="$address/api"

exec prefect server start --host "${LISTEN:-127.0.0.1}" --port "${PORT:-4200}"
