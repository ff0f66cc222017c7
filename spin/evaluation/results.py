"""The scores of all models as one array, or a refusal that says what makes them incomparable."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spin.errors import EvaluationError
from spin.evaluation.labels import AVERAGE
from spin.evaluation.resampling import clusters_of
from spin.evaluation.statistics import Floats, reduce_images
from spin.params.schema import Params
from spin.runtime.files import read_json, read_parquet

KEYS = ["prompt_id", "image_index"]


@dataclass(frozen=True)
class Results:
    """One score per model, prompt and scorer; every model answered the same prompts in the same way."""

    models: tuple[str, ...]
    """The compared models, in the order of `evaluate.models`."""
    references: tuple[str, ...]
    """Levels to read the models against, such as the data's own clean renderings; not compared."""
    scorers: tuple[str, ...]
    """In the order of params.yaml, then `average`."""
    prompt_ids: tuple[str, ...]
    """Sorted, so that nothing depends on the order in which images were scored."""
    prompts: tuple[str, ...]
    """Their texts, in the same order."""
    categories: tuple[str, ...]
    """Their categories; empty where the prompt set has none."""
    challenges: tuple[str, ...]
    """What is hard about each, as PartiPrompts says; empty where the prompt set does not."""
    clusters: tuple[str, ...]
    """What they share, such as two objects or a user; a prompt that shares nothing has its own."""
    scores: Floats
    """(models + references, prompts, scorers), images of a prompt reduced."""
    protocol: dict[str, Any]
    """How images were drawn and reduced; the same for all models."""
    versions: dict[str, dict[str, str]]
    """Version, sha256 and scale of each scorer."""
    flagged: int
    """Prompts left out because some model's image was flagged (a single colour)."""

    def of(self, model: str) -> Floats:
        """Return one model's scores, (prompts, scorers)."""
        return np.asarray(self.scores[(self.models + self.references).index(model)])


def load_results(params: Params, scores: Path, references: Sequence[str] = ()) -> Results:
    """Read `scores`/MODEL of every model of params.yaml and of the `references`.

    References answer the same prompts under the same scorers, but by another protocol: they were not sampled.
    Raises `EvaluationError` if a model's scores are missing or not finite, or were made differently; `FileError` and
    `DamagedError` if they are torn or hold other bytes than were written.
    """
    # Read every model's scores and how they came about.
    models, scorers = tuple(params.evaluate.models), tuple(params.scorers)
    frames = {model: _read_frame(scores / model, scorers) for model in (*models, *references)}
    summaries = {model: _read_summary(scores / model) for model in (*models, *references)}

    # Refuse what was not measured alike.
    first = models[0]
    for model in (*models[1:], *references):
        if model in models:
            _same(model, first, "protocol", summaries[model]["protocol"], summaries[first]["protocol"])
        for scorer in scorers:
            cards = [_card(summaries[name], name, scorer) for name in (model, first)]
            _same(model, first, f"scorer {scorer}", *cards)
        _same_prompts(model, first, frames, compare_seeds=model in models)

    # A prompt that is flagged for one model is left out for all.
    flagged = set().union(*(frame.loc[frame["flagged"], "prompt_id"] for frame in frames.values()))
    kept = {model: frame[~frame["prompt_id"].isin(flagged)] for model, frame in frames.items()}
    if kept[first].empty:
        raise EvaluationError(
            f"tables need a prompt without flagged images, all {len(flagged)} have one; look at the images."
        )

    # Several images of a prompt become one number.
    protocol = {**summaries[first]["protocol"], "reduction": params.evaluate.reduction}
    average_of = [scorers.index(scorer) for scorer in params.tables.average_of]
    reduced = [_reduce(model, kept[model], scorers, protocol, average_of, model in models) for model in kept]
    asked = kept[first].drop_duplicates("prompt_id")
    return Results(
        models=models,
        references=tuple(references),
        scorers=(*scorers, AVERAGE),
        prompt_ids=tuple(asked["prompt_id"]),
        prompts=tuple(asked["prompt"]),
        categories=tuple(asked["category"].fillna("").astype(str)),
        challenges=tuple(asked["challenge"].fillna("").astype(str)),
        clusters=tuple(clusters_of(asked)),
        scores=np.stack(reduced),
        protocol=protocol,
        versions={scorer: _card(summaries[first], first, scorer) for scorer in scorers},
        flagged=len(flagged),
    )


