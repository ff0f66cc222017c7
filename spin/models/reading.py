"""Networks and tokenizers from disk into a family's model, weights from safetensors alone."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from spin.errors import ModelError
from spin.models.families import parts_present
from spin.models.find import read_config
from spin.models.latent_diffusion import LatentDiffusion
from spin.models.variants import variant_of


def read_folder(
    family: type[LatentDiffusion],
    folder: Path,
    source: str,
    denoiser: Path | None,
    dtype: torch.dtype,
    without: Collection[str] = (),
) -> LatentDiffusion:
    """Read a model in diffusers layout, its denoiser from the folder `denoiser` if that is given.

    Parts in `without` are left out; they are None in the model.
    """
    parts: dict[str, Any] = dict.fromkeys((*family.parts, *family.tokenizers))
    for part in parts_present(family, folder, source):
        if part not in without and (part != family.denoiser_folder or denoiser is None):
            parts[part] = read_network(family, part, folder / part, dtype)
    if denoiser is not None:
        parts[family.denoiser_folder] = read_network(family, family.denoiser_folder, denoiser, dtype)
    return _assemble(family, parts, folder, source, without)


def read_single_file(
    family: type[LatentDiffusion],
    file: Path,
    folder: Path,
    source: str,
    denoiser: Path | None,
    dtype: torch.dtype,
    without: Collection[str] = (),
) -> LatentDiffusion:
    """Read the weights of a single file, in the layout of the original repositories; configs come from `folder`.

    Parts in `without` are left out; they are None in the model.
    """
    import diffusers

    skipped = dict.fromkeys(without if denoiser is None else (*without, family.denoiser_folder))
    try:
        pipeline = getattr(diffusers, family.pipeline).from_single_file(
            str(file), config=str(folder), local_files_only=True, torch_dtype=dtype, **skipped
        )
    except Exception as error:  # diffusers has no exception of its own for a file that does not fit
        raise ModelError(
            f"{file} cannot be read as a {family.pipeline} ({str(error).strip().splitlines()[0]}); "
            "check base.config, or convert the file to a folder with diffusers."
        ) from None
    parts: dict[str, Any] = {part: getattr(pipeline, part, None) for part in family.parts}
    if denoiser is not None:
        parts[family.denoiser_folder] = read_network(family, family.denoiser_folder, denoiser, dtype)
    if parts["vae"].config.force_upcast:
        parts["vae"].float()
    return _assemble(family, {**parts, **dict.fromkeys(family.tokenizers)}, folder, source, without)


def read_network(family: type[LatentDiffusion], part: str, folder: Path, dtype: torch.dtype) -> Any:
    """Read one network; a VAE that asks to be upcast stays in fp32, since fp16 would overflow in it.

    Weights that are there as a variant alone are read from it (see `variant_of`). Raises `ModelError` if there are none.
    """
    import diffusers
    import transformers

    class_name = family.parts[part]
    files = {"variant": variant_of(folder, part, str(folder)), "use_safetensors": True}
    if hasattr(diffusers, class_name):
        upcast = part == "vae" and read_config(folder / "config.json", str(folder)).get("force_upcast", True)
        network = getattr(diffusers, class_name).from_pretrained(
            folder, torch_dtype=torch.float32 if upcast else dtype, **files
        )
        network.register_to_config(_name_or_path="")  # else checkpoints carry along a path of this machine
        return network
    transformers.utils.logging.disable_progress_bar()  # it says nothing that a stage's own lines do not
    return getattr(transformers, class_name).from_pretrained(folder, dtype=dtype, **files)


def _assemble(
    family: type[LatentDiffusion], parts: dict[str, Any], folder: Path, source: str, without: Collection[str]
) -> LatentDiffusion:
    from transformers import AutoTokenizer, CLIPTokenizer

    for name in family.tokenizers:
        if name not in without and (folder / name).is_dir():
            reader = CLIPTokenizer if (folder / name / "vocab.json").is_file() else AutoTokenizer
            parts[name] = reader.from_pretrained(folder / name, trust_remote_code=False)
    for name, part in parts.items():
        if part is None and name not in (*family.optional_parts, *without):
            raise ModelError(f"{source} must hold {name}, found none; use a complete model.")
        if isinstance(part, torch.nn.Module) and any(weight.is_meta for weight in part.parameters()):
            raise ModelError(
                f"{source} must hold all weights of {name}, but some are missing; use a whole model."
            )
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json", source)
    index = read_config(folder / "model_index.json", source)
    model = family.from_parts(parts, scheduler, index)
    for network in model.networks():
        network.requires_grad_(False).eval()
    return model
