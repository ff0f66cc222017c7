"""Low-rank adapters on a denoiser (Hu et al. 2021, arXiv:2106.09685, Eq. 3), through peft.

A targeted layer computes W x + (alpha / rank) B A x, with A (rank, in) and B (out, rank) trained in fp32 and W frozen in
the training precision. B starts at zero, so a fresh adapter is the base itself, to the bit.

The reference of self-play is never "the adapter switched off", which is the base and wrong from iteration 2 on: it is
a `frozen_twin`, a second tree of modules over the same frozen weights with its own copy of the adapter. Nothing is
switched while training, so autograd, gradient checkpointing, torch.compile and DDP see two ordinary networks.

On disk an adapter is `pytorch_lora_weights.safetensors`, which diffusers' `pipeline.load_lora_weights` reads.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spin.errors import ModelError, ParamsError
from spin.params.training import LoraParams
from spin.runtime.files import sha256_file
from spin.runtime.sums import checked
from spin.seeding import generator_for

LORA_FOLDER = "lora"
LORA_FILE = "pytorch_lora_weights.safetensors"
ADAPTER = "default"
"""peft's name for the one adapter of a network."""


def add_adapter(denoiser: nn.Module, lora: LoraParams, seed: int) -> None:
    """Freeze a diffusers network and give it a trainable fp32 adapter that changes nothing yet.

    A is drawn from N(0, 1 / rank^2), as diffusers' training scripts do, from the random stream of `seed`.
    Raises `ParamsError` if a target is the ending of no layer's name, or of a layer that cannot have an adapter.
    """
    from peft import LoraConfig

    # Freeze the network and lay adapters on the layers named.
    _check_targets(denoiser, lora)
    denoiser.requires_grad_(False)
    config: dict[str, Any] = {"r": lora.rank, "lora_alpha": lora.alpha, "target_modules": list(lora.targets)}
    try:
        denoiser.add_adapter(LoraConfig(**config, init_lora_weights=False), ADAPTER)  # type: ignore[operator]
    except ValueError as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise ParamsError(
            f"training.lora.targets must name linear or convolution layers, got {', '.join(lora.targets)} ({reason}); "
            "correct the list."
        ) from None

    # B starts at zero, so that the adapter starts as no change; A is drawn from the stream of the seed.
    for name, parameter in denoiser.named_parameters():
        if not parameter.requires_grad:
            continue
        parameter.data = torch.zeros_like(parameter, dtype=torch.float32)
        if ".lora_A." in name:
            drawn = torch.randn(parameter.shape, generator=generator_for("lora", seed, name))
            parameter.data.copy_(drawn / lora.rank)


def _check_targets(denoiser: nn.Module, lora: LoraParams) -> None:
    names = [name for name, _ in denoiser.named_modules()]
    for target in lora.targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise ParamsError(
                f"training.lora.targets must be endings of the denoiser's layer names, such as to_q, but {target} is "
                "the ending of none; correct it."
            )


def has_adapter(denoiser: nn.Module) -> bool:
    """Whether the network carries an adapter that is not fused."""
    return bool(getattr(denoiser, "peft_config", None))


def frozen_twin(denoiser: nn.Module) -> nn.Module:
    """A frozen copy in eval mode that shares the frozen weights and owns a copy of the adapter.

    Call it before the network is wrapped; moving either twin to another device leaves the adapters of the other.
    """
    shared: list[Tensor] = [parameter for parameter in denoiser.parameters() if not parameter.requires_grad]
    shared += list(denoiser.buffers())
    twin = copy.deepcopy(denoiser, {id(tensor): tensor for tensor in shared})
    return twin.eval().requires_grad_(False)


