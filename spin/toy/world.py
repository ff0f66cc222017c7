"""The embedded world: 32x32 scenes of two coloured shapes, their captions, and how they are degraded.

A scene is fully named by its caption, "a red circle left of a blue square on white", up to a jitter of each
object by at most one pixel per axis. 5 colours x 3 shapes give 15 objects and 105 unordered pairs; a pair in both
orders, both relations and on both backgrounds makes 8 captions. Pairs, not captions, are dealt to the splits
(64 train, 9 val, 32 test), so a test caption always joins two objects that no training image shows together.

Three renditions of a scene:
    winner  what a person preferred: mildly degraded, and right about the caption
    loser   the other image of that pair, mildly degraded too; usually, not always, the worse one
    web     what the base model was trained on: any severity, and sometimes a wrong object
"""

import functools
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spin.errors import DataError

RESOLUTION = 32
COLOURS = {  # sRGB in [0, 1]
    "red": (0.86, 0.16, 0.16),
    "green": (0.16, 0.66, 0.26),
    "blue": (0.16, 0.36, 0.88),
    "yellow": (0.97, 0.80, 0.12),
    "purple": (0.60, 0.22, 0.74),
}
SHAPES = ("circle", "square", "triangle")
RELATIONS = ("left of", "above")
BACKGROUNDS = {"white": (0.96, 0.96, 0.96), "black": (0.07, 0.07, 0.09)}
JITTER = (-1, 0, 1)
"""Displacement of an object's centre in pixels, per axis."""

_CENTRES = {
    "left of": ((8.0, 16.0), (24.0, 16.0)),
    "above": ((16.0, 8.0), (16.0, 24.0)),
}  # (x, y) of each object
_RADIUS = 5.6
_SUPERSAMPLE = 8
_SPLIT_PAIRS = {"train": 64, "val": 9, "test": 32}

Image = NDArray[np.float32]
"""(32, 32, 3) in [0, 1]."""


@dataclass(frozen=True)
class Thing:
    """One object of a scene."""

    colour: str
    shape: str


@dataclass(frozen=True)
class Scene:
    """Two things in a relation on a background: everything a caption says."""

    first: Thing
    second: Thing
    relation: str
    background: str

    @property
    def caption(self) -> str:
        """The sentence that names the scene; `parse_caption` inverts it."""
        first, second = (f"a {thing.colour} {thing.shape}" for thing in (self.first, self.second))
        return f"{first} {self.relation} {second} on {self.background}"


def parse_caption(caption: str) -> Scene:
    """Return the scene a caption names; raises `DataError` if it is none of this world's captions."""
    for relation in RELATIONS:
        if f" {relation} " not in caption:
            continue
        first, _, rest = caption.partition(f" {relation} ")
        second, _, background = rest.partition(" on ")
        words = [*first.split(), *second.split(), background]
        scene = None
        if len(words) == 7:
            scene = Scene(Thing(words[1], words[2]), Thing(words[4], words[5]), relation, words[6])
        if scene and scene.caption == caption and _is_known(scene):
            return scene
    example = Scene(Thing("red", "circle"), Thing("blue", "square"), "left of", "white").caption
    raise DataError(f"the caption must be one of the embedded world's, such as '{example}', got '{caption}'.")


def _is_known(scene: Scene) -> bool:
    things = (scene.first, scene.second)
    return scene.background in BACKGROUNDS and all(t.colour in COLOURS and t.shape in SHAPES for t in things)


@functools.cache
def split_scenes() -> dict[str, tuple[Scene, ...]]:
    """All 840 scenes by split: train 512, val 72, test 256; the deal is fixed, whatever the seed of a run."""
    things = [Thing(colour, shape) for colour in COLOURS for shape in SHAPES]
    pairs = list(itertools.combinations(things, 2))
    order = np.random.default_rng(20240210).permutation(len(pairs))
    splits: dict[str, tuple[Scene, ...]] = {}
    start = 0
    for split, count in _SPLIT_PAIRS.items():
        scenes = [
            Scene(first, second, relation, background)
            for index in order[start : start + count]
            for first, second in (pairs[index], pairs[index][::-1])
            for relation in RELATIONS
            for background in BACKGROUNDS
        ]
        shuffled = np.random.default_rng(start).permutation(len(scenes))
        splits[split] = tuple(scenes[i] for i in shuffled)
        start += count
    return splits


@functools.cache
def object_mask(relation: str, slot: int, shape: str, offset_x: int, offset_y: int) -> NDArray[np.float32]:
    """Anti-aliased coverage (32, 32) in [0, 1] of one shape in one of the two places a relation has."""
    centre_x, centre_y = _CENTRES[relation][slot]
    grid = (np.arange(RESOLUTION * _SUPERSAMPLE) + 0.5) / _SUPERSAMPLE
    x = grid[None, :] - (centre_x + offset_x)
    y = grid[:, None] - (centre_y + offset_y)
    if shape == "circle":
        inside = x**2 + y**2 <= _RADIUS**2
    elif shape == "square":
        inside = np.maximum(np.abs(x), np.abs(y)) <= 0.88 * _RADIUS
    else:  # an upright triangle: the half width grows linearly from the tip down to the base
        half_width = (y + _RADIUS) * 0.58
        inside = (np.abs(x) <= half_width) & (y <= 0.8 * _RADIUS) & (y >= -_RADIUS)
    blocks = inside.reshape(RESOLUTION, _SUPERSAMPLE, RESOLUTION, _SUPERSAMPLE)
    return blocks.mean(axis=(1, 3)).astype(np.float32)


