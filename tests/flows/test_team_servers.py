"""The team's servers as mlflow/README.md has them, without Docker: who may write, who is refused, and where it ends."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server import wait_for
from spin.params.schema import Params, load_params
from tests.flows import team_servers
from tests.flows.team_servers import BUCKET, FOLDER, ROOT, Team, clean, status

FLOW = """
from prefect import flow, task

@task(tags=["gpu"])
def train(): return 1

@flow(name="team")
def team(): return train()

team()
"""


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """All servers, about 20 s to start."""
    if reason := team_servers.missing():
        pytest.skip(reason)
    with team_servers.team_servers(tmp_path_factory.mktemp("team")) as servers:
        yield servers


def act_as(monkeypatch: pytest.MonkeyPatch, team: Team, name: str, password: str) -> None:
    """Be a member's shell: the server's address and who asks, and no key of the bucket."""
    for variable in [each for each in os.environ if each.startswith(("MLFLOW", "AWS", "SPIN"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", team.mlflow)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)


def add_user(team: Team, name: str) -> str:
    """Make a user by the documented command; returns the password that it prints, if it does."""
    env = {
        **clean(),
        "MLFLOW_TRACKING_URI": team.mlflow,
        "MLFLOW_AUTH_ADMIN_PASSWORD": team.values["MLFLOW_ADMIN_PASSWORD"],
    }
    done = subprocess.run(
        [FOLDER / "add-user.sh", name], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert f"{name} may log runs" in done.stdout
    printed = re.search(rf"{name} has the password (\S+)", done.stdout)
    return printed[1] if printed else ""


def toy() -> Params:
    return load_params(ROOT / "profiles" / "toy.yaml")


def log_stage(root: Path, stage: str, loss: float) -> None:
    """Tell MLflow of a stage as the project's stages do."""
    from spin.tracking.runs import stage_run

    root.mkdir(exist_ok=True)
    (root / "table.md").write_text(f"| loss |\n|---|\n| {loss} |\n")
    with stage_run(toy(), stage, root) as run:
        run.metric({"loss": loss})
        run.artifact(root / "table.md")


