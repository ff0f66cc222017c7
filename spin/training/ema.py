"""An exponential moving average of the weights in training, by diffusers' `EMAModel` at a constant decay.

After n updates, with theta_0 the start and theta_i the weights after update i:
    ema_n = decay^n theta_0 + (1 - decay) sum_{i=1..n} decay^(n-i) theta_i
so weights older than about 1 / (1 - decay) updates are forgotten; choose it well below the number of updates.

    ema = make_ema(networks.trainable(), decay)     ema.step(parameters) after each update
    ema.state_dict() and `load_ema` for resuming       `averaged` around saving and previews
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from diffusers.training_utils import EMAModel
from torch import Tensor

from spin.errors import ModelError


def make_ema(parameters: Sequence[Tensor], decay: float) -> EMAModel:
    """Start the average at the parameters as they are, on their device. `ema.step(parameters)` after each update."""
    # EMAModel ramps its decay up, and copies at its first step; these two settings hold it constant from the start.
    return EMAModel(parameters, decay=decay, min_decay=decay, update_after_step=-1)


def load_ema(ema: EMAModel, state: Mapping[str, Any]) -> None:
    """Bring `ema` to a saved `ema.state_dict()`, exactly; raises `ModelError` if it is of other parameters."""
    own, saved = ema.shadow_params, state["shadow_params"]
    if [tuple(each.shape) for each in own] != [tuple(each.shape) for each in saved]:
        raise ModelError(
            f"the saved average must be of the {len(own)} tensors in training, got {len(saved)} of other shapes; "
            "delete the step checkpoint to start over."
        )
    devices = [each.device for each in own]
    ema.load_state_dict(dict(state))
    ema.shadow_params = [each.to(device) for each, device in zip(ema.shadow_params, devices, strict=True)]


@contextmanager
def averaged(ema: EMAModel | None, parameters: Sequence[Tensor]) -> Iterator[None]:
    """Put the average into `parameters` for the block, then their own values back, to the bit; None does nothing."""
    if ema is None:
        yield
        return
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)
