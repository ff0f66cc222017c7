"""The same prompts and seeds drawn by every model, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from spin.errors import EvaluationError
from spin.evaluation.labels import narrow_label
from spin.runtime.files import read_parquet

TILE = 256
"""Side of a picture in the grid, in pixels."""


class GalleryRow(NamedTuple):
    """One prompt, and what each model made of it from the same seed."""

    prompt_id: str
    prompt: str
    seed: int
    images: dict[str, Path]


def read_gallery(samples: Path, models: Sequence[str], num_prompts: int) -> list[GalleryRow]:
    """Take `num_prompts` prompts at even distances through the prompt set, and each model's first image.

    Even distances, so that nobody picked them. Raises `EvaluationError` if a model lacks one of the images.
    """
    frames = {model: _read_manifest(samples / model) for model in models}
    first = frames[models[0]]
    places = np.linspace(0, len(first) - 1, min(num_prompts, len(first))).round().astype(int)
    rows = []
    for prompt_id in first.index[places]:
        images = {}
        for model, frame in frames.items():
            path = samples / model / frame["image"].get(prompt_id, "absent")
            if not path.is_file():
                raise EvaluationError(
                    f"the gallery needs an image of {model} for prompt {prompt_id}, found none at {path}; "
                    f"generate {model} again."
                )
            images[model] = path
        seed, prompt = int(first["seed"][prompt_id]), str(first["prompt"][prompt_id])
        rows.append(GalleryRow(str(prompt_id), prompt, seed, images))
    return rows


def draw_grid(rows: Sequence[GalleryRow]) -> Figure:
    """Prompts x models, each prompt as a caption above its row; small pictures enlarged by a whole factor."""
    models = list(rows[0].images)
    names = {model: narrow_label(model) for model in models}
    lines = 1 + max(name.count("\n") for name in names.values())
    figure = Figure(figsize=(1.7 * len(models), 1.98 * len(rows) + 0.17 + 0.18 * lines))
    grid = figure.subplots(len(rows), len(models), squeeze=False)
    height = figure.get_figheight()
    figure.subplots_adjust(
        left=0.01,
        right=0.99,
        bottom=0.06 / height,
        top=1 - (0.42 + 0.18 * lines) / height,
        wspace=0.04,
        hspace=0.2,
    )
    for line, row in zip(grid, rows, strict=True):
        for axes, model in zip(line, models, strict=True):
            axes.imshow(tile(row.images[model]), interpolation="none")
            axes.set_axis_off()
        caption = (
            row.prompt if len(row.prompt) <= 20 * len(models) else row.prompt[: 20 * len(models)] + "..."
        )
        line[0].set_title(caption, loc="left", fontsize=9, fontweight="normal", color="#444444", pad=4)
    for axes, model in zip(grid[0], models, strict=True):
        x = (axes.get_position().x0 + axes.get_position().x1) / 2
        figure.text(
            x, 1 - 0.08 / height, names[model], ha="center", va="top", fontsize=10.5, fontweight="bold"
        )
    return figure


def tile(path: Path) -> Image.Image:
    """Open a picture at about the size of a tile: pixel art stays sharp, photographs are resampled."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    if picture.width < TILE:
        scale = max(1, TILE // picture.width)
        return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    picture.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    return picture


def _read_manifest(folder: Path) -> pd.DataFrame:
    """The first image of each prompt, indexed and sorted by prompt_id."""
    path = folder / "manifest.parquet"
    try:
        frame = read_parquet(path)
    except (OSError, ValueError):
        raise EvaluationError(
            f"{path} must be the manifest of the images of {folder.name}, but is missing or torn; make it."
        ) from None
    first = frame.sort_values(["prompt_id", "image_index"]).drop_duplicates("prompt_id")
    return first.set_index("prompt_id")
