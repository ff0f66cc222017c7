"""What was noted, written to an MLflow run in as few calls as its limits allow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from spin.tracking.notes import Notes

MAX_PARAMS, MAX_TAGS, MAX_METRICS = 100, 100, 1000
"""Most entries of each kind that MLflow takes in one batch."""

T = TypeVar("T")


def write_metrics(client: Any, run_id: str, points: list[tuple[str, float, int, int]]) -> None:
    """Write numbers as (key, value, milliseconds, step)."""
    from mlflow.entities import Metric

    for metrics in _batches([Metric(*point) for point in points], MAX_METRICS):
        client.log_batch(run_id, metrics=metrics)


def write_notes(client: Any, run_id: str, notes: Notes, files: Path, at_ms: int) -> None:
    """Write one run's notes, made at `at_ms`; the files they name lie below `files`."""
    from mlflow.entities import Param, RunTag

    write_metrics(client, run_id, [(key, value, at_ms, step) for key, value, step in notes.metrics])
    for params in _batches([Param(key, value) for key, value in notes.params.items()], MAX_PARAMS):
        client.log_batch(run_id, params=params)
    for tags in _batches([RunTag(key, value) for key, value in notes.tags.items()], MAX_TAGS):
        client.log_batch(run_id, tags=tags)
    if notes.datasets:
        client.log_inputs(run_id, [_dataset(*entry) for entry in notes.datasets])
    for name, folder in notes.artifacts:
        if (path := files / name).exists():
            (client.log_artifacts if path.is_dir() else client.log_artifact)(run_id, str(path), folder)


def _batches(entries: list[T], size: int) -> Iterator[list[T]]:
    for first in range(0, len(entries), size):
        yield entries[first : first + size]


def _dataset(name: str, digest: str, source: str, profile: str) -> Any:
    """Return MLflow's entry of a data set."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    entry = Dataset(name, digest, "local", source, profile=profile)
    return DatasetInput(entry, [InputTag("mlflow.data.context", "training")])
