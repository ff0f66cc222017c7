"""What a device tells about itself: how fast it multiplies matrices, how much memory was held, how much energy it took."""

import platform
import resource
import sys
import time

import torch

PRODUCT_SECONDS = 0.1
"""How long the rate is measured, once the libraries are loaded."""
_LARGEST_SIDE, _SECONDS_A_PRODUCT = 8192, 0.005


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a matrix product on this device now, a multiply-add counted as two: the best of those timed.

    Matrices grow until a product takes a few milliseconds, so that a fast device is measured by a large one. It draws from
    a random stream of its own.
    """
    side, best, seconds, deadline = 128, 0.0, 0.0, None
    while deadline is None or time.perf_counter() < deadline:
        # Larger while it is too short to be timed.
        if seconds < _SECONDS_A_PRODUCT and side < _LARGEST_SIDE:
            side *= 2
            generator = torch.Generator(device).manual_seed(0)
            draws = (torch.rand(side, side, generator=generator, device=device) for _ in range(2))
            first, second = (draw.to(dtype) for draw in draws)
            _timed_product(first, second)  # libraries load and choose their kernels
        deadline = deadline or time.perf_counter() + PRODUCT_SECONDS
        seconds = _timed_product(first, second)
        best = max(best, 2 * side**3 / seconds)
    del first, second
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return best


def _timed_product(first: torch.Tensor, second: torch.Tensor) -> float:
    synchronise(first.device)
    started = time.perf_counter()
    first @ second
    synchronise(first.device)
    return time.perf_counter() - started


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """As the maker calls a GPU; a CPU by what it can and may do."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def forget_peak(device: torch.device) -> None:
    """Begin to look for the most memory held on a GPU; a process's own cannot be forgotten."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """The most bytes held: by tensors on a GPU, else by this process since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def joules(device: torch.device) -> float | None:
    """The energy that a GPU has taken since its driver was loaded; None where there is nobody to tell it."""
    if device.type != "cuda":
        return None
    try:
        import pynvml  # of nvidia-ml-py, which the extra `gpu` brings

        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByUUID(uuid))) / 1e3
    except Exception:  # not installed, a driver that does not tell, a part of a GPU
        return None
