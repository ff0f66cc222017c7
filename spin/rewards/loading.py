"""Names to reward models: the ones that come with the project, and a user's own."""

import difflib
from collections.abc import Callable
from importlib.metadata import entry_points

import torch

from spin.errors import ScoreError
from spin.rewards.base import Scorer
from spin.rewards.names import BUILT_IN, ENTRY_POINT_GROUP, ORACLES
from spin.rewards.weights import open_source


def load_scorer(
    name: str, source: str | None = None, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Scorer:
    """Load the reward model called `name`.

    `source` is `embedded` (the tiny ones of the toy world), `hub` or None (the published weights), or a folder
    whose layout the scorer's module describes; the oracles take `toy`. Forward passes run in `dtype`, scores come
    out in float32. Raises `ScoreError` for an unknown name and for files that are missing or do not fit.
    """
    if name in ORACLES:
        from spin.rewards.oracle import load_oracle

        return load_oracle(name, source)
    own = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name in own:
        made = own[name].load()(source, device, dtype)
        if not isinstance(made, Scorer):
            raise ScoreError(
                f"the entry point {name} of {ENTRY_POINT_GROUP} must return a scorer with name, version, scale, sha256"
                f" and score, got {type(made).__name__}; correct {own[name].value}."
            )
        return made
    if name not in BUILT_IN:
        known = [*BUILT_IN, *ORACLES, *own]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
        raise ScoreError(f"there is no scorer named {name}; {hint}")
    return _class_of(name)(open_source(name, source), device, dtype)


def _class_of(name: str) -> Callable[..., Scorer]:
    """Import what one scorer needs, and nothing of the others."""
    if name == "pickscore":
        from spin.rewards.clip import PickScorer

        return PickScorer
    if name == "clip":
        from spin.rewards.clip import ClipScorer

        return ClipScorer
    if name == "image_reward":
        from spin.rewards.image_reward import ImageRewardScorer

        return ImageRewardScorer
    if name.startswith("hps"):
        from spin.rewards.hps import HpsScorer

        return HpsScorer
    from spin.rewards.aesthetic import AestheticScorer

    return AestheticScorer