def _read_frame(folder: Path, scorers: tuple[str, ...]) -> pd.DataFrame:
    """Read a model's per-image scores, sorted by prompt and image."""
    path = folder / "scores.parquet"
    if not path.is_file():
        raise EvaluationError(
            f"tables need the scores of {folder.name}, found no {path}; score that model first."
        )
    frame = read_parquet(path)
    missing = [name for name in (*KEYS, "prompt", "seed", *scorers) if name not in frame]
    if missing:
        raise EvaluationError(f"{path} must have a column {missing[0]}, found none; score that model again.")
    if frame.empty or frame.duplicated(KEYS).any():
        what = "no rows" if frame.empty else "an image twice"
        raise EvaluationError(f"{path} must have one row per image, got {what}; score that model again.")
    for name, absent in (("flagged", False), ("category", ""), ("challenge", "")):
        if name not in frame:
            frame[name] = absent
    if frame["flagged"].isna().any():
        raise EvaluationError(
            f"{path} must say of every image whether it is flagged, but has none for {int(frame['flagged'].isna().sum())}; "
            "score that model again."
        )
    return frame.sort_values(KEYS, ignore_index=True)


def _read_summary(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    summary = read_json(path)
    try:
        return {"protocol": dict(summary["protocol"]), "scorers": dict(summary["scorers"])}
    except (ValueError, KeyError, TypeError):
        raise EvaluationError(
            f"{path} must state protocol and scorers, but does not; score {folder.name} again."
        ) from None


def _card(summary: dict[str, Any], model: str, scorer: str) -> dict[str, str]:
    if scorer not in summary["scorers"]:
        raise EvaluationError(
            f"{model} must be scored by {scorer}, but its summary has none; score it again."
        )
    return dict(summary["scorers"][scorer])


def _same(model: str, first: str, what: str, given: dict[str, Any], expected: dict[str, Any]) -> None:
    """Refuse the first value in which two descriptions differ, by its name."""
    for key in sorted({*given, *expected}):
        if given.get(key) != expected.get(key):
            raise EvaluationError(
                f"{model} and {first} cannot be compared: {what} has {key} {given.get(key)} for {model} "
                f"and {expected.get(key)} for {first}; make both in the same way."
            )


def _same_prompts(model: str, first: str, frames: dict[str, pd.DataFrame], *, compare_seeds: bool) -> None:
    """Refuse models that answered other prompts, or the same ones from other seeds."""
    given = frames[model].drop_duplicates("prompt_id").set_index("prompt_id")["prompt"]
    expected = frames[first].drop_duplicates("prompt_id").set_index("prompt_id")["prompt"]
    alone = given.index.symmetric_difference(expected.index)
    if len(alone):
        raise EvaluationError(
            f"{model} and {first} cannot be compared: {len(alone)} prompts were answered by one of them "
            f"only, such as {alone[0]}; generate and score both on the same prompts."
        )
    changed = given.index[given != expected]
    if len(changed):
        raise EvaluationError(
            f"{model} and {first} cannot be compared: prompt {changed[0]} has another text in each; "
            "generate and score both on the same prompts."
        )
    if not compare_seeds:
        return
    seeds = [frames[name].set_index(KEYS)["seed"] for name in (model, first)]
    if not seeds[0].equals(seeds[1]):
        raise EvaluationError(
            f"{model} and {first} cannot be compared: their images of one prompt have other seeds; "
            "generate both with the same evaluate.seed and images_per_prompt."
        )


def _reduce(
    model: str,
    frame: pd.DataFrame,
    scorers: tuple[str, ...],
    protocol: dict[str, Any],
    average_of: list[int],
    sampled: bool,
) -> Floats:
    """Make a sorted frame of images an array (prompts, scorers + average)."""
    num_prompts = frame["prompt_id"].nunique()
    num_images = protocol["images_per_prompt"] if sampled else len(frame) // num_prompts
    if not (frame.groupby("prompt_id").size() == num_images).all():
        raise EvaluationError(
            f"{model} must have {num_images} images for every prompt, but some have another number; "
            "generate and score it again."
        )
    values = frame[list(scorers)].to_numpy(np.float64)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise EvaluationError(
            f"scores must be finite, got {values[row, column]} by {scorers[column]} for prompt "
            f"{frame['prompt_id'].iloc[row]} of {model}; look at that image and score {model} again."
        )
    images = values.reshape(num_prompts, num_images, len(scorers))
    reduced = reduce_images(images, protocol["reduction"], average_of)
    return np.column_stack([reduced, reduced[:, average_of].mean(1)])
