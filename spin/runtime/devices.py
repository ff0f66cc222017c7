"""This process among those that `spin.runtime.launch` or another launcher started, its device, and number formats."""

import os
from datetime import timedelta

import torch
from accelerate import PartialState

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Number formats by their names in params.yaml."""

PATIENCE = timedelta(days=1)
"""How long a process waits for the others. A shard of opponents takes longer than the ten minutes that torch allows, and
the one that still draws it would be ended with those that gave up; of a process that died the launcher tells at once."""


def process_state() -> PartialState:
    """Rank, number of processes, device. On a machine without CUDA launched processes talk through gloo.

    Ask here and not accelerate itself, which takes launched processes on a CPU for strangers unless it is told.
    """
    launched_on_cpu = "LOCAL_RANK" in os.environ and not torch.cuda.is_available()
    use_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return PartialState(cpu=launched_on_cpu or use_cpu, timeout=PATIENCE)


def leave_together() -> None:
    """Wait for the other processes and take leave of them: one that ends while another still talks to it is aborted."""
    state = process_state()
    if state.num_processes > 1:
        state.wait_for_everyone()
        state.destroy_process_group()


def share_of(num_rows: int) -> range:
    """This process's equal share of so many rows, which the number of processes divides."""
    state = process_state()
    share = num_rows // state.num_processes
    return range(state.process_index * share, (state.process_index + 1) * share)


def default_device() -> str:
    """The accelerator if there is one, else the CPU."""
    return str(process_state().device)
