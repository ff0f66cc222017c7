"""Reading image files as people have them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from spin.errors import DataError


def open_rgb(path: Path) -> Image.Image:
    """Decode an image file as upright RGB, transparency over white; raises `DataError` if it cannot be decoded."""
    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened)
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                layer = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
            return upright.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} must be an image file, but it does not decode ({error}); replace it."
        ) from None


def resize_and_crop(image: Image.Image, resolution: int) -> Image.Image:
    """Shortest side to `resolution` pixels, bilinear, then the centre square, as the peers' training code does."""
    scale = resolution / min(image.size)
    width, height = (max(resolution, round(side * scale)) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - resolution) // 2, (height - resolution) // 2
    return resized.crop((left, top, left + resolution, top + resolution))


def to_pixel_values(images: list[Image.Image]) -> Tensor:
    """RGB images of one size -> (B, 3, H, W) fp32 in [-1, 1]."""
    stacked = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1.0
