"""Step checkpoints: what a killed training stage continues from, on as many processes as there are then.

They live outside the stage's outputs, under a key made of everything the training depends on. The newest one is
enough: randomness is a function of the step, so the trained weights, their average, the optimizer, its schedule and
fp16's loss scale are the whole state.

    state-000016/shard-*.safetensors   player.NAME, ema.NAME, optimizer.NAME.SLOT: by torch.distributed.checkpoint, each
                                       process of a sharded training its own part
    state-000016/training.json         everything else, and the curve so far
"""

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from spin.errors import ModelError
from spin.models.lora import check_same_shapes, trainable_state
from spin.runtime.files import read_json, replacing_dir, write_json
from spin.runtime.sums import check_folder
from spin.training.ema import load_ema
from spin.training.loop import TrainState
from spin.training.parallel import is_sharded
from spin.training.steps import Report

warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")

REST = "training.json"


def save_state(work: Path, state: TrainState, accelerator: Accelerator, reports: list[Report]) -> None:
    """Write the training state and the curve so far, then remove the last one; of a sharded training, on all processes."""
    together, main = is_sharded(state.player), accelerator.is_main_process
    place = work / f"state-{state.step:06d}"
    with replacing_dir(place) if main else nullcontext(Path()) as folder:
        # Every process writes the tensors, or the part of them, that it has.
        shared = [str(folder)]
        if together:
            broadcast_object_list(shared)
        tensors, rest = _taken_apart(state)
        writer = HuggingFaceStorageWriter(shared[0], save_distributed=True)
        with _unwrapped():
            save(tensors, storage_writer=writer, no_dist=not together)

        # The first one adds what is no tensor.
        if main:
            scaler = accelerator.scaler
            rest |= {
                "step": state.step,
                "lr_scheduler": state.lr_scheduler.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "micro_batch_size": state.micro_batch.size,
                "overflows": state.overflows,
                "reports": [list(report.items()) for report in reports],  # an object's names would be sorted
            }
            write_json(folder / REST, rest)
    for earlier in set(work.glob("state-*")) - {place} if main else ():
        shutil.rmtree(earlier)


@contextmanager
def _unwrapped() -> Iterator[None]:
    """Raise what went wrong itself, such as a full disk: torch's checkpoint hides it in what is no `Exception`."""
    try:
        yield
    except CheckpointException as failed:
        cause, _ = next(iter(failed.failures.values()))
        raise cause from None


def _taken_apart(state: TrainState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a state, which are its own, by name; and what the optimizer and the average have besides them."""
    player, optimizer = trainable_state(state.player), state.optimizer.state_dict()
    tensors = {f"player.{name}": tensor for name, tensor in player.items()}
    scalars: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(player):
        for slot, value in optimizer["state"].get(index, {}).items():  # none without a gradient so far
            if isinstance(value, Tensor):
                tensors[f"optimizer.{name}.{slot}"] = value
            else:
                scalars.setdefault(name, {})[slot] = value
    rest: dict[str, Any] = {
        "optimizer": {"groups": optimizer["param_groups"], "scalars": scalars},
        "ema": None,
    }
    if state.ema is not None:
        rest["ema"] = state.ema.state_dict()
        shadows = rest["ema"].pop("shadow_params")
        tensors |= {f"ema.{name}": shadow for name, shadow in zip(player, shadows, strict=True)}
    return tensors, rest


def restore_state(work: Path, state: TrainState, accelerator: Accelerator) -> list[Report]:
    """Bring `state` to the last step checkpoint, if there is one; return the curve up to it.

    Returns when every process has read it: a training that was killed after its last update has nothing left to do
    together, and the first process would finish and remove the file under the others.

    Raises `DamagedError` if it is torn, `ModelError` if it is not of this training; then nothing may be trained from
    `state`.
    """
    reports: list[Report] = []
    for folder in sorted(work.glob("state-*"))[-1:]:
        check_folder(folder)
        try:
            reports = _restore(folder, state, accelerator)
        except Exception as error:  # of the readers on bytes that are not theirs: any
            raise ModelError(
                f"{folder} must be a step checkpoint of this training, but it cannot be read ({error}); delete it to "
                "start over."
            ) from None
    accelerator.wait_for_everyone()
    return reports


def _restore(folder: Path, state: TrainState, accelerator: Accelerator) -> list[Report]:
    rest = read_json(folder / REST)

    # Room for every tensor, cut as this run cuts it; then fill it.
    reader = HuggingFaceStorageReader(str(folder))
    saved: dict[str, Any] = dict(reader.read_metadata().state_dict_metadata)
    player = trainable_state(state.player)
    tensors = {f"player.{name}": tensor for name, tensor in player.items()}
    check_same_shapes(
        {name: tensor.shape for name, tensor in tensors.items()},
        {name: each.size for name, each in saved.items() if name.startswith("player.")},
        "its weights must be of this network",
    )
    for name in saved:
        part, _, of = name.partition(".")
        if part == "ema":
            tensors[name] = torch.empty_like(player[of])
        elif part == "optimizer":
            tensors[name] = _room(saved[name], player[of.rpartition(".")[0]])
    with _unwrapped():
        load(tensors, storage_reader=reader, no_dist=not is_sharded(state.player))

    # Put the parts together again.
    slots = {name: dict(rest["optimizer"]["scalars"].get(name, {})) for name in player}
    for name, tensor in tensors.items():
        part, _, of = name.partition(".")
        if part == "optimizer":
            owner, _, slot = of.rpartition(".")
            slots[owner][slot] = tensor
    state.optimizer.load_state_dict(
        {
            "state": {index: slots[name] for index, name in enumerate(player) if slots[name]},
            "param_groups": rest["optimizer"]["groups"],
        }
    )
    state.lr_scheduler.load_state_dict(rest["lr_scheduler"])
    if state.ema is not None:
        load_ema(state.ema, {**rest["ema"], "shadow_params": [tensors[f"ema.{name}"] for name in player]})
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(rest["scaler"])
    state.step, state.overflows = int(rest["step"]), int(rest["overflows"])
    if state.micro_batch.auto:
        state.micro_batch.size = min(state.micro_batch.size, int(rest["micro_batch_size"]))
    return [dict(report) for report in rest["reports"]]


def _room(saved: Any, parameter: Tensor) -> Tensor:
    """An empty tensor for one of the optimizer's, cut as its parameter is where it has that shape."""
    if saved.size == parameter.shape:
        return torch.empty_like(parameter, dtype=saved.properties.dtype)
    return torch.empty(saved.size, dtype=saved.properties.dtype, device=parameter.device)
