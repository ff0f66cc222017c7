"""Switches and places of the tools that the flows drive. Imported before any of them.

None of the tools may report to its maker, and each keeps what it writes below `.spin/`. A value that the user has set
in the environment stands.
"""

import os
import sys
from pathlib import Path

SWITCHES = {
    "DO_NOT_TRACK": "true",  # MLflow ignores "1"
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # evaluation jobs of the GenAI pages: seven idle processes
    "GIT_PYTHON_REFRESH": "quiet",  # a machine without git may still run stages
}

HOST = "127.0.0.1"
PREFECT_PORT = 4200
MLFLOW_PORT = 5000
PREFECT_API = f"http://{HOST}:{PREFECT_PORT}/api"
"""Also in prefect.toml, from which the `prefect` command takes it."""
MLFLOW_URL = f"http://{HOST}:{MLFLOW_PORT}"

STATE = Path(".spin")
"""Below the project's root: databases, logs and unfinished work. Ignored by git and by DVC."""


def places(root: Path) -> dict[str, str]:
    """Return the environment variables that keep Prefect's and MLflow's stores below `root`."""
    state = root.resolve() / STATE
    database = state / "prefect" / "prefect.db"
    return {
        "PREFECT_HOME": str(state / "prefect"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{state / 'mlflow' / 'mlflow.db'}",
    }


for _name, _value in SWITCHES.items():
    os.environ.setdefault(_name, _value)
_own = str(Path(sys.executable).parent)
if os.environ.get("PATH", "").split(os.pathsep)[0] != _own:  # dvc.yaml says `python`: that is to be this one
    os.environ["PATH"] = os.pathsep.join(filter(None, [_own, os.environ.get("PATH", "")]))
os.environ.setdefault("PREFECT_HOME", str(Path.cwd() / STATE / "prefect"))
Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder only
