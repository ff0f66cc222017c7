"""Step checkpoints: what a killed training stage continues from.

They live outside the stage's outputs, under a key made of everything the training depends on. The newest one is
enough: randomness is a function of the step, so the trained weights, their average, the optimizer, its schedule and
fp16's loss scale are the whole state.
"""

import zipfile
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from spin.errors import ModelError
from spin.models.lora import load_trainable_state, trainable_state
from spin.runtime.files import replacing_file
from spin.training.ema import load_ema
from spin.training.loop import TrainState
from spin.training.steps import Report

STATE_FILE = "state.pt"


def save_state(work: Path, state: TrainState, accelerator: Accelerator, reports: list[Report]) -> None:
    """Write the training state and the curve so far, replacing the last one."""
    scaler = accelerator.scaler
    with replacing_file(work / STATE_FILE) as temporary:
        torch.save(
            {
                "step": state.step,
                "player": trainable_state(state.player),
                "optimizer": state.optimizer.state_dict(),
                "lr_scheduler": state.lr_scheduler.state_dict(),
                "ema": None if state.ema is None else state.ema.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "micro_batch_size": state.micro_batch.size,
                "overflows": state.overflows,
                "reports": reports,
            },
            temporary,
        )


def restore_state(work: Path, state: TrainState, accelerator: Accelerator) -> list[Report]:
    """Bring `state` to the last step checkpoint, if there is one; return the curve up to it.

    Returns when every process has read it: a training that was killed after its last update has nothing left to do
    together, and the first process would finish and remove the file under the others.

    Raises `ModelError` if it is torn or not of this training; then nothing may be trained from `state`.
    """
    reports = _restore(work / STATE_FILE, state, accelerator)
    accelerator.wait_for_everyone()
    return reports


def _restore(path: Path, state: TrainState, accelerator: Accelerator) -> list[Report]:
    if not path.is_file():
        return []

    # All of it or nothing: a damaged state must not train on. torch writes checksums and does not look at them.
    try:
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"{damaged} in it is damaged")
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        load_trainable_state(state.player, saved["player"])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.lr_scheduler.load_state_dict(saved["lr_scheduler"])
        if state.ema is not None:
            load_ema(state.ema, saved["ema"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(saved["scaler"])
    except Exception as error:
        raise ModelError(
            f"{path} must be a step checkpoint of this training, but it cannot be read ({error}); delete it to start over."
        ) from None
    state.step, state.overflows = int(saved["step"]), int(saved["overflows"])
    if state.micro_batch.auto:
        state.micro_batch.size = int(saved["micro_batch_size"])
    reports: list[Report] = saved["reports"]
    return reports
