"""Reward models, and how folders of images are scored with them.

`load_scorer` makes one by name; `score_folder` scores a model's samples, `score_images` any folder of images.
"""

from spin.rewards.base import Scorer
from spin.rewards.registry import load_scorer
from spin.rewards.scoring import score_folder, score_images

__all__ = ["Scorer", "load_scorer", "score_folder", "score_images"]
