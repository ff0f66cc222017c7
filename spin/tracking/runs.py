"""What a stage tells MLflow: a parent run per self-play run, below it a child run per stage.

The calls of a stage are collected and written in a few batches when its block ends: by then its results are on disk, so
MLflow can be down, slow or absent and cost a warning, never a result. `SPIN_TRACKING=off` leaves it out.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from spin.params.schema import Params
from spin.paths import WORK
from spin.runtime.provenance import content_md5, git_revision, recorded_md5s
from spin.tracking.configuration import configuration_hash, flatten
from spin.tracking.notes import Notes
from spin.tracking.notes import StageRun as StageRun

logger = logging.getLogger(__name__)

MAX_PARAMS, MAX_TAGS, MAX_METRICS = 100, 100, 1000
"""Most entries of each kind that MLflow takes in one batch."""
LOCK_SECONDS = 60.0
"""Longest wait for another stage that is writing to the same store."""
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
"""An unreachable server is given up after seconds, where MLflow's own defaults take many minutes."""

T = TypeVar("T")


@contextmanager
def stage_run(params: Params, stage: str, root: Path) -> Iterator[StageRun]:
    """Yield the stage's notebook and write it to MLflow when the block ends well; an error in it writes nothing."""
    run = StageRun()
    started = time.time()
    yield run
    with forgiving(root) as client:
        if client is not None:
            run.child.tags |= _lineage(run, root) | _stage_tags(stage)
            write(client, params, stage, root, run, int(started * 1000))


@contextmanager
def forgiving(root: Path) -> Iterator[Any]:
    """Yield an `MlflowClient`, alone in the store, or None where there is none; a failure of MLflow is one warning."""
    with ExitStack() as stack:
        client = None
        try:
            client = stack.enter_context(_connected(root))
        except Exception as error:  # whatever MLflow raises, the stage's work is done and stays
            _warn(error)
        try:
            yield client
        except Exception as error:
            _warn(error)


def _warn(error: Exception) -> None:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    logger.warning("MLflow was not written (%s); the results are on disk.", reason[:300])


@contextmanager
def _connected(root: Path) -> Iterator[Any]:
    if os.environ.get("SPIN_TRACKING", "on").lower() in ("off", "0", "false", "no"):
        yield None
        return
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    import mlflow

    if not hasattr(
        mlflow, "__version__"
    ):  # without the library, our folder of that name is an empty namespace
        logger.warning(
            "MLflow is not installed, so this stage is not remembered; pip install 'spin-diffusion[ops]'."
        )
        yield None
        return
    from filelock import FileLock
    from mlflow import MlflowClient

    store = (root / WORK / "mlflow").resolve()
    store.mkdir(parents=True, exist_ok=True)
    uri = tracking_uri(root)
    with FileLock(store / "write.lock", timeout=LOCK_SECONDS):
        yield MlflowClient(uri, registry_uri=uri)


def tracking_uri(root: Path) -> str:
    """Return where runs are written: MLFLOW_TRACKING_URI, else a SQLite file below the root."""
    return (
        os.environ.get("MLFLOW_TRACKING_URI")
        or f"sqlite:///{(root / WORK / 'mlflow' / 'mlflow.db').resolve()}"
    )


def _stage_tags(stage: str) -> dict[str, str]:
    """Return what the stage is, and the Prefect run it belongs to."""
    kind, _, item = stage.partition("@")
    prefect_run = os.environ.get("SPIN_PREFECT_RUN_ID") or os.environ.get("PREFECT__FLOW_RUN_ID") or ""
    tags = {
        "spin.stage": stage,
        "spin.kind": kind,
        "spin.item": item,
        "spin.newest": "true",
        "prefect.run": prefect_run,
    }
    if item.startswith("iter") and item[4:].isdigit():
        tags["spin.iteration"] = item[4:]
    return {key: value for key, value in tags.items() if value}