def adapter_tensors(denoiser: nn.Module, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The adapter's tensors by diffusers' names, such as `down_blocks.0...to_q.lora_A.weight`; not copied.

    They come from `state`, all weights by name, where they are not all in `denoiser`.
    """
    from peft.utils import get_peft_model_state_dict

    tensors: dict[str, Tensor] = get_peft_model_state_dict(denoiser, state, adapter_name=ADAPTER)
    return tensors


def write_adapter(
    folder: Path, denoiser: nn.Module, part: str, state: Mapping[str, Tensor] | None = None
) -> dict[str, Any]:
    """Write the adapter of the pipeline's component `part` (unet, transformer) below `folder`; return its record.

    `state` as in `adapter_tensors`.
    The record (rank, alpha, targets, sha256) is what model.json keeps. The same adapter gives the same bytes.
    """
    configs: Any = denoiser.peft_config
    config = configs[ADAPTER]
    record = {
        "rank": int(config.r),
        "alpha": float(config.lora_alpha),
        "targets": sorted(config.target_modules),
    }
    (folder / LORA_FOLDER).mkdir()
    write_adapter_file(folder / LORA_FOLDER / LORA_FILE, adapter_tensors(denoiser, state), record, part)
    return {**record, "sha256": sha256_file(folder / LORA_FOLDER / LORA_FILE)}


def write_adapter_file(
    path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any], part: str
) -> None:
    """Write adapter tensors in diffusers' format, with the alpha in the metadata that `load_lora_weights` reads.

    Only that one metadata key: safetensors writes several in an order that changes from run to run.
    """
    from safetensors.torch import save_file

    config = {"r": record["rank"], "lora_alpha": record["alpha"], "target_modules": list(record["targets"])}
    metadata = {f"{part}.{key}": value for key, value in config.items()}
    save_file(
        {f"{part}.{name}": tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        path,
        metadata={"lora_adapter_metadata": json.dumps(metadata, sort_keys=True)},
    )


def read_adapter(checkpoint: Path, record: Mapping[str, Any], part: str) -> dict[str, Tensor]:
    """Read the adapter of a LoRA checkpoint; raises `ModelError` if it is missing, torn or not the recorded one."""
    from safetensors.torch import load_file

    path = checked(checkpoint / LORA_FOLDER / LORA_FILE)
    if not path.is_file() or sha256_file(path) != record["sha256"]:
        raise ModelError(
            f"{path} must be the adapter that model.json records ({str(record['sha256'])[:12]}), but it is "
            f"{'another' if path.is_file() else 'missing'}; make the checkpoint again."
        )
    return {name.removeprefix(f"{part}."): tensor for name, tensor in load_file(path).items()}


def load_adapter(denoiser: nn.Module, checkpoint: Path, record: Mapping[str, Any], part: str) -> None:
    """Bring the adapter of `denoiser` to that of a LoRA checkpoint; raises `ModelError` if they differ in shape."""
    own, read = adapter_tensors(denoiser), read_adapter(checkpoint, record, part)
    wanted, came = ({name: tensor.shape for name, tensor in each.items()} for each in (own, read))
    check_same_shapes(wanted, came, f"{checkpoint} must hold an adapter for the same layers and rank")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(read[name])


def fuse_adapter(denoiser: nn.Module, checkpoint: Path, record: Mapping[str, Any], part: str) -> None:
    """Add the adapter of a LoRA checkpoint to the weights, W + (alpha / rank) B A, and leave an ordinary network."""
    lora = LoraParams(rank=record["rank"], alpha=record["alpha"], targets=list(record["targets"]))
    add_adapter(denoiser, lora, 0)
    load_adapter(denoiser, checkpoint, record, part)
    denoiser.fuse_lora()  # type: ignore[operator]
    denoiser.unload_lora()  # type: ignore[operator]


def trainable_state(player: nn.Module) -> dict[str, Tensor]:
    """What training changes: all weights of a network trained whole, the adapter's alone with LoRA; not copied."""
    return {
        name: parameter.detach() for name, parameter in player.named_parameters() if parameter.requires_grad
    }


def check_same_shapes(
    expected: Mapping[str, Sequence[int]], came: Mapping[str, Sequence[int]], rule: str
) -> None:
    """Raise `ModelError` with `rule` unless names and shapes are the same."""
    expected, came = ({name: tuple(shape) for name, shape in each.items()} for each in (expected, came))
    if expected != came:
        name = min(name for name in {*expected, *came} if expected.get(name) != came.get(name))
        raise ModelError(
            f"{rule}, but {name} should be {expected.get(name, 'absent')} and came as {came.get(name, 'absent')}; "
            "use the one that belongs to it."
        )


def check_continues(record: Mapping[str, Any] | None, lora: LoraParams, checkpoint: Path) -> None:
    """Raise `ModelError` unless the adapter `record` of the checkpoint `checkpoint` can be trained on as `lora` says.

    Rank, alpha and targets must be the same: the reference is that adapter, and the player starts at it. A
    checkpoint trained whole has no record: an adapter over its weights would be worthless without them.
    """
    if record is None:
        raise ModelError(
            f"training.lora needs a base or a LoRA checkpoint to continue from, but {checkpoint.name} was trained "
            "whole; train it with training.lora too, or set training.lora to null."
        )
    wanted = {"rank": lora.rank, "alpha": lora.alpha, "targets": sorted(lora.targets)}
    for key, value in wanted.items():
        if record[key] != value:
            raise ModelError(
                f"training.lora.{key} must be that of {checkpoint.name}, from which training continues, {record[key]}, "
                f"got {value}; use the same value, or train {checkpoint.name} again."
            )
