"""The oracle: the world knows what a caption looks like, so an image can be judged from its pixels alone.

Each object is compared with the clean rendering of every colour, shape and jitter in its place; the nearest is what
the image shows there. Two numbers follow:
    oracle_psnr        to the correct rendering at the best jitter, in decibels; higher is cleaner
    oracle_attributes  share of the caption's five facts the image shows: two colours, two shapes, the background
A swapped order shows as wrong colours and shapes in their places.
"""

import functools
import itertools

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spin.toy.world import (
    BACKGROUNDS,
    COLOURS,
    JITTER,
    RELATIONS,
    RESOLUTION,
    SHAPES,
    Scene,
    object_mask,
    parse_caption,
)

MAX_PSNR = 50.0
"""Cap in decibels: a perfect image would be infinite."""

Pixels = NDArray[np.float32]


class Verdict:
    """What the oracle reads from one image for one caption."""

    def __init__(self, psnr: float, attributes: float) -> None:
        self.psnr = psnr
        self.attributes = attributes


def judge(image: Image.Image, caption: str) -> Verdict:
    """Judge an RGB image of any size for one of the world's captions; raises `DataError` for another caption."""
    scene = parse_caption(caption)
    small = image.convert("RGB").resize((RESOLUTION, RESOLUTION), Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.float32) / 255.0  # (32, 32, 3)
    facts = [_background(pixels) == scene.background]
    squared = 0.0
    for slot, thing in enumerate((scene.first, scene.second)):
        region = pixels[_region(scene.relation, slot)]
        errors = _template_errors(
            region, scene.relation, slot, scene.background
        )  # (colours, shapes, jitters)
        colour, shape, _ = np.unravel_index(int(errors.argmin()), errors.shape)
        wanted = list(COLOURS).index(thing.colour), SHAPES.index(thing.shape)
        facts += [int(colour) == wanted[0], int(shape) == wanted[1]]
        squared += float(errors[wanted].min())
    mean_squared = squared / pixels.size
    psnr = MAX_PSNR if mean_squared <= 0 else min(MAX_PSNR, -10 * float(np.log10(mean_squared)))
    return Verdict(psnr, sum(facts) / len(facts))


def _background(pixels: Pixels) -> str:
    """The background whose brightness is nearest to that of the image's border."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return min(BACKGROUNDS, key=lambda name: abs(float(border.mean()) - float(np.mean(BACKGROUNDS[name]))))


def _region(relation: str, slot: int) -> tuple[slice, slice]:
    """The half of the image that belongs to an object."""
    half = RESOLUTION // 2
    span = slice(slot * half, (slot + 1) * half)
    return (slice(None), span) if relation == RELATIONS[0] else (span, slice(None))


def _template_errors(region: Pixels, relation: str, slot: int, background: str) -> NDArray[np.float32]:
    """Summed squared error to each template: (colours, shapes, jitters)."""
    return ((templates(relation, slot, background) - region) ** 2).sum(axis=(-3, -2, -1))


@functools.cache
def templates(relation: str, slot: int, background: str) -> Pixels:
    """Clean renderings of every object in one place: (colours, shapes, jitters, h, w, 3)."""
    ground = np.float32(BACKGROUNDS[background])
    offsets = list(itertools.product(JITTER, JITTER))
    result = np.empty((len(COLOURS), len(SHAPES), len(offsets), RESOLUTION, RESOLUTION, 3), dtype=np.float32)
    for (i, colour), (j, shape), (k, offset) in itertools.product(
        enumerate(COLOURS.values()), enumerate(SHAPES), enumerate(offsets)
    ):
        mask = object_mask(relation, slot, shape, *offset)[:, :, None]
        result[i, j, k] = ground * (1 - mask) + mask * np.float32(colour)
    return np.ascontiguousarray(result[(..., *_region(relation, slot), slice(None))])


def clean_image(scene: Scene) -> Image.Image:
    """The correct image of a scene without jitter."""
    from spin.toy.world import render, to_uint8

    return Image.fromarray(to_uint8(render(scene)))
