"""What was noted, written to an MLflow run in as few calls as its limits allow."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from spin.runtime.provenance import content_md5
from spin.tracking.notes import Notes

MAX_PARAMS, MAX_TAGS, MAX_METRICS = 100, 100, 1000
"""Most entries of each kind that MLflow takes in one batch."""

T = TypeVar("T")


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
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": manifest.resolve().as_uri()})
    entry = Dataset(name, content_md5(manifest)[:32], "local", source, profile=json.dumps(card, default=str))
    return DatasetInput(entry, [InputTag("mlflow.data.context", "training")])
