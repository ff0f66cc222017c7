"""The files of mlflow/ agree: compose.yaml, what it runs and builds, the example of its variables, and the lock."""

import os
import re
import subprocess

import pytest

from tests.flows.team_servers import FOLDER, ROOT, clean, compose, environment, team_env

SCRIPTS = {"mlflow": FOLDER / "serve-mlflow.sh", "prefect": FOLDER / "serve-prefect.sh"}


def filled() -> dict[str, str]:
    """A team.env in which nothing is empty."""
    return {name: value or "filled-in" for name, value in team_env().items()}


def test_every_variable_of_compose_stands_in_the_example_and_the_other_way_round() -> None:
    used = set(re.findall(r"\$\{(\w+)", (FOLDER / "compose.yaml").read_text("utf-8")))
    assert used == set(team_env())


def test_compose_starts_nothing_with_a_password_that_is_empty() -> None:
    for service in compose():
        text = str(compose()[service]["environment"])
        for name in re.findall(r"\$\{(\w+):\?", text):
            with pytest.raises(KeyError, match=name):
                environment(service, {**filled(), name: ""})
    empty = {name for name, value in team_env().items() if not value}
    demanded = set(re.findall(r"\$\{(\w+):\?", (FOLDER / "compose.yaml").read_text("utf-8")))
    assert empty - demanded == {"S3_ENDPOINT"}, "may stay empty"


@pytest.mark.parametrize("service", SCRIPTS)
def test_a_server_refuses_to_start_without_what_compose_gives_it(service: str) -> None:
    script = SCRIPTS[service]
    assert compose()[service]["command"] == [f"/team/mlflow/{script.name}"]
    needed = set(re.findall(r"\$\{(\w+):\?", script.read_text("utf-8")))
    given = {name for name, value in environment(service, filled()).items() if value}
    assert needed <= given
    for name in needed:
        env = {**clean(), **environment(service, filled()), name: ""}
        done = subprocess.run([script], env=env, capture_output=True, text=True, timeout=20)
        assert done.returncode != 0, f"{script.name} without {name}"
        assert name in done.stderr


def test_versions_are_those_of_the_lock_and_images_are_pinned() -> None:
    lock = {line.partition(" ;")[0] for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines()}
    first, *pins = [
        line for line in (FOLDER / "requirements.txt").read_text("utf-8").splitlines() if line[0] != "#"
    ]
    assert first == "-c ../requirements.lock"
    assert {re.sub(r"\[.+\]", "", pin).lower() for pin in pins} <= lock
    images = [
        compose()["postgres"]["image"],
        *re.findall(r"^FROM (\S+)", (FOLDER / "Dockerfile").read_text("utf-8"), re.MULTILINE),
    ]
    assert all(re.fullmatch(r"[a-z]+:\d+\.\d+[\w.-]*", image) for image in images), images


def test_every_address_of_a_database_names_a_driver_that_is_installed() -> None:
    files = [
        file for file in FOLDER.glob("*.*") if file.suffix in (".sh", ".ini", ".yaml", ".example", ".txt")
    ]
    texts = {file.name: file.read_text("utf-8") for file in files if file.name != "basic_auth.ini"}
    found = {
        name: re.findall(r"(?:postgresql|sqlite)(?:\+\w+)?(?=:|$)", text, re.MULTILINE)
        for name, text in texts.items()
    }
    addresses = {name: kinds for name, kinds in found.items() if kinds}
    assert addresses == {
        "auth.ini": ["postgresql+psycopg"],
        "serve-mlflow.sh": ["postgresql+psycopg"],
        "serve-prefect.sh": ["postgresql+asyncpg"],
    }
    for driver in ("psycopg[binary]==", "asyncpg=="):
        assert f"\n{driver}" in texts["requirements.txt"]


def test_what_compose_mounts_and_copies_is_there_and_only_localhost_reaches_it() -> None:
    for service in compose().values():
        mounts = [mount.split(":")[0] for mount in service.get("volumes", []) if mount.startswith(".")]
        assert all((FOLDER / mount).is_file() for mount in mounts)
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for sources in re.findall(r"^COPY (.+) \S+$", (FOLDER / "Dockerfile").read_text("utf-8"), re.MULTILINE):
        assert all((ROOT / source).is_file() for source in sources.split())
    assert all(os.access(script, os.X_OK) for script in FOLDER.glob("*.sh"))