def _lineage(run: StageRun, root: Path) -> dict[str, str]:
    """Return the git revision and the DVC hashes of inputs and outputs."""
    commit, dirty = git_revision(root)
    recorded = recorded_md5s(root)
    tags = {"mlflow.source.git.commit": commit, "git.revision": commit, "git.dirty": str(dirty).lower()}
    tags |= {f"dvc.in.{path.as_posix()}": recorded.get(path.as_posix(), "") for path in run.input_paths}
    tags |= {f"dvc.out.{path.as_posix()}": content_md5(root / path) for path in run.output_paths}
    return {key: value for key, value in tags.items() if value}


def write(client: Any, params: Params, stage: str, root: Path, run: StageRun, started_ms: int) -> None:
    """Write a finished stage: find or make the parent, add a child, and mark it as the newest of its stage."""
    # Where it belongs, and which runs of the stage it outdates.
    experiment = _experiment(client, params.tracking.experiment, root)
    parent = parent_run(client, experiment, params)
    older = client.search_runs(
        [experiment],
        f"tags.`mlflow.parentRunId` = '{parent}' and tags.`spin.stage` = '{stage}' and tags.`spin.newest` = 'true'",
    )

    # The stage's own run.
    tags = {"mlflow.parentRunId": parent}
    child = client.create_run(experiment, start_time=started_ms, tags=tags, run_name=stage).info.run_id
    write_notes(client, child, run.child)
    client.set_terminated(child, "FINISHED")

    # The newest of its kind, and what the whole run shows.
    for previous in older:
        client.set_tag(previous.info.run_id, "spin.newest", "false")
    write_notes(client, parent, run.parent)
    client.set_terminated(parent, "FINISHED")


def _experiment(client: Any, name: str, root: Path) -> str:
    """Return the id of the experiment, made if need be; a local store keeps artifacts below the root."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    local = tracking_uri(root).startswith("sqlite:")
    location = (root / WORK / "mlflow" / "artifacts").resolve().as_uri() if local else None
    kind = {
        "mlflow.experimentKind": "custom_model_development"
    }  # opens on training runs, not on the GenAI pages
    return str(client.create_experiment(name, artifact_location=location, tags=kind))


def parent_run(client: Any, experiment: str, params: Params) -> str:
    """Return the run of this configuration, made if need be. Its children are the stages that ran under it."""
    key = configuration_hash(params)
    found = client.search_runs([experiment], f"tags.`spin.configuration` = '{key}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    tags = {"spin.configuration": key, "spin.kind": "self-play"}
    run = client.create_run(experiment, tags=tags, run_name=f"seed {params.seed}, {key[:6]}").info.run_id
    write_notes(client, run, Notes(params=flatten(params.model_dump(mode="json"))))
    return str(run)


def write_notes(client: Any, run_id: str, notes: Notes) -> None:
    """Write one run's notes in as few calls as MLflow's limits allow."""
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    for metrics in _batches(
        [Metric(key, value, now, step) for key, value, step in notes.metrics], MAX_METRICS
    ):
        client.log_batch(run_id, metrics=metrics)
    for params in _batches([Param(key, value) for key, value in notes.params.items()], MAX_PARAMS):
        client.log_batch(run_id, params=params)
    for tags in _batches([RunTag(key, value) for key, value in notes.tags.items()], MAX_TAGS):
        client.log_batch(run_id, tags=tags)
    if notes.datasets:
        client.log_inputs(run_id, [_dataset(*entry) for entry in notes.datasets])
    for path, folder in notes.artifacts:
        (client.log_artifacts if path.is_dir() else client.log_artifact)(run_id, str(path), folder)


def _batches(entries: list[T], size: int) -> Iterator[list[T]]:
    for first in range(0, len(entries), size):
        yield entries[first : first + size]


def _dataset(name: str, manifest: Path, card: dict[str, Any]) -> Any:
    """Return MLflow's entry of a data set: its manifest's place and hash, its card as the profile."""
    import json

    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": manifest.resolve().as_uri()})
    entry = Dataset(name, content_md5(manifest)[:32], "local", source, profile=json.dumps(card, default=str))
    return DatasetInput(entry, [InputTag("mlflow.data.context", "training")])
