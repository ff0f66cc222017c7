"""A flow outlives the Prefect server that it keeps for itself."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("dvc")
pytest.importorskip("prefect")

from tests.flows.clones import make_clone, wait_until
from tests.processes import running

pytestmark = pytest.mark.slow


def test_a_server_that_is_killed_is_started_again_and_the_flow_ends_well(tmp_path: Path) -> None:
    root = make_clone(tmp_path / "a", tmp_path / "remote")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "MLFLOW"))}
    env = clean | {"COUNTED": str(tmp_path / "counted"), "SPIN_TRACKING": "off", "PYTHONPATH": str(root)}
    with (tmp_path / "log").open("w") as log:
        flow = subprocess.Popen([sys.executable, "-m", "flows"], cwd=root, env=env, stdout=log, stderr=log)
    try:
        wait_until((root / "waiting").is_file, 120)
        killed = running(root, "server start")
        for process in killed:
            os.kill(process.pid, signal.SIGKILL)
        wait_until(
            lambda: {each.pid for each in running(root, "server start")} - {each.pid for each in killed}, 30
        )
        (root / "go").touch()
        assert flow.wait(120) == 0, (tmp_path / "log").read_text()[-3000:]
    finally:
        flow.kill()
        flow.wait()
    assert (root / "report").read_text() == "report\n"
    assert "it is started again" in (tmp_path / "log").read_text()
    assert not running(root, "server start")
