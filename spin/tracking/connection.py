"""Where MLflow is, and a client for it, if there is one."""

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spin.errors import SpinError, TrackingError
from spin.paths import WORK
from spin.runtime.files import replacing_file

logger = logging.getLogger(__name__)

LOCK_SECONDS = 60.0
"""Longest wait for another stage that is writing to the same store."""
URI, SQLITE = "MLFLOW_TRACKING_URI", "sqlite:///"
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
"""An unreachable server is given up after seconds, where MLflow's own defaults take many minutes."""


def home(root: Path) -> Path:
    """The project that remembers: `root`, but for the temporary copy of `dvc exp run --temp` the project it copies."""
    return Path(os.environ.get("DVC_ROOT") or root)


def store(root: Path) -> Path:
    """Where the project keeps what it has to tell MLflow, and MLflow's own files where there is no server."""
    return (home(root) / WORK / "mlflow").resolve()


def tracking_uri(root: Path) -> str:
    """Return where runs are written: MLFLOW_TRACKING_URI, else a SQLite file below the root."""
    return os.environ.get(URI) or f"{SQLITE}{store(root) / 'mlflow.db'}"


def switched_off() -> bool:
    """Whether `SPIN_TRACKING` says that nothing is to be remembered."""
    return os.environ.get("SPIN_TRACKING", "on").lower() in ("off", "0", "false", "no")


def installed() -> bool:
    """Whether the library is there; without it, our folder of that name is an empty namespace."""
    found = importlib.util.find_spec("mlflow")
    return found is not None and found.origin is not None


def set_patience() -> None:
    """Tell MLflow, before it is imported, when to give up and what to keep to itself."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)


@contextmanager
def connected(root: Path) -> Iterator[Any]:
    """Yield an `MlflowClient`, alone in the store; whatever MLflow raises comes through."""
    set_patience()
    import mlflow
    from filelock import FileLock
    from mlflow import MlflowClient

    store(root).mkdir(parents=True, exist_ok=True)
    uri = tracking_uri(root)
    _tell_the_process(mlflow, uri)
    with FileLock(store(root) / "write.lock", timeout=LOCK_SECONDS):
        if uri.startswith(SQLITE):
            _make_database(Path(uri.removeprefix(SQLITE)))
        yield MlflowClient(uri, registry_uri=uri)


@contextmanager
def reached(root: Path) -> Iterator[Any]:
    """Yield a client for somebody who asked for MLflow; raises `TrackingError` where a stage would only warn."""
    if not installed():
        raise TrackingError("MLflow must be installed, but is not; pip install 'spin-diffusion[ops]'.")
    try:
        with connected(root) as client:
            yield client
    except SpinError:
        raise
    except Exception as error:  # whatever MLflow raises
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise TrackingError(
            f"MLflow at {tracking_uri(root)} must answer, but does not ({said[:300]}); start it, or correct {URI}."
        ) from None


def _make_database(path: Path) -> None:
    """Make MLflow's tables in a database that is not there yet, whole or not at all.

    MLflow makes them where they are to be, step by step, and a database that was killed on the way never opens again.
    """
    if path.exists():
        return
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as temporary:
        MlflowClient(f"{SQLITE}{temporary}").search_experiments(max_results=1)


def _tell_the_process(mlflow: Any, uri: str) -> None:
    """The registry asks the process, not the client, where a version's model is; the environment stays as it is."""
    before = os.environ.get(URI)
    mlflow.set_tracking_uri(uri)  # which also sets the variable
    if before is None:
        os.environ.pop(URI, None)
    else:
        os.environ[URI] = before
