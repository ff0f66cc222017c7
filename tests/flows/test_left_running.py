"""What a start of a folder's worker makes of runs that say Running: its own dead ones end, all others are left alone."""

import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("prefect")

import flows  # noqa: F401  (switches before Prefect)
from flows.deploy import _automate as automate
from flows.left_running import MAX_STARTS, STARTS_AGAIN, end_left_running
from flows.server import server_settings
from flows.worker import only_worker, worker_name

ROOT = Path(__file__).resolve().parents[2]
MARKS = Path(".spin/prefect/runs")


@pytest.fixture
def client(prefect_server: None) -> Iterator[Any]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as made:
        yield made


def running(client: Any, worker: str | None = None, state: str = "Running") -> Any:
    """Make a run in this state, taken by a worker or run by a shell."""
    from prefect import flow, states

    @flow(name="left")
    def left() -> None: ...

    run = client.create_flow_run(left, state=getattr(states, state)())
    if worker:
        client._client.patch(
            f"/flow_runs/{run.id}/labels", json={"prefect.worker.name": worker}
        ).raise_for_status()
    return run.id


@pytest.mark.slow
def test_only_what_ran_here_and_is_dead_is_ended(client: Any, tmp_path: Path) -> None:
    (tmp_path / MARKS).mkdir(parents=True)
    dead = running(client, "here"), running(client, "here", "Pending"), running(client, "here", "Cancelling")
    of_a_shell, elsewhere, of_another_shell = running(client), running(client, "there"), running(client)
    alive, moved_on = running(client, "here"), running(client, "there")
    for run in (of_a_shell, alive, moved_on):
        (tmp_path / MARKS / str(run)).touch()
    with (tmp_path / MARKS / str(alive)).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert end_left_running(tmp_path, {}, "here") == len(dead) + 1
    names = {
        run: client.read_flow_run(run).state.name
        for run in (*dead, of_a_shell, alive, elsewhere, moved_on, of_another_shell)
    }
    assert {names[run] for run in (*dead, of_a_shell)} == {"Crashed"}, (
        "without its automation none starts again"
    )
    assert {names[run] for run in (alive, elsewhere, moved_on, of_another_shell)} == {"Running"}
    assert [mark.name for mark in (tmp_path / MARKS).iterdir()] == [str(alive)]


@pytest.mark.slow
def test_with_the_automation_a_run_of_a_deployment_goes_on_unless_it_keeps_dying(
    client: Any, tmp_path: Path
) -> None:
    automations = yaml.safe_load((ROOT / "prefect.yaml").read_text())["automations"]
    automate(client, automations)
    runs = [of_a_deployment(client, starts) for starts in (1, MAX_STARTS)]
    cancelled = of_a_deployment(client, 1, "Cancelling")
    by_hand = running(client, "here")
    end_left_running(tmp_path, {}, "here")
    names = [client.read_flow_run(run).state.name for run in (*runs, cancelled, by_hand)]
    assert names == ["AwaitingRetry", "Crashed", "Crashed", "Crashed"]

    # Deployed again nothing is forgotten, and what was switched off stays off.
    (known,) = client.read_automations_by_name(STARTS_AGAIN)
    client.pause_automation(known.id)
    trigger = client._client.get(f"/automations/{known.id}").json()["trigger"]["id"]
    automate(client, automations)
    again = client._client.get(f"/automations/{known.id}").json()["trigger"]["id"]
    assert again == trigger, "on it hangs which runs have been seen to start"
    automations[0]["trigger"]["within"] = 60
    automate(client, automations)
    (changed,) = client.read_automations_by_name(STARTS_AGAIN)
    assert changed.trigger.within.total_seconds() == 60
    assert not changed.enabled
    last = of_a_deployment(client, 1)
    end_left_running(tmp_path, {}, "here")
    assert client.read_flow_run(last).state.name == "Crashed"


def of_a_deployment(client: Any, starts: int, state: str = "Running") -> Any:
    """Make a run of a deployment that was started some times, the last time by the worker `here`."""
    from prefect import states

    run = running(client, "here")
    deployment = client.create_deployment(client.read_flow_run(run).flow_id, name="left")
    run = client.create_flow_run_from_deployment(deployment).id
    client._client.patch(f"/flow_runs/{run}/labels", json={"prefect.worker.name": "here"}).raise_for_status()
    for _ in range(starts):
        client.set_flow_run_state(run, states.Pending(), force=True)
        client.set_flow_run_state(run, states.Running(), force=True)
    client.set_flow_run_state(run, getattr(states, state)(), force=True)
    return run


def test_every_clone_has_one_worker_with_a_name_of_its_own(tmp_path: Path) -> None:
    a, b = tmp_path / "a" / "spin", tmp_path / "b" / "spin"
    assert worker_name(a) == worker_name(a)
    assert worker_name(a) != worker_name(b)
    with (
        only_worker(a),
        only_worker(b),
        pytest.raises(RuntimeError, match="This folder has a worker already"),
    ):
        with only_worker(a):
            raise AssertionError("two at once")
    with only_worker(a):
        pass


def test_without_a_server_a_worker_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(
        RuntimeError, match=r"PREFECT_API_URL must say where the Prefect server is, and is not set; set it"
    ):
        server_settings(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "spin:secret")
    with pytest.raises(RuntimeError, match=r"but http://127.0.0.1:9/api does not answer; start it\."):
        server_settings(tmp_path)
    assert not (tmp_path / "prefect.toml").exists(), "nothing that does not work is kept"
