"""How far apart a model's images of one prompt are: near 0 where it draws one image again and again.

For the images of a prompt with CLIP embeddings e_i of length 1, the mean over their pairs of 1 - cosine:

    diversity = mean over i < j of 1 - <e_i, e_j> = mean over i < j of |e_i - e_j|^2 / 2.

The second form is what is computed: it is 0 of equal embeddings and keeps its digits where they are nearly equal. The
embeddings are those from which the scorer `clip` has its score, so nothing is run twice.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from spin.rewards.base import Scorer
from spin.rewards.names import DIVERSITY

EMBEDDER = "clip"
"""The scorer in whose image space distances are measured."""
EMBEDDING = "embedding"
"""Column of a scoring's kept work, (D,) float32 an image; scores.parquet has `DIVERSITY` instead."""


@runtime_checkable
class Embedder(Scorer, Protocol):
    """A scorer that can hand out the image embeddings it scores by."""

    def score_and_embed(self, images: list[Image.Image], prompts: list[str]) -> tuple[Tensor, Tensor]:
        """What `score` gives, (B,), and image embeddings of length 1, (B, D); both float32 on the CPU."""
        ...


def embedder_among(scorers: Sequence[Scorer], images_per_prompt: int) -> Embedder | None:
    """The scorer that measures diversity, or None where there is none or nothing to compare."""
    if images_per_prompt < 2:
        return None
    return next((each for each in scorers if each.name == EMBEDDER and isinstance(each, Embedder)), None)


def pairwise_distance(embeddings: NDArray[np.floating[Any]]) -> float:
    """Mean over all pairs of 1 - cosine, (K, D) -> a number in [0, 2]; nan of fewer than two.

    Worked case: of (1, 0), (0, 1) and (-1, 0) the pairs are 1, 2 and 1 apart: 4 / 3.
    """
    if len(embeddings) < 2:
        return float("nan")
    unit = np.asarray(embeddings, dtype=np.float64)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    first, second = np.triu_indices(len(unit), k=1)
    return float(np.square(unit[first] - unit[second]).sum(1).mean() / 2)


def with_diversity(scored: pd.DataFrame) -> pd.DataFrame:
    """Put `DIVERSITY` in the place of the column `EMBEDDING`: one number for all rows of a prompt.

    Flagged images take no part; a prompt with fewer than two others has none (nan). `scored` has a row per image with
    prompt_id, image_index and flagged.
    """
    kept = scored[~scored["flagged"]].sort_values(["prompt_id", "image_index"])
    distances = {
        prompt: pairwise_distance(np.stack(rows.to_list()))
        for prompt, rows in kept.groupby("prompt_id")[EMBEDDING]
    }
    of_row = [distances.get(prompt, float("nan")) for prompt in scored["prompt_id"]]
    return scored.drop(columns=EMBEDDING).assign(**{DIVERSITY: of_row})


def diversity_summary(scored: pd.DataFrame) -> dict[str, Any]:
    """Mean over the prompts that have one, and how many these are; empty where nothing was measured."""
    if DIVERSITY not in scored:
        return {}
    of_prompt = scored.drop_duplicates("prompt_id")[DIVERSITY].dropna()
    if of_prompt.empty:
        return {}
    return {DIVERSITY: {"mean": float(of_prompt.mean()), "num_prompts": len(of_prompt)}}
