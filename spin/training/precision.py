"""What runs in which number format: fp32 weights and errors, and the network's products in the training precision."""

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from spin.errors import ParamsError
from spin.params.training import TrainingParams
from spin.runtime.devices import process_state


def make_accelerator(params: TrainingParams) -> Accelerator:
    """Set up devices and autocast; raises `ParamsError` for fp16 on a CPU and for a batch that cannot be dealt out."""
    state = process_state()
    if params.precision == "fp16" and state.device.type == "cpu":
        raise ParamsError(
            "training.precision must be fp32 or bf16 on a CPU, got fp16; its loss scaling needs a GPU: choose one of them."
        )
    share, left = divmod(params.batch_size, state.num_processes)
    micro = 1 if params.micro_batch_size == "auto" else min(params.micro_batch_size, share)
    if left or share % micro:
        raise ParamsError(
            f"training.batch_size must be a multiple of the processes, and each one's share of micro_batch_size, got "
            f"{params.batch_size} for {state.num_processes} processes of {params.micro_batch_size}; change one of them, or set "
            "SPIN_NPROC."
        )
    return Accelerator(
        mixed_precision="no" if params.precision == "fp32" else params.precision,
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False)
        ],
    )


def store_products_in(denoiser: nn.Module, dtype: torch.dtype) -> None:
    """Keep the weights of a frozen network's linear and convolution layers in `dtype`: half the memory of fp32.

    They are what autocast casts to `dtype` anyway, so under it the predictions stay the same to the bit, and with them
    the margin of 0 that training starts from. Norms, which autocast runs in fp32, and embeddings stay in fp32.
    """
    for module in denoiser.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            module.to(dtype)
