"""From a PIL image to the pixels a reward model was trained on, each exactly as its original code does it.

All return (3, size, size) float32, normalised by CLIP's channel mean and standard deviation.
"""

from typing import cast

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(image: Image.Image, size: int) -> Tensor:
    """PickScore, CLIP and LAION aesthetic: RGB, PIL bicubic on the shortest side, crop the centre, normalise.

    The processor that runs on PIL, not the default one of transformers 5: that resizes tensors, which moves
    pixels by up to 0.015. And not torchvision's CenterCrop, which rounds odd margins the other way.
    """
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    side = {"height": size, "width": size}
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size=side,
        image_mean=list(CLIP_MEAN),
        image_std=list(CLIP_STD),
        do_convert_rgb=True,
    )
    return cast(Tensor, processor(image, return_tensors="pt")["pixel_values"][0])


def hps_pixels(image: Image.Image, size: int, antialias: bool = True) -> Tensor:
    """HPSv2: RGB, to a tensor first, longest side to `size` by tensor bicubic, zeros to a square, normalise.

    The original leaves `antialias` to torchvision: False before 0.17, True since. Unlike the original, an image
    whose longest side already is `size` is padded too; the original breaks on those that are not square.
    """
    pixels = F.to_tensor(image.convert("RGB"))  # (3, H, W) in [0, 1]
    height, width = pixels.shape[1:]
    scale = size / max(height, width)
    if scale != 1.0:
        new_size = [max(1, round(height * scale)), max(1, round(width * scale))]
        pixels = F.resize(pixels, new_size, InterpolationMode.BICUBIC, antialias=antialias)
    pad_h, pad_w = size - pixels.shape[1], size - pixels.shape[2]
    pixels = F.pad(pixels, [pad_w // 2, pad_h // 2, pad_w - pad_w // 2, pad_h - pad_h // 2], fill=0)
    return _normalise(pixels)


def image_reward_pixels(image: Image.Image, size: int) -> Tensor:
    """ImageReward: PIL bicubic on the shortest side, crop the centre, and only then RGB; normalise."""
    image = F.resize(image, [size], InterpolationMode.BICUBIC)
    image = F.center_crop(image, [size, size]).convert("RGB")
    return _normalise(F.to_tensor(image))


def _normalise(pixels: Tensor) -> Tensor:
    return cast(Tensor, F.normalize(pixels, list(CLIP_MEAN), list(CLIP_STD)))


def stack(pixels: list[Tensor], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Batch preprocessed images, (3, S, S) each -> (B, 3, S, S)."""
    return torch.stack(pixels).to(device=device, dtype=dtype)
