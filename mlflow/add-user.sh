#!/bin/sh
# Make NAME a user of the team's MLflow server and a member of the role `team`, which may write:
#   add-user.sh NAME
# The first call makes the role. A new user's password is printed once; a user who is there already keeps theirs.
# In the server's container the administrator is known from its environment; elsewhere MLFLOW_TRACKING_URI,
# MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD say where the server is and who asks.
set -eu
NAME=${1:?usage: add-user.sh NAME}
export MLFLOW_TRACKING_URI="${MLFLOW_TRACKING_URI:-http://127.0.0.1:${PORT:-5000}}"
export MLFLOW_TRACKING_USERNAME="${MLFLOW_TRACKING_USERNAME:-${MLFLOW_AUTH_ADMIN_USERNAME:-admin}}"
export MLFLOW_TRACKING_PASSWORD="${MLFLOW_TRACKING_PASSWORD:-${MLFLOW_AUTH_ADMIN_PASSWORD:?}}"
export DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true

exec python -W ignore - "$NAME" <<'PYTHON'
import os
import secrets
import sys

from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client

# EDIT: log to every experiment, new versions of every model; deleting stays with whoever made a thing.
MAY_EDIT = ("experiment", "registered_model")

name, password = sys.argv[1], secrets.token_urlsafe(18)
client = get_app_client("basic-auth", os.environ["MLFLOW_TRACKING_URI"])
try:
    roles = {role.name: role.id for role in client.list_roles("default")}
    if "team" not in roles:
        roles["team"] = client.create_role("default", "team", "May log runs and register models.").id
        for kind in MAY_EDIT:
            client.add_role_permission(roles["team"], kind, "*", "EDIT")
    try:
        client.create_user(name, password)
        print(f"{name} has the password {password}")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    if "team" not in {role.name for role in client.list_user_roles(name)}:
        client.assign_role(name, roles["team"])
    print(f"{name} may log runs and register models.")
except MlflowException as error:
    sys.exit(f"The server did not add {name}: {error}")
PYTHON
