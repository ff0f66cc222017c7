"""MLflow hears of a training while it runs: every point, once, whatever MLflow does, and nothing that MLflow does is heard."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import spin.tracking.connection
import spin.tracking.live
from spin.params.schema import Params
from spin.tracking.connection import connected
from spin.tracking.notes import current_run
from spin.tracking.runs import stage_run

ROOT = Path(__file__).resolve().parents[2]
STAGE = "train@iter1"


def report(step: int) -> dict[str, float]:
    return {"step": step, "loss": 0.7 - step / 100, "margin": float("nan")}


def told(root: Path, params: Params) -> list[tuple[str, list[int]]]:
    """Status and steps of every run of the stage, oldest first."""
    with connected(root) as client:
        experiment = client.get_experiment_by_name(params.tracking.experiment)
        if experiment is None:
            return []
        runs = client.search_runs([experiment.experiment_id], f"tags.`spin.stage` = '{STAGE}'")
        runs = sorted(runs, key=lambda run: run.info.start_time)
        steps = [[p.step for p in client.get_metric_history(run.info.run_id, "loss")] for run in runs]
        return [(run.info.status, sorted(each)) for run, each in zip(runs, steps, strict=True)]


def wait_for(root: Path, params: Params, steps: list[int]) -> str:
    """The status of the run once it has these steps."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = told(root, params)
        if found and found[-1][1] == steps:
            return found[-1][0]
        time.sleep(0.2)
    raise AssertionError(f"never told: {told(root, params)}")


def test_the_curve_grows_while_the_training_runs(store: Path, params: Params) -> None:
    with stage_run(params, STAGE, store) as run:
        for step in (1, 2, 3):
            current_run().update(report(step), step)
        assert wait_for(store, params, [1, 2, 3]) == "RUNNING"
        current_run().update(report(4), 4)
        run.metrics([report(step) for step in (1, 2, 3, 4, 5)])  # the curve on disk has them all
    assert told(store, params) == [("FINISHED", [1, 2, 3, 4, 5])]


def test_what_mlflow_missed_in_the_middle_is_told_later_and_once(
    store: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = [False]

    @contextmanager
    def sometimes(root: Path) -> Iterator[Any]:
        if down[0]:
            raise ConnectionError("down")
        with connected(root) as client:
            yield client

    for module in ("live", "sending"):
        monkeypatch.setattr(f"spin.tracking.{module}.connected", sometimes)
    with stage_run(params, STAGE, store) as run:
        for step in range(1, 31):
            if step in (10, 20):
                down[0] = step == 10
                time.sleep(0.3)
            current_run().update(report(step), step)
        down[0] = False
        run.metrics([report(step) for step in range(1, 31)])
    assert told(store, params) == [("FINISHED", list(range(1, 31)))]


KILLED = """
import os, sys, time
from pathlib import Path
import spin.tracking.live
from spin.params.schema import load_params
from spin.tracking.notes import current_run
from spin.tracking.outbox import entries
from spin.tracking.runs import stage_run
spin.tracking.live.SECONDS_BETWEEN_LOOKS = 0.05
with stage_run(load_params(Path("profiles/toy.yaml")), "train@iter1", Path(sys.argv[1])):
    for step in range(1, 8):
        current_run().update({"loss": 0.7 - step / 100}, step)
    (entry,) = entries(Path(sys.argv[1]))
    while entry.sent().get("offset", 0) < entry._lines.stat().st_size:
        time.sleep(0.1)
    entry._lines.open("a").write('{"step": 8, "val')
    os._exit(9)
"""


def test_a_killed_training_that_goes_on_continues_its_run(store: Path, params: Params) -> None:
    env = {**os.environ, "SPIN_TRACKING": "on"}
    done = subprocess.run([sys.executable, "-c", KILLED, str(store)], cwd=ROOT, env=env, timeout=120)
    assert done.returncode == 9
    assert told(store, params) == [("RUNNING", list(range(1, 8)))]
    with stage_run(params, STAGE, store) as run:  # from its checkpoint at update 4
        for step in range(5, 11):
            current_run().update(report(step), step)
        run.metrics([report(step) for step in range(1, 11)])
    assert told(store, params) == [("FINISHED", list(range(1, 11)))]


@pytest.mark.parametrize(("error", "status"), [(ZeroDivisionError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_training_that_does_not_end_well_says_so(
    store: Path, params: Params, error: type[BaseException], status: str
) -> None:
    def train() -> None:
        with stage_run(params, STAGE, store):
            current_run().update(report(1), 1)
            raise error

    with pytest.raises(error):
        train()
    assert told(store, params) == [(status, [1])]


def test_mlflow_that_hangs_holds_nothing_up(
    store: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def hangs(root: Path) -> Iterator[Any]:
        time.sleep(2)
        raise ConnectionError("never")
        yield

    for module in ("live", "sending"):
        monkeypatch.setattr(f"spin.tracking.{module}.connected", hangs)
    monkeypatch.setattr(spin.tracking.live, "CLOSING_SECONDS", 0.2)
    with stage_run(params, STAGE, store):
        started = time.monotonic()
        for step in range(1, 1001):
            current_run().update(report(step), step)
        assert time.monotonic() - started < 0.5
