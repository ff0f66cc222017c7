"""Switches and places of the tools that the flows drive. Imported before any of them.

None of the tools may report to its maker, and each keeps what it writes below `.spin/`. A value that the user has set
in the environment stands.
"""

import json
import os
import secrets
import sys
from pathlib import Path

from spin.paths import unusable

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
PREFECT_PORT = int(os.environ.get("SPIN_PREFECT_PORT", "4200"))
MLFLOW_PORT = int(os.environ.get("SPIN_MLFLOW_PORT", "5000"))
"""Two people on one machine give each their own."""
PREFECT_API = f"http://{HOST}:{PREFECT_PORT}/api"
MLFLOW_URL = f"http://{HOST}:{MLFLOW_PORT}"

STATE = Path(".spin")
"""Below the project's root: databases, logs and unfinished work. Ignored by git and by DVC."""


def places(root: Path) -> dict[str, str]:
    """Return the environment variables that keep Prefect's and MLflow's stores below `root`; a `RuntimeError` says why none can."""
    if refused := unusable(root):
        raise RuntimeError(refused)
    state = root.resolve() / STATE
    database = state / "prefect" / "prefect.db"
    return {
        "PREFECT_HOME": str(state / "prefect"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{state / 'mlflow' / 'mlflow.db'}",
    }


def secret(root: Path) -> str:
    """Return what the project's Prefect server asks of every client, made at the first call; only the user can read it.

    A page of somebody else that the browser shows cannot know it, by whatever name it reaches the server.
    """
    path = root / STATE / "prefect" / "auth"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_private(path, f"spin:{secrets.token_urlsafe(32)}")
    return path.read_text(encoding="utf-8")


def guarded(root: Path, port: int) -> dict[str, str]:
    """Return the settings of a Prefect server that answers its own page and those who know the secret, and of its clients.

    With Prefect's defaults any page in the browser may make a deployment whose command the worker then runs.
    """
    return {
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_API_AUTH_STRING": secret(root),
        "PREFECT_SERVER_API_AUTH_STRING": secret(root),
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        # On disk, so that slots outlive the server: in memory, those of a killed worker would never be free again.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port}",
    }


def write_client_settings(root: Path, api: str, auth: str | None) -> None:
    """Write prefect.toml: where the `prefect` command of a shell in this folder finds the server, and its secret."""
    lines = [
        "# Written by `make ui` or `python -m flows.worker`; no part of the project.",
        "[api]",
        f"url = {json.dumps(api)}",
    ]
    lines += [f"auth_string = {json.dumps(auth)}"] if auth else []
    _write_private(root / "prefect.toml", "\n".join([*lines, ""]))


def _write_private(path: Path, text: str) -> None:
    """Write a file that nobody but the user can read at any time, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(
        os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write(text)
    temporary.replace(path)


for _name, _value in SWITCHES.items():
    os.environ.setdefault(_name, _value)
_own = str(Path(sys.executable).parent)
if os.environ.get("PATH", "").split(os.pathsep)[0] != _own:  # dvc.yaml says `python`: that is to be this one
    os.environ["PATH"] = os.pathsep.join(filter(None, [_own, os.environ.get("PATH", "")]))
os.environ.setdefault("PREFECT_HOME", str(Path.cwd() / STATE / "prefect"))
Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder only
