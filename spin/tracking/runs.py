"""What a stage tells MLflow: a parent run per self-play run, below it a child run per stage.

Everything goes through the outbox on disk (`outbox`), from where a thread sends it (`live`, `sending`). So MLflow can be
down, slow or absent and costs a warning, never a result. `SPIN_TRACKING=off` leaves it out.
"""

import getpass
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spin.params.schema import Params
from spin.runtime.provenance import content_md5, git_revision, recorded_md5s
from spin.tracking.configuration import configuration_hash, flatten
from spin.tracking.connection import installed, store, switched_off, tracking_uri
from spin.tracking.hierarchy import NEWEST, OUT, STAGE
from spin.tracking.live import LiveRun
from spin.tracking.machine import MachineSampler
from spin.tracking.notes import Live, Notes, as_current
from spin.tracking.notes import StageRun as StageRun
from spin.tracking.others import other_trackers
from spin.tracking.outbox import Entry
from spin.tracking.sending import first_line

logger = logging.getLogger(__name__)

MAX_TAG = 500
"""Characters of an error that its run shows."""


@contextmanager
def stage_run(params: Params, stage: str, root: Path, gpu: bool = False) -> Iterator[StageRun]:
    """Yield the stage's notebook; its run opens now, is heard while it runs, and ends FINISHED, FAILED or KILLED.

    With `gpu` the machine is sampled too: the stage is one that can run long. Trackers that the environment names hear of
    its updates too; raises `TrackingError` if one of them is not there.
    """
    with (
        other_trackers(params, stage, root) as others,
        _mlflow_run(params, stage, root, gpu, others) as run,
    ):
        yield run


@contextmanager
def _mlflow_run(
    params: Params, stage: str, root: Path, gpu: bool, others: Sequence[Live]
) -> Iterator[StageRun]:
    if switched_off() or not installed():
        if not switched_off():
            logger.warning(
                "MLflow is not installed, so this stage is not remembered; pip install 'spin-diffusion[ops]'."
            )
        with as_current(StageRun(others=others)) as run:
            yield run
        return
    try:
        live = LiveRun(root, stage, opening_of(params, stage, root), MachineSampler() if gpu else None)
    except (
        Exception
    ) as error:  # a full disk, a folder that may not be written: the stage itself may still work
        _warn(stage, error)
        with as_current(StageRun(others=others)) as run:
            yield run
        return
    run = StageRun(live, others)
    try:
        with as_current(run):
            yield run
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        failed = Notes(tags={"spin.error": str(error)[:MAX_TAG] or type(error).__name__, NEWEST: "false"})
        _close(live, stage, lambda: {"status": status, "child": asdict(failed)})
        raise
    run.child.metrics = [each for each in run.child.metrics if not (each[2] and live.has(each[2]))]
    run.child.artifacts = [each for each in run.child.artifacts if not live.told(Path(each[0]))]
    _close(live, stage, lambda: ending_of(run, root, live.entry))


def _close(live: LiveRun, stage: str, ending: Callable[[], dict[str, Any]]) -> None:
    """Tell how the stage ended; nothing that fails here is heard but as a warning, for the stage's own work is done."""
    try:
        live.close(ending())
        problem = live.problem
    except Exception as error:  # a full disk, a torn dvc.lock
        problem = error
    if problem is not None:
        _warn(stage, problem)


def _warn(stage: str, problem: BaseException) -> None:
    logger.warning(
        "MLflow was not told of %s (%s); the results are on disk, and the next stage or `spin sync` tells it.",
        stage,
        first_line(problem),
    )


def opening_of(params: Params, stage: str, root: Path) -> dict[str, Any]:
    """Which run of MLflow a stage is: its tags, its configuration's run, its experiment."""
    key = configuration_hash(params)
    local = tracking_uri(root).startswith("sqlite:")
    return {
        "token": uuid.uuid4().hex,
        "tags": {**_stage_tags(stage), **_person()},
        "parent": {
            "key": key,
            "name": f"seed {params.seed}, {key[:6]}",
            "params": flatten(params.model_dump(mode="json")),
        },
        "experiment": {
            "name": params.tracking.experiment,
            "artifacts": (store(root) / "artifacts").as_uri() if local else None,
        },
    }


def ending_of(run: StageRun, root: Path, entry: Entry) -> dict[str, Any]:
    """What a finished stage tells, its files copied into the entry."""
    run.child.tags |= _lineage(run, root)
    for notes in (run.child, run.parent):
        notes.artifacts = [
            (entry.keep(root / path), folder) for path, folder in notes.artifacts if (root / path).exists()
        ]
    models = {**run.models, "files": [entry.keep(root / path) for path in run.models.get("files", ())]}
    return {
        "status": "FINISHED",
        "child": asdict(run.child),
        "parent": asdict(run.parent),
        "models": models if run.models else None,
    }


def _stage_tags(stage: str) -> dict[str, str]:
    """Return what the stage is, and the Prefect run it belongs to."""
    kind, _, item = stage.partition("@")
    prefect_run = os.environ.get("SPIN_PREFECT_RUN_ID") or os.environ.get("PREFECT__FLOW_RUN_ID") or ""
    tags = {STAGE: stage, "spin.kind": kind, "spin.item": item, NEWEST: "true", "prefect.run": prefect_run}
    if item.startswith("iter") and item[4:].isdigit():
        tags["spin.iteration"] = item[4:]
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags["dvc.experiment"] = experiment
    return {key: value for key, value in tags.items() if value}


def _person() -> dict[str, str]:
    """Return who runs it, by what."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container, a user may have no name
        user = "unknown"
    return {"mlflow.user": user, "mlflow.source.name": "spin", "mlflow.source.type": "LOCAL"}


def _lineage(run: StageRun, root: Path) -> dict[str, str]:
    """Return the git revision and the DVC hashes of inputs and outputs."""
    commit, dirty = git_revision(root)
    recorded = recorded_md5s(root)
    tags = {"mlflow.source.git.commit": commit, "git.revision": commit, "git.dirty": str(dirty).lower()}
    tags |= {f"dvc.in.{path.as_posix()}": recorded.get(path.as_posix(), "") for path in run.input_paths}
    tags |= {f"{OUT}{path.as_posix()}": content_md5(root / path) for path in run.output_paths}
    return {key: value for key, value in tags.items() if value}