def render(scene: Scene, offsets: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))) -> Image:
    """Draw the clean, correct image of a scene, with each object's centre moved by its (x, y) offset in pixels."""
    image = np.broadcast_to(np.float32(BACKGROUNDS[scene.background]), (RESOLUTION, RESOLUTION, 3)).copy()
    for slot, (thing, offset) in enumerate(zip((scene.first, scene.second), offsets, strict=True)):
        mask = object_mask(scene.relation, slot, thing.shape, *offset)[:, :, None]
        image = image * (1 - mask) + mask * np.float32(COLOURS[thing.colour])
    return image


def render_random(scene: Scene, rng: np.random.Generator) -> Image:
    """Draw a clean, correct image with random jitter."""
    jitter = rng.choice(JITTER, size=(2, 2))
    return render(scene, ((jitter[0, 0], jitter[0, 1]), (jitter[1, 0], jitter[1, 1])))


def degrade(image: Image, severity: float, rng: np.random.Generator) -> Image:
    """Blur, tint, fade and add noise to an image; severity 0 leaves it as it is, 1 is hard to recognise.

    How much of each is drawn at random, so that two images of one severity look different but about as bad.
    """
    if severity <= 0:
        return image
    shares = rng.dirichlet(np.ones(4) * 2.0) * 4 * severity  # (blur, tint, fade, noise), 4 * severity in all
    blurred = _blur(image, radius=1.1 * shares[0])
    direction = rng.normal(size=3)
    direction -= direction.mean()
    tinted = blurred + 0.16 * shares[1] * direction / (np.linalg.norm(direction) + 1e-6)
    fade = min(0.32 * shares[2], 0.85)
    faded = tinted * (1 - fade) + fade * rng.uniform(0.35, 0.65)
    noisy = faded + 0.09 * shares[3] * rng.normal(size=image.shape)
    return np.clip(noisy, 0, 1).astype(np.float32)


def _blur(image: Image, radius: float) -> Image:
    """Separable Gaussian blur with standard deviation `radius` pixels and reflected borders."""
    if radius < 0.05:
        return image
    reach = max(1, round(3 * radius))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radius) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        widths = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(image, widths, mode="reflect")
        image = sum(
            weight * np.take(padded, np.arange(k, k + RESOLUTION), axis=axis)
            for k, weight in enumerate(kernel)
        ).astype(np.float32)
    return image


def corrupt_scene(scene: Scene, rng: np.random.Generator) -> Scene:
    """Return the scene with one thing said wrong: a colour, a shape, the order or the background."""
    kind = rng.integers(6)
    if kind == 4:
        return Scene(scene.second, scene.first, scene.relation, scene.background)
    if kind == 5:
        other = next(name for name in BACKGROUNDS if name != scene.background)
        return Scene(scene.first, scene.second, scene.relation, other)
    things = [scene.first, scene.second]
    slot, attribute = divmod(int(kind), 2)
    thing = things[slot]
    if attribute == 0:
        wrong = [name for name in COLOURS if name != thing.colour]
        things[slot] = Thing(wrong[rng.integers(len(wrong))], thing.shape)
    else:
        wrong = [name for name in SHAPES if name != thing.shape]
        things[slot] = Thing(thing.colour, wrong[rng.integers(len(wrong))])
    return Scene(things[0], things[1], scene.relation, scene.background)


def web_image(scene: Scene, rng: np.random.Generator) -> tuple[Image, float]:
    """Draw what the base was trained on, and its severity: u^2 of a uniform u, content wrong in 5% of the images.

    The square makes good images common and bad ones present, so that the base knows the whole range of quality.
    """
    severity = float(rng.uniform() ** 2)
    shown = corrupt_scene(scene, rng) if rng.uniform() < 0.05 else scene
    return degrade(render_random(shown, rng), severity, rng), severity


def preference_pair(
    scene: Scene, max_severity: float, label_accuracy: float, rng: np.random.Generator
) -> tuple[Image, Image]:
    """Draw (winner, loser): both right about the caption, both degraded by up to `max_severity`.

    The winner is the less degraded one in a share `label_accuracy` of the pairs.
    """
    severities = np.sort(rng.uniform(0, max_severity, size=2))
    better, worse = (degrade(render_random(scene, rng), float(s), rng) for s in severities)
    return (better, worse) if rng.uniform() < label_accuracy else (worse, better)


def to_uint8(image: Image) -> NDArray[np.uint8]:
    """(32, 32, 3) float in [0, 1] -> uint8."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
