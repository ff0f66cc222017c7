"""A stage in a Slurm job of several machines; `srun` and `scontrol` stand in for Slurm's and start the tasks here."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from spin.errors import ParamsError
from spin.runtime import launch, slurm
from spin.runtime.files import read_json
from tests.models.tiny import ROOT
from tests.stages.projects import prepare
from tests.stages.test_launch import PLACES

SRUN = """#!/usr/bin/env python3
import os, subprocess, sys
first = next(index for index, each in enumerate(sys.argv) if index and not each.startswith("--"))
options, command = sys.argv[1:first], sys.argv[first:]
open("srun", "w").write(" ".join(options))
places = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "m[1-2]"}
tasks = [subprocess.Popen(command, env={**os.environ, **places, "SLURM_PROCID": str(rank)}) for rank in range(2)]
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """#!/bin/sh
[ "$*" = "show hostnames m[1-2]" ] && echo localhost && echo localhost
"""
JOB = {"SLURM_JOB_ID": "17", "SLURM_NNODES": "2", "SLURM_CPUS_ON_NODE": "6"}
STEP = JOB | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "m[1-2]"}


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def within(monkeypatch: pytest.MonkeyPatch, job: Mapping[str, str]) -> None:
    """Nothing else says how many processes there are."""
    for name in {*PLACES, *(each for each in os.environ if each.startswith("SLURM_"))}:
        monkeypatch.delenv(name, raising=False)
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "_visible_gpus", lambda: 8)


def test_the_suite_itself_is_no_part_of_the_job_that_it_runs_in() -> None:
    look = f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); import tests.conftest; print(*os.environ)"
    job = {**os.environ, **STEP}
    seen = subprocess.run([sys.executable, "-c", look], env=job, capture_output=True, text=True, check=True)
    assert "PATH" in seen.stdout.split()
    assert not [name for name in seen.stdout.split() if name.startswith("SLURM_")]


@pytest.mark.slow
def test_a_stage_started_on_the_first_machine_works_on_all(tiny_base: Path, tmp_path: Path) -> None:
    prepare(tmp_path, tiny_base)
    programs = tmp_path / "programs"
    program(programs, "srun", SRUN)
    program(programs, "scontrol", SCONTROL)
    clean = {key: value for key, value in os.environ.items() if key not in PLACES}
    clean |= JOB | {"PATH": f"{programs}:{os.environ['PATH']}", "SPIN_TRACKING": "off", "SPIN_NPROC": "1"}
    command = [sys.executable, "-m", "spin", "train", "--name", "iter1"]
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_json(tmp_path / "outputs/cost/train@iter1.json")["processes"] == 2
    options = (tmp_path / "srun").read_text()
    assert "--nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=6 --kill-on-bad-exit=1" in options
    assert "Warning" not in done.stderr


def test_the_machines_are_those_of_the_job_then_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    within(monkeypatch, JOB)
    assert launch.processes_wanted() == (8, 2)
    assert slurm.spreads()
    within(monkeypatch, STEP | {"SLURM_STEP_NUM_TASKS": "2"})
    assert launch.processes_wanted() == (8, 2)
    assert not slurm.spreads()
    within(monkeypatch, STEP | {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1"})
    assert launch.processes_wanted() == (8, 1), "a shell on one machine of a job of two"
    within(monkeypatch, JOB | {"SPIN_NNODES": "1"})
    assert launch.processes_wanted() == (8, 1), "who says so stays alone"


def test_the_meeting_point_is_on_the_first_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "scontrol", SCONTROL)
    within(monkeypatch, STEP | {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    first = slurm.meeting_point()
    assert first is not None
    assert re.fullmatch(r"localhost:\d{5}", first)
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    assert slurm.meeting_point() != first, "another job may share the machine"


def test_what_cannot_work_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    within(monkeypatch, STEP | {"SLURM_STEP_NUM_TASKS": "16"})
    with pytest.raises(ParamsError, match="srun must start one task on each machine, got 16 on 2"):
        launch.processes_wanted()
    for name, job in (("NNODES", JOB), ("STEP_NUM_NODES", STEP), ("STEP_NUM_TASKS", STEP), ("JOB_ID", JOB)):
        for given in ("abc", "", "9" * 5000):
            within(monkeypatch, {**job, f"SLURM_{name}": given})
            with pytest.raises(ParamsError, match=f"SLURM_{name} must be a whole number above 0, got "):
                launch.processes_wanted()
    program(tmp_path / "scontrols", "scontrol", SCONTROL)
    path = f"{tmp_path / 'scontrols'}:{os.environ['PATH']}"
    within(monkeypatch, STEP | {"PATH": path, "SLURM_JOB_ID": "a"})
    with pytest.raises(ParamsError, match="SLURM_JOB_ID must be a whole number above 0, got 'a'"):
        slurm.meeting_point()
    within(monkeypatch, JOB | {"PATH": str(tmp_path)})
    with pytest.raises(ParamsError, match="srun must be there to reach the 2 machines"):
        slurm.become_srun(["train"], 2)
    within(monkeypatch, STEP | {"PATH": str(tmp_path)})
    with pytest.raises(ParamsError, match=r"scontrol must name the machines of m\[1-2\]"):
        slurm.meeting_point()
