"""The servers of mlflow/compose.yaml without Docker: the same commands and variables, on localhost.

PostgreSQL runs from the machine's package, as a user who is not root; moto stands in for S3 over HTTP.
"""

import contextlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

from flows.server import free_port, wait_for
from tasks.process import let_go, start

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "mlflow"
BUCKET = "team"
VARIABLE = re.compile(r"\$\{(\w+)(?::([?-])([^}]*))?\}")
"""As compose writes one: its name, `?` if it must have a value, `-` if another value stands in."""


def compose() -> dict[str, Any]:
    """The services of compose.yaml by name."""
    return dict(yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))["services"])


def team_env() -> dict[str, str]:
    """The variables of team.env.example, as they stand."""
    lines = (FOLDER / "team.env.example").read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def environment(service: str, values: Mapping[str, str]) -> dict[str, str]:
    """What compose gives a service for a team.env of `values`; a variable that must have a value and has none raises."""

    def value(found: re.Match[str]) -> str:
        name, kind, other = found.groups()
        if kind == "?" and not values.get(name):
            raise KeyError(f"{name}: {other}")
        return values.get(name) or (other if kind == "-" else "") or ""

    given = compose()[service]["environment"]
    return {name: VARIABLE.sub(value, str(text)) for name, text in given.items()}


def command(service: str) -> list[str]:
    """What compose runs for a service, from this checkout in place of the image's copy."""
    return [word.replace("/team/", f"{ROOT}/") for word in compose()[service]["command"]]


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's programs: Debian keeps them off PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "initdb").is_file()), None)


def missing() -> str:
    """The sentence about the first thing that these tests need and that is not here, or nothing."""
    if postgres_programs() is None:
        return "needs PostgreSQL's programs (Debian's package postgresql), found no initdb"
    if os.getuid() == 0 and not shutil.which("setpriv"):
        return "needs setpriv (Debian's package util-linux): PostgreSQL does not run as root"
    for module in ("moto", "boto3", "psycopg", "asyncpg", "flask_wtf"):
        if importlib.util.find_spec(module) is None:
            return f"needs the Python module {module}; pip install -e '.[ops,dev]'"
    return ""


class Team(NamedTuple):
    """The servers that run, and the values of the team.env that they run on."""

    mlflow: str
    prefect: str
    s3: str
    postgres_port: int
    values: dict[str, str]
    logs: Path
    """Where each server's log lies, and Prefect's home."""

    def database(self, name: str, user: str) -> str:
        """libpq's words for a connection as `user`."""
        password = self.values[f"{user.upper()}_DATABASE_PASSWORD"]
        return f"host=127.0.0.1 port={self.postgres_port} dbname={name} user={user} password='{password}'"


def clean() -> dict[str, str]:
    """This process's environment without what a server or a key may be read from."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT", "MLFLOW", "AWS", "PG"))
    }
    switches = {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**kept, **switches, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@contextlib.contextmanager
def started(words: list[str], log: Path, env: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """A server under the supervisor; it ends with the block, and if this process dies, with all its children."""
    with log.open("ab") as stream:
        process = start(words, log.parent, 10.0, env, stream.fileno())
    try:
        yield process
    finally:
        let_go(process)
        process.wait(30)


@contextlib.contextmanager
def postgres(values: Mapping[str, str], logs: Path) -> Iterator[int]:
    """Yield the port of a new PostgreSQL server in which mlflow/databases.sql has run."""
    programs, port = postgres_programs(), free_port()
    assert programs is not None
    # Below the system's own folder: pytest's is closed to the user who runs the server.
    home = Path(tempfile.mkdtemp(prefix="spin-postgres-"))
    password = home / "password"
    password.write_text(values["POSTGRES_PASSWORD"])
    as_user: list[str] = []
    if os.getuid() == 0:
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
        as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        for path in (home, password):
            os.chown(path, user.pw_uid, user.pw_gid)
    data = str(home / "data")
    initialize = [str(programs / "initdb"), "-D", data, "-U", "postgres", "-E", "UTF8", "--no-sync"]
    initialize += ["--auth=scram-sha-256", f"--pwfile={password}"]
    serve = [str(programs / "postgres"), "-D", data, "-c", f"port={port}", "-c", "listen_addresses=127.0.0.1"]
    serve += ["-c", "unix_socket_directories=", "-c", "fsync=off"]
    try:
        subprocess.run([*as_user, *initialize], cwd=home, check=True, capture_output=True, text=True)
        with started([*as_user, *serve], logs / "postgres.log", clean()) as process:
            make_databases(programs, port, values, process)
            yield port
    finally:
        shutil.rmtree(home)


def make_databases(
    programs: Path, port: int, values: Mapping[str, str], process: "subprocess.Popen[str]"
) -> None:
    """Run databases.sql as the image of compose.yaml does, once the server is up."""
    env = {**clean(), **environment("postgres", values), "PGHOST": "127.0.0.1", "PGPORT": str(port)}
    env["PGPASSWORD"] = values["POSTGRES_PASSWORD"]
    while subprocess.run([str(programs / "pg_isready"), "-q"], env=env).returncode:
        assert process.poll() is None, "PostgreSQL ended"
    psql = [str(programs / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres"]
    subprocess.run([*psql, "-f", str(FOLDER / "databases.sql")], env=env, check=True)


def s3_client(address: str) -> Any:
    """A client of the bucket with the key that only MLflow's server has."""
    import boto3  # type: ignore[import-untyped]

    return boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )


