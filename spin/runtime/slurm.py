"""A stage in a Slurm job of several machines: one task on each of them, which starts the processes of its machine.

DVC and the flow run on the job's first machine and start a stage there; the stage becomes an `srun` of itself. One that an
`srun` has started with one task on each machine takes its machines from it.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import NoReturn

from spin.errors import ParamsError

_FIRST_PORT, _PORTS = 20_000, 10_000
_DIGITS = 12
"""Of a count or the number of a job, at most."""


def machines_of_job() -> int | None:
    """How many machines the stage may use, None outside a job.

    Raises `ParamsError` in one of several tasks on a machine, and for what is no number.
    """
    if "SLURM_JOB_ID" not in os.environ:
        return None
    _given("SLURM_JOB_ID")
    if not _is_in_step():
        return _given("SLURM_NNODES")
    machines, tasks = (_given(f"SLURM_STEP_NUM_{each}") for each in ("NODES", "TASKS"))
    if tasks > machines:
        raise ParamsError(
            f"srun must start one task on each machine, got {tasks} on {machines}; use --ntasks-per-node=1: "
            "a stage starts a process for each GPU itself."
        )
    return machines


def spreads() -> bool:
    """Whether this process stands on the job's first machine alone, outside any `srun`."""
    return "SLURM_JOB_ID" in os.environ and not _is_in_step()


def become_srun(arguments: Sequence[str], machines: int) -> NoReturn:
    """Turn this process into an `srun` of `spin ARGUMENTS` on all machines of the job, each with all CPUs that the job has
    there; if one ends with an error, all do. Raises `ParamsError` where there is no `srun`."""
    cpus = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE", "1")
    command = ["srun", f"--nodes={machines}", f"--ntasks={machines}", "--ntasks-per-node=1"]
    command += [f"--cpus-per-task={cpus}", "--kill-on-bad-exit=1", "--quiet", "--input=none"]
    sys.stdout.flush()
    try:
        os.execvp("srun", [*command, sys.executable, "-m", "spin", *arguments])
    except OSError as error:
        raise ParamsError(
            f"srun must be there to reach the {machines} machines of this Slurm job, and is not ({error.strerror}); "
            "put it on PATH, or set SPIN_NNODES=1."
        ) from None


def meeting_point() -> str | None:
    """host:port on the first machine of the step, None outside one; jobs that share a machine have ports of their own.

    Raises `ParamsError` where Slurm does not say which that is, or of which job it is.
    """
    names = os.environ.get("SLURM_STEP_NODELIST")
    if names is None or not _is_in_step():
        return None
    command = ["scontrol", "show", "hostnames", names]
    try:
        machines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise ParamsError(
            f"scontrol must name the machines of {names}, and does not ({error}); set SPIN_RDZV_ENDPOINT to host:port of "
            "one of them."
        ) from None
    return f"{machines[0]}:{_FIRST_PORT + _given('SLURM_JOB_ID') % _PORTS}"


def _is_in_step() -> bool:
    return "SLURM_STEP_ID" in os.environ


def counted(name: str, given: str) -> int:
    """The number that an environment variable gives; raises `ParamsError` if it gives none."""
    if not given.isdecimal() or len(given) > _DIGITS or int(given) < 1:
        raise ParamsError(f"{name} must be a whole number above 0, got '{given[:50]}'; correct or unset it.")
    return int(given)


def _given(name: str) -> int:
    return counted(name, os.environ.get(name, "1"))
