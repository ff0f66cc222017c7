"""The player on several devices, by PyTorch's own engines.

Each device has the whole network (DDP), and the gradients are averaged in buckets while the last backward pass of an
update still runs. A network that does not fit is sharded instead (FSDP2): SPIN_SHARD=4 cuts the weights, gradients and
optimizer states of the player and the weights of its opponents into 4; with more processes than that, groups of 4 hold the
same (HSDP). Like SPIN_NPROC it says something of the machine and nothing of the method, so no parameter holds it.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from spin.errors import ParamsError
from spin.params.training import TrainingParams
from spin.runtime.devices import process_state

SHARD = "SPIN_SHARD"


def shard_size(params: TrainingParams) -> int:
    """Processes that a network is cut over; 1 where each has all of it.

    Raises `ParamsError` for a number that does not divide the processes, and for what a sharded training cannot have.
    """
    given, processes = os.environ.get(SHARD, "1"), process_state().num_processes
    if not given.isdecimal() or int(given) < 1 or processes % int(given):
        raise ParamsError(
            f"{SHARD} must divide the number of processes, {processes}, got '{given}'; correct or unset it."
        )
    size = int(given)
    if size > 1 and params.precision == "fp16":
        raise ParamsError(
            f"training.precision must be bf16 or fp32 with {SHARD}, got fp16; choose one of them."
        )
    if size > 1 and params.optimizer != "adamw":
        raise ParamsError(
            f"training.optimizer must be adamw with {SHARD}, got {params.optimizer}; choose it, or unset {SHARD}."
        )
    return size


def shard(networks: Sequence[nn.Module], size: int) -> None:
    """Cut diffusers networks over `size` processes each, in place: by their blocks, and what is left as one."""
    mesh = _mesh(size)
    for network in networks:
        blocks = set(getattr(network, "_no_split_modules", None) or ())
        for module in reversed(list(network.modules())):  # what is inside comes first
            if type(module).__name__ in blocks:
                fully_shard(module, mesh=mesh)
        fully_shard(network, mesh=mesh)


def _mesh(size: int) -> DeviceMesh:
    state = process_state()
    groups = state.num_processes // size
    if groups == 1:
        return init_device_mesh(state.device.type, (size,), mesh_dim_names=("shard",))
    return init_device_mesh(state.device.type, (groups, size), mesh_dim_names=("replicate", "shard"))


def is_sharded(network: nn.Module) -> bool:
    """Whether a process holds only its part of the network: then whoever reads it needs all processes."""
    return isinstance(network, FSDPModule)


def replicate(player: nn.Module, accelerator: Accelerator) -> nn.Module:
    """The player as it is called while it trains: in DDP where several processes have all of it, else itself."""
    if accelerator.num_processes == 1 or is_sharded(player):
        return player
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        replicated: nn.Module = accelerator.prepare_model(player, device_placement=False)
    return replicated


def whole_state(network: nn.Module) -> Mapping[str, Tensor]:
    """All weights of a network by name; of a sharded one on the CPU of the first process, when all processes ask."""
    if not is_sharded(network):
        return network.state_dict()
    whole: Any = get_model_state_dict(
        network, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    state: Mapping[str, Tensor] = whole
    return state


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be of a sharded network, all of it, when all processes ask."""
    full: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full
