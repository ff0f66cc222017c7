"""What MLflow could not be told waits on disk, in order, and is told once: by the next stage or by `spin sync`."""

import argparse
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from spin.errors import TrackingError
from spin.params.schema import Params
from spin.stages.sync import run_sync
from spin.tracking.connection import connected
from spin.tracking.notes import current_run
from spin.tracking.outbox import entries
from spin.tracking.runs import stage_run
from tests.tracking.told import picture_of, runs, tell

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "http://127.0.0.1:9"
OPTIONS = argparse.Namespace(all=False, params=ROOT / "profiles" / "toy.yaml")


@pytest.fixture
def waiting(store: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two stages ended while nobody listened; the second one overwrote the picture of the first."""
    with monkeypatch.context() as down:
        down.setenv("MLFLOW_TRACKING_URI", NOWHERE)
        tell(params, "train@iter1", store, 0.5)
        tell(params, "train@iter2", store, 0.25)
    assert [entry.stage for entry in entries(store)] == ["train@iter1", "train@iter2"]
    return store


def check_told(root: Path, params: Params, stages: list[str]) -> None:
    found = runs(root, params)
    assert [run.info.run_name for run in found] == stages
    assert {run.info.status for run in found} == {"FINISHED"}
    assert [run.data.metrics["score"] for run in found[:2]] == [0.5, 0.25]
    assert [picture_of(run) for run in found[:2]] == ["0.5", "0.25"], "as it was when the stage ended"
    assert not entries(root)


def test_the_next_stage_tells_it(waiting: Path, params: Params) -> None:
    tell(params, "train@iter3", waiting, 0.125)
    check_told(waiting, params, ["train@iter1", "train@iter2", "train@iter3"])


def test_sync_tells_it_once(waiting: Path, params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    run_sync(OPTIONS)
    assert capsys.readouterr().out.splitlines() == ["told: train@iter1", "told: train@iter2", "2 told."]
    run_sync(OPTIONS)
    assert capsys.readouterr().out.splitlines() == ["Nothing waits."]
    check_told(waiting, params, ["train@iter1", "train@iter2"])


def test_sync_without_a_server_says_so_and_keeps_it(
    waiting: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    with pytest.raises(
        TrackingError, match=r"must take what waits, but does not \(.*\); what is left waits\."
    ):
        run_sync(OPTIONS)
    assert len(entries(waiting)) == 2


@pytest.mark.parametrize("broken", ["log_batch", "log_artifact", "set_terminated", "create_run"])
def test_what_was_told_but_not_heard_of_is_told_once(
    waiting: Path, params: Params, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """The call reached MLflow, its answer was lost: everything from there on is told again."""
    from mlflow import MlflowClient

    original: Callable[..., Any] = getattr(MlflowClient, broken)
    calls: Counter[str] = Counter()

    def unheard(self: Any, *given: Any, **named: Any) -> Any:
        answer = original(self, *given, **named)
        calls[broken] += 1
        if calls[broken] % 3 == 2:
            raise ConnectionError("lost")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, broken, unheard)
        for _ in range(12):
            with suppress(TrackingError):
                run_sync(OPTIONS)
    assert calls[broken] >= 2
    check_told(waiting, params, ["train@iter1", "train@iter2"])
    told = runs(waiting, params)
    with connected(waiting) as client:
        for run in told:
            assert len(client.get_metric_history(run.info.run_id, "loss")) == 1
            assert len(client.get_metric_history(run.info.run_id, "score")) == 1


def test_what_mlflow_will_never_take_is_set_aside_and_holds_up_nothing(
    waiting: Path, params: Params, caplog: pytest.LogCaptureFixture
) -> None:
    (first, _) = entries(waiting)
    (first.folder / "lines.jsonl").write_text('{"at": 1, "step": 1, "values": {"a key, with: §": 1.0}}\n')
    with caplog.at_level(logging.WARNING):
        run_sync(OPTIONS)
    assert "MLflow does not take what train@iter1 has to tell" in caplog.text
    assert [run.info.run_name for run in runs(waiting, params) if run.info.status == "FINISHED"] == [
        "train@iter2"
    ]
    assert (waiting / ".spin/mlflow/refused" / first.folder.name).is_dir()


KILLED = """
import os, sys
from pathlib import Path
from spin.params.schema import load_params
from spin.tracking.notes import current_run
from spin.tracking.runs import stage_run
with stage_run(load_params(Path("profiles/toy.yaml")), "train@iter1", Path(sys.argv[1])):
    current_run().update({"loss": 0.5}, 1)
    os._exit(9)
"""


def test_a_killed_run_that_nobody_goes_on_with_ends_killed_and_goes_on_if_somebody_does(
    store: Path, params: Params
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(store)], cwd=ROOT, timeout=120)
    assert done.returncode == 9
    run_sync(OPTIONS)
    (run,) = runs(store, params)
    assert (run.info.status, run.data.metrics["loss"]) == ("KILLED", 0.5)
    with stage_run(params, "train@iter1", store):
        current_run().update({"loss": 0.25}, 2)
    (run,) = runs(store, params)
    assert (run.info.status, run.data.metrics["loss"]) == ("FINISHED", 0.25)


def test_a_training_that_starts_over_is_another_run(store: Path, params: Params) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(store)], cwd=ROOT, timeout=120)
    with stage_run(params, "train@iter1", store):
        current_run().update({"loss": 0.75}, 1)
    assert [(run.info.status, run.data.metrics["loss"]) for run in runs(store, params)] == [
        ("KILLED", 0.5),
        ("FINISHED", 0.75),
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"at": 1}'])
@pytest.mark.parametrize("file", ["opening.json", "ending.json", "sent.json", "lines.jsonl"])
def test_a_damaged_entry_fails_no_stage_and_holds_up_no_other(
    waiting: Path, params: Params, file: str, text: str
) -> None:
    (first, _) = entries(waiting)
    (first.folder / file).write_text(text)
    tell(params, "train@iter1", waiting, 0.125)
    finished = {run.info.run_name for run in runs(waiting, params) if run.info.status == "FINISHED"}
    assert {"train@iter1", "train@iter2"} <= finished
    assert not [entry for entry in entries(waiting) if entry.folder != first.folder]
