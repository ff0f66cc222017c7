"""Two clones with a worker each work for one server and share a remote: nothing is trained twice, nothing is lost."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("dvc")
pytest.importorskip("prefect")

from flows.server import client_settings, free_port, start_prefect, wait_for
from tasks.process import let_go
from tests.flows.clones import Team, dvc, listen, make_clone, start_worker, stop_worker, wait_until
from tests.processes import alive

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    from prefect.client.orchestration import get_client
    from prefect.settings import temporary_settings

    # A server, and somebody who wants to be told.
    folder = tmp_path_factory.mktemp("team")
    a, b = (make_clone(folder / name, folder / "remote") for name in ("a", "b"))
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    notified: list[dict[str, str]] = []
    listener = listen(notified)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    server = start_prefect(a, port, folder / "server.log", ui=False)
    settings = client_settings(a, api)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "MLFLOW"))}
    env = clean | {"PREFECT_API_URL": api, "PREFECT_API_AUTH_STRING": settings["api.auth_string"]}
    env |= {"SPIN_TRACKING": "off", "COUNTED": str(folder / "counted"), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    env["SPIN_NOTIFY_URL"] = f"http://127.0.0.1:{listener.server_port}/told"
    try:
        wait_for(f"{api}/health", server, folder / "server.log")
        deploy(a, env | {"SPIN_PROJECT": "/nowhere"})

        # A worker in each clone.
        clones = [start_worker(root, env) for root in (a, b)]
        with temporary_settings(settings), get_client(sync_client=True) as client:
            yield Team(client, *clones, env, folder / "counted", notified)
    finally:
        for clone in clones:
            stop_worker(clone)
        let_go(server)
        server.wait()
        listener.shutdown()


def deploy(root: Path, env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "flows.deploy"]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_deployment_names_no_clone_and_its_form_explains_every_field(team: Team) -> None:
    for name in ("self-play", "evaluate", "promote"):
        deployment = team.client.read_deployment_by_name(f"spin-diffusion/{name}")
        (step,) = deployment.pull_steps
        assert step["prefect.deployments.steps.set_working_directory"] == {"directory": "{{ $SPIN_PROJECT }}"}
        assert str(team.a.root) not in deployment.model_dump_json(), "the one who deployed it"
        schema = deployment.parameter_openapi_schema
        assert schema["properties"]["run"]["description"]
        (form,) = schema["definitions"].values()
        assert next(iter(form["properties"])) in ("targets", "checkpoint", "model"), (
            "what it is about comes first"
        )
        for field, given in form["properties"].items():
            assert len(given.get("description", "")) > 20, field


def test_a_worker_keeps_the_secret_for_the_user_alone_and_refuses_a_wrong_one(team: Team) -> None:
    for clone in (team.a, team.b):
        assert (clone.root / "prefect.toml").stat().st_mode & 0o077 == 0
    command = [sys.executable, "-m", "flows.worker"]
    wrong = team.env | {"PREFECT_API_AUTH_STRING": "spin:wrong"}
    for env, sentence in ((wrong, "must be the secret"), (team.env, "This folder has a worker already")):
        folder = team.b.root / "flows" if env is wrong else team.b.root
        path = {"PYTHONPATH": str(team.b.root)}
        done = subprocess.run(command, cwd=folder, env=env | path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert sentence in done.stderr


def test_bad_input_is_a_sentence_and_is_not_tried_again(team: Team) -> None:
    before = team.trained()
    runs = [
        team.start("self-play", None, profile="sd16"),
        team.start("evaluate", None, checkpoint="no/such/folder"),
    ]
    profile, checkpoint = (team.ended(run) for run in runs)
    assert (profile.state.name, profile.run_count) == ("BadInput", 1)
    assert "got sd16; choose a file of profiles/." in profile.state.message
    assert (checkpoint.state.name, checkpoint.run_count) == ("BadInput", 1)
    assert "there is no folder no/such/folder; correct it." in checkpoint.state.message
    assert team.trained() == before


def test_what_one_machine_pushed_the_other_fetches_and_does_not_train(team: Team) -> None:
    first = team.run("self-play", team.a, targets=["train"], push=True)
    assert first.state.message == "2 stages ran, 0 were cached."
    assert team.trained() == ["data", "iter1"]
    second = team.run("self-play", team.b, targets=["train"], pull=True)
    assert second.state.message == "0 stages ran, 2 came from DVC's cache or remote, 0 were cached."
    assert team.trained() == ["data", "iter1"]
    for clone, run in ((team.a, first), (team.b, second)):
        assert run.labels["prefect.worker.name"] == clone.name, "sent to its machine"
        assert (clone.root / "iter1").read_text() == "data\ntrained\n"
        assert "up to date" in dvc(clone.root, "status", "train")
    assert wait_until(lambda: [told for told in team.notified if told["state"] == "Completed"], 20)[0][
        "text"
    ].endswith("2 stages ran, 0 were cached.")


def test_a_killed_run_goes_on_and_a_killed_worker_disturbs_no_other(team: Team) -> None:
    # A run on each machine, both waiting in their last stage.
    runs = {
        clone: team.start("self-play", clone, targets=["report"], pull=True) for clone in (team.a, team.b)
    }
    stages = {}
    for clone in runs:
        wait_until((clone.root / "waiting").is_file, 60)
        stages[clone] = wait_until((clone.root / "waiting").read_text)
        (clone.root / "waiting").unlink()

    # One loses its process, the other its worker, whose next start looks after its own run alone.
    os.kill(int(team.client.read_flow_run(runs[team.a]).infrastructure_pid), signal.SIGKILL)
    team.b.worker.kill()
    team.b.worker.wait()
    for pid in stages.values():
        wait_until(lambda pid=pid: not alive(int(pid)), 30)
    again = start_worker(team.b.root, team.env)
    try:
        assert "1 runs of this folder were cut off" in (team.b.root / "worker.log").read_text()
        for clone in runs:
            (clone.root / "go").touch()
        for clone, run in runs.items():
            ended = team.ended(run)
            assert (ended.state.name, ended.run_count) == ("Completed", 2)
            assert (clone.root / "report").read_text() == "report\n"
            assert not list((clone.root / ".spin/prefect/runs").iterdir()), "nothing is marked as alive"
    finally:
        stop_worker(again)
