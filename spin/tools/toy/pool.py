"""The base's training images: a pool of web renditions of the training scenes."""

import numpy as np
import torch
from torch import Tensor

from spin.toy.world import RESOLUTION, split_scenes, to_uint8, web_image


def draw_pool(num_images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw web images of training scenes in turn.

    Returns (images, scenes): uint8 (N, 3, 32, 32), and int64 (N,) indices into `split_scenes()["train"]`.
    """
    scenes = split_scenes()["train"]
    rng = np.random.default_rng(seed)
    images = np.empty((num_images, RESOLUTION, RESOLUTION, 3), dtype=np.uint8)
    for index in range(num_images):
        images[index] = to_uint8(web_image(scenes[index % len(scenes)], rng)[0])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.arange(num_images) % len(scenes)


def to_pixel_values(images: Tensor) -> Tensor:
    """uint8 images (B, 3, H, W) -> float32 in [-1, 1], what the VAE takes."""
    return images.float() / 127.5 - 1.0
