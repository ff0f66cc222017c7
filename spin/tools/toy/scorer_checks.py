"""How good a tiny scorer is, measured on scenes it has not seen, through the loader that users call."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spin.rewards.base import Scorer
from spin.rewards.loading import load_scorer
from spin.tools.toy.scorer_data import wrong_scene
from spin.toy.world import Scene, degrade, render_random, split_scenes, to_uint8

LEVELS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
SEED = 7
BATCH = 256


def measure(name: str, folder: Path, num_scenes: int = 256) -> dict[str, object]:
    """Measure a scorer on the first `num_scenes` of the 256 test scenes.

    quality_pair_accuracy  the less degraded of two right images wins, severities at least 0.2 apart
    fine_pair_accuracy     the same, 0.05 to 0.2 apart
    content_pair_accuracy  the right one of two images of equal severity, below 0.4, wins
    spearman_severity      rank correlation of score and -severity over right images, severity uniform in [0, 1], each
                           caption's means taken off first: scores of different captions are never compared
    mean_by_severity       mean score of right images at each level
    mean_wrong_clean       mean score of clean images with one thing wrong
    """
    scorer = load_scorer(name, str(folder))
    scenes = split_scenes()["test"][:num_scenes]
    rng = np.random.default_rng(SEED)
    by_level = {
        level: _scores(scorer, scenes, [_picture(s, level, rng) for s in scenes]).mean() for level in LEVELS
    }
    severities = rng.uniform(size=(4, len(scenes)))
    drawn = [
        _scores(scorer, scenes, [_picture(*pair, rng) for pair in zip(scenes, row, strict=True)])
        for row in severities
    ]
    scores, severity = torch.stack(drawn), torch.from_numpy(severities)
    wrong = [wrong_scene(scene, rng) for scene in scenes]
    mild = rng.uniform(0, 0.4, size=len(scenes))
    right_mild = _scores(scorer, scenes, [_picture(*pair, rng) for pair in zip(scenes, mild, strict=True)])
    wrong_mild = _scores(scorer, scenes, [_picture(*pair, rng) for pair in zip(wrong, mild, strict=True)])
    return {
        "quality_pair_accuracy": _pair_accuracy(scores, severity, 0.2, 1.0),
        "fine_pair_accuracy": _pair_accuracy(scores, severity, 0.05, 0.2),
        "content_pair_accuracy": round(float((right_mild > wrong_mild).float().mean()), 4),
        "spearman_severity": round(_spearman(_centred(scores), -_centred(severity)), 4),
        "mean_by_severity": {str(level): round(float(mean), 4) for level, mean in by_level.items()},
        "mean_wrong_clean": round(
            float(_scores(scorer, scenes, [_picture(s, 0.0, rng) for s in wrong]).mean()), 4
        ),
        "scenes": f"{len(scenes)} of the test split",
    }


def _picture(scene: Scene, severity: float, rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(to_uint8(degrade(render_random(scene, rng), severity, rng)))


def _scores(scorer: Scorer, asked: tuple[Scene, ...], images: list[Image.Image]) -> Tensor:
    captions = [scene.caption for scene in asked]
    starts = range(0, len(images), BATCH)
    return torch.cat([scorer.score(images[i : i + BATCH], captions[i : i + BATCH]) for i in starts])


def _pair_accuracy(scores: Tensor, severity: Tensor, least: float, most: float) -> float:
    """Share of same-scene pairs, rows of (R, N), that the score orders by severity."""
    hits = []
    for first in range(len(scores)):
        for second in range(first + 1, len(scores)):
            gap = severity[second] - severity[first]
            counted = (gap.abs() >= least) & (gap.abs() < most)
            hits.append(((scores[first] > scores[second]) == (gap > 0))[counted])
    return round(float(torch.cat(hits).float().mean()), 4)


def _centred(values: Tensor) -> Tensor:
    """Take each scene's mean off (R, N) values of R images of N scenes; (R * N,)."""
    return (values - values.mean(0)).flatten()


def _spearman(first: Tensor, second: Tensor) -> float:
    """Rank correlation of two (N,) without ties."""
    ranks = torch.stack([values.argsort().argsort().double() for values in (first, second)])
    return float(torch.corrcoef(ranks)[0, 1])
