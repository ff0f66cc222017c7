"""Which opponents must never be trained on: what a safety checker flags, and what is no picture at all."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spin.errors import ModelError
from spin.models.variants import variant_of
from spin.runtime.hub import fetch, is_hub_id

logger = logging.getLogger(__name__)

HUB_FILES = [
    "*.json",
    "*/config.json",
    "*/preprocessor_config.json",
    "model.safetensors",
    "safety_checker/*.safetensors",
]


class SafetyChecker:
    """Stable Diffusion's: CLIP image embeddings against those of fixed concepts (Rando et al. 2022, arXiv:2210.04610)."""

    def __init__(self, source: str, device: torch.device | str = "cpu") -> None:
        """Load from a folder or hub id: the checker's own, or a pipeline's with `safety_checker/` and `feature_extractor/`.

        Raises `ModelError` if there is none, or if it cannot be loaded.
        """
        from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
        from transformers import CLIPImageProcessorPil

        folder = find_checker(source)
        inside = (folder / "safety_checker").is_dir()
        checker = folder / "safety_checker" if inside else folder
        extractor = folder / "feature_extractor" if inside else folder
        try:
            self._extractor: Any = CLIPImageProcessorPil.from_pretrained(extractor)
            self._checker = StableDiffusionSafetyChecker.from_pretrained(
                checker, use_safetensors=True, variant=variant_of(checker, "safety_checker", source)
            )
        except Exception as error:
            raise ModelError(
                f"opponents.safety_checker must be a StableDiffusionSafetyChecker in safetensors with its "
                f"preprocessor_config.json, but {source} cannot be loaded ({str(error).splitlines()[0]}); use another, "
                "or null."
            ) from None
        self._checker.eval().requires_grad_(False).to(device)
        # It warns of black images on every hit; here nobody is handed any.
        logging.getLogger(StableDiffusionSafetyChecker.__module__).setLevel(logging.ERROR)

    @torch.inference_mode()
    def flags(self, images: Tensor) -> list[bool]:
        """Which of the images, uint8 (B, H, W, 3), it objects to."""
        pictures = [Image.fromarray(image.numpy()) for image in images]
        pixels = self._extractor(pictures, return_tensors="pt").pixel_values.to(self._checker.device)
        to_be_blackened = [np.zeros((1, 1, 3)) for _ in pictures]  # not the images themselves
        _, flagged = self._checker(clip_input=pixels, images=to_be_blackened)
        return [bool(flag) for flag in flagged]


def find_checker(source: str) -> Path:
    """Return the folder of a safety checker, fetched unless it is here; raises `ModelError` if there is none."""
    if Path(source).is_dir():
        return Path(source)
    if not is_hub_id(source):
        raise ModelError(
            f"opponents.safety_checker must be a folder, a hub id owner/name or null, but there is no folder {source}; "
            "correct the path."
        )
    return fetch("opponents.safety_checker", source, None, HUB_FILES)


def reasons_to_skip(images: Tensor, latents: Tensor, checker: SafetyChecker | None) -> list[str]:
    """Why each drawn image must not be trained on; an empty text where nothing speaks against it.

    images uint8 (B, H, W, 3), latents (B, C, h, w). `not finite`: a latent is NaN or infinite. `single colour`: all
    pixels are equal, as in the black images that a filter inside a pipeline returns. `safety checker`: it objects.
    """
    reasons = [_broken(image, latent) for image, latent in zip(images, latents, strict=True)]
    flags: Sequence[bool] = checker.flags(images) if checker is not None else [False] * len(reasons)
    return [reason or ("safety checker" if flag else "") for reason, flag in zip(reasons, flags, strict=True)]


def _broken(image: Tensor, latent: Tensor) -> str:
    if not torch.isfinite(latent).all():
        return "not finite"
    return "single colour" if (image == image[0, 0]).all() else ""
