"""A stage starts itself once for each device: what it makes is what one process makes, and nothing outlives it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from spin.errors import ParamsError
from spin.params.schema import Params
from spin.runtime import launch
from spin.runtime.files import sha256_tree
from spin.stages.data import run_base, run_data, run_prompt_set
from spin.stages.sample import run_generate
from spin.stages.table import STAGES
from tests.models.tiny import miniature_params, write_params
from tests.processes import running
from tests.stages.projects import prepare

PLACES = (
    "RANK",
    "WORLD_SIZE",
    "SPIN_NPROC",
    "SPIN_NNODES",
    "SPIN_RDZV_ENDPOINT",
    "PET_NNODES",
    "PET_NPROC_PER_NODE",
    "SLURM_JOB_ID",
)


def environment(processes: int) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if key not in PLACES}
    return clean | {"SPIN_NPROC": str(processes), "SPIN_TRACKING": "off", "OMP_NUM_THREADS": "1"}


def spin(folder: Path, *arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spin", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(processes), capture_output=True, text=True, timeout=180
    )


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = miniature_params(tiny_base)
    raw["evaluate"] |= {"batch_size": 1}
    write_params(tmp_path, raw)
    params = Params.model_validate(raw)
    for stage in (run_data, run_base):
        stage(params)
    run_prompt_set(params, "test")
    run_generate(params, "test", "base")
    samples = Path("outputs/samples/test/base")
    alone = sha256_tree(samples)
    shutil.rmtree(samples)
    done = spin(tmp_path, "generate", "--prompts", "test", "--name", "base")
    assert done.returncode == 0, done.stderr[-3000:]
    assert sha256_tree(samples) == alone, "to the byte"
    assert done.stderr.count("generate base (1 of 2 processes):") == 1, "one process says how far it is"


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "sent", "said"),
    [
        ("launcher", signal.SIGKILL, "the launcher is gone"),
        ("launcher", signal.SIGTERM, ""),
        ("rank", signal.SIGKILL, "a process of this stage was ended by signal 9, and the others with it"),
    ],
)
def test_a_kill_ends_all_of_it_and_the_same_command_goes_on(
    tiny_base: Path, tmp_path: Path, victim: str, sent: signal.Signals, said: str
) -> None:
    prepare(tmp_path, tiny_base)
    raw = miniature_params(tiny_base)
    raw["training"] |= {"checkpoint_every": 1}
    raw["iterations"]["iter1"]["num_steps"] = 40
    write_params(tmp_path, raw)
    command = [sys.executable, "-m", "spin", "train", "--name", "iter1"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment(2), stdout=log, stderr=log)
    kept = tmp_path / ".spin" / "work"
    assert wait_until(lambda: any(kept.glob("train-*/state-*")) or process.poll() is not None, 60)
    assert process.poll() is None, "it ended before it could be killed"
    ranks = [each for each in running(tmp_path) if each.pid != process.pid]
    assert len(ranks) == 2
    os.kill(process.pid if victim == "launcher" else ranks[1].pid, sent)
    assert wait_until(lambda: not running(tmp_path), 40), "everything of it ends"
    assert process.wait(10) in (-sent, 128 + sent)
    text = (tmp_path / "log").read_text()
    assert said in text
    assert "Traceback" not in text
    if sent == signal.SIGTERM:
        return

    done = spin(tmp_path, "train", "--name", "iter1", processes=2 if victim == "launcher" else 1)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "resuming from its step checkpoint" in done.stderr
    assert len(pd.read_csv(tmp_path / "outputs/curves/iter1.csv")) == 40


@pytest.mark.slow
def test_bad_input_that_only_the_processes_can_know_keeps_its_sentence_and_its_code(
    tiny_base: Path, tmp_path: Path
) -> None:
    prepare(tmp_path, tiny_base)
    done = spin(tmp_path, "train", "--name", "iter1", processes=3)
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()  # once, and last: it is what DVC and the flow hand on
    assert said.startswith("spin: training.batch_size must be a multiple of the processes")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"SPIN_NPROC": "0"}, "SPIN_NPROC must be a whole number above 0, got '0'"),
        ({"SPIN_NPROC": "\u00b2"}, "SPIN_NPROC must be a whole number above 0, got"),
        ({"SPIN_NPROC": "two"}, "SPIN_NPROC must be a whole number above 0, got 'two'"),
        ({"SPIN_NPROC": "9" * 5000}, f"SPIN_NPROC must be a whole number above 0, got '{'9' * 50}'"),
        *(
            (
                {"SPIN_NNODES": "2", "SPIN_RDZV_ENDPOINT": each},
                "must be host:port with a port from 1 to 65535",
            )
            for each in ("node1", "node1:", ":29500", "node1:0", "node1:65536", "a b:1", "::1:29500", "a:1\n")
        ),
        ({"SPIN_NNODES": "2"}, "SPIN_RDZV_ENDPOINT must be host:port of one of the 2 machines"),
    ],
)
def test_numbers_that_are_none_are_refused(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], said: str
) -> None:
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ParamsError, match=said):
        launch.processes_wanted()


@pytest.mark.parametrize("endpoint", ["node1:29500", "node-1.my_site:1", "10.0.0.1:65535", "[::1]:29500"])
def test_a_meeting_point_is_a_host_and_a_port(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPIN_NNODES", "2")
    monkeypatch.setenv("SPIN_RDZV_ENDPOINT", endpoint)
    assert launch.processes_wanted()[1] == 2


def test_the_machine_says_how_many_and_what_a_trainjob_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launch, "_visible_gpus", lambda: 4)
    assert launch.processes_wanted() == (4, 1)
    monkeypatch.setenv("SPIN_NPROC", "5")
    with pytest.raises(ParamsError, match="SPIN_NPROC must be at most the 4 visible GPUs, got 5"):
        launch.processes_wanted()
    monkeypatch.delenv("SPIN_NPROC")
    monkeypatch.setattr(launch, "_visible_gpus", lambda: 0)
    assert launch.processes_wanted() == (1, 1)
    monkeypatch.setenv("PET_NNODES", "2")
    monkeypatch.setenv("PET_NPROC_PER_NODE", "8")
    assert launch.processes_wanted() == (8, 2)
    monkeypatch.setenv("SPIN_NPROC", "3")
    assert launch.processes_wanted() == (3, 2)
    assert not launch.is_launched()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launch.is_launched()
    assert not launch.is_first_process()


def test_only_stages_whose_work_can_be_shared_start_several_processes() -> None:
    shared = {name for name, stage in STAGES.items() if stage.shared}
    assert shared == {"cache", "opponents", "train", "baseline", "generate", "score", "reference"}
