"""What a stage tells MLflow: a parent run per self-play run, below it a child run per stage.

The calls of a stage are collected and written in a few batches when its block ends: by then its results are on disk, so
MLflow can be down, slow or absent and cost a warning, never a result. `SPIN_TRACKING=off` leaves it out.
"""

import getpass
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from spin.params.schema import Params
from spin.paths import WORK
from spin.runtime.provenance import content_md5, git_revision, recorded_md5s
from spin.tracking.configuration import configuration_hash, flatten
from spin.tracking.live import LiveRun
from spin.tracking.notes import Notes, as_current
from spin.tracking.notes import StageRun as StageRun
from spin.tracking.writing import write_notes

logger = logging.getLogger(__name__)

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


@contextmanager
def stage_run(params: Params, stage: str, root: Path) -> Iterator[StageRun]:
    """Yield the stage's notebook, heard while it trains, and write the rest to MLflow when the block ends well.

    A training that fails or is interrupted leaves its run as FAILED or KILLED; other stages that fail leave none.
    """
    started = int(time.time() * 1000)
    tags = _stage_tags(stage)

    def open_run(client: Any) -> str:
        return _child(client, params, stage, root, started, tags)

    live = LiveRun(stage, root, configuration_hash(params), _connected, open_run)
    run = StageRun(live)
    try:
        with as_current(run):
            yield run
    except Exception:
        live.close("FAILED")
        raise
    except BaseException:
        live.close("KILLED")
        raise
    live.close()
    with forgiving(root) as client:
        if client is not None:
            run.child.tags |= _lineage(run, root) | tags
            run.child.metrics = [each for each in run.child.metrics if not _was_sent(each, live)]
            write(client, params, stage, root, run, started, live.run_id)
            live.finished()


def _was_sent(metric: tuple[str, float, int], live: LiveRun) -> bool:
    """Whether the thread has told a number of the curve; those of the whole run have the step 0."""
    return live.run_id is not None and 0 < metric[2] <= live.sent_step


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


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, a user may have no name
        return "unknown"


def _child(client: Any, params: Params, stage: str, root: Path, started_ms: int, tags: dict[str, str]) -> str:
    """Make the run of a stage below that of its configuration."""
    experiment = _experiment(client, params.tracking.experiment, root)
    below = {"mlflow.parentRunId": parent_run(client, experiment, params)}
    user = {"mlflow.user": _user(), "mlflow.source.name": "spin", "mlflow.source.type": "LOCAL"}
    made = client.create_run(
        experiment, start_time=started_ms, tags={**below, **user, **tags}, run_name=stage
    )
    return str(made.info.run_id)


def write(
    client: Any,
    params: Params,
    stage: str,
    root: Path,
    run: StageRun,
    started_ms: int,
    child: str | None = None,
) -> None:
    """Write a finished stage: into its run, made unless it is there, and mark that as the newest of its stage."""
    # Where it belongs, and which runs of the stage it outdates.
    experiment = _experiment(client, params.tracking.experiment, root)
    parent = parent_run(client, experiment, params)
    older = client.search_runs(
        [experiment],
        f"tags.`mlflow.parentRunId` = '{parent}' and tags.`spin.stage` = '{stage}' and tags.`spin.newest` = 'true'",
    )

    # The stage's own run.
    child = child or _child(client, params, stage, root, started_ms, {})
    write_notes(client, child, run.child)
    client.set_terminated(child, "FINISHED")

    # The newest of its kind, and what the whole run shows.
    for previous in older:
        if previous.info.run_id == child:
            continue
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