@pytest.mark.slow
def test_a_second_user_logs_runs_after_one_command_and_artifacts_end_in_s3(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.server import get_app_client

    # The first member makes the experiment and a model.
    client = MlflowClient(team.mlflow, team.mlflow)
    act_as(monkeypatch, team, "anna", add_user(team, "anna"))
    log_stage(tmp_path / "anna", "train@iter1", 0.7)
    client.create_registered_model("spin")
    found = client.get_experiment_by_name(toy().tracking.experiment)
    (annas,) = client.search_runs([found.experiment_id], "tags.`spin.stage` = 'train@iter1'")

    # An account alone may look; the documented command lets it write.
    act_as(monkeypatch, team, "admin", team.values["MLFLOW_ADMIN_PASSWORD"])
    get_app_client("basic-auth", team.mlflow).create_user("ben", "twelve-letters")
    act_as(monkeypatch, team, "ben", "twelve-letters")
    assert client.get_run(annas.info.run_id).data.metrics["loss"] == 0.7
    with pytest.raises(MlflowException, match="403"):
        client.create_run(found.experiment_id)
    assert add_user(team, "ben") == "", "keeps the password"
    log_stage(tmp_path / "ben", "train@iter2", 0.6)
    (bens,) = client.search_runs([found.experiment_id], "tags.`spin.stage` = 'train@iter2'")
    assert (bens.info.status, bens.data.metrics["loss"]) == ("FINISHED", 0.6)
    assert bens.data.tags["mlflow.parentRunId"] == annas.data.tags["mlflow.parentRunId"]
    version = client.create_model_version("spin", "dvc:///outputs/checkpoints/iter2").version
    client.set_registered_model_alias("spin", "champion", version)

    # What another made stays: members do not delete.
    with pytest.raises(MlflowException, match="403"):
        client.delete_run(annas.info.run_id)

    # Pictures and tables lie in the bucket, whose key no member has, and come back through the server.
    listed = team_servers.s3_client(team.s3).list_objects_v2(Bucket=BUCKET)["Contents"]
    key = f"mlflow/{found.experiment_id}/{bens.info.run_id}/artifacts/table.md"
    assert key in {entry["Key"] for entry in listed}
    assert "0.6" in Path(client.download_artifacts(bens.info.run_id, "table.md", str(tmp_path))).read_text()


@pytest.mark.slow
def test_mlflow_refuses_strangers_foreign_hosts_and_foreign_pages(team: Team) -> None:
    search = f"{team.mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    create = f"{team.mlflow}/api/2.0/mlflow/experiments/create"
    admin = f"admin:{team.values['MLFLOW_ADMIN_PASSWORD']}"
    assert status(search) == 401
    assert status(search, "admin:a-wrong-password") == 401
    assert status(search, admin) == 200
    assert status(search, admin, headers={"Host": "mlflow.example.org"}) == 200, "the name that browsers use"
    assert status(search, admin, headers={"Host": "evil.example"}) == 403
    assert status(create, admin, b'{"name": "evil"}', headers={"Origin": "https://evil.example"}) == 403
    assert status(create, admin, b'{"name": "own"}', headers={"Origin": "https://mlflow.example.org"}) == 200


def prefect(
    team: Team, *words: str, auth: str = "team:secret", home: Path
) -> "subprocess.CompletedProcess[str]":
    env = {
        **clean(),
        "PREFECT_API_URL": f"{team.prefect}/api",
        "PREFECT_API_AUTH_STRING": auth,
        "PREFECT_HOME": str(home),
    }
    return subprocess.run(
        [sys.executable, *words], cwd=home, env=env, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_prefect_runs_flows_on_postgresql_for_those_who_know_its_auth_string(
    team: Team, tmp_path: Path
) -> None:
    import psycopg

    (tmp_path / "team.py").write_text(FLOW)
    for words in (["-m", "prefect", "concurrency-limit", "create", "gpu", "1"], ["team.py"]):
        done = prefect(team, *words, home=tmp_path)
        assert done.returncode == 0, done.stderr
    with psycopg.connect(team.database("prefect", "prefect")) as connection:
        rows = connection.execute(
            "select f.name, r.state_type::text from flow_run r join flow f on f.id = r.flow_id"
        )
        assert rows.fetchall() == [("team", "COMPLETED")]
    leases = team.logs / "prefect" / "concurrency_leases" / "expirations.json"
    assert leases.is_file(), "slots that are taken outlive the server"
    refused = prefect(team, "team.py", auth="team:wrong", home=tmp_path)
    assert refused.returncode != 0
    assert "401 Unauthorized" in refused.stderr


@pytest.mark.slow
def test_prefect_refuses_strangers_foreign_hosts_and_foreign_pages(team: Team) -> None:
    url, auth = f"{team.prefect}/api", "team:secret"
    assert status(f"{url}/admin/version", auth) == 200
    assert status(f"{url}/admin/version") == 401
    assert status(f"{url}/admin/version", "team:wrong") == 401
    assert status(f"{url}/admin/version", headers={"Host": "evil.example"}) == 401
    for origin, preflight in (("https://evil.example", 400), ("https://prefect.example.org", 200)):
        assert status(f"{url}/flows/filter", auth, b"{}", headers={"Origin": origin}) == 403, "no token"
        asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        assert status(f"{url}/flows/filter", method="OPTIONS", headers=asks) == preflight


@pytest.mark.slow
def test_users_and_runs_are_in_postgresql_not_in_a_server(team: Team, tmp_path: Path) -> None:
    admin = f"admin:{team.values['MLFLOW_ADMIN_PASSWORD']}"
    search = "api/2.0/mlflow/experiments/search?max_results=1"
    create = f"{team.mlflow}/api/2.0/mlflow/users/create"
    assert status(create, admin, b'{"username": "cleo", "password": "twelve-letters"}') == 200
    assert status(create, "cleo:twelve-letters", b'{"username": "eve", "password": "twelve-letters"}') == 403
    # Another server on the same databases, whose team.env has another password for the administrator.
    values = {**team.values, "MLFLOW_ADMIN_PASSWORD": "changed-in-team.env"}
    with team_servers.server("mlflow", values, team.postgres_port, tmp_path) as (url, health, process):
        wait_for(health, process, tmp_path / "mlflow.log")
        assert status(f"{url}/{search}", "cleo:twelve-letters") == 200
        assert status(f"{url}/{search}", admin) == 200, "the first password stays until it is changed"
        assert status(f"{url}/{search}", "admin:changed-in-team.env") == 401


@pytest.mark.slow
def test_neither_server_can_open_the_other_ones_database(team: Team) -> None:
    import psycopg

    allowed = {"mlflow": ["mlflow", "mlflow_users"], "prefect": ["prefect"]}
    for user, own in allowed.items():
        for name in ("mlflow", "mlflow_users", "prefect"):
            if name in own:
                psycopg.connect(team.database(name, user)).close()
            else:
                with pytest.raises(psycopg.OperationalError, match="permission denied"):
                    psycopg.connect(team.database(name, user))
