"""Step checkpoints: what a killed training stage continues from.

They live outside the stage's outputs, under a key made of everything the training depends on. The newest one is
enough: randomness is a function of the step, so weights, optimizer and schedule are the whole state.
"""

from pathlib import Path
from typing import Any

import torch

from spin.errors import ModelError
from spin.files import replacing_file
from spin.train import TrainState

STATE_FILE = "state.pt"


def save_state(
    work: Path, state: TrainState, player: torch.nn.Module, reports: list[dict[str, float]]
) -> None:
    """Write the training state and the curve so far, replacing the last one."""
    with replacing_file(work / STATE_FILE) as temporary:
        torch.save(
            {
                "step": state.step,
                "player": player.state_dict(),
                "optimizer": state.optimizer.state_dict(),
                "lr_scheduler": state.lr_scheduler.state_dict(),
                "reports": reports,
            },
            temporary,
        )


def restore_state(work: Path, state: TrainState, player: torch.nn.Module) -> list[dict[str, float]]:
    """Bring `state` and `player` to the last step checkpoint, if there is one; return the curve up to it."""
    path = work / STATE_FILE
    if not path.is_file():
        return []
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        player.load_state_dict(saved["player"])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.lr_scheduler.load_state_dict(saved["lr_scheduler"])
    except Exception as error:
        raise ModelError(
            f"{path} must be a step checkpoint of this training, but it cannot be read ({error}); delete it to start over."
        ) from None
    state.step = int(saved["step"])
    reports: list[dict[str, float]] = saved["reports"]
    return reports