@contextlib.contextmanager
def server(
    service: str, values: Mapping[str, str], database_port: int, logs: Path
) -> Iterator[tuple[str, str, "subprocess.Popen[str]"]]:
    """Start a service of compose.yaml as that does, but for where it listens and where PostgreSQL is.

    Yields its address, the address that answers once it is up, and its process.
    """
    port, database = free_port(), str(database_port)
    here = {"LISTEN": "127.0.0.1", "PORT": str(port), "WORKERS": "2", "PREFECT_HOME": str(logs / "prefect")}
    here |= {"PGHOST": "127.0.0.1", "PGPORT": database}
    here |= {"PREFECT_SERVER_DATABASE_HOST": "127.0.0.1", "PREFECT_SERVER_DATABASE_PORT": database}
    env = {**clean(), **environment(service, values), **here}
    url = f"http://127.0.0.1:{port}"
    with started(command(service), logs / f"{service}.log", env) as process:
        yield url, f"{url}/{'health' if service == 'mlflow' else 'api/health'}", process


@contextlib.contextmanager
def team_servers(logs: Path) -> Iterator[Team]:
    """Start all four; everything has ended when the block has."""
    s3_port = free_port()
    s3 = f"http://127.0.0.1:{s3_port}"
    values = {name: value or secrets.token_hex(12) for name, value in team_env().items()}
    # A password may hold what has a meaning in an address.
    values |= {"MLFLOW_DATABASE_PASSWORD": "a/b@c%d:e", "PREFECT_DATABASE_PASSWORD": "f/g@h%i:j"}
    values |= {
        "MLFLOW_ADDRESS": "https://mlflow.example.org",
        "PREFECT_ADDRESS": "https://prefect.example.org",
    }
    values |= {"ARTIFACTS": f"s3://{BUCKET}/mlflow", "S3_ENDPOINT": s3, "PREFECT_AUTH_STRING": "team:secret"}
    moto = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(s3_port)]
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(postgres(values, logs))
        store = stack.enter_context(started(moto, logs / "s3.log", clean()))
        mlflow, prefect = (
            stack.enter_context(server(each, values, port, logs)) for each in ("mlflow", "prefect")
        )
        wait_for(f"{s3}/", store, logs / "s3.log")
        s3_client(s3).create_bucket(Bucket=BUCKET)
        for name, (_, health, process) in (("mlflow", mlflow), ("prefect", prefect)):
            wait_for(health, process, logs / f"{name}.log")
        yield Team(mlflow[0], prefect[0], s3, port, values, logs)


def status(
    url: str,
    user: str = "",
    body: bytes | None = None,
    method: str | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """Ask as `user`, which is NAME:PASSWORD, and return the status of the answer."""
    sent = {"Content-Type": "application/json", **headers}
    if user:
        sent["Authorization"] = f"Basic {b64encode(user.encode()).decode()}"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, body, sent, method=method), timeout=20
        ) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
