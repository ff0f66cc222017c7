"""The Prefect API a run reports to: the one the user names, the one `make ui` keeps, or one for this run alone."""

import base64
import os
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows import environment
from tasks.process import let_go, start

MAX_RESTARTS = 3
START_SECONDS = 90.0
"""Longest wait for a server; 7 s is usual, the first start makes the database as well."""


def answers(url: str, seconds: float = 2.0) -> bool:
    """Tell whether an HTTP GET of `url` succeeds."""
    try:
        with urllib.request.urlopen(url, timeout=seconds) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def wait_for(url: str, process: "subprocess.Popen[str]", log: Path) -> None:
    """Return once `url` answers; raises `RuntimeError` when the server ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while not answers(url):
        if process.poll() is not None:
            raise RuntimeError(
                f"The server for {url} ended with exit code {process.returncode}; {log} says why."
            )
        if time.monotonic() > deadline:
            raise RuntimeError(f"No answer from {url} in {START_SECONDS:.0f} s; {log} says why.")
        time.sleep(0.1)


def free_port() -> int:
    """Return a port of localhost that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((environment.HOST, 0))
        return int(probe.getsockname()[1])


def start_prefect(root: Path, port: int, log: Path, *, ui: bool) -> "subprocess.Popen[str]":
    """Start a Prefect server whose database lies below `root`; ends with `tasks.process.let_go`."""
    env = {**os.environ, **environment.places(root), **environment.guarded(root, port)}
    env["PREFECT_LOGGING_SERVER_LEVEL"] = "WARNING"
    Path(env["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        environment.HOST,
        "--port",
        str(port),
    ]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        return start([*command, "--ui" if ui else "--no-ui"], root, 5.0, env, stream.fileno())


def client_settings(root: Path, api: str) -> dict[str, str]:
    """Return Prefect's settings for a client of a server of this project: where it is, and what it asks of clients."""
    return {"api.url": api, "api.auth_string": environment.secret(root)}


def server_settings(root: Path) -> dict[str, str]:
    """Return where the Prefect server is and what it asks: from the environment, else from prefect.toml.

    They are kept in prefect.toml, for the `prefect` command in this folder. Raises `RuntimeError` with one sentence if
    nothing names a server that answers.
    """
    kept = root / "prefect.toml"
    given = tomllib.loads(kept.read_text(encoding="utf-8")).get("api", {}) if kept.is_file() else {}
    url = os.environ.get("PREFECT_API_URL") or given.get("url")
    if not url:
        raise RuntimeError(
            "PREFECT_API_URL must say where the Prefect server is, and is not set; set it, or call `make ui`."
        )
    secret = os.environ.get("PREFECT_API_AUTH_STRING") or (
        given.get("auth_string") if url == given.get("url") else None
    )
    status = _status(f"{url}/admin/version", secret)
    if status in (401, 403):
        raise RuntimeError(
            f"PREFECT_API_AUTH_STRING must be the secret that {url} asks for, and is {'another' if secret else 'not set'}; "
            "with `make ui` it stands in .spin/prefect/auth of its folder."
        )
    if status != 200:
        raise RuntimeError(
            f"PREFECT_API_URL must be a Prefect server that is up, but {url} does not answer; start it."
        )
    environment.write_client_settings(root, url, secret)
    return {"api.url": url, **({"api.auth_string": secret} if secret else {})}


def _status(url: str, secret: str | None) -> int:
    """Return the status of an answer; 0 for none."""
    try:
        with urllib.request.urlopen(with_secret(url, secret), timeout=10) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return 0


def with_secret(url: str, secret: str | None) -> urllib.request.Request:
    """Return a request that shows `user:password`."""
    request = urllib.request.Request(url)
    if secret:
        request.add_header("Authorization", f"Basic {base64.b64encode(secret.encode()).decode()}")
    return request


@contextmanager
def prefect_api(root: Path) -> Iterator[dict[str, str]]:
    """Yield the settings of a client of a Prefect API, starting a server for the length of the block if none is up.

    A server of its own that ends before is started again, `MAX_RESTARTS` times, on the same port and database: what was
    asked of it meanwhile is asked again by Prefect's client. Raises `RuntimeError` when it does not come up at first.
    """
    named = os.environ.get("PREFECT_API_URL")
    if named:
        yield {"api.url": named}
        return
    if running_ui(root) and answers(f"{environment.PREFECT_API}/health"):
        yield client_settings(root, environment.PREFECT_API)
        return
    port = free_port()
    api = f"http://{environment.HOST}:{port}/api"
    log = root / environment.STATE / "prefect" / "server.log"
    servers, done = [start_prefect(root, port, log, ui=False)], threading.Event()

    def keep_up() -> None:
        while not done.wait(0.5) and len(servers) <= MAX_RESTARTS:
            if servers[-1].poll() is not None:
                print(
                    "The Prefect server of this run ended; it is started again.", file=sys.stderr, flush=True
                )
                servers.append(start_prefect(root, port, log, ui=False))

    watcher = threading.Thread(target=keep_up, name="prefect server")
    try:
        wait_for(f"{api}/health", servers[0], log)
        watcher.start()
        yield client_settings(root, api)
    finally:
        done.set()
        if watcher.ident is not None:
            watcher.join()
        let_go(servers[-1])
        servers[-1].wait()


def ui_file(root: Path) -> Path:
    """Return the file that stands while `make ui` runs and holds its process id."""
    return root / environment.STATE / "ui.pid"


def running_ui(root: Path) -> bool:
    """Tell whether `make ui` is up for this project; another project's server must not get our runs."""
    try:
        os.kill(int(ui_file(root).read_text("utf-8")), 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass  # it runs, as another user
    return True
