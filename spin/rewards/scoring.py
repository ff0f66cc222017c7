"""Scores of images, one row per image: every scorer in one pass, each image decoded once.

Nothing is averaged in silence. A score that is not finite is refused. An image of a single colour (black, mostly)
is scored and kept in the table, with `flagged` true; the summary counts it and its means and medians leave it out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from spin.errors import ScoreError
from spin.rewards.base import Scorer
from spin.rewards.listing import check_listing, is_single_colour, open_image, read_listing
from spin.runtime.files import read_json, read_parquet, replacing_dir, replacing_file, write_json
from spin.runtime.progress import Progress

KEYS = ["prompt_id", "prompt", "category", "image_index", "seed"]


def score_folder(samples: Path, scorers: Sequence[Scorer], out: Path, batch_size: int) -> None:
    """Score a model's samples (manifest.parquet, protocol.json, images/) and write `out`.

    out/scores.parquet: the manifest's columns, one float64 column per scorer, and `flagged`.
    out/summary.json: mean and median by scorer over the images not flagged, their count, and what was measured how:
    version, weights' sha256 and scale of every scorer, and the protocol of the samples.
    Raises `ScoreError` for missing images, an empty prompt, a score that is not finite, or nothing but flagged images.
    """
    manifest, protocol = samples / "manifest.parquet", samples / "protocol.json"
    for path in (manifest, protocol):
        if not path.is_file():
            raise ScoreError(
                f"{samples} must be a model's samples, found no {path.name} in it; generate them first."
            )

    # All images that the protocol promises must be there.
    stated = read_json(protocol)
    frame = read_parquet(manifest)
    check_listing(samples, frame)
    promised = int(stated["num_prompts"]) * int(stated["images_per_prompt"])
    if len(frame) != promised:
        raise ScoreError(
            f"{samples} must hold {promised} images ({stated['num_prompts']} prompts, {stated['images_per_prompt']} each),"
            f" got {len(frame)}; generate them again."
        )

    # Score, then put table and summary into place.
    scored = _score(samples, frame, scorers, batch_size, samples.name)
    names = [scorer.name for scorer in scorers]
    with replacing_dir(out) as folder:
        scored[[*KEYS, *names, "flagged"]].to_parquet(folder / "scores.parquet", index=False)
        write_json(
            folder / "summary.json", {"model": samples.name, **summarise(scored, scorers), "protocol": stated}
        )


def score_images(
    images: Path | tuple[Path, pd.DataFrame],
    scorers: Sequence[Scorer],
    out: Path,
    batch_size: int = 32,
    measured: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score any folder or manifest of images with prompts into the parquet file `out`.

    `images` is what `read_listing` takes, or what it returned. The table has the listing's columns, one float64
    column per scorer, and `flagged`; versions and weights' hashes stand in `out` with the suffix .json, together
    with means, medians, standard deviations, the names of the flagged images and what the caller says about the
    measurement. Returns that summary.
    """
    folder, frame = images if isinstance(images, tuple) else read_listing(images)
    scored = _score(folder, frame, scorers, batch_size, folder.name)
    kept = scored[~scored["flagged"]]
    summary = {
        **summarise(scored, scorers),
        "std": {s.name: float(kept[s.name].std(ddof=1)) if len(kept) > 1 else 0.0 for s in scorers},
        "flagged_images": scored.loc[scored["flagged"], "image"].tolist(),
        "measured": dict(measured or {}),
    }
    with replacing_file(out) as temporary:
        scored.to_parquet(temporary, index=False)
    write_json(out.with_suffix(".json"), summary)
    return summary


def summarise(scored: pd.DataFrame, scorers: Sequence[Scorer]) -> dict[str, Any]:
    """Mean and median of each scorer over the images that are not flagged, and how the numbers came about."""
    kept = scored[~scored["flagged"]]
    if kept.empty:
        raise ScoreError(
            f"all {len(scored)} images are of a single colour: there is nothing to judge; look at them."
        )
    return {
        "num_images": len(scored),
        "num_flagged": len(scored) - len(kept),
        "summarised": "images that are not flagged; a flagged image is of a single colour",
        "mean": {scorer.name: float(kept[scorer.name].mean()) for scorer in scorers},
        "median": {scorer.name: float(kept[scorer.name].median()) for scorer in scorers},
        "scorers": {s.name: {"version": s.version, "sha256": s.sha256, "scale": s.scale} for s in scorers},
    }


def _score(
    folder: Path, frame: pd.DataFrame, scorers: Sequence[Scorer], batch_size: int, label: str
) -> pd.DataFrame:
    """Return the listing with a column per scorer and `flagged`."""
    _check_names(frame, scorers)
    files, prompts = frame["image"].tolist(), frame["prompt"].tolist()
    columns: dict[str, list[float]] = {scorer.name: [] for scorer in scorers}
    flagged: list[bool] = []
    with Progress(f"score {label}", len(files), "images") as progress:
        for start in range(0, len(files), batch_size):
            names = files[start : start + batch_size]
            images = [open_image(folder / name) for name in names]
            flagged += [is_single_colour(image) for image in images]
            for scorer in scorers:
                scores = scorer.score(images, prompts[start : start + batch_size]).double()
                _check_finite(scorer.name, scores, names)
                columns[scorer.name] += scores.tolist()
            progress.update(len(images))
    return frame.assign(**columns, flagged=flagged)


def _check_names(frame: pd.DataFrame, scorers: Sequence[Scorer]) -> None:
    names = [scorer.name for scorer in scorers]
    if not names or len(set(names)) < len(names):
        raise ScoreError(
            f"scorers must be given, each once, got {', '.join(names) or 'none'}; correct the list."
        )
    clash = {*names, "flagged"} & set(frame.columns)
    if clash:
        raise ScoreError(
            f"the listing must not have a column {sorted(clash)[0]}, which scoring adds; rename it."
        )


def _check_finite(name: str, scores: torch.Tensor, files: Sequence[str]) -> None:
    if len(scores) != len(files):
        raise ScoreError(
            f"{name} must give one score for each of {len(files)} images, got {len(scores)}; mend it."
        )
    bad = (~scores.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise ScoreError(
            f"{name} must give finite scores, got {float(scores[bad[0]])} for {files[bad[0]]}; check the image, the"
            " weights and the dtype."
        )
