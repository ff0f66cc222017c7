"""What the tiny scorers learn from: renditions of scenes, right and wrong, from clean to hard to recognise.

Preference between two images of one caption follows their utility, -severity - content_weight * errors, without
label noise: both quality and content decide, and the better image of a pair is never in doubt.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spin.rewards.preprocess import CLIP_MEAN, CLIP_STD
from spin.toy.world import BACKGROUNDS, RELATIONS, RESOLUTION, Image, Scene, corrupt_scene, degrade, to_uint8
from spin.toy.world import render_random as render

CLEAN_SHARE = 0.15
"""Of the images, not degraded at all: what `clean` looks like must be known, as good models come close to it."""


@dataclass(frozen=True)
class Pool:
    """Images of captions: row c * per_caption + k is the k-th image drawn for caption c."""

    captions: list[str]
    per_caption: int
    images: Tensor  # (N, 3, 32, 32) uint8
    severity: Tensor  # (N,) float32 in [0, 1]
    errors: Tensor  # (N,) int64: 0 right, 1 or 2 things wrong
    shown: list[str]  # (N) the caption of what the image really shows; "" if no caption says it

    def pixels(self, rows: Tensor) -> Tensor:
        """Rows (B,) -> normalised pixels (B, 3, 32, 32), as every scorer's preprocessing yields at this size."""
        mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
        return (self.images[rows].float() / 255 - mean) / std

    def utility(self, rows: Tensor, content_weight: float) -> Tensor:
        """(B,) -> (B,), higher is better."""
        return -self.severity[rows] - content_weight * self.errors[rows]


def draw_pool(scenes: tuple[Scene, ...], per_caption: int, seed: int) -> Pool:
    """Draw `per_caption` images for every scene: half right, half wrong in one or two things."""
    rng = np.random.default_rng(seed)
    count = len(scenes) * per_caption
    images = np.empty((count, RESOLUTION, RESOLUTION, 3), dtype=np.uint8)
    severity, errors, shown = np.zeros(count, np.float32), np.zeros(count, np.int64), [""] * count
    for row in range(count):
        scene, k = scenes[row // per_caption], row % per_caption
        clean, errors[row], shown[row] = _draw(scene, wrong=k % 2 == 1, rng=rng)
        severity[row] = 0.0 if rng.uniform() < CLEAN_SHARE else rng.uniform() ** 1.5
        images[row] = to_uint8(degrade(clean, float(severity[row]), rng))
    return Pool(
        [scene.caption for scene in scenes],
        per_caption,
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(severity),
        torch.from_numpy(errors),
        shown,
    )


def _draw(scene: Scene, wrong: bool, rng: np.random.Generator) -> tuple[Image, int, str]:
    """A clean rendition with (image, number of errors, caption of what it shows)."""
    if not wrong:
        return render(scene, rng), 0, scene.caption
    if rng.uniform() < 0.15:
        return _without_one_thing(scene, rng), 1, ""
    num_errors = 2 if rng.uniform() < 0.2 else 1
    shown = scene
    while shown == scene:  # a second error can undo the first
        for _ in range(num_errors):
            shown = wrong_scene(shown, rng)
    return render(shown, rng), num_errors, shown.caption


def wrong_scene(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with one thing wrong: its relation, or what `corrupt_scene` changes."""
    if rng.uniform() < 1 / 7:
        other = next(name for name in RELATIONS if name != scene.relation)
        return Scene(scene.first, scene.second, other, scene.background)
    return corrupt_scene(scene, rng)


def _without_one_thing(scene: Scene, rng: np.random.Generator) -> Image:
    """A rendition whose first or second thing is missing."""
    image, half = render(scene, rng).copy(), RESOLUTION // 2
    missing = slice(0, half) if rng.integers(2) == 0 else slice(half, None)
    area = (slice(None), missing) if scene.relation == "left of" else (missing,)
    image[area] = BACKGROUNDS[scene.background]
    return image


def draw_pairs(
    pool: Pool, num_pairs: int, content_weight: float, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Draw (captions, better, worse), (B,) each: two images of one caption, rows into the pool, told apart by utility."""
    captions = torch.randint(len(pool.captions), (num_pairs,), generator=generator)
    picks = torch.rand(num_pairs, pool.per_caption, generator=generator).topk(2, dim=1).indices
    rows = captions[:, None] * pool.per_caption + picks  # (B, 2)
    first_better = pool.utility(rows[:, 0], content_weight) >= pool.utility(rows[:, 1], content_weight)
    better = torch.where(first_better, rows[:, 0], rows[:, 1])
    worse = torch.where(first_better, rows[:, 1], rows[:, 0])
    return captions, better, worse
