"""What can be shown: for every prompt and seed, the images of two models."""

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from spin.errors import EvaluationError
from spin.runtime.files import read_json, read_parquet, sha256_file
from spin.runtime.sums import check_folder

KEYS = ["prompt_id", "image_index"]


class Match(NamedTuple):
    """One prompt drawn by two models from one seed."""

    prompt_id: str
    prompt: str
    image_index: int
    images: tuple[tuple[str, Path], tuple[str, Path]]
    """(model, image) twice, in no order that a judge sees."""

    @property
    def key(self) -> tuple[str, int, frozenset[str]]:
        """What a vote belongs to, whichever side the images were on."""
        return self.prompt_id, self.image_index, frozenset(model for model, _ in self.images)


def read_matches(samples: Path, models: Sequence[str]) -> list[Match]:
    """Pair the images below `samples`/MODEL of all models, two by two.

    Raises `EvaluationError` with fewer than two models, or if their images are not there or were not drawn alike:
    the same prompts, seeds and protocol.
    """
    if len(models) < 2 or len(set(models)) < len(models):
        raise EvaluationError(
            f"the arena needs two models or more, each once, got {', '.join(models) or 'none'}; name them."
        )
    frames = {model: _read_manifest(samples / model) for model in models}
    for model in models[1:]:
        _same(samples, models[0], model, frames)
    images = {model: [samples / model / name for name in frames[model]["image"]] for model in models}
    asked = frames[models[0]].reset_index()
    rows = zip(asked["prompt_id"], asked["prompt"], asked["image_index"], strict=True)
    return [
        Match(str(prompt_id), str(prompt), int(index), ((a, images[a][row]), (b, images[b][row])))
        for row, (prompt_id, prompt, index) in enumerate(rows)
        for a, b in itertools.combinations(models, 2)
    ]


def samples_digest(folder: Path) -> str:
    """Name a model's set of images: its list, its weights, and the sizes of the files."""
    digest = hashlib.sha256()
    for name in ("manifest.parquet", "protocol.json", "model.json"):
        path = folder / name
        digest.update(f"{name} {sha256_file(path) if path.is_file() else ''}\n".encode())
    for image in sorted((folder / "images").glob("*")):
        digest.update(f"{image.name} {image.stat().st_size}\n".encode())
    return digest.hexdigest()


def _read_manifest(folder: Path) -> pd.DataFrame:
    path = folder / "manifest.parquet"
    check_folder(folder)
    try:
        frame = read_parquet(path)
    except (OSError, ValueError):
        raise EvaluationError(
            f"the arena needs the images of {folder.name}, but {path} is missing or torn; generate them."
        ) from None
    missing = [name for name in frame["image"] if not (folder / name).is_file()]
    if missing:
        raise EvaluationError(
            f"{folder} must hold the {len(frame)} images that it lists, {len(missing)} are missing, first"
            f" {missing[0]}; generate {folder.name} again."
        )
    return frame.set_index(KEYS).sort_index()


def _same(samples: Path, first: str, model: str, frames: dict[str, pd.DataFrame]) -> None:
    """Refuse two models that were not drawn alike, with what differs."""
    protocols = [_protocol(samples / name) for name in (first, model)]
    for key in sorted({*protocols[0], *protocols[1]}):
        if protocols[0].get(key) != protocols[1].get(key):
            raise EvaluationError(
                f"{model} and {first} cannot be shown side by side: their protocol has {key}"
                f" {protocols[1].get(key)} and {protocols[0].get(key)}; generate both in the same way."
            )
    for column in ("prompt", "seed"):
        if not frames[first][column].equals(frames[model][column]):
            raise EvaluationError(
                f"{model} and {first} cannot be shown side by side: their images have other {column}s; generate"
                " both in the same way."
            )


def _protocol(folder: Path) -> dict[str, object]:
    path = folder / "protocol.json"
    return dict(read_json(path)) if path.is_file() else {}
