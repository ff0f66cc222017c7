"""Image files to upright 8-bit RGB and on to tensors, and small pictures side by side on one."""

from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from spin.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
"""Formats that are decoded. Others that Pillow knows run outside programs (EPS) or are seldom met and little tested."""


class UnusableImageError(DataError):
    """An image that cannot be trained on; `reason` completes "so many images were dropped ..."."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def decode_rgb(stream: BinaryIO) -> Image.Image:
    """Decode the first frame as upright 8-bit RGB, transparency over white; raises `UnusableImageError`."""
    try:
        with Image.open(stream, formats=known_formats()) as opened:
            return _over_white(_eight_bit(ImageOps.exif_transpose(opened)))
    except UnusableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UnusableImageError("too large to decode safely", str(error)) from None
    except (
        Exception
    ) as error:  # Pillow's decoders raise almost anything on damaged files: struct.error, KeyError, ...
        detail = " ".join(str(error).split()) or type(error).__name__
        raise UnusableImageError("that do not decode", detail) from None


def known_formats() -> list[str]:
    """Those of `FORMATS` that this Pillow can decode."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit greys to 8 bits (Pillow's own conversion clips them); other modes pass."""
    if image.mode == "F":
        raise UnusableImageError("in floating point", "floating-point pixels have no fixed white")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UnusableImageError("of 32 bits a channel", "its greys go beyond 16 bits")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def to_pixel_values(images: list[Image.Image]) -> Tensor:
    """RGB images of one size -> (B, 3, H, W) fp32 in [-1, 1]."""
    stacked = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1.0


MIN_TILE = 96
"""Smallest side of an image on a sheet, in pixels."""


def contact_sheet(images: Sequence[Image.Image], columns: int = 8) -> Image.Image:
    """Square images row by row; raises `ValueError` without any."""
    if not images:
        raise ValueError("a contact sheet must have at least one image, got none")
    tile = max(images[0].width, MIN_TILE)
    sheet = Image.new("RGB", (columns * tile, -(-len(images) // columns) * tile), "white")
    for index, image in enumerate(images):
        place = (index % columns * tile, index // columns * tile)
        sheet.paste(image.resize((tile, tile), Image.Resampling.NEAREST), place)
    return sheet
