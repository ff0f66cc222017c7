"""A stage in a fork of a process that has loaded everything: it does what a new process does, and nothing outlives it."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from spin.params.schema import Params
from spin.runtime.files import sha256_tree
from spin.runtime.warm import VARIABLE
from spin.stages import warm
from spin.stages.data import run_base, run_data, run_prompt_set
from tests.models.tiny import miniature_params, write_params
from tests.stages.test_launch import environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux alone"),
]
GENERATE = ("generate", "--prompts", "test", "--name", "base")
SAMPLES = Path("outputs/samples/test/base")


class Warm:
    """A project up to its prompts, and a process that forks its stages."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.socket = folder, folder / "stages"
        write_params(folder, miniature_params(base))
        params = Params.model_validate(miniature_params(base))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            run_data(params)
            run_base(params)
            run_prompt_set(params, "test")
        self.environment = environment(1)
        del self.environment["PYTEST_CURRENT_TEST"]  # it changes, and the process refuses another environment
        command = [sys.executable, "-m", "spin", "warm", "stages"]
        self.server = subprocess.Popen(command, cwd=folder, env=self.environment)
        wait_until(self.socket.exists, 120)

    def start(self, *arguments: str, **more: str) -> "subprocess.Popen[str]":
        env = self.environment | {VARIABLE: str(self.socket)} | more
        command = [sys.executable, "-m", "spin", *arguments]
        return subprocess.Popen(command, cwd=self.folder, env=env, stderr=subprocess.PIPE, text=True)

    def forks(self) -> list[psutil.Process]:
        return psutil.Process(self.server.pid).children()


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def project(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    made = Warm(tmp_path_factory.mktemp("w"), tiny_base)
    yield made
    made.server.kill()
    made.server.wait()


@pytest.fixture
def nothing_drawn(project: Warm) -> None:
    shutil.rmtree(project.folder / "outputs" / "samples", ignore_errors=True)
    shutil.rmtree(project.folder / ".spin", ignore_errors=True)


@pytest.mark.usefixtures("nothing_drawn")
def test_a_fork_makes_what_a_new_process_makes(project: Warm) -> None:
    made = []
    for where in ({}, {VARIABLE: ""}):
        process = project.start(*GENERATE, **where)
        forked = False
        while process.poll() is None:
            forked = forked or bool(project.forks())
            time.sleep(0.002)
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.returncode == 0, said
        assert "generate base:" in said, "it writes where the process that asked does"
        assert forked == (where == {})
        made.append(sha256_tree(project.folder / SAMPLES))
        shutil.rmtree(project.folder / SAMPLES)
    assert made[0] == made[1]


def test_its_exit_code_and_its_sentence_are_the_stages(project: Warm) -> None:
    process = project.start("generate", "--prompts", "test", "--name", "nobody")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.startswith("spin: --name must be one of base")


@pytest.mark.usefixtures("nothing_drawn")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_ends_the_process_that_asked_ends_the_fork(project: Warm, number: signal.Signals) -> None:
    process = project.start(*GENERATE)
    wait_until(project.forks, 60)
    (fork,) = project.forks()
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == -number
    wait_until(lambda: not fork.is_running() or fork.status() == psutil.STATUS_ZOMBIE, 10)
    assert not (project.folder / SAMPLES).exists()


@pytest.mark.usefixtures("nothing_drawn")
def test_a_fork_that_is_killed_ends_the_process_that_asked_by_the_same_signal(project: Warm) -> None:
    process = project.start(*GENERATE)
    wait_until(project.forks, 60)
    project.forks()[0].kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.usefixtures("nothing_drawn")
def test_another_environment_takes_a_new_process(project: Warm) -> None:
    process = project.start(*GENERATE, HF_HOME=str(project.folder / "hub"))
    while process.poll() is None:
        assert not project.forks()
        time.sleep(0.002)
    assert process.returncode == 0


def test_changed_code_is_not_run_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    server = warm.Server("stages", {})
    request = {"environment": {}, "folder": str(tmp_path)}
    try:
        monkeypatch.setattr(threading, "active_count", lambda: 1)
        assert not server._refuses(request)
        changed = next(iter(server._code))
        server._code[changed] = (server._code[changed][0] - 1, server._code[changed][1])
        assert server._refuses(request)
        assert server._refuses(request | {"folder": os.sep})
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def test_who_hangs_up_after_its_fork_was_buried_is_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "set_wakeup_fd", lambda _: -1)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    warm.Server("stages", {})._listen_to(object())


@pytest.mark.usefixtures("nothing_drawn")
def test_a_fork_ends_with_its_server(project: Warm) -> None:  # the last one: there is no server after it
    process = project.start(*GENERATE)
    wait_until(project.forks, 60)
    (fork,) = project.forks()
    project.server.kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.endswith("the process that held this stage is gone; the same command goes on where it was.\n")
    wait_until(lambda: not fork.is_running() or fork.status() == psutil.STATUS_ZOMBIE, 10)
    assert not (project.folder / SAMPLES).exists()
