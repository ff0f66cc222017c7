"""Checkpoints: a folder with model.json, and for a trained model its UNet in diffusers layout.

    outputs/checkpoints/base/model.json     a reference: where the base is, at which revision, with which weights
    outputs/checkpoints/iter1/model.json    the same reference, and the digest of the UNet beside it
    outputs/checkpoints/iter1/unet/         config.json, diffusion_pytorch_model.safetensors

So a checkpoint costs one UNet, and `StableDiffusionPipeline.from_pretrained(base, unet=...)` reads it anywhere.
"""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from spin.errors import ModelError
from spin.files import read_json, sha256_tree, write_json
from spin.models.stable_diffusion import StableDiffusion
from spin.params import BaseParams

MODEL_FILE = "model.json"
_PARTS = ("unet", "vae", "text_encoder")
_HUB_EXTRAS = ["*.fp16.*", "*non_ema*", "safety_checker/*"]
_HUB_FILES = ["model_index.json", "*/config.json", "*/*.safetensors", "scheduler/*", "tokenizer/*"]


def embedded_base() -> Path:
    """Folder of the base model that comes with the package."""
    return Path(str(resources.files("spin.toy") / "assets" / "base"))


def reference_of(base: BaseParams) -> dict[str, Any]:
    """Find the base model and describe it: source, revision, and the SHA-256 of the weights of each part."""
    folder, revision = _resolve(base.source, base.revision)
    _check_family(folder, base.source)
    weights = {part: sha256_tree(folder / part, "*.safetensors") for part in _PARTS}
    return {"source": base.source, "revision": revision, "family": "stable-diffusion", "weights": weights}


def _resolve(source: str, revision: str | None) -> tuple[Path, str | None]:
    """Return the local folder of a base model and the commit it is at (None for a folder of the user's)."""
    if source == "embedded":
        return embedded_base(), None
    if Path(source).is_dir():
        return Path(source), None
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ModelError(
            f"base.source must be 'embedded', a folder in diffusers layout or a hub id owner/name, "
            f"but there is no folder {source}; correct the path."
        )
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(
                source, revision=revision, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_EXTRAS
            )
        )
    except Exception as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"base.source must be a folder or a model the hub has, but {source} is neither here nor to be had "
            f"({cause}); check the name, the network and HF_TOKEN."
        ) from None
    return folder, folder.name


def _check_family(folder: Path, source: str) -> None:
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelError(
            f"{source} must be a model in diffusers layout, but it has no model_index.json; "
            "save it with `pipeline.save_pretrained`."
        )
    family = read_json(index).get("_class_name")
    if family != "StableDiffusionPipeline":
        raise ModelError(
            f"{source} must be a StableDiffusionPipeline (SD 1.x or 2.x), got {family}; use such a base."
        )
    prediction = read_json(folder / "scheduler" / "scheduler_config.json").get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise ModelError(f"{source} must predict epsilon or v_prediction, got {prediction}; use such a base.")
    for part in _PARTS:
        if not any((folder / part).glob("*.safetensors")):
            raise ModelError(
                f"{source} must hold {part} weights as safetensors, found none; convert the model."
            )


def load_model(
    checkpoint: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> StableDiffusion:
    """Load a base or trained checkpoint folder, in eval mode; raises `ModelError` if it is missing or torn."""
    reference = _read_reference(checkpoint)
    base = reference.get("base", reference)
    folder, _ = _resolve(base["source"], base["revision"])
    _check_family(folder, base["source"])
    unet_folder = checkpoint / "unet" if "base" in reference else folder / "unet"
    try:
        model = _load_parts(folder, unet_folder, dtype)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{checkpoint} cannot be loaded ({str(error).splitlines()[0]}); make it again."
        ) from None
    for network in (model.vae, model.text_encoder, model.unet):
        network.requires_grad_(False).eval()
    return model.to(device)


def _load_parts(folder: Path, unet_folder: Path, dtype: torch.dtype) -> StableDiffusion:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    return StableDiffusion(
        vae=AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=dtype, use_safetensors=True),
        text_encoder=CLIPTextModel.from_pretrained(
            folder / "text_encoder", dtype=dtype, use_safetensors=True
        ),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(unet_folder, torch_dtype=dtype, use_safetensors=True),
        scheduler_config=read_json(folder / "scheduler" / "scheduler_config.json"),
    )


def _read_reference(checkpoint: Path) -> Mapping[str, Any]:
    path = checkpoint / MODEL_FILE
    if not path.is_file():
        raise ModelError(
            f"{checkpoint} must be a checkpoint, but it has no {MODEL_FILE}; run the stage that makes it."
        )
    reference: dict[str, Any] = read_json(path)
    return reference


def weights_digest(checkpoint: Path) -> str:
    """SHA-256 of the UNet weights of a checkpoint folder, as recorded in its model.json."""
    reference = _read_reference(checkpoint)
    return str(reference.get("unet_sha256") or reference["weights"]["unet"])


def save_checkpoint(folder: Path, name: str, unet: torch.nn.Module, prev: Path) -> None:
    """Write a trained UNet, in fp32, and model.json into an existing folder (the caller renames it into place)."""
    reference = _read_reference(prev)
    unet.save_pretrained(folder / "unet", safe_serialization=True)  # type: ignore[operator]
    write_json(
        folder / MODEL_FILE,
        {
            "name": name,
            "base": reference.get("base", reference),
            "prev": {"checkpoint": prev.name, "unet_sha256": weights_digest(prev)},
            "unet_sha256": sha256_tree(folder / "unet", "*.safetensors"),
        },
    )
