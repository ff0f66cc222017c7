"""What reaches a device is fp32 at most: some have no float64."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spin.method.schedule import NoiseSchedule
from spin.training.steps import Objective

META = torch.device("meta")
SD = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SD3 = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}


class NoFloat64(TorchDispatchMode):
    """A device without float64: whatever would make such a tensor on it fails, as on Apple's."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.device == META and tensor.dtype == torch.float64:
                raise TypeError(f"{func} put a float64 tensor on the device")
        return out


def on_device(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x_0, eps and timesteps of three rows."""
    x_0, eps = torch.empty(2, 3, 4, 8, 8, dtype=dtype, device=META)
    return x_0, eps, torch.empty(3, dtype=torch.int64, device=META)


def test_the_device_without_float64_refuses_it() -> None:
    with NoFloat64(), pytest.raises(TypeError, match="put a float64 tensor on the device"):
        torch.zeros(3, dtype=torch.float64).to(META)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("config", "prediction_type"), [(SD, "epsilon"), (SD, "v_prediction"), (SD3, "flow")]
)
def test_the_forward_process_puts_no_float64_on_a_device(
    config: dict[str, Any], prediction_type: str, dtype: torch.dtype
) -> None:
    schedule = NoiseSchedule.from_scheduler_config(config)
    x_0, eps, timesteps = on_device(dtype)
    with NoFloat64():
        x_t = schedule.add_noise(x_0, eps, timesteps)
        target = schedule.target(prediction_type, x_0, eps, timesteps)
        made = [x_t, target, schedule.to_eps(prediction_type, target, x_t, timesteps)]
        times = schedule.times(timesteps)
    assert {tensor.device for tensor in (*made, times)} == {META}
    assert x_t.dtype == torch.float32


@pytest.mark.parametrize("weighted", [True, False])
def test_timestep_weights_put_no_float64_on_a_device(weighted: bool) -> None:
    schedule = NoiseSchedule.from_scheduler_config(SD)
    objective = Objective(1.0, weights=schedule.timestep_weights("epsilon") if weighted else None)
    with NoFloat64():
        weights = objective.weights_at(on_device(torch.float32)[2])
    assert (weights.device, weights.dtype, weights.shape) == (META, torch.float32, (3,))
