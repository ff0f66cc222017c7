"""The process that a flow forks stages from: there once, for stages of `spin` alone, and gone with the flow."""

import os
import sys
from pathlib import Path

import psutil
import pytest

from spin.runtime.launch import has_gpus
from spin.runtime.warm import VARIABLE
from tasks import warm
from tests.tasks.test_stage_runner import wait_until

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or has_gpus(), reason="forks are for Linux machines without GPUs"
)


@pytest.fixture(autouse=True)
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")  # restored at the end, whatever a test leaves
    monkeypatch.delenv(VARIABLE)


def serving(root: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cwd", "cmdline"]):
        if process.info["cwd"] == str(root) and "warm" in (process.info["cmdline"] or []):
            found.append(process)
    return found


def test_it_is_there_once_and_gone_with_the_flow(tmp_path: Path) -> None:
    for _ in range(2):
        warm.keep_warm(tmp_path, "python -m spin cache")
    place = Path(os.environ[VARIABLE])
    assert wait_until(lambda: len(serving(tmp_path)) == 2)  # the supervisor, and what it supervises
    warm.let_cool(tmp_path)
    assert not serving(tmp_path)
    assert VARIABLE not in os.environ
    assert not place.parent.exists()
    warm.let_cool(tmp_path)


def test_other_commands_and_a_user_who_wants_none_start_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm.keep_warm(tmp_path, "echo made > out")
    assert VARIABLE not in os.environ
    monkeypatch.setenv(VARIABLE, "")
    warm.keep_warm(tmp_path, "python -m spin cache")
    assert not serving(tmp_path)
