"""A LoRA under the names of kohya's trainer, as ComfyUI, A1111, Forge, InvokeAI, kohya's own scripts and diffusers read it.

    lora_unet_MODULE.lora_down.weight    A (rank, in), of a convolution (rank, in, k, k)
    lora_unet_MODULE.lora_up.weight      B (out, rank), of a convolution (out, rank, 1, 1)
    lora_unet_MODULE.alpha               (), by which a reader scales: W + strength * (alpha / rank) * B A

MODULE is the layer's name with underscores for dots: diffusers' name for SD 1.x and 2.x, the original repository's for
SDXL. ComfyUI, A1111 and diffusers read either; kohya's scripts only the one that they would write, so that one it is.
Text encoders are never trained here: there are no lora_te keys. The metadata are those by which A1111 tells the family
(ss_*), and those of Stability AI's ModelSpec (modelspec.*).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor

from spin.errors import ModelError
from spin.models.bases import Base
from spin.models.find import read_config
from spin.models.latent_diffusion import LatentDiffusion
from spin.models.lora import read_adapter
from spin.models.reference import read_reference
from spin.models.sdxl import StableDiffusionXL
from spin.models.stable_diffusion import StableDiffusion
from spin.tools.export.ldm_names import UNET, unet_names
from spin.tools.export.single_file import CARD_KEY

_HALVES = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}


def check_kohya(family: type[LatentDiffusion]) -> None:
    """Raise `ModelError` unless kohya's trainer has names for the family's denoiser: SD 1.x, 2.x, SDXL."""
    if not issubclass(family, (StableDiffusion, StableDiffusionXL)):
        raise ModelError(
            f"--format kohya is for Stable Diffusion 1.x, 2.x and XL, got {family.family}; use --format lora."
        )


def kohya_tensors(
    adapter: Mapping[str, Tensor], alpha: float, family: type[LatentDiffusion], config: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The tensors of an adapter (`down_blocks.0...to_q.lora_A.weight`) under kohya's names, with alpha for each layer.

    `config` is that of the UNet. Raises `ModelError` for a layer that has no such name.
    """
    tensors = {}
    for name, tensor in adapter.items():
        module, _, half = name.partition(".lora_")
        key = f"lora_unet_{_module_name(module, family, config)}"
        tensors[f"{key}.{_HALVES[f'lora_{half}']}"] = tensor
        tensors[f"{key}.alpha"] = torch.tensor(alpha)
    return tensors


def _module_name(module: str, family: type[LatentDiffusion], config: Mapping[str, Any]) -> str:
    if issubclass(family, StableDiffusionXL):
        weight = f"{module}.weight"
        try:
            module = unet_names([weight], config)[weight].removeprefix(UNET).removesuffix(".weight")
        except KeyError:
            raise ModelError(
                f"--format kohya has no place for the layer {module} of {family.family}; use --format lora."
            ) from None
    return module.replace(".", "_")


def write_kohya(
    path: Path, checkpoint: Path, base: Base, dtype: torch.dtype, card: Mapping[str, Any]
) -> None:
    """Write the adapter of a LoRA checkpoint in `dtype`, alpha in fp32; the same adapter gives the same bytes."""
    from safetensors.torch import save

    record, config = read_reference(checkpoint)["lora"], base.denoiser_config()
    adapter = read_adapter(checkpoint, record, base.family.denoiser_folder)
    cast = {name: tensor.to(dtype).contiguous() for name, tensor in adapter.items()}
    written = save(kohya_tensors(cast, record["alpha"], base.family, config))
    # The header again, with metadata in one order: safetensors writes them in a changing one.
    data = 8 + int.from_bytes(written[:8], "little")
    weights = written[data:]
    metadata = _metadata(base, config, record, card, hashlib.sha256(weights).hexdigest())
    header = json.dumps({"__metadata__": metadata, **json.loads(written[8:data])}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + weights)


def _metadata(
    base: Base, config: Mapping[str, Any], record: Mapping[str, Any], card: Mapping[str, Any], digest: str
) -> dict[str, str]:
    """What programs read of the file; `digest` is the SHA-256 of its tensors' bytes."""
    xl, second = base.family is StableDiffusionXL, bool(config.get("use_linear_projection"))
    by_velocity = base.prediction_type() == "v_prediction"
    if xl:
        version, architecture = "sdxl_base_v1-0", "stable-diffusion-xl-v1-base"
    elif second:
        version, architecture = "sd_v2", f"stable-diffusion-v2-{'768-v' if by_velocity else '512'}"
    else:
        version, architecture = "sd_v1", "stable-diffusion-v1"
    vae = read_config(base.folder / "vae" / "config.json", base.source)
    side = int(config["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
    side = (card["training"] or {}).get("resolution", side)
    metadata = {
        "ss_base_model_version": version + ("_v" if by_velocity and not xl else ""),
        "ss_network_alpha": str(record["alpha"]),
        "ss_network_dim": str(record["rank"]),
        "ss_network_module": "networks.lora",
        "ss_sd_model_name": PurePath(base.source).name,
        "ss_v2": str(second and not xl),
        "sshs_model_hash": digest,
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.hash_sha256": f"0x{digest}",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models"
        if xl
        else "diffusers",
        "modelspec.prediction_type": "v" if by_velocity else "epsilon",
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": str(card["name"]),
        CARD_KEY: json.dumps(card, sort_keys=True),
    }
    if card["trigger"] is not None:
        metadata["modelspec.trigger_phrase"] = card["trigger"]
    return dict(sorted(metadata.items()))
