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
from spin.rewards.diversity import EMBEDDING, Embedder, diversity_summary, embedder_among, with_diversity
from spin.rewards.listing import check_listing, is_single_colour, open_image, read_listing
from spin.rewards.names import DIVERSITY
from spin.runtime.devices import process_state
from spin.runtime.files import (
    read_json,
    read_parquet,
    replacing_dir,
    replacing_file,
    write_json,
    write_parquet,
)
from spin.runtime.progress import Progress
from spin.runtime.shards import shards_of, write_shards

KEYS = ["prompt_id", "prompt", "category", "image_index", "seed"]
SHARD_SIZE = 256
"""Images whose scores are kept together while the others are computed."""


def score_folder(
    samples: Path, scorers: Sequence[Scorer], out: Path, batch_size: int, work: Path | None = None
) -> None:
    """Score a model's samples (manifest.parquet, protocol.json, images/) and write `out`.

    With a folder `work`, named by what the scores depend on, scores are kept there as they are computed and a killed run
    goes on; processes share the work, and the first one writes `out`.

    out/scores.parquet: the manifest's columns, one float64 column per scorer, `flagged`, and with several images a prompt
    and the scorer clip `diversity`, a number of the prompt (see `spin.rewards.diversity`).
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
    embedder = embedder_among(scorers, int(stated["images_per_prompt"]))
    scored = _score(samples, frame, scorers, batch_size, samples.name, work, embedder)
    if work is not None and not process_state().is_main_process:
        return
    scored = scored if embedder is None else with_diversity(scored)
    names = [scorer.name for scorer in scorers]
    with replacing_dir(out, sums=False) as folder:  # two outputs: a list would be a third
        shared = [name for name in ("cluster", "challenge") if name in scored]  # by prompts, where they do
        measured = [name for name in (DIVERSITY,) if name in scored]
        table = scored[[*KEYS, *shared, *names, "flagged", *measured]]
        write_parquet(folder / "scores.parquet", table, sealed_for=out / "scores.parquet")
        summary = {"model": samples.name, **summarise(scored, scorers), "protocol": stated}
        summary |= diversity_summary(scored)
        write_json(folder / "summary.json", summary, sealed_for=out / "summary.json")


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
    folder: Path,
    frame: pd.DataFrame,
    scorers: Sequence[Scorer],
    batch_size: int,
    label: str,
    work: Path | None = None,
    embedder: Embedder | None = None,
) -> pd.DataFrame:
    """Return the listing with a column per scorer and `flagged`, and of the one that is `embedder` also `EMBEDDING`."""
    _check_names(frame, scorers)
    if work is None:
        with Progress(f"score {label}", len(frame), "images") as progress:
            return frame.assign(**_scores(folder, frame, scorers, batch_size, progress, embedder))

    def write_shard(rows: range, shard: Path, progress: Progress) -> None:
        part = _scores(folder, frame.iloc[rows.start : rows.stop], scorers, batch_size, progress, embedder)
        pd.DataFrame(part).to_parquet(shard / "scores.parquet", index=False)

    write_shards(work, shards_of([len(frame)], SHARD_SIZE), write_shard, f"score {label}", "images")
    parts = [read_parquet(path) for path in sorted(work.glob("shard-*/scores.parquet"))]
    return frame.assign(**{str(name): column.tolist() for name, column in pd.concat(parts).items()})


def _scores(
    folder: Path,
    frame: pd.DataFrame,
    scorers: Sequence[Scorer],
    batch_size: int,
    progress: Progress,
    embedder: Embedder | None,
) -> dict[str, list[Any]]:
    """A column per scorer, `flagged` and with an embedder `EMBEDDING`, for the images of a listing, each decoded once."""
    files, prompts = frame["image"].tolist(), frame["prompt"].tolist()
    columns: dict[str, list[Any]] = {scorer.name: [] for scorer in scorers}
    if embedder is not None:
        columns[EMBEDDING] = []
    flagged: list[bool] = []
    for start in range(0, len(files), batch_size):
        names = files[start : start + batch_size]
        images = [open_image(folder / name) for name in names]
        flagged += [is_single_colour(image) for image in images]
        for scorer in scorers:
            asked = prompts[start : start + batch_size]
            if scorer is embedder:
                scores, embeddings = embedder.score_and_embed(images, asked)
                columns[EMBEDDING] += list(embeddings.numpy())
            else:
                scores = scorer.score(images, asked)
            scores = scores.double()
            _check_finite(scorer.name, scores, names)
            columns[scorer.name] += scores.tolist()
        progress.update(len(images))
    return {**columns, "flagged": flagged}


def _check_names(frame: pd.DataFrame, scorers: Sequence[Scorer]) -> None:
    names = [scorer.name for scorer in scorers]
    if not names or len(set(names)) < len(names):
        raise ScoreError(
            f"scorers must be given, each once, got {', '.join(names) or 'none'}; correct the list."
        )
    taken = {"flagged", DIVERSITY, EMBEDDING} & set(names)
    if taken:
        raise ScoreError(
            f"a scorer must not be called {sorted(taken)[0]}, which scoring adds as a column; rename it."
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
