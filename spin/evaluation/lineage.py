"""Where a result comes from: code revision, weights, and what training cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from spin.errors import EvaluationError
from spin.method.exact import exact_forwards
from spin.models.checkpoint import weights_digest
from spin.params.schema import Params
from spin.runtime.provenance import git_revision


class ModelLineage(NamedTuple):
    """One model of the report."""

    model: str
    prev: str
    """What it started from; empty for the base."""
    weights: str
    """SHA-256 of its UNet."""


class StageCost(NamedTuple):
    """What one training stage took."""

    stage: str
    steps: int
    images: int
    """Training pairs seen; for SFT, images."""
    forwards: int
    """In forward passes of one image through the network, a backward pass counted as two."""


def revision_line(folder: Path) -> str:
    """Name the commit checked out in `folder`, and whether files differ from it."""
    commit, changed = git_revision(folder)
    if commit == "unknown":
        return "no git commit"
    return f"{commit} with uncommitted changes" if changed else commit


def read_lineage(params: Params, checkpoints: Path) -> list[ModelLineage]:
    """Return every model of params.yaml with the digest of its weights."""
    return [
        ModelLineage(
            model,
            "" if model == "base" or model in params.released else params.stage(model).prev,
            weights_digest(checkpoints / model),
        )
        for model in params.evaluate.models
    ]


def read_curves(curves: Path, stages: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Read the training curves of all stages; raises `EvaluationError` if one is missing or torn."""
    frames = {}
    for stage in stages:
        path = curves / f"{stage}.csv"
        try:
            frames[stage] = pd.read_csv(path)
        except (OSError, ValueError):
            raise EvaluationError(
                f"the report needs the training curves of {stage}, but {path} is missing or torn; train it."
            ) from None
    return frames


def costs(curves: dict[str, pd.DataFrame], params: Params) -> list[StageCost]:
    """Count what the training stages took: the player forward and backward and the reference forward, on every image.

    A pair is two images, so 8 forwards; an image of supervised fine-tuning is 3, and 4 in the updates whose row of the
    curve holds a change against the reference; the exact objective walks the chain.
    """
    rows = []
    for stage, frame in curves.items():
        images = len(frame) * params.training.batch_size
        measured = int(frame["error_real_change"].notna().sum()) * params.training.batch_size
        forwards = 8 * images if "error_gen" in frame else 3 * images + measured
        if stage in params.iterations and params.objective.kind == "exact":
            forwards = exact_forwards(images, params.opponents.num_inference_steps)
        rows.append(StageCost(stage, len(frame), images, forwards))
    return rows
