"""What a stage has to tell MLflow, collected while it runs: plain data, without MLflow."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from spin.runtime.provenance import content_md5


def finite(value: Any) -> bool:
    """Whether MLflow can draw it: texts, NaN and infinity are left out."""
    return isinstance(value, (int, float)) and math.isfinite(value)


@dataclass
class Notes:
    """What is to be written to one MLflow run."""

    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int]] = field(default_factory=list)
    """Key, value, step."""
    artifacts: list[tuple[str, str | None]] = field(default_factory=list)
    """File or folder, and the artifact folder it goes to."""
    datasets: list[tuple[str, str, str, str]] = field(default_factory=list)
    """Name, digest, source and profile of a data set; the last two as JSON."""

    def add_metrics(self, values: dict[str, Any], step: int) -> None:
        """Note every finite number of `values`; texts and NaN are left out (MLflow draws neither)."""
        for key, value in values.items():
            if finite(value):
                self.metrics.append((key, float(value), step))


class Live(Protocol):
    """Somebody who wants to hear while a stage runs."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take in the numbers of one update; returns at once."""

    def picture(self, path: Path, folder: str) -> None:
        """Take in a picture as it is now."""


IMAGES = "images"
"""The artifact folder of pictures."""


class StageRun:
    """Collects what a stage has to tell when it has ended; only `update` and `preview` are heard at once."""

    def __init__(self, live: "Live | None" = None, others: Sequence[Live] = ()) -> None:
        self.listeners = [*([] if live is None else [live]), *others]
        self.child = Notes()
        self.parent = Notes()
        self.output_paths: list[Path] = []
        self.input_paths: list[Path] = []
        self.models: dict[str, Any] = {}

    def update(self, report: Mapping[str, float], step: int) -> None:
        """Tell at once, where somebody listens, what an update of a training that is under way reports."""
        for live in self.listeners:
            live.log(report, step)

    def preview(self, path: Path) -> None:
        """Show a picture at once, where somebody listens."""
        for live in self.listeners:
            live.picture(path, IMAGES)

    def params(self, values: dict[str, Any]) -> None:
        """Note parameters of the stage; the whole configuration stands on the parent anyway."""
        self.child.params.update({key: str(value) for key, value in values.items()})

    def metrics(self, rows: list[dict[str, Any]], step_key: str = "step") -> None:
        """Note one row of numbers per step, as a curves file holds them."""
        for row in rows:
            self.child.add_metrics({key: row[key] for key in row if key != step_key}, int(row[step_key]))

    def metric(self, values: dict[str, Any], step: int | None = None) -> None:
        """Note single numbers."""
        self.child.add_metrics(values, step or 0)

    def image(self, path: Path) -> None:
        """Note a picture; it is shown under the run's artifacts."""
        self.child.artifacts.append((str(path), IMAGES))

    def artifact(self, path: Path) -> None:
        """Note a small file or folder; checkpoints belong to DVC and are only pointed at."""
        self.child.artifacts.append((str(path), None))

    def dataset(self, name: str, manifest: Path, card: dict[str, Any]) -> None:
        """Note a data set that the stage made or read, by its manifest's hash."""
        source = json.dumps({"uri": manifest.resolve().as_uri()})
        profile = json.dumps(card, default=str)
        self.child.datasets.append((name, content_md5(manifest)[:32], source, profile))

    def tags(self, values: dict[str, Any]) -> None:
        """Note tags of the stage."""
        self.child.tags.update({key: str(value) for key, value in values.items()})

    def inputs(self, *paths: Path) -> None:
        """Note what the stage read, relative to the root: tagged with the md5 that dvc.lock has."""
        self.input_paths.extend(paths)

    def outputs(self, *paths: Path) -> None:
        """Note what the stage made, relative to the root: tagged with the md5 that DVC will find."""
        self.output_paths.extend(paths)

    def parent_metric(self, values: dict[str, Any], step: int) -> None:
        """Note numbers of the whole run by iteration; the chart of runs shows the parent's."""
        self.parent.add_metrics(values, step)

    def parent_artifact(self, path: Path, folder: str | None = None) -> None:
        """Note a file of the whole run, such as the grid of all models; in a folder where others have its name."""
        self.parent.artifacts.append((str(path), folder))

    def register(self, models: dict[str, Any]) -> None:
        """Note what the model registry is to hold, as `spin.tracking.registry` describes it."""
        self.models = models


_current = StageRun()


def current_run() -> StageRun:
    """The run of the stage that this process is in; what is told to it outside of one goes nowhere."""
    return _current


@contextmanager
def as_current(run: StageRun) -> Iterator[StageRun]:
    """Make `run` the current one for the block."""
    global _current
    _current, before = run, _current
    try:
        yield run
    finally:
        _current = before
