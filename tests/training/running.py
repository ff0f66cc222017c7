"""A stage trained in a miniature project, and machines with little memory or a coarse number format."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from spin.models.stable_diffusion import StableDiffusion
from spin.stages.train import run_train

LORA = {"rank": 4, "alpha": 4.0, "targets": ["to_q", "to_v"]}


LOG_2 = pytest.approx(0.693147, abs=1e-6)


def trained(params: Any, name: str = "iter1") -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    curve = run_train(params, name)
    (weights,) = Path(f"outputs/checkpoints/{name}").glob("*/*.safetensors")
    return load_file(weights), curve


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max((one[name] - other[name]).abs().max().item() for name in one)


class Memory:
    """A device that holds so many rows: above them the network's call runs out of memory."""

    def __init__(self, rows: int, from_call: int = 0) -> None:
        self.rows, self.from_call, self.calls, self.seen = rows, from_call, 0, []
        self.original: Callable[..., torch.Tensor] = StableDiffusion.predict

    def predict(self, denoiser: torch.nn.Module, x_t: torch.Tensor, *rest: Any) -> torch.Tensor:
        self.calls += 1
        self.seen.append(len(x_t))
        if len(x_t) > self.rows and self.calls > self.from_call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.original(denoiser, x_t, *rest)


class Scaled(Accelerator):
    """fp16's loss scaling on the CPU, where accelerate leaves it out; the products stay in fp32."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
        self.native_amp = True

    @property
    def mixed_precision(self) -> str:
        return "fp16"

    def autocast(self, *_: Any, **__: Any) -> Any:
        return torch.autocast("cpu", enabled=False)


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a stage that starts itself in two processes, which talk to each other through gloo."""
    environment = {**os.environ, "SPIN_NPROC": "2", "SPIN_TRACKING": "off", "OMP_NUM_THREADS": "1"}
    environment |= {"ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "spin", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done
