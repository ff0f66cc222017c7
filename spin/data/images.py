"""An image file of a person to a training image: large enough, resized, its centre cropped."""

import io
from typing import NamedTuple

from PIL import Image

from spin.runtime.images import UnusableImageError, decode_rgb

MAX_RESIZED_PIXELS = 1 << 26
"""Size of the resized image before its crop beyond which an image counts as a strip: 64 Mpixel, 200 MB."""


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
