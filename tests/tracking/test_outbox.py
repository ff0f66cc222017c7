"""What MLflow could not be told waits on disk, in order, and is told once: by the next stage or by `spin sync`."""

import argparse
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from spin.errors import TrackingError
from spin.params.schema import Params, load_params
from spin.stages.sync import run_sync
from spin.tracking.connection import connected
from spin.tracking.notes import current_run
from spin.tracking.outbox import entries
from spin.tracking.runs import stage_run

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "http://127.0.0.1:9"
OPTIONS = argparse.Namespace(all=False, params=ROOT / "profiles" / "toy.yaml")


@pytest.fixture
def params() -> Params:
    return load_params(ROOT / "profiles" / "toy.yaml")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("mlflow", minversion="3")
    for name in ("MLFLOW_TRACKING_URI", "SPIN_TRACKING", "SPIN_PREFECT_RUN_ID", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("spin.tracking.live.SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tell(params: Params, stage: str, root: Path, loss: float) -> None:
    (root / "picture.png").write_text(f"{loss}")
    with stage_run(params, stage, root) as run:
        current_run().update({"loss": loss}, 1)
        run.metric({"score": loss})
        run.image(Path("picture.png"))


def runs(root: Path, params: Params) -> list[Any]:
    with connected(root) as client:
        experiment = client.get_experiment_by_name(params.tracking.experiment)
        if experiment is None:
            return []
        found = client.search_runs([experiment.experiment_id], "tags.`spin.kind` != 'self-play'")
    return sorted(found, key=lambda run: run.info.start_time)


def picture_of(run: Any) -> str:
    place = Path(run.info.artifact_uri.removeprefix("file://"))
    return (place / "images" / "picture.png").read_text()


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


BORN = """
import os, sqlite3, sys, threading, time
from pathlib import Path
from spin.tracking.connection import connected
def in_the_middle(file):
    try:
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=0) as database:
            return database.execute("select 1 from sqlite_master where name like '_alembic_tmp_%'").fetchone()
    except sqlite3.Error:
        return None
def end(folder=Path(sys.argv[1]) / ".spin/mlflow"):
    while not any(in_the_middle(file) for file in folder.glob("*mlflow.db*") if not file.name.endswith("journal")):
        time.sleep(0.0005)
    os._exit(9)
threading.Thread(target=end, daemon=True).start()
with connected(Path(sys.argv[1])) as client:
    client.search_experiments()
"""
"""Ends itself while MLflow's tables are half made."""


def test_a_database_that_was_killed_while_it_was_made_is_made_again(store: Path, params: Params) -> None:
    done = subprocess.run([sys.executable, "-c", BORN, str(store)], cwd=ROOT, timeout=120)
    assert done.returncode == 9
    tell(params, "train@iter1", store, 0.5)
    assert [run.info.status for run in runs(store, params)] == ["FINISHED"]


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


def test_the_machine_is_sampled_and_previews_are_shown_while_a_stage_runs(
    store: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    (store / "picture.png").write_text("early")
    with stage_run(params, "train@iter1", store, gpu=True):
        current_run().preview(store / "picture.png")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = runs(store, params)
            if found and "system/cpu_utilization_percentage" in found[0].data.metrics:
                break
            time.sleep(0.2)
        assert found[0].info.status == "RUNNING"
        assert picture_of(found[0]) == "early"
        assert "system/disk_usage_percentage" in found[0].data.metrics


@contextmanager
def server(folder: Path, port: int) -> Iterator[None]:
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination",
        str(folder),
    ]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                break
            time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@pytest.mark.slow
def test_a_server_that_is_away_for_the_middle_third_ends_with_every_point_once(
    store: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with stage_run(params, "train@iter1", store) as run:
        with server(store, port):
            for step in range(1, 101):
                current_run().update({"loss": 1 / step}, step)
            deadline = time.monotonic() + 60
            while not entries(store)[0].sent().get("offset") and time.monotonic() < deadline:
                time.sleep(0.1)
        for step in range(101, 201):
            current_run().update({"loss": 1 / step}, step)
        time.sleep(1)
        again = server(store, port)
        again.__enter__()
        for step in range(201, 301):
            current_run().update({"loss": 1 / step}, step)
        run.metrics([{"step": step, "loss": 1 / step} for step in range(1, 301)])
    try:
        (told,) = runs(store, params)
        with connected(store) as client:
            history = client.get_metric_history(told.info.run_id, "loss")
    finally:
        again.__exit__(None, None, None)
    assert told.info.status == "FINISHED"
    assert sorted(point.step for point in history) == list(range(1, 301))
