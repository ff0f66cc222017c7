"""Checkpoints: a folder with model.json, and for a trained model its denoiser in diffusers layout.

    outputs/checkpoints/base/model.json     a reference: where the base is, at which revision, with which weights
    outputs/checkpoints/iter1/model.json    the same reference, and the digest of the denoiser beside it
    outputs/checkpoints/iter1/unet/         config.json, diffusion_pytorch_model.safetensors (SD3: transformer/)
    outputs/checkpoints/iter1/lora/         instead of that folder with training.lora: pytorch_lora_weights.safetensors
    outputs/checkpoints/dpo/model.json      of a released model: the same reference, and where its denoiser is

So a checkpoint costs one denoiser, and `StableDiffusionPipeline.from_pretrained(base, unet=...)` reads it anywhere.
"""

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from huggingface_hub import save_torch_state_dict

from spin.errors import ModelError
from spin.models.bases import Base, find_base, find_overlay
from spin.models.compiled import compile_blocks
from spin.models.digests import DENOISER, recorded_digest, weights_digest_of
from spin.models.families import FAMILIES
from spin.models.latent_diffusion import LatentDiffusion
from spin.models.lora import fuse_adapter, has_adapter, write_adapter
from spin.models.reading import read_folder, read_network, read_single_file
from spin.models.reference import MODEL_FILE, read_reference
from spin.params.model import BaseParams, UnetParams
from spin.params.sampling import SamplerParams
from spin.runtime.devices import DTYPES
from spin.runtime.files import sha256_tree, write_json
from spin.runtime.sums import checked

MAX_SHARD_SIZE = "10GB"
"""Of the files of a network, as diffusers has it."""
logger = logging.getLogger(__name__)
# The hub names its logger after the file.
logging.getLogger(inspect.getfile(save_torch_state_dict)).setLevel(logging.WARNING)


def reference_of(base: BaseParams) -> dict[str, Any]:
    """Find the base model and describe it: source, revision, family, and the SHA-256 of the weights of each part.

    Warns of parts whose weights are there in half precision alone.
    """
    found = find_base(base.model_dump())
    variants = found.variants()
    if variants:
        logger.warning(
            "%s has %s in %s alone: training starts from these rounded weights, kept in float32; full ones start better.",
            *(base.source, ", ".join(variants), ", ".join(sorted(set(variants.values())))),
        )
    return found.reference()


def released_reference(name: str, unet: UnetParams, base: Path) -> dict[str, Any]:
    """Find a published denoiser, see that it fits the base checkpoint, and describe it: source, revision, SHA-256."""
    reference = read_reference(base)
    found = find_overlay(f"released.{name}", unet.model_dump(), find_base(reference))
    return {
        "name": name,
        "base": reference,
        "unet": {"source": unet.source, "revision": found.revision},
        DENOISER: weights_digest_of(found.folder),
    }


