"""Reading image files as people have them."""

import io
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from spin.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
"""Formats that are decoded. Others that Pillow knows run outside programs (EPS) or are seldom met and little tested."""
MAX_RESIZED_PIXELS = 1 << 26
"""Size of the resized image before its crop beyond which an image counts as a strip: 64 Mpixel, 200 MB."""


class UnusableImageError(DataError):
    """An image that cannot be trained on; `reason` completes "so many images were dropped ..."."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class PreparedImage(NamedTuple):
    """A training image, and where it lay in the original: SDXL's micro-conditioning (Podell et al. 2023, section 2.2)."""

    png: bytes
    resolution: int
    original_width: int
    """Of the upright original, in pixels."""
    original_height: int
    crop_top: int
    """Corner of the crop, in pixels of the resized image, as in diffusers' SDXL training scripts."""
    crop_left: int


def prepare_image(data: bytes, resolution: int, small_images: str) -> PreparedImage:
    """Encoded image -> upright RGB PNG of `resolution` x `resolution`; raises `UnusableImageError`.

    `small_images` is "drop" or "upscale": what becomes of an image whose shorter side is below the resolution.
    """
    image = check_image(data, resolution, small_images)
    cropped, top, left = resize_and_crop(image, resolution)
    stream = io.BytesIO()
    cropped.save(stream, format="PNG")
    return PreparedImage(stream.getvalue(), resolution, image.width, image.height, top, left)


def check_image(data: bytes, resolution: int, small_images: str) -> Image.Image:
    """Decode an encoded image that is there and large enough; raises `UnusableImageError`."""
    if not data:
        raise UnusableImageError("that are empty", "it has 0 bytes")
    image = decode_rgb(io.BytesIO(data))
    if min(image.size) < resolution and small_images == "drop":
        raise UnusableImageError(f"smaller than {resolution} pixels", f"it is {image.width}x{image.height}")
    return image


def open_rgb(path: Path) -> Image.Image:
    """Decode an image file as upright RGB, transparency over white; raises `DataError` if it cannot be decoded."""
    try:
        with path.open("rb") as stream:
            return decode_rgb(stream)
    except (UnusableImageError, OSError) as error:
        raise DataError(
            f"{path} must be an image file, but it does not decode ({error}); replace it."
        ) from None


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


def resize_and_crop(image: Image.Image, resolution: int) -> tuple[Image.Image, int, int]:
    """Shortest side to `resolution` pixels, bilinear, then the centre square; return (square, crop_top, crop_left).

    Sizes are rounded as torchvision's Resize and CenterCrop do, which the peers' training scripts use. Raises
    `UnusableImageError` for a strip so long that resizing it would fill the memory.
    """
    shortest, longest = sorted(image.size)
    long_side = resolution * longest // shortest
    if long_side * resolution > MAX_RESIZED_PIXELS:
        raise UnusableImageError("too long and narrow", f"it is {image.width}x{image.height}")
    width, height = (resolution if side == shortest else long_side for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    top, left = round((height - resolution) / 2), round((width - resolution) / 2)
    return resized.crop((left, top, left + resolution, top + resolution)), top, left


def to_pixel_values(images: list[Image.Image]) -> Tensor:
    """RGB images of one size -> (B, 3, H, W) fp32 in [-1, 1]."""
    stacked = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1.0
