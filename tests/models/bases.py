"""Bases as params.yaml names them, and as the stage that resolves them writes them down."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from spin.models.checkpoint import load_model, reference_of
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.model import BaseParams
from spin.runtime.files import read_json, write_json

WEIGHTS = "diffusion_pytorch_model.safetensors"


def base_params(
    source: Path | str,
    config: Path | str | None = None,
    unet: Path | dict[str, Any] | None = None,
    revision: str | None = None,
) -> BaseParams:
    """The `base` section; a folder given as `unet` stands for itself without a revision."""
    if isinstance(unet, Path):
        unet = {"source": str(unet), "revision": None}
    return BaseParams.model_validate(
        {
            "source": str(source),
            "revision": revision,
            "config": None if config is None else str(config),
            "unet": unet,
        }
    )


def record_base(folder: Path, base: BaseParams) -> Path:
    """A checkpoint folder of a base, as the stage writes it."""
    folder.mkdir(parents=True)
    write_json(folder / "model.json", reference_of(base))
    return folder


def swap(config: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / config).write_text(json.dumps(read_json(folder / config) | changes))

    return change


def load_base(source: Path, work: Path) -> LatentDiffusion:
    work.mkdir(exist_ok=True)
    write_json(work / "model.json", reference_of(base_params(source)))
    return load_model(work)


def halved(base: Path, folder: Path, variant: str | None = "fp16", max_shard_size: str = "10GB") -> Path:
    """The base in half precision, by the hub's layout in `unet/diffusion_pytorch_model.fp16.safetensors` and so on."""
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(base)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            torch.nn.Module.to(part, torch.float16)
    pipeline.save_pretrained(folder, variant=variant, max_shard_size=max_shard_size)
    return folder
