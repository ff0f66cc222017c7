"""The page of MLflow that shows a project's runs: its home page opens on other things."""

import json
import os
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact

from flows import environment
from flows.server import running_ui, with_secret
from flows.workspace import project_of
from spin.errors import SpinError
from spin.params.schema import load_params

CONFIGURATIONS = "tags.`spin.kind` = 'self-play'"
"""Of MLflow's runs those of a configuration each, which have its winning rates by iteration."""


def runs_page(root: Path) -> str | None:
    """Return the address of the winning rates, configuration by configuration; None if no MLflow has this experiment."""
    server = _server(root)
    try:
        name = load_params(root / "params.yaml").tracking.experiment
        found = (
            _ask(f"{server}/api/2.0/mlflow/experiments/get-by-name", experiment_name=name) if server else None
        )
    except (SpinError, OSError, ValueError):
        return None
    if found is None:
        return None
    shown = urllib.parse.urlencode(
        {"searchFilter": CONFIGURATIONS, "compareRunsMode": "CHART"}, quote_via=urllib.parse.quote
    )
    return f"{server}/#/experiments/{found['experiment']['experiment_id']}/runs?{shown}"


def _server(root: Path) -> str | None:
    """Return the address of the MLflow server that the stages write to, or that serves what they write."""
    named = os.environ.get("MLFLOW_TRACKING_URI", "")
    if named.startswith(("http:", "https:")):
        return named.rstrip("/")
    return environment.MLFLOW_URL if running_ui(project_of(root)) else None


def _ask(url: str, **query: str) -> Any:
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{each}") for each in ("USERNAME", "PASSWORD"))
    secret = f"{user}:{password}" if user and password else None
    with urllib.request.urlopen(
        with_secret(f"{url}?{urllib.parse.urlencode(query)}", secret), timeout=5
    ) as reply:
        return json.load(reply)


def publish_runs_page(root: Path) -> None:
    """Link the page on the flow run's page."""
    page = runs_page(root)
    if page is not None:
        create_link_artifact(
            link=page, link_text="MLflow", key="mlflow", description="Winning rates by iteration"
        )
