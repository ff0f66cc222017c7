"""Where a result comes from: code revision, weights, and what training cost."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from spin.errors import EvaluationError
from spin.method.exact import exact_forwards
from spin.models.checkpoint import weights_digest
from spin.params.schema import Params


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


def git_revision(folder: Path) -> str:
    """Name the commit checked out in `folder`, and whether files differ from it."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "no git commit"
    return f"{commit} with uncommitted changes" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()


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

    A pair is two images, so 8 forwards; an image of supervised fine-tuning is 4; the exact objective walks the chain.
    """
    rows = []
    for stage, frame in curves.items():
        images = len(frame) * params.training.batch_size
        forwards = images * (8 if "error_gen" in frame else 4)
        if stage in params.iterations and params.objective.kind == "exact":
            forwards = exact_forwards(images, params.opponents.num_inference_steps)
        rows.append(StageCost(stage, len(frame), images, forwards))
    return rows
