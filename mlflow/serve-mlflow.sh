#!/bin/sh
# MLflow's server for a team, in the foreground: runs in PostgreSQL, artifacts in S3, users with passwords.
# compose.yaml runs it in a container, tests/flows/test_team_servers.py on localhost. libpq reads PGHOST, PGUSER and
# PGPASSWORD by itself, so that no password stands in a command line and none has to be quoted for an address.
set -eu
: "${PGHOST:?}" "${PGUSER:?}" "${PGPASSWORD:?}"
: "${ARTIFACTS:?must be a folder of a bucket, such as s3://bucket/mlflow}"
: "${MLFLOW_ADDRESS:?must be the address that browsers use, such as https://mlflow.example.org}"
: "${MLFLOW_FLASK_SERVER_SECRET_KEY:?must be a random text, which signs the forms of the web pages}"
PORT=${PORT:-5000}
[ -n "${MLFLOW_S3_ENDPOINT_URL:-}" ] || unset MLFLOW_S3_ENDPOINT_URL # empty would be an address to boto3

export DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false # evaluation jobs of the GenAI pages: seven idle processes
export MLFLOW_AUTH_CONFIG_PATH="${MLFLOW_AUTH_CONFIG_PATH:-$(cd "$(dirname "$0")" && pwd)/auth.ini}"
# Other names in a request's Host (DNS rebinding) or Origin (a foreign page) are refused.
address=${MLFLOW_ADDRESS%/}
export MLFLOW_SERVER_ALLOWED_HOSTS="${address#*://},localhost:$PORT,127.0.0.1:$PORT"
export MLFLOW_SERVER_CORS_ALLOWED_ORIGINS="$address"

exec mlflow server --app-name basic-auth --host "${LISTEN:-127.0.0.1}" --port "$PORT" --workers "${WORKERS:-4}" \
  --backend-store-uri postgresql+psycopg:///mlflow --serve-artifacts --artifacts-destination "$ARTIFACTS"
