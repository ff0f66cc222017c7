"""An image file of a person to a training image: large enough, resized, its centre cropped.

To the square, or with `data.aspect_buckets` to that of several sizes whose shape is nearest to its own: then a portrait loses
a few hundredths of its height and not its head.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from spin.data.card import DataCard
from spin.params.buckets import AspectBuckets, Size
from spin.runtime.images import UnusableImageError, decode_rgb

MAX_FILE_BYTES = 1 << 28
"""Encoded images beyond 256 MB are not read into memory."""
MAX_RESIZED_PIXELS = 1 << 26
"""Size of the resized image before its crop beyond which an image counts as a strip: 64 Mpixel, 200 MB."""


class PreparedImage(NamedTuple):
    """A training image, and where it lay in the original: SDXL's micro-conditioning (Podell et al. 2023, section 2.2)."""

    png: bytes
    width: int
    height: int
    original_width: int
    """Of the upright original, in pixels."""
    original_height: int
    crop_top: int
    """Corner of the crop, in pixels of the resized image, as in diffusers' SDXL training scripts."""
    crop_left: int


def sizes_of(resolution: int, buckets: AspectBuckets | None) -> list[Size]:
    """The sizes that training images have, each (width, height): the buckets', or the square alone."""
    return [(resolution, resolution)] if buckets is None else buckets.sizes(resolution)


def nearest(sizes: Sequence[Size], width: int, height: int) -> Size:
    """The size that cuts the least away; of several the largest, and then the first, which is the narrowest of `sizes_of`: it
    cuts the sides and not the head."""

    def rank(size: Size) -> tuple[float, int]:
        across, down = size[0] * height, size[1] * width  # whole numbers: every machine finds the same ties
        return max(across / down, down / across), -size[0] * size[1]

    return min(sizes, key=rank)


def is_beyond(sizes: Sequence[Size], width: int, height: int) -> bool:
    """Whether an image is wider or taller in shape than any of several sizes, so that it loses its ends."""
    ratios = [size[0] / size[1] for size in sizes]
    return len(sizes) > 1 and not min(ratios) <= width / height <= max(ratios)


def note_shape(image: PreparedImage, sizes: Sequence[Size], card: DataCard) -> None:
    """Count a kept image in its bucket, where there are several, and if it loses its ends."""
    if is_beyond(sizes, image.original_width, image.original_height):
        card.note("beyond the shapes of the buckets, which lose their ends")
    if len(sizes) > 1:
        card.fill(image.width, image.height)


def prepare_image(data: bytes, sizes: Sequence[Size], small_images: str) -> PreparedImage:
    """Encoded image -> upright RGB PNG of the nearest of `sizes`; raises `UnusableImageError`.

    `small_images` is "drop" or "upscale": what becomes of an image that is smaller than that.
    """
    image = check_image(data, sizes, small_images)
    width, height = nearest(sizes, *image.size)
    cropped, top, left = resize_and_crop(image, width, height)
    stream = io.BytesIO()
    cropped.save(stream, format="PNG")
    return PreparedImage(stream.getvalue(), width, height, image.width, image.height, top, left)


def check_image(data: bytes, sizes: Sequence[Size], small_images: str) -> Image.Image:
    """Decode an encoded image that is there and large enough; raises `UnusableImageError`."""
    if not data:
        raise UnusableImageError("that are empty", "it has 0 bytes")
    image = decode_rgb(io.BytesIO(data))
    width, height = nearest(sizes, *image.size)
    if (image.width < width or image.height < height) and small_images == "drop":
        reason = f"smaller than {width} pixels" if len(sizes) == 1 else "smaller than their bucket"
        raise UnusableImageError(reason, f"it is {image.width}x{image.height}")
    return image


def resize_and_crop(image: Image.Image, width: int, height: int) -> tuple[Image.Image, int, int]:
    """Resize to cover width x height, bilinear, then cut its centre out; return (image, crop_top, crop_left).

    For a square sizes are rounded as torchvision's Resize and CenterCrop do, which the peers' training scripts use. Raises
    `UnusableImageError` for a strip so long that resizing it would fill the memory.
    """
    if width * image.height >= height * image.width:
        size = width, width * image.height // image.width
    else:
        size = height * image.width // image.height, height
    if size[0] * size[1] > MAX_RESIZED_PIXELS:
        raise UnusableImageError("too long and narrow", f"it is {image.width}x{image.height}")
    resized = image.resize(size, Image.Resampling.BILINEAR)
    top, left = round((size[1] - height) / 2), round((size[0] - width) / 2)
    return resized.crop((left, top, left + width, top + height)), top, left


def read_image(path: Path) -> bytes:
    """Read an encoded image; raises `UnusableImageError` for what cannot be read or is no sane size."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UnusableImageError("in files over 256 MB", f"{path} has {path.stat().st_size} bytes")
        return path.read_bytes()
    except OSError as error:
        raise UnusableImageError("that cannot be read", str(error)) from None
