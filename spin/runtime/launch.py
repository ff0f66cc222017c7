"""A stage on all devices: it starts itself again, once for each, under torchrun.

How many there are is the machine's affair, so no parameter says it and DVC's hashes do not depend on it:

    SPIN_NPROC           processes on this machine (default: one for each visible GPU)
    SPIN_NNODES          machines that share the stage and its folder (default: 1)
    SPIN_RDZV_ENDPOINT   host:port of one of them, where they meet; needed with several

In a Slurm job of several machines the last two are taken from it (see `spin.runtime.slurm`). SPIN_TRAINJOB names a manifest
by which a Kubernetes cluster does the work (see `tasks.trainjob`).
A process that torchrun, accelerate or a Kubernetes TrainJob's torchrun has started knows its rank and starts no others.
What torchrun itself reads from the environment (PET_NNODES and so on, as a TrainJob sets them) is left to it.
"""

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from spin.errors import ParamsError
from spin.runtime import slurm

SECONDS_BETWEEN_LOOKS = 0.5
_ENDPOINT = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[\w.-]+):([0-9]{1,5})")
_DEVICES = ("nvidia[0-9]*", "kfd", "dxg")
"""Files below /dev that a machine with GPUs has: looking for them saves the seconds that PyTorch takes to load."""


def is_launched() -> bool:
    """Whether this process is one of several, started by a launcher."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_first_process() -> bool:
    """Whether this process is the only one, or the first of several: the one that writes, and says how far it is."""
    return os.environ.get("RANK", "0") == "0"


def processes_wanted() -> tuple[int, int]:
    """(processes on this machine, machines); raises `ParamsError` for a value that is no such number."""
    nodes = _number("SPIN_NNODES") or _number("PET_NNODES") or slurm.machines_of_job() or 1
    told = os.environ.get("SPIN_RDZV_ENDPOINT") or "PET_NNODES" in os.environ or "SLURM_JOB_ID" in os.environ
    if nodes > 1 and not told:
        raise ParamsError(
            f"SPIN_RDZV_ENDPOINT must be host:port of one of the {nodes} machines, and is not set; set it on all of them."
        )
    if nodes > 1 and (endpoint := os.environ.get("SPIN_RDZV_ENDPOINT")):
        _check_endpoint(endpoint)
    asked, gpus = _number("SPIN_NPROC"), _visible_gpus()
    if asked and gpus and asked > gpus:
        raise ParamsError(
            f"SPIN_NPROC must be at most the {gpus} visible GPUs, got {asked}; correct or unset it."
        )
    return asked or _number("PET_NPROC_PER_NODE") or max(1, gpus), nodes


def become_trainjob(arguments: Sequence[str]) -> None:
    """Turn this process into the one that has `spin ARGUMENTS` run by a cluster, if SPIN_TRAINJOB says so; in a pod it is so.

    That needs Prefect and `tasks`, which `spin` does without.
    """
    if os.environ.get("SPIN_TRAINJOB") and "PET_NNODES" not in os.environ:
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", "tasks.trainjob", *arguments])


def _number(name: str) -> int | None:
    given = os.environ.get(name)
    if given is None or (
        name.startswith("PET_") and not given.isdecimal()
    ):  # torchrun's `gpu`, `auto`, `1:4`
        return None
    return slurm.counted(name, given)


def _check_endpoint(endpoint: str) -> None:
    matched = _ENDPOINT.fullmatch(endpoint)
    if matched is None or not 0 < int(matched[1]) < 1 << 16:
        raise ParamsError(
            f"SPIN_RDZV_ENDPOINT must be host:port with a port from 1 to 65535, such as node1:29500 or [::1]:29500, got "
            f"'{endpoint}'; correct it."
        )


def has_gpus() -> bool:
    """Whether this machine has the files of a GPU; light."""
    return any(any(Path("/dev").glob(pattern)) for pattern in _DEVICES)


def _visible_gpus() -> int:
    if not has_gpus():
        return 0
    import torch

    return torch.cuda.device_count()


def launch(arguments: Sequence[str], processes: int, nodes: int) -> int:
    """Run `spin ARGUMENTS` in so many processes here, of `nodes` machines; return 0, or the first failed one's exit code.

    If one dies the others are ended. If this process is killed, they end themselves (`end_with_launcher`). torchrun's own
    words stay unsaid: what the stage says last is what DVC, the flow and the user read.
    """
    if nodes > 1 and slurm.spreads():
        slurm.become_srun(arguments, nodes)
    os.environ.setdefault(
        "TORCH_CPP_LOG_LEVEL", "ERROR"
    )  # else who leaves the meeting point last prints a C++ stack
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser, run

    options = [] if "PET_NPROC_PER_NODE" in os.environ else [f"--nproc-per-node={processes}"]
    if nodes == 1:
        options.append("--standalone")
    elif "PET_NNODES" not in os.environ:
        endpoint = os.environ.get("SPIN_RDZV_ENDPOINT") or slurm.meeting_point()
        options += [
            f"--nnodes={nodes}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={endpoint}",
            "--rdzv-id=spin",
        ]
    os.environ["SPIN_LAUNCHER"] = str(os.getpid())
    logging.disable(logging.ERROR)  # of this process; the others log by themselves
    try:
        run(get_args_parser().parse_args([*options, "--module", "spin", *arguments]))
    except ChildFailedError as failed:
        # One that was killed comes first: the others fail because it does not answer.
        codes = [
            int(failed.get_first_failure()[1].exitcode),
            *(int(each.exitcode) for each in failed.failures.values()),
        ]
        code = next((each for each in codes if each < 0 and each != -signal.SIGTERM), codes[0])
        if code < 0:
            print(
                f"spin: a process of this stage was ended by signal {-code}, and the others with it; "
                "the same command goes on where it was.",
                file=sys.stderr,
            )
        return code if code > 0 else 128 - code
    except SignalException as ended:
        return 128 + int(ended.sigval)
    finally:
        logging.disable(logging.NOTSET)
    return 0


def lost_another(error: BaseException) -> bool:
    """Whether a process of several ends only because another one does not answer any more."""
    said = str(error)
    return is_launched() and isinstance(error, RuntimeError) and ("gloo" in said or "NCCL" in said)


def end_with_launcher() -> None:
    """End this process when the launcher that started it is gone: torchrun gives each a session of its own.

    A supervisor that kills torchrun's group would else leave them behind, waiting for each other. Does nothing in a
    process that `launch` did not start.
    """
    launcher = os.environ.get("SPIN_LAUNCHER")
    if launcher is None or not is_launched():
        return

    def watch() -> None:
        while os.getppid() == int(launcher):
            time.sleep(SECONDS_BETWEEN_LOOKS)
        print("spin: the launcher is gone; this process ends.", file=sys.stderr)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="launcher").start()