def load_model(
    checkpoint: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    fuse: bool = True,
    with_text: bool = True,
) -> LatentDiffusion:
    """Load a base, trained or released checkpoint folder, in eval mode.

    Without text the encoders and tokenizers of captions are left out, where captions come from the cache. The adapter of a LoRA checkpoint is added to the weights, or left out if `fuse` is False.
    Raises `ModelError` if it is missing or torn, or if a base that is not the hub's has other weights than recorded;
    `DamagedError` if a file of the checkpoint holds other bytes than were written.
    """
    reference = read_reference(checkpoint)
    base = _unchanged_base(reference)
    denoiser = _denoiser_folder(checkpoint, reference, base)
    without = () if with_text else base.family.text_parts()
    try:
        if base.file is None:
            model = read_folder(base.family, base.folder, base.source, denoiser, dtype, without)
        else:
            model = read_single_file(
                base.family, base.file, base.folder, base.source, denoiser, dtype, without
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise _torn(checkpoint, error) from None
    if fuse and "lora" in reference:
        fuse_adapter(model.denoiser, checkpoint, reference["lora"], model.denoiser_folder)
    return model.to(device)


def load_to_draw(
    checkpoint: Path, device: torch.device | str, sampler: SamplerParams, with_text: bool = True
) -> LatentDiffusion:
    """Load a checkpoint as `sampler` draws with it: its denoiser rounded after an adapter is fused, and compiled if asked.

    The autoencoder stays in fp32. `with_text` as in `load_model`.
    """
    model = load_model(checkpoint, with_text=with_text)
    dtype = DTYPES[sampler.precision]
    torch.nn.Module.to(model.denoiser, dtype)  # diffusers' own `to` warns of layers these families have not
    if sampler.compile:
        compile_blocks(model.denoiser)
    return model.to(device)


def load_denoiser(
    checkpoint: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> torch.nn.Module:
    """Load the denoiser of a checkpoint alone, frozen, in eval mode; raises as `load_model` does."""
    reference = read_reference(checkpoint)
    base = _unchanged_base(reference)
    folder = _denoiser_folder(checkpoint, reference, base)
    if folder is None:
        if base.file is not None:
            return load_model(checkpoint, device, dtype).denoiser
        folder = base.folder / base.family.denoiser_folder
    try:
        denoiser: torch.nn.Module = read_network(base.family, base.family.denoiser_folder, folder, dtype)
    except (OSError, ValueError, RuntimeError) as error:
        raise _torn(checkpoint, error) from None
    if "lora" in reference:
        fuse_adapter(denoiser, checkpoint, reference["lora"], base.family.denoiser_folder)
    return denoiser.requires_grad_(False).eval().to(device)


def _torn(checkpoint: Path, error: Exception) -> ModelError:
    cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ModelError(f"{checkpoint} cannot be loaded ({cause}); make it again.")


def _unchanged_base(reference: Mapping[str, Any]) -> Base:
    """The base of a checkpoint as it was recorded."""
    recorded = reference.get("base", reference)
    base = find_base(recorded)
    base.check_unchanged(recorded)
    return base


def _denoiser_folder(checkpoint: Path, reference: Mapping[str, Any], base: Base) -> Path | None:
    """Where the denoiser of a checkpoint is; None for the base's own."""
    if "base" not in reference or "lora" in reference:
        return base.overlay
    if "unet" not in reference:
        folder = checkpoint / base.family.denoiser_folder
        for file in sorted(folder.glob("*")):
            checked(file)
        if weights_digest_of(folder) != recorded_digest(reference):
            raise ModelError(
                f"{folder} must hold the weights that model.json records ({recorded_digest(reference)[:12]}), but "
                "they are others or missing; make the checkpoint again."
            )
        return folder
    found = find_overlay(f"released.{reference['name']}", reference["unet"], base)
    if found.revision is None and weights_digest_of(found.folder) != recorded_digest(reference):
        raise ModelError(
            f"released.{reference['name']}.source must hold the weights that were recorded, but {found.folder} "
            f"changed; run `dvc repro -f released@{reference['name']}`."
        )
    return found.folder


def weights_digest(checkpoint: Path) -> str:
    """SHA-256 of the denoiser's weights of a checkpoint folder, as recorded in its model.json."""
    reference = read_reference(checkpoint)
    if "weights" not in reference:  # no base, which has digests by part
        return recorded_digest(reference)
    weights = reference["weights"]
    return str(weights.get("unet") or weights.get("transformer") or weights["file"])


def save_checkpoint(
    folder: Path,
    name: str,
    denoiser: torch.nn.Module,
    prev: Path,
    state: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write a trained denoiser or its adapter, in fp32, and model.json into a folder (the caller renames it).

    `state` has its weights by name where they are not all in `denoiser`, which is then of a sharded training.
    """
    reference = read_reference(prev)
    base = reference.get("base", reference)
    part = denoiser_folder_of(reference)
    weights: dict[str, Any]
    if has_adapter(denoiser):
        lora = write_adapter(folder, denoiser, part, state)
        weights = {"lora": lora, DENOISER: lora["sha256"]}
    else:
        write_network(folder / part, denoiser, state or denoiser.state_dict())
        weights = {DENOISER: sha256_tree(folder / part, "*.safetensors")}
    write_json(
        folder / MODEL_FILE,
        {
            "name": name,
            "base": base,
            "prev": {"checkpoint": prev.name, DENOISER: weights_digest(prev)},
            **weights,
        },
    )


def write_network(folder: Path, network: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Write a diffusers network in its own layout, as its `save_pretrained` would, with weights that lie elsewhere."""
    network.save_config(folder)  # type: ignore[operator]
    save_torch_state_dict(
        {name: tensor.contiguous() for name, tensor in state.items()},
        folder,
        filename_pattern=SAFETENSORS_WEIGHTS_NAME.replace(".safetensors", "{suffix}.safetensors"),
        max_shard_size=MAX_SHARD_SIZE,
    )


def denoiser_folder_of(reference: Mapping[str, Any]) -> str:
    """Name of the folder that the reference's family keeps its denoiser in."""
    name = reference.get("base", reference)["family"]
    return next(family.denoiser_folder for family in FAMILIES if family.family == name)
